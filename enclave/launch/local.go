// Package launch starts enclaves: where one runs is behind [Running], how it got there is not
// the caller's concern.
//
// A local enclave is the same daemon behind the same walls as in production, with this
// machine's kernel where the Nitro hypervisor would be. It is SIMULATED: whoever owns the
// machine can look into it. Everything in it is in memory, and it ends with the process that
// started it, whichever way that ends.
//
// An enclave in a virtual machine is the image that boots on EC2, with its kernel, its sockets and its module, and
// this process where the Nitro hypervisor would be. It is SIMULATED too. Neither the image nor the guest is
// trusted.
package launch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/enclave/attest"
	"github.com/cloister-run/cloister/enclave/image"
	"github.com/cloister-run/cloister/enclave/proxy"
	"github.com/cloister-run/cloister/enclave/vsock"
	"github.com/cloister-run/cloister/plugins/sandbox"
)

// Bounds of a start and an end.
const (
	startTimeout = 30 * time.Second
	stopTimeout  = 10 * time.Second
	maxConsole   = 64 << 10
)

// ErrStart: the enclave did not come up.
var ErrStart = errors.New("enclave does not start")

// Config configures a local enclave.
type Config struct {
	// Image is the folder that `make build` fills: cloisterd, walls, profile.json, executors/,
	// etc/. Required.
	Image string
	// NSM plays the enclave's Nitro Security Module. Required.
	NSM attest.Handler
	// Door is what the enclave may reach, and how. Required.
	Door proxy.Config
}

// Enclave is a running local enclave. It is safe for concurrent use.
type Enclave struct {
	process *sandbox.Process
	console *console
	outside *outside
	stop    sync.Once
	stopErr error
}

// Local starts an enclave on this machine and returns when it answers. Where the machine cannot
// give a wall, the error is a [sandbox.UnavailableError].
func Local(ctx context.Context, cfg Config) (*Enclave, error) {
	return local(ctx, cfg, localMounts)
}

// local starts an enclave that sees what view gives it.
func local(ctx context.Context, cfg Config, view func(dir string) ([]sandbox.Mount, error)) (*Enclave, error) {
	dir, err := filepath.Abs(cfg.Image)
	if err != nil {
		return nil, fmt.Errorf("launch: %w", err)
	}
	if _, err := os.Stat(filepath.Join(dir, image.Daemon)); err != nil {
		return nil, fmt.Errorf("launch: %w: no image at %s", ErrStart, dir)
	}
	mounts, err := view(dir)
	if err != nil {
		return nil, fmt.Errorf("launch: %w", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("%w: no answer within %v", ErrStart, startTimeout))
	defer cancel()
	o, err := serveOutside(cfg)
	if err != nil {
		return nil, fmt.Errorf("launch: %w", err)
	}
	defer o.unname() // the enclave has them mounted by then, or will never
	c, out, err := newConsole(maxConsole)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("launch: %w", err), o.close())
	}
	process, err := sandbox.Start(ctx, sandbox.Spec{
		Init: filepath.Join(dir, image.Walls), Nested: true, Mounts: append(mounts, o.mounts()...),
		Path: image.Dir + "/" + image.Daemon, Dir: "/", Owner: -1, Stdout: out, Stderr: out,
	})
	_ = out.Close() // the enclave has its own
	if err != nil {
		c.close()
		return nil, errors.Join(fmt.Errorf("launch: %w", err), o.close())
	}
	e := &Enclave{process: process, console: c, outside: o}
	if err := c.wait(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("launch: %w", err), e.end(0)) // it holds no job, and may not know signals yet
	}
	return e, nil
}

// Dial opens a connection to the enclave.
func (e *Enclave) Dial(ctx context.Context) (net.Conn, error) { return e.Address().Dial(ctx) }

// PID is the number of the enclave's first process on this machine.
func (e *Enclave) PID() int { return e.process.Pid() }

// Address is where other processes of this user dial it. Its socket has no name outside of the enclave.
func (e *Enclave) Address() vsock.Address {
	return vsock.UnixAddress(fmt.Sprintf("/proc/%d/root%s", e.PID(), image.Socket))
}

// Ended is closed when nothing of the enclave runs any more.
func (e *Enclave) Ended() <-chan struct{} {
	ended := make(chan struct{})
	go func() { _, _ = e.process.Wait(); close(ended) }() // its status says nothing that the console does not
	return ended
}

// Why implements [Running].
func (e *Enclave) Why() error {
	status, err := e.process.Wait()
	if err == nil {
		err = fmt.Errorf("its first process ended with status %d", status)
	}
	e.console.close() // which has all of it then
	return fmt.Errorf("%w%s", err, lastWords(e.Console()))
}

// Console is the last of what the enclave wrote there.
func (e *Enclave) Console() string { return e.console.String() }

// Follow implements [Running].
func (e *Enclave) Follow(ctx context.Context, w io.Writer) error { return e.console.follow(ctx, w) }

// Stop ends the enclave: every job in it is cancelled and wiped. It may be called again.
func (e *Enclave) Stop() error { return e.end(stopTimeout) }

// end is Stop with another patience.
func (e *Enclave) end(patience time.Duration) error {
	e.stop.Do(func() {
		_ = e.process.Signal(unix.SIGTERM) // what it does not obey is killed below
		ended := e.Ended()
		select {
		case <-ended:
		case <-time.After(patience):
		}
		e.stopErr = e.process.Kill()
		<-ended
		e.console.close()
		e.stopErr = errors.Join(e.stopErr, e.outside.close())
	})
	return e.stopErr
}

// localMounts is the enclave's view: the image, a root for executors made of this machine's
// system folders, and places in memory.
func localMounts(dir string) ([]sandbox.Mount, error) {
	mounts := []sandbox.Mount{
		{Source: dir, Target: image.Dir},
		{Target: image.Run, Tmpfs: 1 << 20},
		{Target: image.State, Tmpfs: 1 << 40},
	}
	for _, name := range []string{"usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"} {
		m := sandbox.Mount{Source: "/" + name, Target: image.Root + "/" + name}
		info, err := os.Lstat(m.Source)
		switch {
		case errors.Is(err, os.ErrNotExist):
			continue
		case err != nil:
			return nil, err
		case info.Mode()&os.ModeSymlink != 0:
			if m.Link, err = os.Readlink(m.Source); err != nil {
				return nil, err
			}
			m.Source = ""
		}
		mounts = append(mounts, m)
	}
	for _, name := range []string{"ld.so.cache", "alternatives"} {
		if _, err := os.Stat("/etc/" + name); err == nil {
			mounts = append(mounts, sandbox.Mount{Source: "/etc/" + name, Target: image.Root + "/etc/" + name})
		}
	}
	files, err := os.ReadDir(filepath.Join(dir, image.Etc))
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		mounts = append(mounts, sandbox.Mount{Source: filepath.Join(dir, image.Etc, f.Name()), Target: image.Root + "/etc/" + f.Name()})
	}
	if os.Geteuid() == 0 {
		mounts = append(mounts, sandbox.Mount{Source: "/sys/fs/cgroup", Target: "/sys/fs/cgroup", Writable: true})
	}
	return mounts, nil
}
