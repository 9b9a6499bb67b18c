// Package native is the executor "exec": it runs a program of the application itself.
//
// The entrypoint is a regular file inside the application that can be executed: a binary for this
// machine, or a script whose first line names an interpreter of the image. Anything else is
// executor.ErrEntrypoint. The package runs inside the sandbox, beside the application, and guards
// nothing that the enclave relies on.
package native

import (
	"context"
	"errors"
	"fmt"
	"runtime"

	"github.com/cloister-run/cloister/plugins/executor"
	"github.com/cloister-run/cloister/plugins/process"
)

// Name and Version are what the executor describes itself as, and its manifest says.
const (
	Name    = "exec"
	Version = "0.1.0"
)

var _ executor.Executor = (*Executor)(nil)

// Executor runs one program. The zero value is ready.
type Executor struct{ runner process.Runner }

// Describe implements executor.Executor.
func (e *Executor) Describe(context.Context) (executor.Description, error) {
	return executor.Description{Name: Name, Version: Version}, nil
}

// Prepare names what programs must be built for: "linux" and the architecture.
func (e *Executor) Prepare(context.Context) (executor.Runtime, error) {
	return executor.Runtime{Name: runtime.GOOS, Version: runtime.GOARCH}, nil
}

// Run runs the program to its end.
func (e *Executor) Run(ctx context.Context, t executor.Task) (executor.Result, error) {
	if t.Environment != "" {
		return executor.Result{}, fmt.Errorf("exec: %w: this executor has none", executor.ErrEnvironment)
	}
	path, err := process.Entrypoint(t)
	if err != nil {
		return executor.Result{}, fmt.Errorf("exec: %w", err)
	}
	env, err := process.Env(t)
	if err != nil {
		return executor.Result{}, fmt.Errorf("exec: %w", err)
	}
	r, err := e.runner.Run(ctx, process.Program{Path: path, Args: t.Args, Env: env, Dir: t.Dir, Stdout: t.Stdout, Stderr: t.Stderr})
	if errors.Is(err, process.ErrStart) { // no permission, another architecture, no such interpreter
		return executor.Result{}, fmt.Errorf("exec: %w: %w", executor.ErrEntrypoint, err)
	}
	if err != nil {
		return executor.Result{}, fmt.Errorf("exec: %w", err)
	}
	return r, nil
}

// Stop ends the program: SIGTERM, then SIGKILL.
func (e *Executor) Stop(ctx context.Context) error { return e.runner.Stop(ctx) }
