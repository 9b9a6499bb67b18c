package client

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// landing is everything of one job that is to land together.
type landing struct {
	ready []*staged
	// made are the folders that had to be made, outermost first.
	made []string
	done bool
}

// folder makes the folder that a destination is in.
func (l *landing) folder(path string) error {
	made, err := mkdirs(filepath.Dir(path))
	l.made = append(l.made, made...)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrLanding, err)
	}
	return nil
}

// land gives everything its name, or nothing: where one name cannot be given, those given
// before are taken back.
func (l *landing) land() error {
	for _, s := range l.ready {
		if err := s.link(); err != nil {
			return fmt.Errorf("%w: %w", ErrLanding, err)
		}
	}
	for _, s := range l.ready {
		if err := s.land(); err != nil {
			return fmt.Errorf("%w: %w", ErrLanding, err)
		}
	}
	l.done = true
	return nil
}

// close leaves nothing behind but what landed, if everything did.
func (l *landing) close() error {
	var err error
	if !l.done {
		for _, s := range slices.Backward(l.ready) {
			err = errors.Join(err, s.undo())
		}
	}
	for _, s := range l.ready {
		s.discard()
	}
	if !l.done {
		for _, dir := range slices.Backward(l.made) {
			_ = os.Remove(dir) // unless somebody else found a use for it
		}
	}
	return err
}

// link gives a file without a name a temporary one beside its destination.
func (s *staged) link() error {
	if s.file == nil || s.name != "" {
		return nil
	}
	name := tempName(s.path)
	from := "/proc/self/fd/" + strconv.Itoa(int(s.file.Fd()))
	if err := unix.Linkat(unix.AT_FDCWD, from, unix.AT_FDCWD, name, unix.AT_SYMLINK_FOLLOW); err != nil {
		return &fs.PathError{Op: "link", Path: name, Err: err}
	}
	s.name = name
	return nil
}

// land gives the destination its name in one step. What was there before stays at hand until
// everything landed, where the file system can exchange names (renameat2(2)).
func (s *staged) land() error {
	err := unix.Renameat2(unix.AT_FDCWD, s.name, unix.AT_FDCWD, s.path, unix.RENAME_NOREPLACE)
	switch {
	case err == nil:
		s.landed, s.name = true, ""
		return nil
	case s.tree, !errors.Is(err, unix.EEXIST):
		return s.rename() // of a tree only an empty folder is replaced (rename(2))
	}
	if err := s.exchange(); errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		return s.rename()
	} else if err != nil {
		return &fs.PathError{Op: "replace", Path: s.path, Err: err}
	}
	s.landed, s.old = true, true
	if info, err := os.Lstat(s.name); err != nil || !info.Mode().IsRegular() {
		return fmt.Errorf("%s is no regular file any more", s.path)
	}
	return nil
}

func (s *staged) rename() error {
	if err := os.Rename(s.name, s.path); err != nil {
		return err
	}
	s.landed, s.name = true, ""
	return nil
}

func (s *staged) exchange() error {
	return unix.Renameat2(unix.AT_FDCWD, s.name, unix.AT_FDCWD, s.path, unix.RENAME_EXCHANGE)
}

// undo takes back what land did.
func (s *staged) undo() error {
	switch {
	case !s.landed:
		return nil
	case s.old:
		if err := s.exchange(); err != nil {
			return &fs.PathError{Op: "restore", Path: s.path, Err: err}
		}
	default:
		name := tempName(s.path)
		if err := os.Rename(s.path, name); err != nil {
			return err
		}
		s.name = name
	}
	s.landed, s.old = false, false
	return nil
}

// WriteAtomically writes a file whole or not at all.
func WriteAtomically(path string, data []byte) error {
	return StreamAtomically(path, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}

// StreamAtomically gives a file what write writes, whole, or leaves what is there as it is where
// write returns an error. Errors of the file wrap [ErrLanding]; others are those of write.
func StreamAtomically(path string, write func(io.Writer) error) error {
	return SeekAtomically(path, func(w io.WriteSeeker) error { return write(w) })
}

// SeekAtomically is StreamAtomically for what is not written from front to back.
func SeekAtomically(path string, write func(io.WriteSeeker) error) (err error) {
	var l landing
	defer func() { err = errors.Join(err, l.close()) }()
	if err := l.folder(path); err != nil {
		return err
	}
	s := &staged{destination: destination{path: path}}
	l.ready = append(l.ready, s)
	if s.file, s.name, err = openTemp(path); err != nil {
		return fmt.Errorf("%w: %w", ErrLanding, err)
	}
	if err := write(landingWriter{s.file}); err != nil {
		return err
	}
	if err := s.file.Sync(); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrLanding, path, err)
	}
	return l.land()
}

// landingWriter says of its errors what they are.
type landingWriter struct{ file *os.File }

func (w landingWriter) Write(p []byte) (int, error) {
	n, err := w.file.Write(p)
	if err != nil {
		err = fmt.Errorf("%w: %s: %w", ErrLanding, w.file.Name(), err)
	}
	return n, err
}

func (w landingWriter) Seek(offset int64, whence int) (int64, error) {
	return w.file.Seek(offset, whence)
}

// openTemp opens a new file for path's folder: without a name where the file system has such
// files (open(2), O_TMPFILE), so that nothing is left of it if this process is killed.
func openTemp(path string) (f *os.File, name string, err error) {
	fd, err := unix.Open(filepath.Dir(path), unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o666)
	if err == nil {
		return os.NewFile(uintptr(fd), path), "", nil
	}
	return openNamed(path)
}

// openNamed is [openTemp] for other file systems.
func openNamed(path string) (f *os.File, name string, err error) {
	name = tempName(path)
	f, err = os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
	return f, name, err
}

// tempName is a new name beside path. It does not hold path's own, which may be as long as a
// name can be.
func tempName(path string) string {
	return filepath.Join(filepath.Dir(path), ".cloister-part-"+rand.Text())
}

// mkdirs is os.MkdirAll, and says which folders it made.
func mkdirs(dir string) (made []string, err error) {
	err = os.Mkdir(dir, 0o755)
	if errors.Is(err, fs.ErrNotExist) && filepath.Dir(dir) != dir {
		if made, err = mkdirs(filepath.Dir(dir)); err != nil {
			return made, err
		}
		err = os.Mkdir(dir, 0o755)
	}
	if err == nil {
		return append(made, dir), nil
	}
	if info, statErr := os.Stat(dir); statErr == nil && info.IsDir() {
		return made, nil
	}
	return made, err
}
