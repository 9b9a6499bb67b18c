package tree

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
)

// maxTrailer is how much zero padding may follow the end of an archive: tar writers pad to
// a record of 20 blocks (POSIX pax, "ustar Interchange Format").
const maxTrailer = 20 * 512

// Unpack writes the tar stream r below root, which must be empty, and says what it wrote.
// Files are created with mode 0444 (0555 if executable) and folders with 0755; nothing is
// overwritten. An error leaves what was written so far: the caller throws the folder away.
func Unpack(ctx context.Context, r io.Reader, root *os.Root, limits Limits) (Summary, error) {
	entries, err := unpack(ctx, r, root, limits, true)
	if err != nil {
		return Summary{}, err
	}
	return Sum(entries), nil
}

// Extent is how much a tree holds.
type Extent struct {
	// Bytes sums the content of all files.
	Bytes int64
	// Entries counts files and folders, as [Limits] do.
	Entries int
	// Only is the name of the file if the tree holds one file and nothing else, else empty.
	Only string
}

// Extract is Unpack without the digest: nothing of the content is summed. It is for content
// that something else authenticates, as the AEAD of a sealed bundle does.
func Extract(ctx context.Context, r io.Reader, root *os.Root, limits Limits) (Extent, error) {
	entries, err := unpack(ctx, r, root, limits, false)
	if err != nil {
		return Extent{}, err
	}
	x := Extent{Entries: len(entries)}
	for _, e := range entries {
		x.Bytes += e.Size
	}
	if len(entries) == 1 && entries[0].Kind != Folder {
		x.Only = entries[0].Path
	}
	return x, nil
}

// unpack returns everything that it wrote, with the sums of files if they are summed.
func unpack(ctx context.Context, r io.Reader, root *os.Root, limits Limits, summed bool) ([]Entry, error) {
	u := unpacker{root: root, budget: budget{limits: limits}, seen: map[string]byte{}, summed: summed}
	r = &until{ctx, r}
	archive := tar.NewReader(r)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("reading archive: %w", readError(err))
		}
		if err := u.entry(ctx, header, archive); err != nil {
			return nil, err
		}
	}
	if err := onlyZeros(r); err != nil {
		return nil, err
	}
	return u.entries, nil
}

// readError marks a malformed archive as refused and leaves the errors of the stream alone.
func readError(err error) error {
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, tar.ErrFieldTooLong) {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return err
}

// until is a reader that ends with its context.
type until struct {
	ctx context.Context
	r   io.Reader
}

func (u *until) Read(p []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.r.Read(p)
}

type unpacker struct {
	root    *os.Root
	budget  budget
	seen    map[string]byte // kind by path
	entries []Entry
	summed  bool
	mover   mover
}

func (u *unpacker) entry(ctx context.Context, h *tar.Header, content io.Reader) error {
	name := strings.TrimSuffix(h.Name, "/")
	if err := CheckName(name); err != nil {
		return err
	}
	if u.seen[name] != 0 {
		return fmt.Errorf("%w: %q comes twice", ErrRefused, clip(name))
	}
	if err := u.parents(path.Dir(name)); err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeDir:
		return u.folder(name)
	case tar.TypeReg:
		return u.file(ctx, name, h, content)
	default:
		return fmt.Errorf("%w: %q is neither a regular file nor a folder (tar type %q)", ErrRefused, clip(name), h.Typeflag)
	}
}

// parents makes the folders above an entry, as archives may leave them out.
func (u *unpacker) parents(dir string) error {
	switch {
	case dir == "." || u.seen[dir] == Folder:
		return nil
	case u.seen[dir] != 0:
		return fmt.Errorf("%w: %q is a file and a folder", ErrRefused, clip(dir))
	}
	if err := u.parents(path.Dir(dir)); err != nil {
		return err
	}
	return u.folder(dir)
}

func (u *unpacker) folder(name string) error {
	if err := u.budget.entry(len(name)); err != nil {
		return err
	}
	if err := u.root.Mkdir(name, 0o755); err != nil {
		return err
	}
	u.seen[name] = Folder
	u.entries = append(u.entries, Entry{Path: name, Kind: Folder})
	return nil
}

func (u *unpacker) file(ctx context.Context, name string, h *tar.Header, content io.Reader) (err error) {
	if err := u.budget.entry(len(name)); err != nil {
		return err
	}
	if err := u.budget.spend(h.Size); err != nil {
		return err
	}
	kind, mode := byte(File), fs.FileMode(0o444)
	if h.Mode&0o111 != 0 {
		kind, mode = Executable, 0o555
	}
	f, err := u.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	e := Entry{Path: name, Kind: kind, Size: h.Size}
	read := func(chunk []byte, _ bool) error { _, err := io.ReadFull(content, chunk); return err }
	var seen func(mark) error
	if u.summed {
		seen = func(at mark) error { e.Sum = at; return nil }
	}
	if err := u.mover.move(ctx, f, h.Size, read, seen); err != nil {
		return fmt.Errorf("%s: %w", clip(name), err)
	}
	u.seen[name] = kind
	u.entries = append(u.entries, e)
	return nil
}

// onlyZeros reads the padding after the archive: data there would be carried but not digested.
func onlyZeros(r io.Reader) error {
	rest, err := io.ReadAll(io.LimitReader(r, maxTrailer+1))
	if err != nil {
		return fmt.Errorf("reading the end of the archive: %w", err)
	}
	if len(rest) > maxTrailer || strings.Trim(string(rest), "\x00") != "" {
		return fmt.Errorf("%w: data after the end of the archive", ErrRefused)
	}
	return nil
}
