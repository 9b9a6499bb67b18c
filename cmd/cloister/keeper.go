package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
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
	ready              func()
	// state is what is on record, of the last boot.
	state standing
}

// keeperReady is what a keeper says on its standard output once the enclave answers.
const keeperReady = "ready"

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
	ctx, again, done := keeperSignals(ctx)
	defer done()
	k := &keeper{name: name, file: file, beside: beside, backend: b, ready: func() { say(a.stdout, keeperReady+"\n") }}
	defer func() {
		if removed := os.Remove(file); removed != nil && !errors.Is(removed, os.ErrNotExist) {
			err = errors.Join(err, removed)
		}
		if err != nil && k.state.Boots > 0 { // nobody listens to what this command prints any more
			asFailure(ctx, err).print(io.Discard, a.stderr, false)
		}
	}()
	for {
		if end, err := k.boot(ctx, again); end || err != nil {
			return err
		}
	}
}

// keeperSignals end the context by the first of the signals that end a command, however many follow: a keeper
// that went before its enclave would leave one behind. again is the signal to start anew.
func keeperSignals(ctx context.Context) (_ context.Context, again chan os.Signal, done func()) {
	ending := []os.Signal{os.Interrupt, unix.SIGTERM, unix.SIGHUP}
	ctx, cancel := context.WithCancelCause(ctx)
	signal.Reset(ending...)
	ends := make(chan os.Signal, 1)
	signal.Notify(ends, ending...)
	again = make(chan os.Signal, 1)
	signal.Notify(again, unix.SIGUSR1)
	stopped := make(chan struct{})
	go func() {
		select {
		case <-ends:
			cancel(errInterrupted)
		case <-stopped:
		}
	}()
	return ctx, again, func() {
		signal.Stop(again)
		close(stopped)
		cancel(nil)
	}
}

// besideFile is a file of an enclave beside its record.
func besideFile(file, suffix string) string { return strings.TrimSuffix(file, ".json") + suffix }

// boot starts the enclave and stays until it is to end, or to start anew.
func (k *keeper) boot(ctx context.Context, again <-chan os.Signal) (end bool, err error) {
	if err := k.recordStarting(); err != nil {
		return true, err
	}
	enclave, err := k.backend.start(ctx, k.beside)
	if err != nil {
		return true, err
	}
	defer func() { err = errors.Join(err, enclave.Stop()) }()
	if pcrs := enclave.PCRs().Hex(); k.state.Boots > 0 && !maps.Equal(pcrs, k.state.PCRs) {
		return true, errors.New("the image is another one than it was; start the enclave with it if that is what you want")
	}
	sockets, ctx := newSockets(ctx)
	defer func() { err = errors.Join(err, sockets.close()) }()
	address, err := k.reach(sockets, enclave)
	if err != nil {
		return true, err
	}
	if k.backend.debug {
		err = sockets.serve(besideFile(k.file, consoleSuffix), func(ctx context.Context, l net.Listener) error {
			return tellAll(ctx, l, enclave.Follow)
		})
		if err != nil {
			return true, err
		}
	}
	select { // whoever asked for it while it was started has it
	case <-again:
	default:
	}
	if err := k.record(enclave, address); err != nil {
		return true, err
	}
	if k.state.Boots == 1 {
		k.ready()
	}
	select {
	case <-ctx.Done(): // which is how it is meant to end, unless a socket failed
		return true, nil
	case <-again:
		return false, nil
	case <-enclave.Ended():
		return true, errors.New("the enclave ended")
	}
}

// reach is where others dial the enclave: itself, or a socket of the keeper, where its devices are in this
// process.
func (k *keeper) reach(on *sockets, enclave kept) (vsock.Address, error) {
	if address := enclave.Address(); address != "" {
		return address, nil
	}
	path := besideFile(k.file, ".sock")
	return vsock.UnixAddress(path), on.serve(path, func(ctx context.Context, l net.Listener) error { return proxy.Relay(ctx, l, enclave.Dial) })
}

// recordStarting says of an enclave that ran that it does so again soon.
func (k *keeper) recordStarting() error {
	if k.state.Boots == 0 {
		return nil
	}
	k.state.Process, k.state.Address = processID{}, ""
	return k.write()
}

// record writes down how the enclave is found and known.
func (k *keeper) record(enclave kept, address vsock.Address) (err error) {
	k.state = standing{
		Name: k.name, Backend: k.backend.name, Address: address, Root: string(enclave.RootPEM()), PCRs: enclave.PCRs().Hex(),
		Started: time.Now().UTC().Format(time.RFC3339), Boots: k.state.Boots + 1, Fresh: k.backend.fresh, Debug: k.backend.debug,
	}
	if k.state.Keeper, err = identify(os.Getpid()); err != nil {
		return err
	}
	k.state.Process = k.state.Keeper
	if pid := enclave.PID(); pid != 0 {
		if k.state.Process, err = identify(pid); err != nil {
			return err
		}
	}
	return k.write()
}

func (k *keeper) write() error {
	raw, err := json.Marshal(k.state)
	if err != nil {
		return err
	}
	return client.WriteAtomically(k.file, raw)
}

// consoleSuffix is that of the socket where a keeper shows the console.
const consoleSuffix = ".console"

// tellAll shows everybody who connects the console, for as long as they stay or until ctx ends.
func tellAll(ctx context.Context, l net.Listener, follow func(context.Context, io.Writer) error) error {
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	var all errgroup.Group
	for {
		conn, err := l.Accept()
		if err != nil {
			_ = l.Close()
			err = errors.Join(err, all.Wait())
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		all.Go(func() error {
			ctx, gone := context.WithCancel(ctx)
			defer gone()
			defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
			go func() { // it says nothing, and so its end is what comes
				_, _ = io.Copy(io.Discard, conn)
				gone()
			}()
			_ = follow(ctx, conn) // whoever listened is gone, or sees that it ended
			return nil
		})
	}
}

// sockets are Unix sockets of this user alone. The first that fails ends the context of all.
type sockets struct {
	ctx     context.Context //nolint:containedctx // that of what is served
	stop    context.CancelFunc
	serving *errgroup.Group
	paths   []string
}

func newSockets(ctx context.Context) (*sockets, context.Context) {
	ctx, stop := context.WithCancel(ctx)
	serving, ctx := errgroup.WithContext(ctx)
	return &sockets{ctx: ctx, stop: stop, serving: serving}, ctx
}

func (s *sockets) serve(path string, serve func(context.Context, net.Listener) error) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	l, err := vsock.ListenUnix(path)
	if err != nil {
		return err
	}
	s.paths = append(s.paths, path)
	s.serving.Go(func() error { return serve(s.ctx, l) })
	return nil
}

// close ends them, and says what failed.
func (s *sockets) close() error {
	s.stop()
	err := s.serving.Wait()
	for _, path := range s.paths {
		err = errors.Join(err, os.Remove(path))
	}
	return err
}
