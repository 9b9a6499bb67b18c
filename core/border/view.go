package border

import (
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"
)

// view is what policies see: artifacts by their channels, or assets by their names, in the order
// of those. What was frozen holds no links; a reader that does not rely on it has Lstat.
type view []entry

// entry is a file or a folder under a name of its own.
type entry struct {
	name  string
	files fs.FS
	only  string // the one file in files that it is; empty if it is all of them
}

var (
	_ fs.ReadDirFS  = view{}
	_ fs.ReadLinkFS = view{}
)

// Open opens an entry, something in it, or the folder of all entries.
func (v view) Open(name string) (fs.File, error) {
	if name == "." {
		entries, err := v.ReadDir(".")
		if err != nil {
			return nil, err
		}
		return &folder{entries: entries}, nil
	}
	files, inside, err := v.find("open", name)
	if err != nil {
		return nil, err
	}
	file, err := files.Open(inside)
	if err != nil {
		return nil, err
	}
	return artifact{file.(*os.File), path.Base(name)}, nil
}

// ReadDir lists a folder, sorted by name.
func (v view) ReadDir(name string) ([]fs.DirEntry, error) {
	if name != "." {
		files, inside, err := v.find("readdir", name)
		if err != nil {
			return nil, err
		}
		return fs.ReadDir(files, inside)
	}
	entries := make([]fs.DirEntry, 0, len(v))
	for _, e := range v {
		info, err := v.Lstat(e.name)
		if err != nil {
			return nil, err
		}
		entries = append(entries, fs.FileInfoToDirEntry(info))
	}
	return entries, nil
}

// Lstat describes an entry or something in it. It follows no link.
func (v view) Lstat(name string) (fs.FileInfo, error) {
	if name == "." {
		return top{}, nil
	}
	files, inside, err := v.find("lstat", name)
	if err != nil {
		return nil, err
	}
	info, err := fs.Lstat(files, inside)
	if err != nil {
		return nil, err
	}
	return named{info, path.Base(name)}, nil
}

// ReadLink fails: there are no links.
func (v view) ReadLink(name string) (string, error) {
	return "", &fs.PathError{Op: "readlink", Path: name, Err: fs.ErrInvalid}
}

// find splits a path into the file system of its entry and the path in that.
func (v view) find(op, name string) (fs.FS, string, error) {
	if !fs.ValidPath(name) {
		return nil, "", &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	first, rest, _ := strings.Cut(name, "/")
	for _, e := range v {
		switch {
		case e.name != first:
		case e.only == "":
			return e.files, path.Join(".", rest), nil
		case rest == "":
			return e.files, e.only, nil
		}
	}
	return nil, "", &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist}
}

// artifact is an open file or folder, under the name by which it was opened.
type artifact struct {
	*os.File
	name string
}

func (a artifact) Stat() (fs.FileInfo, error) {
	info, err := a.File.Stat()
	if err != nil {
		return nil, err
	}
	return named{info, a.name}, nil
}

// named is an entry's own information under its name in the view.
type named struct {
	fs.FileInfo
	name string
}

func (n named) Name() string { return n.name }

// folder is the open folder of all entries.
type folder struct {
	entries []fs.DirEntry
	next    int
}

var _ fs.ReadDirFile = (*folder)(nil)

func (f *folder) Stat() (fs.FileInfo, error) { return top{}, nil }
func (f *folder) Close() error               { return nil }

func (f *folder) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: ".", Err: fs.ErrInvalid}
}

func (f *folder) ReadDir(n int) ([]fs.DirEntry, error) {
	rest := f.entries[f.next:]
	if n <= 0 {
		f.next = len(f.entries)
		return rest, nil
	}
	if len(rest) == 0 {
		return nil, io.EOF
	}
	rest = rest[:min(n, len(rest))]
	f.next += len(rest)
	return rest, nil
}

// top describes the folder of all entries.
type top struct{}

func (top) Name() string       { return "." }
func (top) Size() int64        { return 0 }
func (top) Mode() fs.FileMode  { return fs.ModeDir | 0o555 }
func (top) ModTime() time.Time { return time.Time{} }
func (top) IsDir() bool        { return true }
func (top) Sys() any           { return nil }
