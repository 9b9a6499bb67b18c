package policies

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/tetratelabs/wazero"
	experimental "github.com/tetratelabs/wazero/experimental/sys"
	"github.com/tetratelabs/wazero/experimental/sysfs"

	"github.com/cloister-run/cloister/policies/abi"
)

// readChunk bounds what one read of an artifact does before the deadline is looked at again.
const readChunk = 1 << 20

// surroundings are the folders that one decision finds around it.
type surroundings struct {
	mounts wazero.FSConfig
	read   []*artifacts
	write  *redacted
}

func newSurroundings(ctx context.Context, files abi.Files, limits Limits) *surroundings {
	s := &surroundings{mounts: wazero.NewFSConfig()}
	for _, from := range []struct {
		files fs.FS
		at    string
	}{{files.Artifacts, abi.ArtifactRoot}, {files.Own, abi.OwnRoot}} {
		if from.files != nil {
			tree := newArtifacts(ctx, from.files, limits)
			s.read = append(s.read, tree)
			s.mount(&sysfs.ReadFS{FS: &sysfs.AdaptFS{FS: tree}}, from.at)
		}
	}
	if files.Redacted != nil {
		s.write = newRedacted(ctx, files.Redacted, limits)
		s.mount(s.write, abi.RedactedRoot)
	}
	return s
}

func (s *surroundings) mount(files experimental.FS, at string) {
	s.mounts = s.mounts.(sysfs.FSConfig).WithSysFSMount(files, at)
}

// full reports whether there was no room for what the policy wrote.
func (s *surroundings) full() bool { return s.write != nil && s.write.full }

// close closes what the policy left open.
func (s *surroundings) close() {
	for _, tree := range s.read {
		tree.close()
	}
	if s.write != nil {
		s.write.close()
	}
}

// artifacts is what a policy sees of the caller's file system: regular files and folders,
// read-only, without times, owners or inode numbers, folders in the order of their names. A
// link or special file is listed as what it is and cannot be opened, nor anything through a
// link. It ends with its context.
type artifacts struct {
	ctx    context.Context
	files  fs.FS
	limits Limits

	mu   sync.Mutex
	open map[*artifact]struct{}
}

var _ fs.FS = (*artifacts)(nil)

func newArtifacts(ctx context.Context, files fs.FS, limits Limits) *artifacts {
	return &artifacts{ctx: ctx, files: files, limits: limits, open: map[*artifact]struct{}{}}
}

// Open opens a regular file or a folder.
func (a *artifacts) Open(name string) (fs.File, error) {
	refuse := func(err error) (fs.File, error) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	if a.ctx.Err() != nil {
		return refuse(syscall.EIO)
	}
	if !fs.ValidPath(name) {
		return refuse(syscall.EPERM)
	}
	if err := a.plain(name); err != nil {
		return refuse(err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.open) >= a.limits.OpenFiles {
		return refuse(syscall.EMFILE)
	}
	file, err := a.files.Open(name)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err != nil || !regular(info.Mode()) {
		_ = file.Close()
		return refuse(syscall.EPERM)
	}
	opened := &artifact{tree: a, file: file, info: bareInfo{info}}
	a.open[opened] = struct{}{}
	return opened, nil
}

// plain makes sure, before anything is opened, that name leads through folders to a regular
// file or folder: opening a pipe or device would block or act.
func (a *artifacts) plain(name string) error {
	for at := name; ; at = path.Dir(at) {
		info, err := fs.Lstat(a.files, at)
		if err != nil {
			return syscall.ENOENT
		}
		if info.Mode()&fs.ModeSymlink != 0 {
			return syscall.ELOOP
		}
		if !regular(info.Mode()) {
			return syscall.EPERM
		}
		if at != name && !info.IsDir() {
			return syscall.ENOTDIR
		}
		if at == "." {
			return nil
		}
	}
}

func regular(mode fs.FileMode) bool { return mode.IsRegular() || mode.IsDir() }

// close closes what a policy left open.
func (a *artifacts) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for opened := range a.open {
		_ = opened.file.Close()
	}
	clear(a.open)
}

// artifact is an open file or folder. Like os.File it has one position, and the one
// goroutine of an instance uses it.
type artifact struct {
	tree    *artifacts
	file    fs.File
	info    bareInfo
	entries []fs.DirEntry // of a folder, sorted, that ReadDir has not returned yet
	listed  bool
}

var (
	_ fs.ReadDirFile = (*artifact)(nil)
	_ io.ReadSeeker  = (*artifact)(nil)
	_ io.ReaderAt    = (*artifact)(nil)
)

func (f *artifact) Stat() (fs.FileInfo, error) { return f.info, nil }

func (f *artifact) Read(buf []byte) (int, error) {
	if f.tree.ctx.Err() != nil {
		return 0, syscall.EIO
	}
	return f.file.Read(buf[:min(len(buf), readChunk)])
}

func (f *artifact) ReadAt(buf []byte, offset int64) (int, error) {
	if f.tree.ctx.Err() != nil {
		return 0, syscall.EIO
	}
	at, ok := f.file.(io.ReaderAt)
	if !ok {
		return 0, syscall.ENOTSUP
	}
	return at.ReadAt(buf[:min(len(buf), readChunk)], offset)
}

func (f *artifact) Seek(offset int64, whence int) (int64, error) {
	seeker, ok := f.file.(io.Seeker)
	if !ok {
		return 0, syscall.ENOTSUP
	}
	return seeker.Seek(offset, whence)
}

// ReadDir lists the folder by name, so that every machine gives the same order.
func (f *artifact) ReadDir(n int) ([]fs.DirEntry, error) {
	if f.tree.ctx.Err() != nil {
		return nil, syscall.EIO
	}
	if err := f.list(); err != nil {
		return nil, err
	}
	if n <= 0 {
		n = len(f.entries)
	} else if len(f.entries) == 0 {
		return nil, io.EOF
	}
	n = min(n, len(f.entries))
	batch := f.entries[:n]
	f.entries = f.entries[n:]
	return batch, nil
}

func (f *artifact) list() error {
	if f.listed {
		return nil
	}
	folder, ok := f.file.(fs.ReadDirFile)
	if !ok || !f.info.IsDir() {
		return syscall.ENOTDIR
	}
	most := f.tree.limits.DirEntries
	entries, err := folder.ReadDir(most + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if len(entries) > most {
		return syscall.EIO
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	f.entries, f.listed = entries, true
	return nil
}

func (f *artifact) Close() error {
	f.tree.mu.Lock()
	defer f.tree.mu.Unlock()
	if _, ok := f.tree.open[f]; !ok {
		return nil
	}
	delete(f.tree.open, f)
	return f.file.Close()
}

// bareInfo hides times, owner and inode, and everything of the mode but the kind.
type bareInfo struct{ fs.FileInfo }

func (i bareInfo) Mode() fs.FileMode {
	if i.IsDir() {
		return fs.ModeDir | 0o555
	}
	return i.FileInfo.Mode().Type() | 0o444
}
func (bareInfo) ModTime() time.Time { return time.Unix(0, 0) }
func (bareInfo) Sys() any           { return nil }
