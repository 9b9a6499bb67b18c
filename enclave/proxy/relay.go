package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// relayIdle is how long nothing may move between a command and an enclave: an answer may take as long as a job.
const relayIdle = 24 * time.Hour

// Relay carries whoever connects to the listener, which it closes, to where dial leads, until ctx ends; then it
// returns nil once every connection is shut. It is how the commands of an operator reach an enclave whose
// devices another process serves.
func Relay(ctx context.Context, listener net.Listener, dial func(context.Context) (net.Conn, error)) error {
	stop := context.AfterFunc(ctx, func() { _ = listener.Close() })
	defer stop()
	var relays sync.WaitGroup
	defer relays.Wait()
	defer listener.Close()
	room := make(chan struct{}, maxTunnels)
	for {
		near, err := listener.Accept()
		if ctx.Err() != nil {
			if err == nil {
				_ = near.Close()
			}
			return nil
		}
		if passing(err) {
			select {
			case <-time.After(relayPause):
			case <-ctx.Done():
			}
			continue
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

// relayPause is how long the relay waits where this process has no descriptors left.
const relayPause = 50 * time.Millisecond

// passing says whether accepting fails for a reason that passes (accept(2)).
func passing(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ECONNABORTED) || errors.Is(err, unix.ENOBUFS) ||
		errors.Is(err, unix.ENOMEM)
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
	t := &tunnel{near: near, far: far, first: near}
	defer context.AfterFunc(ctx, func() { t.cut(stopped) })()
	t.join(relayIdle)
}
