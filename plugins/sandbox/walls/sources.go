package walls

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// deviceNames are the devices of the outer /dev that every sandbox has.
var deviceNames = []string{"null", "zero", "full", "random", "urandom"}

// source is one thing to show inside: a file or folder, held open, or a symbolic link.
type source struct {
	name string
	path *os.File // opened with O_PATH; nil for a link
	dir  bool
	link string
}

// sources are all that a plan shows inside. They are opened while this process still is who
// the starter is, and so may pass folders that the program's user may not.
type sources struct {
	root    []source // the entries of Plan.Root
	devices []source
	mounts  map[string]source // by Mount.Source
}

func openSources(plan *Plan) (_ *sources, err error) {
	s := &sources{mounts: make(map[string]source)}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if plan.Root != "" {
		if s.root, err = openEntries(plan.Root); err != nil {
			return s, at(Paths, fmt.Errorf("root: %w", err))
		}
	}
	for _, name := range deviceNames {
		device, err := openSource(filepath.Join("/dev", name))
		if err != nil {
			return s, at(Devices, err)
		}
		s.devices = append(s.devices, device)
	}
	for i, m := range plan.Mounts {
		if m.Source == "" {
			continue
		}
		if _, ok := s.mounts[m.Source]; ok {
			continue
		}
		if s.mounts[m.Source], err = openSource(m.Source); err != nil {
			return s, at(Paths, fmt.Errorf("mounts[%d]: %w", i, err))
		}
	}
	return s, nil
}

func (s *sources) close() {
	all := append(s.root, s.devices...)
	for _, m := range s.mounts {
		all = append(all, m)
	}
	for _, src := range all {
		_ = src.path.Close() // of a nil file, an error that means nothing
	}
}

// openSource follows links: the starter names what it wants.
func openSource(path string) (source, error) {
	f, err := os.OpenFile(path, unix.O_PATH, 0)
	if err != nil {
		return source{}, err
	}
	info, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return source{}, err
	}
	return source{name: filepath.Base(path), path: f, dir: info.IsDir()}, nil
}

// openEntries opens what is directly in a folder. Sockets, pipes and devices are left out, and so are the folders
// that belong to a system which runs, and not to its files: every sandbox has its own of them, or none.
func openEntries(folder string) ([]source, error) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, err
	}
	var all []source
	for _, e := range entries {
		path := filepath.Join(folder, e.Name())
		var src source
		switch {
		case slices.Contains([]string{"dev", "proc", "run", "sys", "tmp"}, e.Name()):
			continue
		case e.Type() == fs.ModeSymlink:
			src.name = e.Name()
			src.link, err = os.Readlink(path)
		case e.Type() == 0 || e.IsDir():
			src, err = openSource(path)
		default:
			continue
		}
		if err != nil {
			return all, err
		}
		all = append(all, src)
	}
	return all, nil
}
