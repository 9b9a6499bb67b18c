package proxy

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"
)

// relayIdle is how long nothing may move between a command and an enclave: an answer may take as long as a job.
const relayIdle = 24 * time.Hour

// Relay carries whoever connects to the listener, which it closes, to where dial leads, until ctx ends; then it
// returns nil once every connection is shut. It is how the commands of an operator reach an enclave whose
// devices another process serves.
func Relay(ctx context.Context, listener net.Listener, dial func(context.Context) (net.Conn, error)) error {
	stop := context.AfterFunc(ctx, func() { _ = listener.Close() })
	defer stop()
	defer listener.Close()
	var relays sync.WaitGroup
	defer relays.Wait()
	room := make(chan struct{}, maxTunnels)
	for {
		near, err := listener.Accept()
		if ctx.Err() != nil {
			if err == nil {
				_ = near.Close()
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("proxy: relaying: %w", err)
		}
		room <- struct{}{} // whoever comes meanwhile waits in the listener's queue
		relays.Go(func() {
			defer func() { <-room }()
			relay(ctx, near, dial)
		})
	}
}

func relay(ctx context.Context, near net.Conn, dial func(context.Context) (net.Conn, error)) {
	defer near.Close()
	opened, cancel := context.WithTimeout(ctx, opening)
	defer cancel()
	far, err := dial(opened)
	if err != nil {
		return // near sees that nobody is there
	}
	defer far.Close()
	(&tunnel{near: near, far: far, first: near}).join(ctx, relayIdle)
}
