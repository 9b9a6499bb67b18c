package rootfs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// OpenRoot opens a folder as os.OpenRoot does, but does not wait at a FIFO in its place for who writes it.
func OpenRoot(dir string) (*os.Root, error) {
	root, err := os.OpenRoot(filepath.Clean(dir) + "/") // as a folder, or not at all
	if wrong, ok := errors.AsType[*fs.PathError](err); ok {
		wrong.Path = dir
	}
	return root, err
}

// openFile opens a regular file of a source, and waits at no FIFO either.
func openFile(root *os.Root, name string) (*os.File, error) {
	f, err := root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(refuse("%s is no regular file", name), f.Close())
	}
	return f, nil
}
