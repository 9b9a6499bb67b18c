package process

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cloister-run/cloister/plugins/executor"
)

// Entrypoint is the absolute path of a task's entrypoint: a regular file inside the
// application, links resolved within it. Anything else is executor.ErrEntrypoint.
func Entrypoint(t executor.Task) (string, error) {
	root, err := os.OpenRoot(t.Application)
	if err != nil {
		return "", fmt.Errorf("process: %w: the application is not there", executor.ErrEntrypoint)
	}
	defer root.Close()
	info, err := root.Stat(filepath.FromSlash(t.Entrypoint))
	switch {
	case err != nil:
		return "", fmt.Errorf("process: %w: %w", executor.ErrEntrypoint, err)
	case info.IsDir():
		return "", fmt.Errorf("process: %w: it is a folder", executor.ErrEntrypoint)
	case !info.Mode().IsRegular():
		return "", fmt.Errorf("process: %w: it is no regular file", executor.ErrEntrypoint)
	}
	return filepath.Join(t.Application, filepath.FromSlash(t.Entrypoint)), nil
}

// Env is the environment of a program: the fixed variables of every executor, and the task's
// beside them. The fixed ones win. A variable that begins with LD_ or a reserved prefix steers
// the loader or the runtime and is an error; job files cannot hold one.
func Env(t executor.Task, reserved ...string) ([]string, error) {
	vars := maps.Clone(t.Env)
	if vars == nil {
		vars = make(map[string]string)
	}
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		for _, prefix := range append([]string{"LD_"}, reserved...) {
			if strings.HasPrefix(name, prefix) {
				return nil, fmt.Errorf("process: env.%s: begins with the reserved %s", name, prefix)
			}
		}
	}
	vars["HOME"] = executor.WorkDir + "/tmp"
	vars["TMPDIR"] = executor.WorkDir + "/tmp"
	vars["LANG"] = "C.UTF-8"
	vars["PATH"] = "/usr/local/bin:/usr/bin:/bin"
	env := make([]string, 0, len(vars))
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		env = append(env, name+"="+vars[name])
	}
	return env, nil
}
