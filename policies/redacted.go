package policies

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"syscall"

	experimental "github.com/tetratelabs/wazero/experimental/sys"
	"github.com/tetratelabs/wazero/sys"

	"github.com/cloister-run/cloister/policies/abi"
)

// maxPathBytes bounds a path that a policy writes.
const maxPathBytes = 1024

// redacted is where a policy writes replacements: it makes folders, and files that it writes once,
// from their beginning to their end. There is nothing to read, rename, link or remove. It ends with
// its context. One instance uses it, on one goroutine.
type redacted struct {
	experimental.UnimplementedFS
	ctx    context.Context
	sink   abi.Sink
	limits Limits
	// made is what was made so far: the size of a file, or -1 for a folder. The sink's quota bounds it.
	made map[string]int64
	open map[*replacement]struct{}
	// full says that the sink's quota was used up.
	full bool
}

func newRedacted(ctx context.Context, sink abi.Sink, limits Limits) *redacted {
	return &redacted{ctx: ctx, sink: sink, limits: limits, made: map[string]int64{".": -1}, open: map[*replacement]struct{}{}}
}

// check refuses what no name of a replacement can be.
func (r *redacted) check(name string) experimental.Errno {
	switch {
	case r.ctx.Err() != nil:
		return experimental.EIO
	case len(name) > maxPathBytes:
		return experimental.ENAMETOOLONG
	case !fs.ValidPath(name):
		return experimental.EPERM
	}
	return 0
}

// OpenFile makes a file to write, or opens a folder that was made.
func (r *redacted) OpenFile(name string, flag experimental.Oflag, _ fs.FileMode) (experimental.File, experimental.Errno) {
	if errno := r.check(name); errno != 0 {
		return nil, errno
	}
	size, found := r.made[name]
	switch { // that a file is there already, the sink says
	case found && size < 0 && flag&(experimental.O_WRONLY|experimental.O_RDWR|experimental.O_CREAT) == 0:
		return &redactedFolder{}, 0
	case found && size < 0:
		return nil, experimental.EISDIR
	case flag&experimental.O_CREAT == 0:
		return nil, experimental.ENOENT
	case flag&(experimental.O_WRONLY|experimental.O_RDWR) == 0:
		return nil, experimental.EACCES
	case len(r.open) >= r.limits.OpenFiles:
		return nil, experimental.EIO
	}
	out, err := r.sink.Create(name)
	if err != nil {
		return nil, r.errno(err)
	}
	f := &replacement{in: r, name: name, out: out}
	r.made[name], r.open[f] = 0, struct{}{}
	return f, 0
}

// Mkdir makes a folder.
func (r *redacted) Mkdir(name string, _ fs.FileMode) experimental.Errno {
	if errno := r.check(name); errno != 0 {
		return errno
	}
	if _, found := r.made[name]; found {
		return experimental.EEXIST
	}
	if err := r.sink.Mkdir(name); err != nil {
		return r.errno(err)
	}
	r.made[name] = -1
	return 0
}

// Stat describes what was made.
func (r *redacted) Stat(name string) (sys.Stat_t, experimental.Errno) {
	size, found := r.made[name]
	switch {
	case !found:
		return sys.Stat_t{}, experimental.ENOENT
	case size < 0:
		return folderStat, 0
	}
	return fileStat(size), 0
}

// Lstat is Stat: there are no links.
func (r *redacted) Lstat(name string) (sys.Stat_t, experimental.Errno) { return r.Stat(name) }

func (r *redacted) errno(err error) experimental.Errno {
	if errors.Is(err, syscall.ENOSPC) {
		r.full = true
		return experimental.EIO // WASI in wazero has no ENOSPC
	}
	return experimental.UnwrapOSError(err)
}

// close closes what a policy left open.
func (r *redacted) close() {
	for f := range r.open {
		_ = f.Close()
	}
}

// folderStat and fileStat describe what has neither times nor an owner.
var folderStat = sys.Stat_t{Mode: fs.ModeDir | 0o700, Nlink: 1}

func fileStat(size int64) sys.Stat_t { return sys.Stat_t{Mode: 0o600, Nlink: 1, Size: size} }

// redactedFolder is an open folder. It cannot be listed: the policy knows what it wrote.
type redactedFolder struct{ experimental.UnimplementedFile }

// IsDir is true.
func (*redactedFolder) IsDir() (bool, experimental.Errno) { return true, 0 }

// Stat describes a folder.
func (*redactedFolder) Stat() (sys.Stat_t, experimental.Errno) { return folderStat, 0 }

// replacement is a file under a policy's pen.
type replacement struct {
	experimental.UnimplementedFile
	in   *redacted
	name string
	out  io.WriteCloser
	at   int64
}

// Stat describes what was written so far.
func (f *replacement) Stat() (sys.Stat_t, experimental.Errno) { return fileStat(f.at), 0 }

// Write appends.
func (f *replacement) Write(p []byte) (int, experimental.Errno) {
	if f.in.ctx.Err() != nil {
		return 0, experimental.EIO
	}
	n, err := f.out.Write(p[:min(len(p), readChunk)])
	f.at += int64(n)
	if _, open := f.in.open[f]; open {
		f.in.made[f.name] = f.at
	}
	if err != nil {
		return n, f.in.errno(err)
	}
	return n, 0
}

// Sync does nothing.
func (f *replacement) Sync() experimental.Errno { return 0 }

// Datasync does nothing.
func (f *replacement) Datasync() experimental.Errno { return 0 }

// Close closes the file.
func (f *replacement) Close() experimental.Errno {
	if _, open := f.in.open[f]; !open {
		return 0
	}
	delete(f.in.open, f)
	if err := f.out.Close(); err != nil {
		return f.in.errno(err)
	}
	return 0
}
