// Package nitro runs an enclave on an EC2 instance: it drives AWS's nitro-cli, holds what that says of an
// enclave against what was measured of its image, and serves the door out of the enclave while it runs.
//
// It is the operator's side, and nobody trusts it: what an owner relies on is the attestation document of the
// enclave itself. nitro-cli is trusted as the operator's own tool is; what it prints is bounded. Never is an
// enclave in debug mode taken for one that protects anything.
package nitro

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"sync"
	"time"

	"github.com/cloister-run/cloister/enclave/attest"
	"github.com/cloister-run/cloister/enclave/image"
	"github.com/cloister-run/cloister/enclave/image/eif"
	"github.com/cloister-run/cloister/enclave/vsock"
)

// What callers branch on. What nitro-cli said by itself is an [Error].
var (
	// ErrConfig: the configuration is wrong; nothing was started.
	ErrConfig = errors.New("configuration")
	// ErrImage: the image cannot be read, or is none; nothing was started.
	ErrImage = errors.New("image")
	// ErrDoor: the port of the door is taken, or this machine has no AF_VSOCK; nothing was started.
	ErrDoor = errors.New("the door")
	// ErrDebug: the enclave is in debug mode, and nobody asked for that. It was ended.
	ErrDebug = errors.New("debug mode")
	// ErrMismatch: what runs is not the image that was measured, or nothing says what it is. It was ended.
	ErrMismatch = errors.New("measurements")
	// ErrNoConsole: only an enclave in debug mode has a console.
	ErrNoConsole = errors.New("no console")
)

// Bounds. nitro-cli itself waits a minute for each 6 GiB of an image to boot (resource_manager.rs,
// calculate_necessary_timeout), and an image is a quarter of the memory at most, which is cleared before.
const (
	runTimeout   = 3 * time.Minute  // run-enclave, and
	runPerGiB    = 15 * time.Second // for each GiB of memory
	queryTimeout = 30 * time.Second // describe-enclaves and terminate-enclave
	stopTimeout  = 30 * time.Second // from terminate-enclave to the end of the enclave
	goneTimeout  = time.Second      // the same where nitro-cli knows no such enclave
)

// Config says what to run.
type Config struct {
	// Path is that of nitro-cli. Default: the one in PATH.
	Path string
	// Name is what nitro-cli knows it by beside its ID, so that it is found again if this process is killed. Nobody
	// else has it. Default: one that [RandomName] gives.
	Name string
	// Image is the path of an enclave image file. Required.
	Image string
	// CPUs is how many of the parent's go to the enclave. Required.
	CPUs int
	// Memory is how much of the parent's does, in MiB: four times the size of the image or more. Required.
	Memory int
	// CID is the enclave's over AF_VSOCK, 4 or more. Default: nitro-cli chooses.
	CID uint32
	// Regions are those of AWS whose KMS the enclave may reach, "eu-central-1". Required.
	Regions []string
	// Debug gives the enclave a console. Whoever reads that reads everything, and the hypervisor attests
	// registers of zeros: no owner's key is released to it. Default: false.
	Debug bool
	// Log takes a line for each tunnel through the door. Default: nothing is logged.
	Log *slog.Logger

	patience time.Duration // with run-enclave; 0 is as much as the memory takes
}

// Enclave is an enclave that was started. It is safe for concurrent use. Whoever has it stops it, also if it ended
// by itself.
type Enclave struct {
	cli     cli
	name    string
	dial    func(ctx context.Context, cid, port uint32) (net.Conn, error)
	running running
	pcrs    attest.PCRSet
	debug   bool
	process *process
	door    *door
	ended   chan struct{}
	watch   sync.WaitGroup
	stop    func() error
}

// sockets are those of AF_VSOCK.
type sockets struct {
	listen func(port uint32, admit func(cid uint32) bool) (net.Listener, error)
	dial   func(ctx context.Context, cid, port uint32) (net.Conn, error)
}

// Start starts an enclave, and returns when it has booted and is known to be the image that was measured. If
// ctx ends before that, or something is wrong, what was started is ended; where it cannot be, the error is a
// [LeftError] too. Errors are one of those above, an [Error], or ctx's.
//
// One parent serves one enclave at a time: the port of the door is the same for every image.
func Start(ctx context.Context, cfg Config) (*Enclave, error) {
	return start(ctx, cfg, sockets{vsock.ListenPort, vsock.DialPort})
}

// start is Start with sockets of the caller's.
func start(ctx context.Context, cfg Config, on sockets) (*Enclave, error) {
	e, err := prepare(ctx, cfg, on)
	if err != nil {
		return nil, fmt.Errorf("nitro: %w", err)
	}
	if err := e.launch(ctx, cfg); err != nil {
		err = errors.Join(err, e.abandon(ctx, err))
		return nil, fmt.Errorf("nitro: %w", err)
	}
	e.stop = sync.OnceValue(e.end)
	e.watch.Go(func() {
		if e.process.wait() {
			e.door.open(0) // another enclave may get the CID
			close(e.ended)
		}
	})
	return e, nil
}

// prepare does what can be done, and go wrong, before anything runs.
func prepare(ctx context.Context, cfg Config, on sockets) (*Enclave, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	path, err := exec.LookPath(orDefault(cfg.Path, "nitro-cli"))
	if err != nil {
		return nil, &Error{Message: err.Error(), Cure: "install it (Amazon Linux: sudo dnf install aws-nitro-enclaves-cli), " +
			"or say where it is; docs/nitro.md has the steps"}
	}
	pcrs, err := measure(ctx, cfg.Image)
	if err != nil {
		return nil, err
	}
	e := &Enclave{cli: cli{path}, name: orDefault(cfg.Name, RandomName()), dial: on.dial, pcrs: pcrs, debug: cfg.Debug, ended: make(chan struct{})}
	if cfg.CID != 0 {
		if err := e.cli.free(ctx, cfg.CID); err != nil {
			return nil, err
		}
	}
	e.door, err = openDoor(on, cfg)
	return e, err
}

// measure gives the registers of an image as a hypervisor will have them.
func measure(ctx context.Context, path string) (attest.PCRSet, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrImage, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrImage, err)
	}
	img, err := eif.Read(f, info.Size())
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrImage, path, err)
	}
	pcrs, err := img.Measure(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrImage, path, err)
	}
	signer, err := img.Signer(pcrs.PCR0)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrImage, path, err)
	}
	set := attest.PCRSet{0: attest.PCR(pcrs.PCR0), 1: attest.PCR(pcrs.PCR1), 2: attest.PCR(pcrs.PCR2)}
	if signer != nil {
		set[8] = attest.PCR(signer.PCR8)
	}
	return set, nil
}

// launch runs the enclave, and looks at what runs.
func (e *Enclave) launch(ctx context.Context, cfg Config) (err error) {
	if e.running, err = e.cli.run(ctx, cfg, e.name); err != nil {
		return err
	}
	e.door.open(e.running.CID)
	if e.process, err = openProcess(e.running.PID); err != nil {
		return fmt.Errorf("watching the enclave's process %d: %w", e.running.PID, err)
	}
	// That it is still there after its process was opened says that this is its process.
	all, _, err := e.cli.describe(ctx)
	if err != nil {
		return err
	}
	for _, found := range all {
		if found.ID == e.running.ID && found.PID == e.running.PID && found.CID == e.running.CID {
			return found.check(e.pcrs, cfg.Debug)
		}
	}
	return &Error{Verb: "describe-enclaves", Message: "the enclave " + e.running.ID + " has ended again",
		Cure: "see what it writes on its console, in debug mode; docs/nitro.md says how"}
}

// abandon ends what a start has left that went wrong. Where nitro-cli has not told the enclave's ID, its name finds it.
func (e *Enclave) abandon(ctx context.Context, why error) error {
	err := e.left().End(context.WithoutCancel(ctx))
	left, isLeft := errors.AsType[*LeftError](err)
	if says, ok := errors.AsType[*Error](why); ok && says.ended && isLeft && left.Left.ID == "" {
		err = nil // nitro-cli does not run the enclave, by its own word, and neither does it list any
	}
	if e.process != nil {
		e.process.close()
	}
	return errors.Join(err, e.door.close())
}

// left is the enclave as another process would end it.
func (e *Enclave) left() Left { return Left{Path: e.cli.path, Name: e.name, ID: e.running.ID} }

// Dial opens a connection to the enclave.
func (e *Enclave) Dial(ctx context.Context) (net.Conn, error) {
	return e.dial(ctx, e.running.CID, image.APIPort)
}

// CID is the enclave's address over AF_VSOCK.
func (e *Enclave) CID() uint32 { return e.running.CID }

// ID is the enclave's name for nitro-cli, "i-…-enc…".
func (e *Enclave) ID() string { return e.running.ID }

// Name is that of [Config].
func (e *Enclave) Name() string { return e.name }

// PCRs are those of the image. What the hypervisor attests of an enclave in debug mode is zeros in their place.
func (e *Enclave) PCRs() attest.PCRSet { return e.pcrs }

// Ended is closed when the enclave has ended.
func (e *Enclave) Ended() <-chan struct{} { return e.ended }

// Console writes what the enclave writes, from its boot on, until the enclave or ctx ends, which is no error.
// It may hold anything. Without debug mode it is ErrNoConsole.
func (e *Enclave) Console(ctx context.Context, w io.Writer) error {
	if !e.debug {
		return fmt.Errorf("nitro: %w: the enclave is not in debug mode", ErrNoConsole)
	}
	err := e.cli.console(ctx, e.running.ID, w)
	select {
	case <-e.ended:
		return nil
	default:
	}
	if err == nil || ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("nitro: %w", err)
}

// Stop ends the enclave, and every job in it. It may be called again. An enclave that does not end is a [LeftError].
func (e *Enclave) Stop() error { return e.stop() }

func (e *Enclave) end() error {
	var err error
	patience := stopTimeout
	select {
	case <-e.ended:
	default:
		if err = e.cli.terminate(context.Background(), e.running.ID); err != nil {
			patience = goneTimeout
		}
	}
	select {
	case <-e.ended:
		err = nil // whoever has ended it
	case <-time.After(patience):
		err = &LeftError{e.left(), errors.Join(err, fmt.Errorf("it has not ended within %v; rebooting the instance ends it", patience))}
	}
	e.process.close()
	e.watch.Wait()
	if err = errors.Join(err, e.door.close()); err != nil {
		return fmt.Errorf("nitro: %w", err)
	}
	return nil
}

func orDefault(s, by string) string {
	if s == "" {
		return by
	}
	return s
}
