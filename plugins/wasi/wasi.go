// Package wasi is the executor for applications in WebAssembly: it runs a WASI preview-1 command on
// wazero.
//
// The entrypoint is a module inside the application that exports _start; anything that is no module is
// executor.ErrEntrypoint. The program sees the files that any program in the sandbox sees, with real
// clocks and randomness, and no sockets. It runs in a process of its own, so that it runs uninterrupted
// and at full speed and can still be stopped; with status 126 if the module cannot be compiled or needs
// what WASI does not have, and 134 if it traps. The package runs inside the sandbox, beside the
// application, and guards nothing that the enclave relies on.
package wasi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"

	"github.com/cloister-run/cloister/plugins/executor"
	"github.com/cloister-run/cloister/plugins/process"
)

// Name and Version are what the executor describes itself as, and its manifest says. Guest is the
// word that has the executor's own binary call [Main].
const (
	Name    = "wasi"
	Version = "0.1.0"
	Guest   = "wasi-guest"
)

// self is this program, wherever it was started from.
const self = "/proc/self/exe"

var _ executor.Executor = (*Executor)(nil)

// Executor runs one module. The zero value is ready.
type Executor struct{ runner process.Runner }

// Describe implements executor.Executor.
func (e *Executor) Describe(context.Context) (executor.Description, error) {
	return executor.Description{Name: Name, Version: Version}, nil
}

// Prepare names the engine.
func (e *Executor) Prepare(context.Context) (executor.Runtime, error) {
	return executor.Runtime{Name: "wazero", Version: engineVersion()}, nil
}

func engineVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if m.Path == "github.com/tetratelabs/wazero" {
				return m.Version
			}
		}
	}
	return "unknown"
}

// Run runs the module to its end.
func (e *Executor) Run(ctx context.Context, t executor.Task) (executor.Result, error) {
	if t.Environment != "" {
		return executor.Result{}, fmt.Errorf("wasi: %w: this executor has none", executor.ErrEnvironment)
	}
	path, err := process.Entrypoint(t)
	if err == nil {
		err = isModule(path)
	}
	if err != nil {
		return executor.Result{}, fmt.Errorf("wasi: %w", err)
	}
	env, err := process.Env(t)
	if err != nil {
		return executor.Result{}, fmt.Errorf("wasi: %w", err)
	}
	r, err := e.runner.Run(ctx, process.Program{
		Path: self, Args: append([]string{Guest, path}, t.Args...), Env: env, Dir: t.Dir, Stdout: t.Stdout, Stderr: t.Stderr,
	})
	if errors.Is(err, process.ErrStart) {
		return executor.Result{}, fmt.Errorf("wasi: %w: %w", executor.ErrRuntime, err)
	}
	if err != nil {
		return executor.Result{}, fmt.Errorf("wasi: %w", err)
	}
	return r, nil
}

// isModule looks at how a file begins (WebAssembly core specification, 5.5.16).
func isModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("%w: %w", executor.ErrEntrypoint, err)
	}
	defer f.Close()
	begin := make([]byte, 8)
	if _, err := io.ReadFull(f, begin); err != nil || !bytes.Equal(begin, []byte("\x00asm\x01\x00\x00\x00")) {
		return fmt.Errorf("%w: it is no WebAssembly module", executor.ErrEntrypoint)
	}
	return nil
}

// Stop ends the program: SIGTERM, then SIGKILL.
func (e *Executor) Stop(ctx context.Context) error { return e.runner.Stop(ctx) }
