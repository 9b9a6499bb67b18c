package host

import (
	"context"
	"io"
	"os"
	"strings"
	"sync"

	"github.com/hashicorp/go-plugin/runner"

	"github.com/cloister-run/cloister/plugins/host/internal/starter"
	"github.com/cloister-run/cloister/plugins/sandbox"
)

var _ runner.Runner = (*walled)(nil)

// walled is a sandboxed process in the shape that go-plugin wants.
type walled struct {
	// ctx bounds starting; the process outlives it.
	ctx     context.Context
	start   starter.Func
	spec    sandbox.Spec
	sockets *sockets
	stdout  *handshake

	mu     sync.Mutex
	killed bool
	proc   starter.Process
	refuse error // why PluginToHost refused
	done   chan struct{}
}

func (w *walled) Start(context.Context) error {
	r, out, err := os.Pipe()
	if err != nil {
		return err
	}
	defer out.Close()
	w.spec.Stdout = out
	w.stdout = &handshake{pipe: r}

	w.mu.Lock()
	defer w.mu.Unlock()
	if err = context.Cause(w.ctx); err == nil && w.killed {
		err = errNotStarted
	}
	var proc starter.Process
	if err == nil {
		proc, err = w.start(w.ctx, w.spec)
	}
	if err != nil {
		_ = r.Close()
		return err
	}
	w.proc = proc
	go func() {
		defer close(w.done)
		_, _ = proc.Wait() // how a plugin ended is nobody's business
	}()
	return nil
}

// Kill returns when the process namespace is gone.
func (w *walled) Kill(context.Context) error {
	w.mu.Lock()
	w.killed = true
	proc := w.proc
	w.mu.Unlock()
	if proc == nil {
		return nil
	}
	err := proc.Kill()
	<-w.done
	_ = w.stdout.pipe.Close() // nothing more is worth reading
	return err
}

func (w *walled) Wait(context.Context) error {
	<-w.done
	return nil
}

// PluginToHost refuses every address but a socket directly in the plugin's own folder.
func (w *walled) PluginToHost(network, address string) (string, string, error) {
	path, err := w.sockets.open(network, address)
	if err != nil {
		w.mu.Lock()
		w.refuse = err
		w.mu.Unlock()
		return "", "", err
	}
	return "unix", path, nil
}

// HostToPlugin has no use: go-plugin's broker, which would ask, is never started.
func (w *walled) HostToPlugin(string, string) (string, string, error) {
	return "", "", errNotStarted
}

// problem is why the plugin was refused, in words of the host's own; nil if it was not.
func (w *walled) problem() error {
	w.mu.Lock()
	refuse := w.refuse
	w.mu.Unlock()
	if refuse != nil || w.stdout == nil {
		return refuse
	}
	return w.stdout.problem()
}

func (w *walled) Stdout() io.ReadCloser           { return w.stdout }
func (w *walled) Stderr() io.ReadCloser           { return io.NopCloser(strings.NewReader("")) }
func (w *walled) Name() string                    { return "executor" }
func (w *walled) ID() string                      { return "sandbox" }
func (w *walled) Diagnose(context.Context) string { return "" }
