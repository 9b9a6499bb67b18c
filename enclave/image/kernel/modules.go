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
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

const (
	// maxModule bounds a module, maxModules all of an image, in bytes once they are unpacked.
	maxModule  = 64 << 20
	maxModules = 256 << 20
	// maxIndex bounds modules.dep and modules.builtin.
	maxIndex = 32 << 20
)

// Module is a kernel module, unpacked.
type Module struct {
	// Name is as lsmod prints it.
	Name string
	Data []byte
}

// Modules reads the modules that are to be loaded, and those that they depend on, in the order in which they
// can be loaded. dir is like /lib/modules/VERSION (kmod, modules.dep(5)); what modules.builtin lists is left
// out. Errors are an [*Error], or those of dir.
func Modules(ctx context.Context, dir fs.FS, load []string) ([]Module, error) {
	index, err := readIndex(dir)
	if err != nil {
		return nil, err
	}
	s := &sorter{index: index, state: map[string]int{}}
	for _, name := range load {
		if err := s.want(name); err != nil {
			return nil, err
		}
	}
	var modules []Module
	var sum int
	for _, file := range s.order {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		data, err := unpack(dir, file)
		if err != nil {
			return nil, err
		}
		if sum += len(data); sum > maxModules {
			return nil, refuse("load fewer", "the modules are over %d MiB", maxModules>>20)
		}
		modules = append(modules, Module{Name: moduleOf(file), Data: data})
	}
	return modules, nil
}

// index is what a folder of modules says about itself.
type index struct {
	// files are the modules' files by name, needs what a file depends on.
	files   map[string]string
	needs   map[string][]string
	builtin map[string]bool
}

// moduleOf is the name of the module in a file: hyphens and underscores are the same to kmod.
func moduleOf(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return plain(name)
}

func plain(name string) string { return strings.ReplaceAll(name, "-", "_") }

func readIndex(dir fs.FS) (*index, error) {
	in := &index{files: map[string]string{}, needs: map[string][]string{}, builtin: map[string]bool{}}
	err := lines(dir, "modules.dep", func(n int, line string) error {
		file, needs, ok := strings.Cut(line, ":")
		if !ok || !fs.ValidPath(file) {
			return refuse("run depmod", "modules.dep:%d: no line of it", n)
		}
		in.files[moduleOf(file)] = file
		in.needs[file] = strings.Fields(needs)
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, refuse("name the folder of one version, as /lib/modules/6.12.1", "there is no modules.dep in the folder of modules")
	}
	if err != nil {
		return nil, err
	}
	err = lines(dir, "modules.builtin", func(_ int, line string) error {
		in.builtin[moduleOf(line)] = true
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) { // a kernel without it has all that is asked for as modules, or the image is refused
		err = nil
	}
	return in, err
}

func lines(dir fs.FS, name string, use func(n int, line string) error) error {
	f, err := dir.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	scanner := bufio.NewScanner(io.LimitReader(f, maxIndex))
	scanner.Buffer(nil, 1<<20)
	for n := 1; scanner.Scan(); n++ {
		if line := strings.TrimSpace(scanner.Text()); line != "" {
			if err := use(n, line); err != nil {
				return err
			}
		}
	}
	return scanner.Err()
}

// sorter puts modules behind what they depend on.
type sorter struct {
	index *index
	order []string
	// state is 1 for a file that is being looked at, 2 for one that is in order.
	state map[string]int
}

func (s *sorter) want(name string) error {
	file, ok := s.index.files[plain(name)]
	switch {
	case ok:
		return s.add(file)
	case s.index.builtin[plain(name)]:
		return nil
	}
	return refuse("take a kernel that has it, or leave it out", "the kernel has no module %q, and has it not built in", name)
}

func (s *sorter) add(file string) error {
	switch s.state[file] {
	case 1:
		return refuse("run depmod", "modules.dep: %q depends on itself", file)
	case 2:
		return nil
	}
	needs, ok := s.index.needs[file]
	if !ok {
		return refuse("run depmod", "modules.dep does not list %q, which others depend on", file)
	}
	s.state[file] = 1
	for _, needed := range slices.Backward(needs) { // the last is what all others need
		if err := s.add(needed); err != nil {
			return err
		}
	}
	s.state[file] = 2
	s.order = append(s.order, file)
	return nil
}

// unpack reads a module, which the kernel of an image has to take as it is.
func unpack(dir fs.FS, file string) ([]byte, error) {
	f, err := dir.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
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
		z, err := xz.NewReader(r)
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
