package rootfs

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"os"
	"path"
	"strings"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/enclave/image/ramdisk"
)

// Whiteouts of a layer (OCI image specification, "Layer"): what takes a name of the layers below away, what
// takes all of a folder's away, and names of AUFS that mean nothing here.
const (
	whiteout = ".wh."
	opaque   = ".wh..wh..opq"
	aufs     = ".wh..wh."
)

// Tar reads a tar file, plain or compressed with gzip or zstd. Content is kept in a file without a name
// ($TMPDIR). The caller closes the Tree. Errors are an [*Error], or those of the file system.
func Tar(ctx context.Context, file string) (_ *Tree, err error) {
	f, err := os.OpenFile(file, os.O_RDONLY|unix.O_NONBLOCK, 0) // a FIFO that nobody writes must not hold this up
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, refuse("it is no regular file")
	}
	return spooled(func(t *Tree, s *spool) error {
		from, done, err := decompress(f)
		if err != nil {
			return err
		}
		defer done()
		l := &layer{ctx: ctx, tree: t, spool: s}
		return l.read(&bounded{ctx: ctx, from: from, left: 2 * maxBytes})
	})
}

// spooled makes a tree of what fill puts into it.
func spooled(fill func(*Tree, *spool) error) (_ *Tree, err error) {
	s, err := newSpool()
	if err != nil {
		return nil, err
	}
	t := newTree()
	t.closes = append(t.closes, s)
	if err := fill(t, s); err != nil {
		_ = t.Close() // it holds nothing that anybody wants
		return nil, err
	}
	return t, nil
}

// decompress knows compressed data by how it begins.
func decompress(from io.Reader) (_ io.Reader, done func(), err error) {
	in := bufio.NewReaderSize(from, 1<<16)
	head, err := in.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, err
	}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}): // RFC 1952
		z, err := gzip.NewReader(in)
		if err != nil {
			return nil, nil, damaged(err)
		}
		return z, func() {}, nil
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}): // RFC 8878
		z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, nil, damaged(err)
		}
		return z, z.Close, nil
	}
	return in, func() {}, nil
}

// damaged is what the readers of archives say of one, as opposed to what reading it says.
func damaged(err error) error {
	if _, ok := errors.AsType[*Error](err); ok || errors.Is(err, context.Canceled) {
		return err
	}
	if _, ok := errors.AsType[*os.PathError](err); ok {
		return err
	}
	return refuse("it is cut, damaged or no tar: %v", err)
}

// layer lays a tar over a tree.
type layer struct {
	ctx   context.Context
	tree  *Tree
	spool *spool
	// over says that it is a layer over others: it can take away what they have.
	over bool
}

func (l *layer) read(from io.Reader) error {
	l.tree.layer++
	in := tar.NewReader(from)
	for n := 0; ; n++ {
		h, err := in.Next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case context.Cause(l.ctx) != nil:
			return context.Cause(l.ctx)
		case err != nil && !errors.Is(err, tar.ErrInsecurePath): // names are looked at below
			return damaged(err)
		case n > l.tree.most.entries: // of which later ones may take the place of earlier ones
			return refuse("it has more than %d entries", l.tree.most.entries)
		}
		if err := l.entry(h, in); err != nil {
			return err
		}
	}
}

func (l *layer) entry(h *tar.Header, content io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := plain(h.Name)
	if err != nil || name == "." {
		return err
	}
	if l.over && strings.HasPrefix(path.Base(name), whiteout) {
		return l.takeAway(name)
	}
	n := &ramdisk.Node{}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse:
		n.Kind = ramdisk.File
	case tar.TypeDir:
		n.Kind = ramdisk.Folder
	case tar.TypeSymlink:
		n.Kind, n.Target = ramdisk.Symlink, strings.Clone(h.Linkname) // package tar cuts it from a header of up to 1 MiB
	case tar.TypeLink:
		return l.link(name, h.Linkname)
	case tar.TypeChar, tar.TypeBlock:
		if below(name, "dev") {
			return nil
		}
		return special(name, os.ModeDevice)
	case tar.TypeFifo:
		return special(name, os.ModeNamedPipe)
	default:
		return refuse("%q is of the type %q, which is not known", name, h.Typeflag)
	}
	n.Mode = mode(n.Kind, h.Mode&0o100 != 0, h.Mode&0o1000 != 0)
	if n.Kind == ramdisk.File {
		if err := l.tree.content(name, h.Size); err != nil {
			return err
		}
		n.Size = h.Size
		if n.Open, err = l.spool.keep(content, h.Size); err != nil {
			return l.failed(err)
		}
	}
	return l.tree.Put(name, n)
}

// failed tells what the archive is to blame for from what the disk is.
func (l *layer) failed(err error) error {
	if cause := context.Cause(l.ctx); cause != nil {
		return cause
	}
	return damaged(err)
}

// link gives a file another name. A symbolic link is copied: it has one name in a ramdisk.
func (l *layer) link(name, target string) error {
	to, err := plain(target)
	if err != nil {
		return err
	}
	hops := maxHops
	dir, err := l.tree.folder(path.Dir(to), false, &hops)
	if err != nil {
		return err
	}
	var old *node
	if dir != nil {
		old = dir.below[path.Base(to)]
	}
	switch {
	case old == nil || old.Kind == ramdisk.Folder:
		return refuse("%q is a hard link to %q, and there is no such file", name, to)
	case old.Kind == ramdisk.Symlink:
		copied := *old.Node
		return l.tree.Put(name, &copied)
	}
	return l.tree.Put(name, old.Node)
}

// takeAway does what a whiteout says.
func (l *layer) takeAway(name string) error {
	dir, base := path.Split(name)
	hops := maxHops
	at, err := l.tree.folder(dir, false, &hops)
	if err != nil || at == nil {
		return err
	}
	switch gone := strings.TrimPrefix(base, whiteout); {
	case base == opaque:
		l.tree.clear(at)
	case strings.HasPrefix(base, aufs):
	case gone == "" || gone == "." || gone == "..":
		return refuse("%q takes away no name", name)
	default:
		l.tree.lose(at, gone)
	}
	return nil
}

// clear takes all that lower layers have below a folder away. What a layer puts there is its own, so once is
// enough for each layer, and however many whiteouts there are, it looks at each name once.
func (t *Tree) clear(n *node) {
	if n.cleared == t.layer {
		return
	}
	n.cleared = t.layer
	for base := range n.below {
		t.lose(n, base)
	}
}

// lose takes a name of lower layers away, and of what is below all that is theirs.
func (t *Tree) lose(dir *node, base string) {
	n := dir.below[base]
	if n == nil {
		return
	}
	t.clear(n)
	if n.layer < t.layer && len(n.below) == 0 {
		t.remove(dir, base)
	}
}

// plain is a name of an archive below the root, "." for the root itself. What begins with a slash begins at
// the root, as it does for tar and for container engines.
func plain(name string) (string, error) {
	var steps []string
	for step := range strings.SplitSeq(name, "/") {
		switch step {
		case "", ".":
		case "..":
			return "", refuse("%.256q leads out of the root", name)
		default:
			steps = append(steps, step)
		}
	}
	if len(steps) == 0 {
		return ".", nil
	}
	name = strings.Join(steps, "/")
	if err := ramdisk.CheckName(name); err != nil {
		return "", ours(err)
	}
	return name, nil
}
