package inside

import (
	"io"
	"io/fs"
	"os"
	"path"
	"syscall"

	"github.com/cloister-run/cloister/policies/abi"
	"github.com/cloister-run/cloister/policies/worker/wire"
)

// line is the pool's end of one decision. The goroutine that decides uses it.
type line struct {
	conn *wire.Conn
	// lost ends the decision: there is nobody any more who waits for it.
	lost func()
	dead bool
}

// call asks the pool and waits for the answer.
func (l *line) call(c wire.Call, bulk []byte) (wire.Answer, *os.File, error) {
	if l.dead {
		return wire.Answer{}, nil, syscall.EIO
	}
	var answer wire.Answer
	err := l.conn.Send(c, bulk, nil)
	var file *os.File
	if err == nil {
		_, file, err = l.conn.ReceiveFile(&answer, wire.MaxMessage, 0)
	}
	if err != nil {
		l.dead = true
		l.lost()
		return wire.Answer{}, nil, syscall.EIO
	}
	if answer.Errno != 0 {
		return wire.Answer{}, nil, answer.Errno
	}
	return answer, file, nil
}

func (l *line) done(c wire.Call, answer []byte) error {
	if l.dead {
		return syscall.EIO
	}
	return l.conn.Send(c, answer, nil)
}

// tree is one of the trees that a policy reads. What it has heard of folders it remembers: they do
// not change while it is asked.
type tree struct {
	line *line
	name wire.Tree
	// known describes every folder that was seen, and what the last listed one holds.
	folders map[string]wire.Info
	listed  map[string]wire.Info
}

var _ fs.ReadLinkFS = (*tree)(nil)

func newTree(l *line, name wire.Tree) *tree {
	return &tree{line: l, name: name, folders: map[string]wire.Info{}}
}

// maxFolders bounds the folders that are remembered.
const maxFolders = 4096

// Open opens a file or a folder.
func (t *tree) Open(name string) (fs.File, error) {
	answer, file, err := t.line.call(wire.Call{Op: wire.Open, Tree: t.name, Name: name}, nil)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	if answer.Info == nil || (file == nil) != answer.Info.IsDir() {
		return nil, &fs.PathError{Op: "open", Path: name, Err: syscall.EIO}
	}
	if file == nil {
		return &folder{tree: t, name: name, info: *answer.Info}, nil
	}
	return opened{file, *answer.Info}, nil
}

// Lstat describes a file or a folder.
func (t *tree) Lstat(name string) (fs.FileInfo, error) {
	if info, ok := t.folders[name]; ok {
		return info, nil
	}
	if info, ok := t.listed[name]; ok {
		return info, nil
	}
	answer, _, err := t.line.call(wire.Call{Op: wire.Lstat, Tree: t.name, Name: name}, nil)
	if err != nil {
		return nil, &fs.PathError{Op: "lstat", Path: name, Err: err}
	}
	if answer.Info == nil {
		return nil, &fs.PathError{Op: "lstat", Path: name, Err: syscall.EIO}
	}
	if answer.Info.IsDir() && len(t.folders) < maxFolders {
		t.folders[name] = *answer.Info
	}
	return *answer.Info, nil
}

// ReadLink fails: nothing is a link.
func (t *tree) ReadLink(name string) (string, error) {
	return "", &fs.PathError{Op: "readlink", Path: name, Err: fs.ErrInvalid}
}

// opened is an open file.
type opened struct {
	*os.File
	info wire.Info
}

// Stat describes the file.
func (o opened) Stat() (fs.FileInfo, error) { return o.info, nil }

// folder is an open folder. It is listed once.
type folder struct {
	tree *tree
	name string
	info wire.Info
}

var _ fs.ReadDirFile = (*folder)(nil)

// Stat describes the folder.
func (f *folder) Stat() (fs.FileInfo, error) { return f.info, nil }

// Read fails.
func (f *folder) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: f.name, Err: syscall.EISDIR}
}

// Close does nothing.
func (f *folder) Close() error { return nil }

// ReadDir gives the first n entries, sorted by name; the engine asks once, for more than it allows.
func (f *folder) ReadDir(n int) ([]fs.DirEntry, error) {
	answer, _, err := f.tree.line.call(wire.Call{Op: wire.ReadDir, Tree: f.tree.name, Name: f.name, Most: n}, nil)
	if err != nil {
		return nil, &fs.PathError{Op: "readdir", Path: f.name, Err: err}
	}
	f.tree.listed = make(map[string]wire.Info, len(answer.Entries))
	entries := make([]fs.DirEntry, len(answer.Entries))
	for i, info := range answer.Entries {
		f.tree.listed[path.Join(f.name, info.Base)] = info
		entries[i] = fs.FileInfoToDirEntry(info)
	}
	if len(entries) == 0 && n > 0 {
		return nil, io.EOF
	}
	return entries, nil
}

// sink takes what a policy writes.
type sink struct{ line *line }

var _ abi.Sink = sink{}

// Mkdir makes a folder.
func (s sink) Mkdir(name string) error {
	_, _, err := s.line.call(wire.Call{Op: wire.Mkdir, Name: name}, nil)
	return err
}

// Create makes a file.
func (s sink) Create(name string) (io.WriteCloser, error) {
	answer, _, err := s.line.call(wire.Call{Op: wire.Create, Name: name}, nil)
	if err != nil {
		return nil, err
	}
	return written{s.line, answer.File}, nil
}

// written is a file that a policy writes.
type written struct {
	line *line
	file int
}

// Write appends.
func (w written) Write(p []byte) (n int, err error) {
	for len(p) > 0 && err == nil {
		chunk := p[:min(len(p), wire.MaxChunk)]
		if _, _, err = w.line.call(wire.Call{Op: wire.Write, File: w.file}, chunk); err == nil {
			n += len(chunk)
			p = p[len(chunk):]
		}
	}
	return n, err
}

// Close closes the file.
func (w written) Close() error {
	_, _, err := w.line.call(wire.Call{Op: wire.Close, File: w.file}, nil)
	return err
}
