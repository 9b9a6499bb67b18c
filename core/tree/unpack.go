package tree

import (
	"archive/tar"
	"context"
	"crypto/sha256"
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

// copyBuffer is large enough that system calls do not show in the throughput.
const copyBuffer = 1 << 20

// Unpack writes the tar stream r below root, which must be empty, and says what it wrote.
// Files are created with mode 0444 (0555 if executable) and folders with 0755; nothing is
// overwritten. An error leaves what was written so far: the caller throws the folder away.
func Unpack(ctx context.Context, r io.Reader, root *os.Root, limits Limits) (Summary, error) {
	u := unpacker{root: root, budget: budget{limits: limits}, seen: map[string]byte{}, buf: make([]byte, copyBuffer)}
	r = &until{ctx, r}
	archive := tar.NewReader(r)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return Summary{}, fmt.Errorf("reading archive: %w", readError(err))
		}
		if err := u.entry(header, archive); err != nil {
			return Summary{}, err
		}
	}
	if err := onlyZeros(r); err != nil {
		return Summary{}, err
	}
	return Sum(u.entries), nil
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
	buf     []byte
}

func (u *unpacker) entry(h *tar.Header, content io.Reader) error {
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
		return u.file(name, h, content)
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
	if err := u.budget.entry(); err != nil {
		return err
	}
	if err := u.root.Mkdir(name, 0o755); err != nil {
		return err
	}
	u.seen[name] = Folder
	u.entries = append(u.entries, Entry{Path: name, Kind: Folder})
	return nil
}

func (u *unpacker) file(name string, h *tar.Header, content io.Reader) (err error) {
	if err := u.budget.entry(); err != nil {
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
	sum := sha256.New()
	n, err := io.CopyBuffer(io.MultiWriter(f, sum), content, u.buf)
	if err != nil {
		return fmt.Errorf("%s: %w", clip(name), err)
	}
	u.seen[name] = kind
	u.entries = append(u.entries, Entry{Path: name, Kind: kind, Size: n, Sum: [sha256.Size]byte(sum.Sum(nil))})
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
