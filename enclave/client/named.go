package client

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/core/tree"
	"github.com/cloister-run/cloister/enclave/wire"
	"github.com/cloister-run/cloister/jobspec"
)

// Named finds what a job file or a bundle file names. What is wrong with it is told as a
// problem of that file: a message, and a hint how to cure it. Both are empty where nothing is.
type Named struct {
	// Dir is the folder of the file, that relative paths start from. Noun is what people call
	// it: "job file". Both are required.
	Dir, Noun string
	// Library is the folder of the ready-made policies, NAME.wasm each. Required if the file
	// uses one.
	Library string
}

// Resolve makes a path of the file one of this process.
func (n Named) Resolve(path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(n.Dir, path)
}

// Source opens an asset. The caller closes it.
func (n Named) Source(from string) (source *tree.Source, message, hint string) {
	source, err := tree.Open(n.Resolve(from), tree.Limits{Bytes: 1 << 50, Entries: maxEntries})
	if err != nil {
		message, hint = n.explain(from, err)
		return nil, message, hint
	}
	return source, "", ""
}

// Application says what keeps a source from being an application, and whether the fault is that
// of its entrypoint. from is its path in the file.
//
// What may be an entrypoint is the executor's to say; of the executors that ship, this says the same earlier.
func (n Named) Application(source *tree.Source, from string, command jobspec.Command) (message, hint string, ofEntrypoint bool) {
	entrypoint := command.Entrypoint
	if _, isFile := source.IsFile(); isFile {
		return fmt.Sprintf("%q is a file", from), "name the folder that holds it, and the file as command.entrypoint", false
	}
	info, err := fs.Stat(source.FS(), entrypoint)
	if err == nil && info.IsDir() && command.Executor == "python" {
		if main, err := fs.Stat(source.FS(), path.Join(entrypoint, "__main__.py")); err == nil && main.Mode().IsRegular() {
			return "", "", false
		}
		return fmt.Sprintf("%q is no package", entrypoint), "name the file to run, or a folder with a __main__.py", true
	}
	switch {
	case err != nil:
		return fmt.Sprintf("%q is not in the application", entrypoint), fmt.Sprintf("it is relative to the application's folder, %q", from), true
	case !info.Mode().IsRegular():
		return fmt.Sprintf("%q is no regular file", entrypoint), "name the file to run", true
	case command.Executor == "exec" && info.Mode()&0o111 == 0:
		return fmt.Sprintf("%q is not executable", entrypoint), "chmod +x it, or name the executor of its language", true
	}
	return "", "", false
}

// Module reads the module of a policy. field is the one of the policy that names it.
func (n Named) Module(p jobspec.Policy) (module []byte, field, message, hint string) {
	field, file := "module", n.Resolve(p.Module)
	if p.Use != "" {
		field, file = "use", filepath.Join(n.Library, strings.TrimPrefix(p.Use, "library/")+".wasm")
	}
	module, err := ReadBounded(file, wire.MaxModule)
	if err == nil {
		return module, field, "", ""
	}
	if p.Use != "" && errors.Is(err, fs.ErrNotExist) {
		return nil, field, fmt.Sprintf("the library has no policy %q", p.Use), "it has: " + n.library()
	}
	message, hint = n.explain(p.Module+p.Use, err) // one of them is empty
	if hint == "" {
		hint = "name a WebAssembly module"
	}
	return nil, field, message, hint
}

// library names the policies of the library.
func (n Named) library() string {
	files, _ := filepath.Glob(filepath.Join(n.Library, "*.wasm")) // the pattern is well formed
	if len(files) == 0 {
		return "nothing; build it with make"
	}
	for i, file := range files {
		files[i] = "library/" + strings.TrimSuffix(filepath.Base(file), ".wasm")
	}
	return strings.Join(files, ", ")
}

// explain says what is wrong with a path, and how to cure it.
func (n Named) explain(path string, err error) (message, hint string) {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Sprintf("%q does not exist", path), "paths are relative to the " + n.Noun
	case errors.Is(err, fs.ErrPermission):
		return fmt.Sprintf("%q may not be read", path), "give yourself the permission to read it"
	case errors.Is(err, tree.ErrRefused):
		return fmt.Sprintf("%q cannot be taken: %v", path, err), "an asset holds regular files and folders only"
	}
	if _, ok := errors.AsType[unfit](err); ok {
		return fmt.Sprintf("%q %v", path, err), ""
	}
	if fault, ok := errors.AsType[*fs.PathError](err); ok {
		err = fault.Err // it would name the path again
	}
	return fmt.Sprintf("%q: %v", path, err), ""
}

// unfit says what a file is that cannot be read whole.
type unfit string

func (u unfit) Error() string { return string(u) }

// ReadBounded reads a regular file of at most limit bytes. Its error does not name the path.
func ReadBounded(path string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a FIFO that nobody writes must not hold this up
	if err != nil {
		return nil, errors.Unwrap(err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, unfit("is no regular file")
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = unfit(fmt.Sprintf("is over %d bytes", limit))
	}
	return data, err
}
