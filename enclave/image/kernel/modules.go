package kernel

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"github.com/klauspost/compress/zstd"
)

const (
	// maxModule bounds a module, maxModules all of an image, in bytes once they are unpacked.
	maxModule  = 64 << 20
	maxModules = 256 << 20
	// maxIndex bounds modules.builtin, maxFound the files of a folder of modules.
	maxIndex = 32 << 20
	maxFound = 200_000
)

// Module is a kernel module, unpacked.
type Module struct {
	// Name is as lsmod prints it.
	Name string
	Data []byte
}

// Modules reads the modules that are to be loaded, and those that they say they depend on, in the order in which
// they can be loaded. They are anywhere in dir, which is like /lib/modules/VERSION; what modules.builtin lists
// there is left out. Opening a FIFO of dir must not wait for who writes it. Errors are an [*Error], or those of dir.
func Modules(ctx context.Context, dir fs.FS, load []string) ([]Module, error) {
	return sorted(ctx, dir, load, maxModules)
}

// sorted are the modules, which take most bytes at most.
func sorted(ctx context.Context, dir fs.FS, load []string, most int) ([]Module, error) {
	s := &sorter{ctx: ctx, dir: dir, files: map[string][]string{}, builtin: map[string]bool{}, state: map[string]state{}, left: most}
	if err := s.find(); err != nil {
		return nil, err
	}
	for _, name := range load {
		if err := s.add(plain(name), ""); err != nil {
			return nil, err
		}
	}
	return s.order, nil
}

// plain is a module's name as the kernel has it: hyphens and underscores are the same.
func plain(name string) string { return strings.ReplaceAll(name, "-", "_") }

// moduleOf is the name of the module in a file; empty if there is none.
func moduleOf(file string) string {
	name, suffix, ok := strings.Cut(path.Base(file), ".ko")
	if !ok || suffix != "" && suffix[0] != '.' {
		return ""
	}
	return plain(name)
}

// sorter puts modules behind what they depend on.
type sorter struct {
	ctx context.Context
	dir fs.FS
	// files are those with a module, by its name.
	files   map[string][]string
	builtin map[string]bool
	state   map[string]state
	order   []Module
	// left is what modules may still take, in bytes.
	left int
}

// state is how far a module is.
type state int

const (
	adding state = iota + 1
	added
)

func (s *sorter) find() error {
	found := 0
	err := fs.WalkDir(s.dir, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if found++; found > maxFound {
			return refuse("name the folder of one version, as /lib/modules/6.12.1", "the folder of modules holds more than %d files", maxFound)
		}
		if module := moduleOf(name); module != "" && entry.Type().IsRegular() {
			s.files[module] = append(s.files[module], name)
		}
		return context.Cause(s.ctx)
	})
	if err != nil {
		return err
	}
	f, err := s.dir.Open("modules.builtin")
	if errors.Is(err, fs.ErrNotExist) { // then all that is asked for must be there
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if !regular(f) {
		return refuse("", "modules.builtin is no regular file")
	}
	scanner := bufio.NewScanner(io.LimitReader(f, maxIndex))
	for scanner.Scan() {
		s.builtin[moduleOf(scanner.Text())] = true
	}
	return scanner.Err()
}

func regular(f fs.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode().IsRegular()
}

// add puts a module in order, which the module by needs; empty if it was asked for.
func (s *sorter) add(name, by string) error {
	files := s.files[name]
	switch {
	case s.state[name] == added:
		return nil
	case s.state[name] == adding:
		return refuse("", "module %q depends on itself", name)
	case len(files) == 0 && s.builtin[name]:
		return nil
	case len(files) == 0 && by != "":
		return refuse("take all modules of the kernel", "there is no module %q, which %q depends on, and the kernel has it not built in", name, by)
	case len(files) == 0:
		return refuse("take a kernel that has it, or leave it out", "there is no module %q, and the kernel has it not built in", name)
	case len(files) > 1:
		return refuse("remove all but one", "module %q is there more than once: %s", name, strings.Join(files, ", "))
	}
	s.state[name] = adding
	data, err := unpack(s.dir, files[0])
	if err != nil {
		return err
	}
	if s.left -= len(data); s.left < 0 {
		return refuse("load fewer", "the modules are over %d MiB", maxModules>>20)
	}
	needs, err := depends(data)
	if err != nil {
		return refuse("get it again from where it came", "%s: %v", files[0], err)
	}
	for _, needed := range needs {
		if err := s.add(plain(needed), name); err != nil {
			return err
		}
	}
	s.state[name] = added
	s.order = append(s.order, Module{Name: name, Data: data})
	return nil
}

// unpack reads a module, which the kernel of an image has to take as it is.
func unpack(dir fs.FS, file string) ([]byte, error) {
	f, err := dir.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if !regular(f) {
		return nil, refuse("", "%s is no regular file", file)
	}
	from, done, err := unpacked(f, path.Ext(file))
	if err != nil {
		return nil, damaged(file, err)
	}
	defer done()
	data, err := io.ReadAll(io.LimitReader(from, maxModule+1))
	switch {
	case err != nil:
		return nil, damaged(file, err)
	case len(data) > maxModule:
		return nil, refuse("", "%s: a module of over %d MiB", file, maxModule>>20)
	case !bytes.HasPrefix(data, []byte("\x7fELF")):
		return nil, refuse("", "%s: it is no module", file)
	}
	return data, nil
}

func damaged(file string, err error) error {
	return refuse("get it again from where it came", "%s: unpacking: %v", file, err)
}

func unpacked(r io.Reader, suffix string) (io.Reader, func(), error) {
	nothing := func() {}
	switch suffix {
	case ".ko":
		return r, nothing, nil
	case ".gz":
		z, err := gzip.NewReader(r)
		return z, nothing, err
	case ".xz":
		z, err := newXZReader(r)
		return z, nothing, err
	case ".zst":
		z, err := zstd.NewReader(r, zstd.WithDecoderMaxMemory(maxModule), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, nothing, err
		}
		return z, z.Close, nil
	}
	return nil, nothing, fmt.Errorf("%q is not known; .ko, .ko.gz, .ko.xz and .ko.zst are", suffix)
}
