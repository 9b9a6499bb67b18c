package launch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/enclave/attest"
	"github.com/cloister-run/cloister/enclave/image"
	"github.com/cloister-run/cloister/enclave/launch/vhost/nsm"
	"github.com/cloister-run/cloister/enclave/launch/vhost/vsock"
	"github.com/cloister-run/cloister/enclave/proxy"
	parent "github.com/cloister-run/cloister/enclave/vsock"
)

// Bounds of a virtual machine.
const (
	vmStartTimeout = 3 * time.Minute // where every instruction of the guest is emulated
	debugConsole   = 4 << 20
	heartbeatTime  = 10 * time.Second
	knock          = 50 * time.Millisecond // between two attempts to reach a guest that came up
)

// guestCID is the machine's among the one machine that this process plays the parent of; enclaves have 4
// and up (Nitro Enclaves user guide, "vsock").
const guestCID = 16

// VMConfig configures an enclave in a virtual machine.
type VMConfig struct {
	// Image is the enclave image file. Required.
	Image string
	// QEMU is the command that starts QEMU 11.1 or newer. Required.
	QEMU string
	// CPUs is how many the machine has. Default: what the image asks for, of those of this machine.
	CPUs int
	// Memory is the machine's, in bytes; an image that does not fit is an error. Default: what the image asks
	// for, and more where it does not fit.
	Memory int64
	// NSM makes what plays the module of an enclave with these registers. Required.
	NSM func(attest.PCRSet) attest.Handler
	// Door is what the enclave may reach, and how. Required.
	Door proxy.Config
	// Debug is the debug mode of a Nitro hypervisor: much of the console is kept, and the module has zeros
	// for PCR0 to PCR2, so that no key is released. Default: false.
	Debug bool
	// Emulate uses no help of the processor even where there is some. Default: KVM where the processor has
	// virtual machines, else emulation.
	Emulate bool

	patience time.Duration // with the kernel of an emulated machine; 0 is clockTime
}

// VM is a running enclave in a virtual machine. It is safe for concurrent use.
type VM struct {
	process *machine
	console *console
	vsock   *vsock.Device
	pcrs    attest.PCRSet

	beat    chan struct{} // closed when the guest came up
	asked   *firstAsked
	stop    context.CancelFunc
	servers errgroup.Group
	ended   chan struct{}
	err     error // of ended
}

// QEMU boots an enclave image in a virtual machine, and returns when it answers. What plays the hypervisor is this
// process: the sockets, the module, the measurement of the very image that boots. When this process ends, the
// machine does. An enclave that does not come up is ErrStart.
func QEMU(ctx context.Context, cfg VMConfig) (*VM, error) {
	v, err := startVM(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("launch: %w", err)
	}
	return v, nil
}

func startVM(ctx context.Context, cfg VMConfig) (*VM, error) {
	if cfg.NSM == nil || cfg.QEMU == "" {
		return nil, errors.New("a machine without a module or without QEMU")
	}
	payload, err := openPayload(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrStart, err)
	}
	defer payload.close() // QEMU has its own by the time that the guest answers
	ctx, cancel := context.WithTimeoutCause(ctx, vmStartTimeout, fmt.Errorf("no answer within %v", vmStartTimeout))
	defer cancel()
	for _, how := range cfg.paces() {
		v, err := tryVM(ctx, cfg, how, payload)
		if err == nil || !errors.Is(err, errClock) {
			return v, err
		}
	}
	return nil, fmt.Errorf("%w: %w", ErrStart, errClock)
}

// tryVM boots the machine at one pace.
func tryVM(ctx context.Context, cfg VMConfig, how pace, p *payload) (*VM, error) {
	v := &VM{vsock: vsock.New(guestCID), pcrs: p.pcrs, beat: make(chan struct{}), ended: make(chan struct{})}
	v.asked = newFirstAsked(cfg.NSM(v.documented(cfg.Debug)))
	if err := v.boot(cfg, how, p); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrStart, err)
	}
	ctx, end := context.WithCancelCause(ctx)
	var clock errgroup.Group
	if how == emulated {
		clock.Go(func() error {
			err := v.watchClock(ctx, cfg.patience)
			if err != nil {
				end(err)
			}
			return err
		})
	}
	err := v.await(ctx)
	end(nil)
	_ = clock.Wait() // what it says is the cause that await gave
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %w%s", ErrStart, err, lastWords(v.Console())), v.Stop())
	}
	return v, nil
}

// boot starts the machine and what it finds outside of itself.
func (v *VM) boot(cfg VMConfig, how pace, p *payload) (err error) {
	keep := maxConsole
	if cfg.Debug {
		keep = debugConsole
	}
	c, out, err := newConsole(keep)
	if err != nil {
		return err
	}
	defer out.Close() // the machine has its own
	m, err := startMachine(cfg, how, p, out)
	if err != nil {
		c.close()
		return err
	}
	v.console, v.process = c, m
	ctx, stop := context.WithCancel(context.Background())
	v.stop = stop
	door, err := v.vsock.Listen(image.DoorPort)
	if err != nil {
		return errors.Join(err, v.abandon())
	}
	heart, err := v.vsock.Listen(image.HeartbeatPort)
	if err != nil {
		return errors.Join(err, v.abandon())
	}
	module := nsm.New(v.asked)
	v.serve(ctx, "the machine's sockets", func(ctx context.Context) error { return v.vsock.Serve(ctx, m.vsock) })
	v.serve(ctx, "the machine's module", func(ctx context.Context) error { return module.Serve(ctx, m.nsm) })
	v.serve(ctx, "the door", func(ctx context.Context) error {
		err := proxy.Serve(ctx, door, cfg.Door)
		if errors.Is(err, net.ErrClosed) {
			err = nil // the sockets ended first, and say why
		}
		return err
	})
	v.servers.Go(func() error { v.hear(ctx, heart); return nil })
	go v.watch()
	return nil
}

// abandon ends a machine that nothing serves yet.
func (v *VM) abandon() error {
	v.stop()
	err := v.process.end()
	v.console.close()
	return err
}

// documented is what the module has: in debug mode zeros where the image is measured ("Nitro Enclaves attestation
// process", 2.2.1).
func (v *VM) documented(debug bool) attest.PCRSet {
	set := attest.PCRSet{}
	for i, value := range v.pcrs {
		if debug && i <= 2 {
			value = attest.PCR{}
		}
		set[i] = value
	}
	return set
}

// serve runs a server of the machine, which has no use without it.
func (v *VM) serve(ctx context.Context, what string, run func(context.Context) error) {
	v.servers.Go(func() error {
		err := run(ctx)
		if err != nil {
			err = fmt.Errorf("%s: %w", what, err)
		}
		return errors.Join(err, v.process.end())
	})
}

// watch ends everything with the machine.
func (v *VM) watch() {
	<-v.process.ended
	v.stop()
	v.err = v.servers.Wait()
	v.console.close()
	close(v.ended)
}

// hear answers the heartbeat of a guest that came up.
func (v *VM) hear(ctx context.Context, l net.Listener) {
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	defer l.Close()
	once := sync.OnceFunc(func() { close(v.beat) })
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		if answerHeartbeat(conn) {
			once()
		}
	}
}

func answerHeartbeat(conn net.Conn) bool {
	defer conn.Close()
	b := make([]byte, 1)
	if err := conn.SetDeadline(time.Now().Add(heartbeatTime)); err != nil {
		return false
	}
	if _, err := conn.Read(b); err != nil || b[0] != image.Heartbeat {
		return false
	}
	_, err := conn.Write(b)
	return err == nil
}

// await returns when the guest has come up and takes connections.
func (v *VM) await(ctx context.Context) error {
	select {
	case <-v.beat:
	case <-v.ended:
		return v.death()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	for {
		conn, err := v.Dial(ctx)
		switch {
		case err == nil:
			return conn.Close()
		case ctx.Err() == nil && !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, vsock.ErrEnded):
			return err
		}
		select {
		case <-time.After(knock):
		case <-v.ended:
			return v.death()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// death says why the machine is no more.
func (v *VM) death() error {
	if v.err != nil {
		return v.err
	}
	return errors.New("the machine ended")
}

// Dial opens a connection to the enclave's API.
func (v *VM) Dial(ctx context.Context) (net.Conn, error) { return v.vsock.Dial(ctx, image.APIPort) }

// Address is none: the machine's sockets are served by this process.
func (v *VM) Address() parent.Address { return "" }

// PCRs are those of the image that was started, also where the module has zeros for them.
func (v *VM) PCRs() attest.PCRSet { return v.pcrs }

// PID is the number of QEMU's process on this machine.
func (v *VM) PID() int { return v.process.pid }

// Ended is closed when nothing of the machine runs any more.
func (v *VM) Ended() <-chan struct{} { return v.ended }

// Why implements [Running].
func (v *VM) Why() error { return fmt.Errorf("%w%s", v.death(), lastWords(v.Console())) }

// Console is the last of what the enclave wrote there: nothing, where its command line has no console.
func (v *VM) Console() string { return v.console.String() }

// Follow implements [Running].
func (v *VM) Follow(ctx context.Context, w io.Writer) error { return v.console.follow(ctx, w) }

// Stop ends the enclave as a Nitro hypervisor does: at once. It may be called again.
func (v *VM) Stop() error {
	err := v.process.end()
	<-v.ended
	return err
}
