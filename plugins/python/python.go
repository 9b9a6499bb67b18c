// Package python is the executor for applications in Python: it runs one script with the
// interpreter of the image.
//
// It looks for the interpreter at fixed places only and reads nothing of its environment. The
// entrypoint is a script, a regular file inside the application; a folder, or a module as in
// `python -m`, is refused with executor.ErrEntrypoint. The package runs inside the sandbox,
// beside the application, and guards nothing that the enclave relies on.
package python

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/cloister-run/cloister/plugins/executor"
	"github.com/cloister-run/cloister/plugins/process"
)

const (
	// Name and Version are what the executor describes itself as, and its manifest says.
	Name    = "python"
	Version = "0.1.0"

	// askTimeout bounds the interpreter's answer to what it is.
	askTimeout = 20 * time.Second
	maxAnswer  = 128
)

var _ executor.Executor = (*Executor)(nil)

// Executor runs one Python script.
type Executor struct {
	places      []string
	interpreter string
	runner      process.Runner
}

// New makes an executor for one job.
func New() *Executor {
	return &Executor{places: []string{
		"/usr/local/bin/python3",
		"/opt/python/bin/python3",
		"/usr/bin/python3",
	}}
}

// Describe implements executor.Executor.
func (e *Executor) Describe(context.Context) (executor.Description, error) {
	return executor.Description{Name: Name, Version: Version}, nil
}

// flags of every start: -E no PYTHON* variable counts, -s no packages of a user, -B no
// bytecode is written, UTF-8 whatever the locale (Python, "Command line and environment").
func flags() []string { return []string{"-E", "-s", "-B", "-X", "utf8"} }

// Prepare finds the interpreter and starts it once, as Run will, so that the next start finds
// its files in memory.
func (e *Executor) Prepare(ctx context.Context) (executor.Runtime, error) {
	interpreter, err := e.find()
	if err != nil {
		return executor.Runtime{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	env, err := process.Env(executor.Task{})
	if err != nil {
		return executor.Runtime{}, err
	}
	cmd := exec.CommandContext(ctx, interpreter, append(flags(), "-c",
		`import sys; print(sys.implementation.name, ".".join(map(str, sys.version_info[:3])))`)...)
	cmd.Env = env
	cmd.Dir = "/"
	cmd.WaitDelay = time.Second
	answer := &bounded{limit: maxAnswer}
	cmd.Stdout = answer
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return executor.Runtime{}, fmt.Errorf("python: asking %s what it is: %w", interpreter, ctx.Err())
		}
		return executor.Runtime{}, fmt.Errorf("python: %w: %s: %w", executor.ErrRuntime, interpreter, err)
	}
	name, version, ok := strings.Cut(strings.TrimSpace(string(answer.kept)), " ")
	if !ok {
		return executor.Runtime{}, fmt.Errorf("python: %w: %s does not say what it is", executor.ErrRuntime, interpreter)
	}
	if name == "cpython" {
		name = "CPython"
	}
	e.interpreter = interpreter
	return executor.Runtime{Name: name, Version: version}, nil
}

func (e *Executor) find() (string, error) {
	for _, place := range e.places {
		if info, err := os.Stat(place); err == nil && info.Mode().IsRegular() {
			return place, nil
		}
	}
	return "", fmt.Errorf("python: %w: no interpreter at %s", executor.ErrRuntime, strings.Join(e.places, ", "))
}

// Run runs the script to its end.
func (e *Executor) Run(ctx context.Context, t executor.Task) (executor.Result, error) {
	if e.interpreter == "" {
		return executor.Result{}, fmt.Errorf("python: %w: it was not prepared", executor.ErrRuntime)
	}
	script, err := process.Entrypoint(t)
	if err != nil {
		return executor.Result{}, fmt.Errorf("python: %w", err)
	}
	env, err := process.Env(t, "PYTHON")
	if err != nil {
		return executor.Result{}, fmt.Errorf("python: %w", err)
	}
	r, err := e.runner.Run(ctx, process.Program{
		Path:   e.interpreter,
		Args:   append(append(flags(), script), t.Args...),
		Env:    env,
		Dir:    t.Dir,
		Stdout: t.Stdout,
		Stderr: t.Stderr,
	})
	if errors.Is(err, process.ErrStart) {
		return executor.Result{}, fmt.Errorf("python: %w: %w", executor.ErrRuntime, err)
	}
	if err != nil {
		return executor.Result{}, fmt.Errorf("python: %w", err)
	}
	return r, nil
}

// Stop ends the script: SIGTERM, then SIGKILL.
func (e *Executor) Stop(ctx context.Context) error { return e.runner.Stop(ctx) }

// bounded keeps what is written up to a limit and refuses more. It embeds no bytes.Buffer:
// that would offer ReadFrom, which knows no limit.
type bounded struct {
	kept  []byte
	limit int
}

func (b *bounded) Write(p []byte) (int, error) {
	if len(b.kept)+len(p) > b.limit {
		return 0, io.ErrShortBuffer
	}
	b.kept = append(b.kept, p...)
	return len(p), nil
}
