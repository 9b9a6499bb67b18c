package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"os/signal"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/enclave/client"
	"github.com/cloister-run/cloister/enclave/proxy"
	"github.com/cloister-run/cloister/enclave/vsock"
)

// keeper plays the hypervisor of one enclave, or drives the one that there is, until it is told to end.
type keeper struct {
	name, file, beside string
	backend            *backend
	boots              int
	ready              func()
}

// serveEnclave is the keeper's process: it ends by SIGTERM, or when the enclave does, and starts the enclave
// anew by SIGUSR1.
func (a *app) serveEnclave(ctx context.Context, name string, b *backend) (err error) {
	file, err := standingFile(name)
	if err != nil {
		return err
	}
	if err := b.check(); err != nil {
		return err
	}
	beside, err := here()
	if err != nil {
		return err
	}
	// One keeper for a name: the lock ends with the process.
	lock, err := os.OpenFile(besideFile(file, ".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return usage("cloister enclave stop "+name+" ends it", "the enclave %q runs already", name)
	}
	again := make(chan os.Signal, 1)
	signal.Notify(again, unix.SIGUSR1)
	defer signal.Stop(again)
	k := &keeper{name: name, file: file, beside: beside, backend: b, ready: func() { say(a.stdout, "ready\n") }}
	defer func() {
		if removed := os.Remove(file); removed != nil && !errors.Is(removed, os.ErrNotExist) {
			err = errors.Join(err, removed)
		}
	}()
	for {
		if end, err := k.boot(ctx, again); end || err != nil {
			return err
		}
	}
}

// besideFile is a file of an enclave beside its record.
func besideFile(file, suffix string) string { return strings.TrimSuffix(file, ".json") + suffix }

// boot starts the enclave and stays until it is to end, or to start anew.
func (k *keeper) boot(ctx context.Context, again <-chan os.Signal) (end bool, err error) {
	enclave, err := k.backend.start(ctx, k.beside)
	if err != nil {
		return true, err
	}
	defer func() { err = errors.Join(err, enclave.Stop()) }()
	address, done, err := k.reach(ctx, enclave)
	if err != nil {
		return true, err
	}
	defer func() { err = errors.Join(err, done()) }()
	silence, err := k.tell(ctx, enclave)
	if err != nil {
		return true, err
	}
	defer func() { err = errors.Join(err, silence()) }()
	k.boots++
	if err := k.record(enclave, address); err != nil {
		return true, err
	}
	if k.boots == 1 {
		k.ready()
	}
	select {
	case <-ctx.Done(): // which is how it is meant to end
		return true, nil
	case <-again:
		return false, nil
	case <-enclave.Ended():
		return true, errors.New("the enclave ended")
	}
}

// reach is where others dial the enclave: itself, or a socket of the keeper, where its devices are in this
// process.
func (k *keeper) reach(ctx context.Context, enclave kept) (address vsock.Address, done func() error, err error) {
	if address := enclave.Address(); address != "" {
		return address, func() error { return nil }, nil
	}
	path := besideFile(k.file, ".sock")
	done, err = serveSocket(ctx, path, func(ctx context.Context, l net.Listener) error { return proxy.Relay(ctx, l, enclave.Dial) })
	return vsock.UnixAddress(path), done, err
}

// tell shows this user the console of an enclave in debug mode.
func (k *keeper) tell(ctx context.Context, enclave kept) (done func() error, err error) {
	if !k.backend.debug {
		return func() error { return nil }, nil
	}
	return serveSocket(ctx, besideFile(k.file, consoleSuffix), func(ctx context.Context, l net.Listener) error {
		return tellAll(ctx, l, enclave.Follow)
	})
}

// consoleSuffix is that of the socket where a keeper shows the console.
const consoleSuffix = ".console"

// tellAll shows everybody who connects the console until ctx ends.
func tellAll(ctx context.Context, l net.Listener, follow func(context.Context, io.Writer) error) error {
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	defer l.Close()
	var all errgroup.Group
	for {
		conn, err := l.Accept()
		if err != nil {
			err = errors.Join(err, all.Wait())
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		all.Go(func() error {
			defer conn.Close()
			defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
			_ = follow(ctx, conn) // whoever listened is gone, or sees that it ended
			return nil
		})
	}
}

// serveSocket serves a Unix socket of this user alone until done is called, which waits for that.
func serveSocket(ctx context.Context, path string, serve func(context.Context, net.Listener) error) (done func() error, err error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := vsock.ListenUnix(path)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	var serving errgroup.Group
	serving.Go(func() error { return serve(ctx, l) })
	return func() error {
		stop()
		return errors.Join(serving.Wait(), os.Remove(path))
	}, nil
}

// record writes down how the enclave is found and known.
func (k *keeper) record(enclave kept, address vsock.Address) (err error) {
	s := standing{
		Name: k.name, Backend: k.backend.name, Address: address, Root: string(enclave.RootPEM()), PCRs: enclave.PCRs().Hex(),
		Started: time.Now().UTC().Format(time.RFC3339), Boots: k.boots, Fresh: k.backend.fresh, Debug: k.backend.debug,
	}
	if s.Keeper, err = identify(os.Getpid()); err != nil {
		return err
	}
	s.Process = s.Keeper
	if pid := enclave.PID(); pid != 0 {
		if s.Process, err = identify(pid); err != nil {
			return err
		}
	}
	raw, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return client.WriteAtomically(k.file, raw)
}
