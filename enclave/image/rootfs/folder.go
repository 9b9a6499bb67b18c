package rootfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/enclave/image/ramdisk"
)

// Folder looks at everything in a folder; what it holds is read later, and must be as it was. Names that
// share a file there share it in the tree. The caller closes the Tree. Errors are an [*Error], or those of the
// file system.
func Folder(ctx context.Context, dir string) (_ *Tree, err error) {
	root, err := OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	t := newTree()
	t.closes = append(t.closes, root)
	defer func() {
		if err != nil {
			_ = t.Close() // it was only read
		}
	}()
	return t, (&walk{ctx: ctx, root: root, tree: t, linked: map[inode]*ramdisk.Node{}}).folder(".", t.top)
}

// walk goes through a folder.
type walk struct {
	ctx  context.Context
	root *os.Root
	tree *Tree
	// linked are the files that have several names.
	linked map[inode]*ramdisk.Node
}

type inode struct{ device, number uint64 }

func (w *walk) folder(name string, to *node) error {
	if err := context.Cause(w.ctx); err != nil {
		return err
	}
	f, err := w.root.OpenFile(name, os.O_RDONLY|unix.O_DIRECTORY, 0) // as it was one when it was listed
	if err != nil {
		return err
	}
	listed, err := f.ReadDir(-1)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	for _, entry := range listed {
		info, err := entry.Info()
		if err != nil {
			return err
		}
		if err := w.look(path.Join(name, entry.Name()), info, to); err != nil {
			return err
		}
	}
	return nil
}

func (w *walk) look(name string, info fs.FileInfo, to *node) error {
	n := &ramdisk.Node{}
	switch kind := info.Mode().Type(); {
	case kind == fs.ModeDir:
		n.Kind = ramdisk.Folder
	case kind == 0:
		n.Kind = ramdisk.File
	case kind == fs.ModeSymlink:
		n.Kind = ramdisk.Symlink
	case kind&fs.ModeDevice != 0 && below(name, "dev"):
		return nil
	default:
		return special(name, kind)
	}
	n.Mode = mode(n.Kind, info.Mode()&0o100 != 0, info.Mode()&fs.ModeSticky != 0)
	switch n.Kind {
	case ramdisk.Symlink:
		target, err := w.root.Readlink(name)
		if err != nil {
			return err
		}
		n.Target = target
	case ramdisk.File:
		shared, err := w.file(name, info, n)
		if err != nil {
			return err
		}
		n = shared
	}
	if err := w.tree.put(to, name, n); err != nil || n.Kind != ramdisk.Folder {
		return err
	}
	return w.folder(name, to.below[path.Base(name)])
}

// file fills in what a file is, or gives the node that another name of it has.
func (w *walk) file(name string, info fs.FileInfo, n *ramdisk.Node) (*ramdisk.Node, error) {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if ok && stat.Nlink > 1 {
		id := inode{uint64(stat.Dev), stat.Ino} //nolint:unconvert // it is narrower elsewhere
		if known := w.linked[id]; known != nil {
			return known, nil
		}
		w.linked[id] = n
	}
	n.Size = info.Size()
	n.Open = func() (io.ReadCloser, error) {
		f, err := w.root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
		if err != nil {
			return nil, err
		}
		if now, err := f.Stat(); err != nil || !os.SameFile(now, info) {
			return nil, errors.Join(fmt.Errorf("%w: it is another file", ramdisk.ErrChanged), f.Close())
		}
		return f, nil
	}
	return n, w.tree.content(name, n.Size)
}

// below reports whether a name is in a folder of the root.
func below(name, dir string) bool { return len(name) > len(dir) && name[:len(dir)+1] == dir+"/" }

// special refuses what is neither file, folder nor symbolic link.
func special(name string, kind fs.FileMode) error {
	what := "a special file"
	switch {
	case kind&fs.ModeDevice != 0:
		what = "a device, and devices are left out below /dev only"
	case kind&fs.ModeNamedPipe != 0:
		what = "a FIFO"
	case kind&fs.ModeSocket != 0:
		what = "a socket"
	}
	return refuse("%q is %s: a root file system holds files, folders and links", name, what)
}
