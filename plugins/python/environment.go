package python

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/cloister-run/cloister/plugins/executor"
)

// Packages is the folder of an environment that holds what Python imports.
const Packages = "site-packages"

// Runtime is how an environment names the runtime that it is for: an implementation and a minor version,
// which compiled packages depend on ("CPython 3.11"). It is empty if r is none of Python's.
func Runtime(r executor.Runtime) string {
	parts := strings.Split(r.Version, ".")
	if len(parts) < 2 {
		return ""
	}
	return r.Name + " " + strings.Join(parts[:2], ".")
}

// enter makes a virtual environment (PEP 405) beside the working directory, whose packages are those of
// the task's environment, and starts Python in it. So the application has them, and every Python that it
// starts in turn; and the packages of the image are out of the way.
func (e *Executor) enter(t executor.Task) error {
	root, err := os.OpenRoot(t.Environment)
	if err != nil {
		return fmt.Errorf("%w: %w", executor.ErrEnvironment, err)
	}
	defer root.Close()
	env, err := executor.ReadEnvironment(root.FS())
	if err != nil {
		return err
	}
	if err := env.Fits(Name, e.runtime); err != nil {
		return err
	}
	python := e.interpreter.Path()
	if python == "" {
		return fmt.Errorf("%w: it was not prepared", executor.ErrRuntime)
	}
	version := strings.TrimPrefix(env.Runtime, e.runtime.Name+" ")
	home := filepath.Join(filepath.Dir(t.Dir), "environment")
	lib := filepath.Join(home, "lib", "python"+version)
	start := filepath.Join(home, "bin", filepath.Base(python))
	config := fmt.Sprintf("home = %s\ninclude-system-site-packages = false\nversion = %s\n", filepath.Dir(python), e.runtime.Version)
	err = errors.Join(
		os.MkdirAll(lib, 0o755),
		os.MkdirAll(filepath.Dir(start), 0o755),
		os.Symlink(filepath.Join(t.Environment, Packages), filepath.Join(lib, "site-packages")),
		os.Symlink(python, start),
		os.WriteFile(filepath.Join(home, "pyvenv.cfg"), []byte(config), 0o644),
	)
	if err != nil {
		return err
	}
	e.interpreter.StartAs(start)
	return nil
}
