package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"os"
	"os/signal"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/enclave/client"
	"github.com/cloister-run/cloister/enclave/launch/nitro"
	"github.com/cloister-run/cloister/enclave/proxy"
	"github.com/cloister-run/cloister/enclave/vsock"
)

// keeper plays the hypervisor of one enclave, or drives the one that there is, until it is told to end.
type keeper struct {
	name, file string
	backend    *backend
	start      func(context.Context) (kept, error)
	// ready tells whoever asked for the enclave that it answers.
	ready func() error
	// state is what is on record.
	state standing
}

// keeperReady is what a keeper says on its standard output once the enclave answers.
const keeperReady = "ready"

// Why a keeper ends that nobody told to.
var (
	// errNotEnded: the enclave was to end and may still run.
	errNotEnded = errors.New("ending the enclave")
	// errNobodyWaits: whoever asked for the enclave was gone before it answered.
	errNobodyWaits = errors.New("whoever started the enclave did not wait for it")
)

// serveEnclave is the keeper's process: it ends by SIGTERM, or when the enclave does, and starts the enclave
// anew by SIGUSR1.
func (a *app) serveEnclave(ctx context.Context, name string, b *backend) error {
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
	lock, err := lockKeeper(name, file)
	if err != nil {
		return err
	}
	defer lock.Close()
	ctx, again, done := keeperSignals(ctx)
	defer done()
	k := &keeper{
		name: name, file: file, backend: b,
		start: func(ctx context.Context) (kept, error) { return b.start(ctx, beside) },
		ready: func() error { _, err := io.WriteString(a.stdout, keeperReady+"\n"); return err },
	}
	return k.keep(ctx, again, a.stderr)
}

// lockKeeper makes sure that a name has one keeper. The lock ends with the process.
func lockKeeper(name, file string) (*os.File, error) {
	lock, err := os.OpenFile(besideFile(file, ".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = lock.Close() // nothing was written
		return nil, usage("cloister enclave stop "+name+" ends it", "the enclave %q runs already", name)
	}
	return lock, nil
}

// keep starts the enclave, as often as it is asked to, and stays until it is to end. What an earlier keeper left is
// ended first.
func (k *keeper) keep(ctx context.Context, again <-chan os.Signal, log io.Writer) error {
	before, err := readStanding(k.name)
	if err == nil && before.Nitro != nil {
		err = before.Nitro.End(ctx)
	}
	if err != nil && !errors.Is(err, errEnded) {
		return err // with the record as it is
	}
	self, err := identify(os.Getpid())
	if err != nil {
		return err
	}
	k.state = standing{
		Name: k.name, Backend: k.backend.name, Keeper: self, Nitro: k.backend.left(), Fresh: k.backend.fresh, Debug: k.backend.debug,
	}
	for end := false; !end && err == nil; {
		end, err = k.boot(ctx, again)
	}
	return k.leave(err, log)
}

// leave says why the keeper ends, and takes the enclave off the record, unless it may still run: whoever stops it is
// told that then, whatever had the keeper end it.
func (k *keeper) leave(err error, log io.Writer) error {
	if err != nil && k.state.Boots > 0 { // nobody listens to what this command prints any more
		asFailure(context.Background(), err).print(io.Discard, log, false)
	}
	left, isLeft := errors.AsType[*nitro.LeftError](err)
	if isLeft {
		k.state.Nitro = &left.Left
	}
	if isLeft || errors.Is(err, errNotEnded) {
		why := asFailure(context.Background(), err)
		k.state.Failure = &errorReport{Status: why.status, Error: why.message, Hint: why.hint}
		return errors.Join(err, k.write())
	}
	if removed := os.Remove(k.file); removed != nil && !errors.Is(removed, os.ErrNotExist) {
		err = errors.Join(err, removed)
	}
	return err
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
	// Whoever asked for the enclave may be gone: writing to them is an error then, and no end of this process. It is
	// not ignored, which what the keeper starts would inherit.
	signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE)
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
	enclave, err := k.start(ctx)
	if err != nil {
		return true, err
	}
	defer func() {
		if stopped := enclave.Stop(); stopped != nil {
			err = errors.Join(err, fmt.Errorf("%w: %w", errNotEnded, stopped))
		}
	}()
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
		if err := k.ready(); err != nil { // nobody knows of the enclave, and so nobody would end it
			return true, fmt.Errorf("%w: %w", errNobodyWaits, err)
		}
	}
	select {
	case <-ctx.Done(): // which is how it is meant to end, unless a socket failed
		return true, nil
	case <-again:
		return false, nil
	case <-enclave.Ended():
		return true, fmt.Errorf("%w: %w", errEnded, enclave.Why())
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

// recordStarting says of an enclave that it runs soon, or does so again.
func (k *keeper) recordStarting() error {
	k.state.Process, k.state.Address, k.state.Started = processID{}, "", now()
	return k.write()
}

// record writes down how the enclave is found and known.
func (k *keeper) record(enclave kept, address vsock.Address) (err error) {
	k.state.Address, k.state.Root, k.state.PCRs = address, string(enclave.RootPEM()), enclave.PCRs().Hex()
	k.state.Started, k.state.Boots = now(), k.state.Boots+1
	k.state.Process = k.state.Keeper
	if pid := enclave.PID(); pid != 0 {
		if k.state.Process, err = identify(pid); err != nil {
			return err
		}
	}
	if named, ok := enclave.(interface{ ID() string }); ok && k.state.Nitro != nil {
		k.state.Nitro.ID = named.ID()
	}
	return k.write()
}

func now() string { return time.Now().UTC().Format(time.RFC3339) }

func (k *keeper) write() error {
	raw, err := json.Marshal(k.state)
	if err != nil {
		return err
	}
	err = client.WriteAtomically(k.file, raw)
	if cause, ok := errors.AsType[unix.Errno](err); ok { // the rest speaks of a job's results
		err = &fs.PathError{Op: "writing down the enclave at", Path: k.file, Err: cause}
	}
	return err
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
		all.Go(func() error { tell(ctx, conn, follow); return nil })
	}
}

// tell shows one who connected the console, until they are gone, the console ends or ctx does. Where it cannot be read, that
// is the last line.
func tell(ctx context.Context, conn net.Conn, follow func(context.Context, io.Writer) error) {
	ctx, gone := context.WithCancel(ctx)
	listening := make(chan struct{})
	go func() { // it says nothing, and so its end is what comes
		defer close(listening)
		_, _ = io.Copy(io.Discard, conn)
		gone()
	}()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	if err := follow(ctx, conn); err != nil && ctx.Err() == nil {
		_, _ = fmt.Fprintf(conn, "\ncloister: error: the console breaks off: %v\n", err) // or they are gone
	}
	gone()
	if stop() {
		_ = conn.Close()
	}
	<-listening
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
