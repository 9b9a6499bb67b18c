package launch

import (
	"context"
	"errors"
	"io"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/enclave/image/eif"
	"github.com/cloister-run/cloister/plugins/sandbox"
)

// WithoutMachine starts an enclave whose executors find nothing of this machine.
func WithoutMachine(ctx context.Context, cfg Config) (*Enclave, error) {
	return local(ctx, cfg, func(dir string) ([]sandbox.Mount, error) {
		mounts, err := localMounts(dir)
		var kept []sandbox.Mount
		for _, m := range mounts {
			if m.Source != "/usr" && m.Source != "/bin" && m.Source != "/lib" && m.Link == "" {
				kept = append(kept, m)
			}
		}
		return kept, err
	})
}

// Impatient gives an emulated machine no more of a processor than d until its kernel asks for something.
func Impatient(cfg VMConfig, d time.Duration) VMConfig {
	cfg.patience = d
	return cfg
}

// MemoryOf is what a machine gets, in bytes, of an image that asks for some and has a ramdisk.
func MemoryOf(cfg VMConfig, asks uint64, ramdisk int64) (int64, error) {
	var p payload
	err := p.size(cfg, &eif.Image{Memory: asks, CPUs: 1, Sections: []eif.Section{{Kind: eif.Ramdisk, Size: ramdisk}}})
	return p.memory, err
}

// WhyOf is what a machine says that ended with an error of its devices, or with none, and these lines on its console.
func WhyOf(err error, lines ...string) (string, error) {
	c, to, failed := newConsole(debugConsole)
	if failed != nil {
		return "", failed
	}
	_, failed = to.WriteString(strings.Join(lines, ""))
	failed = errors.Join(failed, to.Close())
	<-c.ended
	return (&VM{console: c, err: err}).Why().Error(), failed
}

// ReadConsole is what a console keeps of lines, and whether it says that the enclave is ready.
func ReadConsole(lines ...string) (kept string, ready bool, err error) {
	c, to, err := newConsole(maxConsole)
	if err != nil {
		return "", false, err
	}
	_, writeErr := to.WriteString(strings.Join(lines, ""))
	err = errors.Join(writeErr, to.Close())
	<-c.ended
	select {
	case <-c.ready:
		ready = true
	default:
	}
	c.close()
	return c.String(), ready, err
}

// LastWords is what a console keeps that is closed while its reader lags behind the writer, who is still there.
func LastWords(lines ...string) (string, error) {
	c, to, err := newConsole(maxConsole)
	if err != nil {
		return "", err
	}
	defer to.Close()
	c.mu.Lock() // the reader comes as far as the first line
	for i, line := range lines {
		if _, err := to.WriteString(line); err != nil {
			return "", err
		}
		for i == 0 && held(to) > 0 {
			runtime.Gosched()
		}
	}
	closed := make(chan struct{})
	go func() {
		c.close()
		close(closed)
	}()
	c.mu.Unlock()
	<-closed
	return c.String(), nil
}

// held is how many bytes nobody has read from a pipe.
func held(pipe *os.File) int {
	raw, err := pipe.SyscallConn()
	if err != nil {
		return 0
	}
	n := 0
	_ = raw.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
	return n
}

// FollowConsole follows a console that keeps few bytes: write adds to it, done ends it and gives what whoever follows had.
func FollowConsole(ctx context.Context, keep int, w io.Writer) (write func(string) error, done func() error, err error) {
	c, to, err := newConsole(keep)
	if err != nil {
		return nil, nil, err
	}
	followed := make(chan error, 1)
	go func() { followed <- c.follow(ctx, w) }()
	return func(s string) error { _, err := to.WriteString(s); return err }, func() error {
		err := errors.Join(to.Close(), <-followed)
		c.close()
		return err
	}, nil
}
