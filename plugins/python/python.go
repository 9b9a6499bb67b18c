// Package python is the executor for applications in Python: it runs one script, or a package, with
// the interpreter of the image.
//
// The entrypoint is a regular file inside the application, which runs as a script; or a folder with
// a __main__.py, which runs as a package as `python -m` does it: a/b is the package a.b, and the
// application's own folder is where it imports from. Anything else is executor.ErrEntrypoint. With an
// environment the packages in it take the place of those that the image has. The package runs inside the
// sandbox, beside the application, and guards nothing that the enclave relies on.
package python

import (
	"context"
	"errors"
	"fmt"
	"path"
	"regexp"
	"strings"

	"github.com/cloister-run/cloister/plugins/executor"
	"github.com/cloister-run/cloister/plugins/process"
)

// Name and Version are what the executor describes itself as, and its manifest says.
const (
	Name    = "python"
	Version = "0.3.0"
)

var _ executor.Executor = (*Executor)(nil)

// Executor runs one Python application.
type Executor struct {
	interpreter process.Interpreter
	runtime     executor.Runtime
}

// New makes an executor for one job.
func New() *Executor {
	return newAt("/usr/local/bin/python3", "/opt/python/bin/python3", "/usr/bin/python3")
}

func newAt(places ...string) *Executor {
	return &Executor{interpreter: process.Interpreter{
		Places: places,
		// -E no PYTHON* variable counts, -s no packages of a user, -B no bytecode is written, UTF-8
		// whatever the locale (Python, "Command line and environment").
		Flags: []string{"-E", "-s", "-B", "-X", "utf8"},
		Ask: []string{"-c", "import sys; name = sys.implementation.name\n" +
			`print({"cpython": "CPython"}.get(name, name), ".".join(map(str, sys.version_info[:3])))`},
		Reserved: []string{"PYTHON"},
	}}
}

// Describe implements executor.Executor.
func (e *Executor) Describe(context.Context) (executor.Description, error) {
	return executor.Description{Name: Name, Version: Version}, nil
}

// Begin looks for the interpreter while the enclave connects.
func (e *Executor) Begin() { e.interpreter.Begin() }

// Prepare implements executor.Executor.
func (e *Executor) Prepare(ctx context.Context) (executor.Runtime, error) {
	r, err := e.interpreter.Prepare(ctx)
	if err != nil {
		return executor.Runtime{}, fmt.Errorf("python: %w", err)
	}
	e.runtime = r
	return r, nil
}

// Run runs the script or the package to its end.
func (e *Executor) Run(ctx context.Context, t executor.Task) (executor.Result, error) {
	if t.Environment != "" {
		if err := e.enter(t); err != nil {
			return executor.Result{}, fmt.Errorf("python: %w", err)
		}
	}
	r, err := e.interpreter.Run(ctx, t, entrypoint)
	if err != nil {
		return executor.Result{}, fmt.Errorf("python: %w", err)
	}
	return r, nil
}

// Stop implements executor.Executor.
func (e *Executor) Stop(ctx context.Context) error { return e.interpreter.Stop(ctx) }

// runModule is `python -m` for a package that is not in the working directory, which is the job's and
// must not be imported from.
const runModule = `import runpy, sys
sys.path[0], name = sys.argv[1], sys.argv[2]
del sys.argv[1:3]
runpy.run_module(name, run_name="__main__", alter_sys=True)`

// modules are dotted names as an import statement takes them, of ASCII.
func modules() *regexp.Regexp {
	return regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*$`)
}

// entrypoint is what the interpreter is told to run.
func entrypoint(t executor.Task) ([]string, error) {
	script, err := process.Script(t)
	if err == nil {
		return script, nil
	}
	inside := t
	inside.Entrypoint = path.Join(t.Entrypoint, "__main__.py")
	if _, isPackage := process.Entrypoint(inside); isPackage != nil {
		return nil, err
	}
	name := path.Clean(t.Entrypoint)
	if !modules().MatchString(name) {
		return nil, errors.Join(executor.ErrEntrypoint, fmt.Errorf("%q is no name of a package", t.Entrypoint))
	}
	return []string{"-c", runModule, t.Application, strings.ReplaceAll(name, "/", ".")}, nil
}
