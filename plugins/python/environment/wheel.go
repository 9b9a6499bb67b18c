package environment

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cloister-run/cloister/plugins/executor"
)

// Bounds on one environment.
const (
	maxFiles = 500_000
	maxBytes = 64 << 30
	maxPath  = 1024
)

// unpacker unpacks wheels into one folder.
type unpacker struct {
	root *os.Root
	// maxBytes and maxFiles bound what is unpacked.
	maxBytes int64
	maxFiles int

	buf   []byte
	bytes int64
	files int
	left  []string
}

func newUnpacker(dir string) (*unpacker, error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, fmt.Errorf("environment: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("environment: %w", err)
	}
	return &unpacker{root: root, maxBytes: maxBytes, maxFiles: maxFiles, buf: make([]byte, 256<<10)}, nil
}

func (u *unpacker) close() { _ = u.root.Close() }

var errNotAWheel = errors.New("it is no wheel")

// wheel unpacks one wheel whose digest is among those accepted, and says what package it is, and whether
// it holds machine code.
func (u *unpacker) wheel(ctx context.Context, file string, accepted map[string]bool) (p executor.EnvironmentPackage, native bool, err error) {
	base := filepath.Base(file)
	defer func() {
		if err != nil && ctx.Err() == nil {
			if _, isOurs := errors.AsType[*fs.PathError](err); !isOurs {
				err = &Error{fmt.Sprintf("%s: %v", base, err), "lock another version of the package"}
			}
		}
	}()
	// NAME-VERSION[-BUILD]-PYTHON-ABI-PLATFORM.whl (PyPA, "Binary distribution format").
	parts := strings.Split(strings.TrimSuffix(base, ".whl"), "-")
	if !strings.HasSuffix(base, ".whl") || len(parts) != 5 && len(parts) != 6 {
		return p, false, errNotAWheel
	}
	f, err := os.Open(file)
	if err != nil {
		return p, false, err
	}
	defer f.Close()
	digest, err := digestOf(f)
	if err != nil {
		return p, false, err
	}
	if !accepted[digest] {
		return p, false, errors.New("its digest is none that the lock has")
	}
	info, err := f.Stat()
	if err != nil {
		return p, false, err
	}
	archive, err := zip.NewReader(f, info.Size())
	if err != nil {
		return p, false, fmt.Errorf("%w: %w", errNotAWheel, err)
	}
	data := parts[0] + "-" + parts[1] + ".data/"
	for _, entry := range archive.File {
		if err := context.Cause(ctx); err != nil {
			return p, false, err
		}
		if err := u.entry(entry, data); err != nil {
			return p, false, fmt.Errorf("%.200q: %w", entry.Name, err)
		}
	}
	return executor.EnvironmentPackage{
		Name: strings.ToLower(strings.ReplaceAll(parts[0], "_", "-")), Version: parts[1], Archive: base, SHA256: digest,
	}, parts[len(parts)-1] != "any", nil
}

// entry unpacks one file of a wheel. What the wheel puts into another place than the folder of packages
// is left out.
func (u *unpacker) entry(entry *zip.File, data string) error {
	name := entry.Name
	if strings.HasSuffix(name, "/") {
		return nil // folders come with their files
	}
	if !fs.ValidPath(name) || strings.ContainsAny(name, "\\\x00") || len(name) > maxPath {
		return errors.New("its name leaves the folder, or is not written plainly")
	}
	if inside, ok := strings.CutPrefix(name, data); ok {
		kind, rest, _ := strings.Cut(inside, "/")
		if kind != "purelib" && kind != "platlib" {
			u.left = append(u.left, name)
			return nil
		}
		name = rest
	}
	if entry.Mode()&fs.ModeType != 0 {
		return errors.New("it is no regular file")
	}
	if u.files++; u.files > u.maxFiles {
		return fmt.Errorf("the environment has more than %d files", u.maxFiles)
	}
	if dir := path.Dir(name); dir != "." {
		if err := u.root.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	mode := fs.FileMode(0o644)
	if entry.Mode()&0o111 != 0 {
		mode = 0o755
	}
	content, err := entry.Open()
	if err != nil {
		return err
	}
	defer content.Close()
	to, err := u.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if errors.Is(err, fs.ErrExist) {
		return u.same(name, content)
	}
	if err != nil {
		return err
	}
	err = to.Chmod(mode) // whatever the umask
	n, copied := io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{io.LimitReader(content, u.maxBytes-u.bytes+1)}, u.buf)
	u.bytes += n
	if u.bytes > u.maxBytes {
		copied = fmt.Errorf("the environment is over %d bytes", u.maxBytes)
	}
	return errors.Join(err, copied, to.Close())
}

// same is for a file that two wheels have: they must agree about it.
func (u *unpacker) same(name string, content io.Reader) error {
	f, err := u.root.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	a, b := make([]byte, 32<<10), make([]byte, 32<<10)
	for {
		n, errA := io.ReadFull(f, a)
		m, errB := io.ReadFull(content, b)
		if !bytes.Equal(a[:n], b[:m]) {
			return errors.New("another wheel has a file of this name with other content")
		}
		ended := []error{io.EOF, io.ErrUnexpectedEOF}
		if slices.Contains(ended, errA) && slices.Contains(ended, errB) {
			return nil
		}
		if err := errors.Join(errA, errB); err != nil {
			return err
		}
	}
}
