package worker

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/policies/abi"
	"github.com/cloister-run/cloister/policies/worker/wire"
)

// Bounds of what one decision may call for at once.
const (
	maxOpen    = 64
	maxEntries = 65_537
)

// session serves one decision.
type session struct {
	conn  *wire.Conn
	files abi.Files
	// open are the files that the policy writes.
	open map[int]io.WriteCloser
	next int
}

func newSession(conn *wire.Conn, files abi.Files) *session {
	return &session{conn: conn, files: files, open: map[int]io.WriteCloser{}}
}

// serve asks, and answers calls until the last one. An error means that the worker is not to be
// trusted any more, or gone.
func (s *session) serve(r abi.Request, question []byte) (wire.Call, []byte, error) {
	ask := wire.Control{Ask: &wire.Ask{
		Point: r.Point, Reading: r.ReadTime(),
		Artifacts: s.files.Artifacts != nil, Own: s.files.Own != nil, Redacted: s.files.Redacted != nil,
	}}
	if err := s.conn.Send(ask, question, nil); err != nil {
		return wire.Call{}, nil, err
	}
	for {
		var call wire.Call
		bulk, err := s.conn.Receive(&call, wire.MaxCall, wire.MaxChunk)
		if err != nil || call.Op == wire.Done {
			return call, bulk, err
		}
		answer, file, err := s.answer(call, bulk)
		if err != nil {
			answer = wire.Answer{Errno: errno(err)}
		}
		// A descriptor travels in the message; ours is closed then.
		if file != nil {
			err = s.conn.Send(answer, nil, file.(syscall.Conn))
			_ = file.Close()
		} else {
			err = s.conn.Send(answer, nil, nil)
		}
		if err != nil {
			return wire.Call{}, nil, err
		}
	}
}

// close closes what the policy left open.
func (s *session) close() {
	for _, w := range s.open {
		_ = w.Close()
	}
}

// answer does what is called for. A file goes with the answer.
func (s *session) answer(c wire.Call, bulk []byte) (wire.Answer, fs.File, error) {
	switch c.Op {
	case wire.Open:
		return s.openFile(c)
	case wire.Lstat:
		tree, err := s.tree(c)
		if err != nil {
			return wire.Answer{}, nil, err
		}
		info, err := fs.Lstat(tree, c.Name)
		return describe(info, err), nil, err
	case wire.ReadDir:
		return s.readDir(c)
	case wire.Mkdir, wire.Create, wire.Write, wire.Close:
		answer, err := s.write(c, bulk)
		return answer, nil, err
	default:
		return wire.Answer{}, nil, syscall.ENOSYS
	}
}

func describe(info fs.FileInfo, err error) wire.Answer {
	if err != nil {
		return wire.Answer{}
	}
	described := wire.Describe(info)
	return wire.Answer{Info: &described}
}

// tree is the file system that a call is about. What names it takes is its own to say, as for every fs.FS.
func (s *session) tree(c wire.Call) (fs.FS, error) {
	trees := map[wire.Tree]fs.FS{wire.Artifacts: s.files.Artifacts, wire.Own: s.files.Own}
	tree := trees[c.Tree]
	if tree == nil {
		return nil, syscall.ENOENT
	}
	return tree, nil
}

// openFile opens a regular file, or describes a folder. It opens no link, and nothing through one:
// what is looked at first is what a policy may read, and nobody can change it meanwhile.
func (s *session) openFile(c wire.Call) (wire.Answer, fs.File, error) {
	tree, err := s.tree(c)
	if err != nil {
		return wire.Answer{}, nil, err
	}
	info, err := fs.Lstat(tree, c.Name)
	if err != nil {
		return wire.Answer{}, nil, err
	}
	if info.IsDir() {
		return describe(info, nil), nil, nil
	}
	if !info.Mode().IsRegular() {
		return wire.Answer{}, nil, syscall.EPERM
	}
	file, err := tree.Open(c.Name)
	if err != nil {
		return wire.Answer{}, nil, err
	}
	if _, ok := file.(syscall.Conn); !ok {
		defer file.Close()
		if file, err = inMemory(file); err != nil {
			return wire.Answer{}, nil, err
		}
	}
	return describe(info, nil), file, nil
}

// inMemory makes a file of the machine from one that is none, as those of fixtures.
func inMemory(from fs.File) (fs.File, error) {
	fd, err := unix.MemfdCreate("policy", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "policy")
	_, err = io.Copy(file, from)
	if err == nil {
		_, err = file.Seek(0, io.SeekStart)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

func (s *session) readDir(c wire.Call) (wire.Answer, fs.File, error) {
	tree, err := s.tree(c)
	if err != nil {
		return wire.Answer{}, nil, err
	}
	if c.Most < 1 || c.Most > maxEntries {
		return wire.Answer{}, nil, syscall.EINVAL
	}
	entries, err := entriesOf(tree, c.Name)
	if err != nil {
		return wire.Answer{}, nil, err
	}
	answer := wire.Answer{}
	for _, e := range entries[:min(len(entries), c.Most)] {
		info, err := e.Info()
		if err != nil {
			return wire.Answer{}, nil, err
		}
		answer.Entries = append(answer.Entries, wire.Describe(info))
	}
	return answer, nil, nil
}

// entriesOf lists a folder by name. Of one with more entries than any policy may see it gives too many, and
// not all.
func entriesOf(tree fs.FS, name string) ([]fs.DirEntry, error) {
	file, err := tree.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	folder, ok := file.(fs.ReadDirFile)
	if !ok {
		return nil, syscall.ENOTDIR
	}
	entries, err := folder.ReadDir(maxEntries)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return entries, nil
}

// write does what changes a replacement.
func (s *session) write(c wire.Call, bulk []byte) (wire.Answer, error) {
	if s.files.Redacted == nil {
		return wire.Answer{}, syscall.EROFS
	}
	switch c.Op {
	case wire.Mkdir:
		return wire.Answer{}, s.files.Redacted.Mkdir(c.Name)
	case wire.Create:
		if len(s.open) >= maxOpen {
			return wire.Answer{}, syscall.EMFILE
		}
		w, err := s.files.Redacted.Create(c.Name)
		if err != nil {
			return wire.Answer{}, err
		}
		s.next++
		s.open[s.next] = w
		return wire.Answer{File: s.next}, nil
	}
	w := s.open[c.File]
	if w == nil {
		return wire.Answer{}, syscall.EBADF
	}
	if c.Op == wire.Write {
		_, err := w.Write(bulk)
		return wire.Answer{}, err
	}
	delete(s.open, c.File)
	return wire.Answer{}, w.Close()
}

// errno makes an error one number.
func errno(err error) syscall.Errno {
	if number, ok := errors.AsType[syscall.Errno](err); ok {
		return number
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return syscall.ENOENT
	case errors.Is(err, fs.ErrExist):
		return syscall.EEXIST
	case errors.Is(err, fs.ErrPermission):
		return syscall.EPERM
	case errors.Is(err, fs.ErrInvalid):
		return syscall.EINVAL
	}
	return syscall.EIO
}
