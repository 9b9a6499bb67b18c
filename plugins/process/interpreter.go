package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/cloister-run/cloister/plugins/executor"
)

// An interpreter's answer to what it is.
const (
	askTimeout = 20 * time.Second
	maxAnswer  = 128
)

// Interpreter is a runtime that is one program of the image. It is looked for at fixed places only;
// nothing of the environment counts.
type Interpreter struct {
	// Places are absolute paths, the first that is a file counts.
	Places []string
	// Flags stand before everything else, in every start.
	Flags []string
	// Ask follows Flags, and has it print its name, a space and its version.
	Ask []string
	// Reserved are prefixes of variables that steer it; see [Env].
	Reserved []string

	path   string
	asked  chan answer // of Begin
	runner Runner
}

// answer is what an interpreter is, and where.
type answer struct {
	path  string
	found executor.Runtime
	err   error
}

// Begin looks for the interpreter ahead of Prepare, which must follow: a plugin has time while its host
// connects to it.
func (i *Interpreter) Begin() {
	i.asked = make(chan answer, 1)
	go func() { i.asked <- i.ask(context.Background()) }()
}

// Prepare finds the interpreter and starts it once, as Run will, so that the next start finds its files
// in memory. Errors are executor.ErrRuntime, or ctx's.
func (i *Interpreter) Prepare(ctx context.Context) (executor.Runtime, error) {
	var a answer
	if i.asked == nil {
		a = i.ask(ctx)
	} else {
		select {
		case a = <-i.asked:
		case <-ctx.Done():
			return executor.Runtime{}, fmt.Errorf("process: asking the interpreter what it is: %w", ctx.Err())
		}
	}
	i.path = a.path
	return a.found, a.err
}

func (i *Interpreter) ask(ctx context.Context) answer {
	path, err := i.find()
	if err != nil {
		return answer{err: err}
	}
	found, err := i.askAt(ctx, path)
	if err != nil {
		return answer{err: err}
	}
	return answer{path: path, found: found}
}

func (i *Interpreter) askAt(ctx context.Context, path string) (executor.Runtime, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	env, err := Env(executor.Task{})
	if err != nil {
		return executor.Runtime{}, err
	}
	cmd := exec.CommandContext(ctx, path, slices.Concat(i.Flags, i.Ask)...)
	cmd.Env = env
	cmd.Dir = "/"
	cmd.WaitDelay = time.Second
	said := &bounded{limit: maxAnswer}
	cmd.Stdout = said
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return executor.Runtime{}, fmt.Errorf("process: asking %s what it is: %w", path, ctx.Err())
		}
		return executor.Runtime{}, fmt.Errorf("process: %w: %s: %w", executor.ErrRuntime, path, err)
	}
	name, version, ok := strings.Cut(strings.TrimSpace(string(said.kept)), " ")
	if !ok {
		return executor.Runtime{}, fmt.Errorf("process: %w: %s does not say what it is", executor.ErrRuntime, path)
	}
	return executor.Runtime{Name: name, Version: version}, nil
}

func (i *Interpreter) find() (string, error) {
	for _, place := range i.Places {
		if info, err := os.Stat(place); err == nil && info.Mode().IsRegular() {
			return place, nil
		}
	}
	return "", fmt.Errorf("process: %w: nothing at %s", executor.ErrRuntime, strings.Join(i.Places, ", "))
}

// Path is where Prepare found the interpreter; empty before.
func (i *Interpreter) Path() string { return i.path }

// StartAs has Run start the interpreter by another name of the same program, which it may look at.
func (i *Interpreter) StartAs(path string) { i.path = path }

// Run runs the interpreter with the task's arguments behind those that say what of the application runs.
func (i *Interpreter) Run(ctx context.Context, t executor.Task, what func(executor.Task) ([]string, error)) (executor.Result, error) {
	if i.path == "" {
		return executor.Result{}, fmt.Errorf("process: %w: it was not prepared", executor.ErrRuntime)
	}
	entrypoint, err := what(t)
	if err != nil {
		return executor.Result{}, err
	}
	env, err := Env(t, i.Reserved...)
	if err != nil {
		return executor.Result{}, err
	}
	args := slices.Concat(i.Flags, entrypoint, t.Args)
	r, err := i.runner.Run(ctx, Program{Path: i.path, Args: args, Env: env, Dir: t.Dir, Stdout: t.Stdout, Stderr: t.Stderr})
	if errors.Is(err, ErrStart) {
		return executor.Result{}, fmt.Errorf("%w: %w", executor.ErrRuntime, err)
	}
	return r, err
}

// Script is for an interpreter that is told the path of a file.
func Script(t executor.Task) ([]string, error) {
	path, err := Entrypoint(t)
	return []string{path}, err
}

// Stop ends it: SIGTERM, then SIGKILL.
func (i *Interpreter) Stop(ctx context.Context) error { return i.runner.Stop(ctx) }

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
