package host

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/plugins/proto"
)

// maxImage bounds an executable in bytes.
const maxImage = 256 << 20

var errTooLarge = fmt.Errorf("has more than %d bytes", maxImage)

// sealsOfImage make a memory file immutable for good (memfd_create(2)).
const sealsOfImage = unix.F_SEAL_WRITE | unix.F_SEAL_GROW | unix.F_SEAL_SHRINK | unix.F_SEAL_SEAL

// image is an executable: a copy in memory that was hashed and that nobody can change any
// more. Plugins are executed from it by descriptor, so what was hashed is what runs, without
// hashing again at each launch, and no plugin ever holds a way to the file on disk.
type image struct{ file *os.File }

// images are those of a host. Executors of one binary and digest share one: it is copied and hashed once.
type images map[[2]string]*image

// open gives the image of a manifest's executable.
func (all images) open(root *os.Root, m proto.Manifest) (*image, error) {
	key := [2]string{m.Executable, m.SHA256}
	if img, ok := all[key]; ok {
		return img, nil
	}
	img, err := openImage(root, m)
	if err == nil {
		all[key] = img
	}
	return img, err
}

func (all images) close() error {
	var errs []error
	for _, img := range all {
		errs = append(errs, img.Close())
	}
	return errors.Join(errs...)
}

// openImage copies the manifest's executable and compares its digest.
func openImage(root *os.Root, m proto.Manifest) (*image, error) {
	src, err := openRegular(func(flag int) (*os.File, error) {
		if filepath.IsAbs(m.Executable) {
			return os.OpenFile(m.Executable, flag|unix.O_NOFOLLOW, 0)
		}
		// A Root follows links that stay inside it. Refused like any other link: a manifest
		// names the file itself.
		if info, err := root.Lstat(m.Executable); err == nil && info.Mode()&os.ModeSymlink != 0 {
			return nil, errors.New("is a link")
		}
		return root.OpenFile(m.Executable, flag, 0)
	})
	if err != nil {
		return nil, err
	}
	defer src.Close()
	if info, err := src.Stat(); err != nil || info.Size() > maxImage {
		return nil, errTooLarge
	}
	fd, err := memfd("executor-" + m.Name)
	if err != nil {
		return nil, fmt.Errorf("making a memory file: %w", err)
	}
	img := &image{file: os.NewFile(uintptr(fd), "executor-"+m.Name)}
	if err := img.fill(src, m.SHA256); err != nil {
		_ = img.Close()
		return nil, err
	}
	return img, nil
}

func (i *image) fill(src io.Reader, want string) error {
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(i.file, h), io.LimitReader(src, maxImage+1))
	switch {
	case err != nil:
		return fmt.Errorf("copying: %w", err)
	case n > maxImage:
		return errTooLarge
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != want {
		return fmt.Errorf("its digest is %s, the manifest says %s", got, want)
	}
	if err := seal(func() error {
		_, err := unix.FcntlInt(i.file.Fd(), unix.F_ADD_SEALS, sealsOfImage)
		return err
	}); err != nil {
		return fmt.Errorf("sealing: %w", err)
	}
	return nil
}

// sealTries is how often sealing is tried: the kernel waits some 80 ms itself each time.
const sealTries = 50

// seal tries again where the kernel still holds a page of what was just written: it looks for a writer that
// is none, says EBUSY, and lets go of the page in a moment (Linux, mm/memfd.c, memfd_wait_for_pins).
func seal(add func() error) (err error) {
	for range sealTries {
		if err = add(); !errors.Is(err, unix.EBUSY) {
			return err
		}
	}
	return err
}

// descriptor is the image opened anew for one launch, to read; the caller closes it. A duplicate would
// share its offset, flags and locks with every other job's.
func (i *image) descriptor() (*os.File, error) {
	if err := i.clean(); err != nil {
		return nil, fmt.Errorf("readying the executable: %w", err)
	}
	fd, err := unix.Open(i.path(), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("readying the executable: %w", err)
	}
	return os.NewFile(uintptr(fd), i.file.Name()), nil
}

// clean takes back what seals do not keep: a plugin that runs as the enclave's own user may change the
// mode, the times and the attributes of what it was started from, and the next one would see them.
func (i *image) clean() error {
	if err := i.file.Chmod(0o755); err != nil { // an attribute is removed by whoever may write
		return err
	}
	if err := os.Chtimes(i.path(), time.Unix(0, 0), time.Unix(0, 0)); err != nil {
		return err
	}
	names := make([]byte, 64<<10) // XATTR_LIST_MAX
	n, err := unix.Flistxattr(int(i.file.Fd()), names)
	if err != nil && !errors.Is(err, unix.ENOTSUP) { // before Linux 6.6 memory files had none
		return fmt.Errorf("listing attributes: %w", err)
	}
	for name := range strings.SplitSeq(string(names[:max(0, n)]), "\x00") {
		if !strings.HasPrefix(name, "user.") {
			continue // others are the kernel's
		}
		if err := unix.Fremovexattr(int(i.file.Fd()), name); err != nil && !errors.Is(err, unix.ENODATA) {
			return fmt.Errorf("removing attributes: %w", err)
		}
	}
	return i.file.Chmod(0o555)
}

func (i *image) path() string { return fmt.Sprintf("/proc/self/fd/%d", i.file.Fd()) }

// Close lets go of the memory once no plugin runs from it.
func (i *image) Close() error { return i.file.Close() }

// memfd makes a memory file that can be sealed and executed.
func memfd(name string) (int, error) {
	const flags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate(name, flags|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3, where every memory file may be executed
		return unix.MemfdCreate(name, flags)
	}
	return fd, err
}

// openRegular opens a regular file to read, and waits for no pipe's other end.
func openRegular(open func(flag int) (*os.File, error)) (*os.File, error) {
	f, err := open(os.O_RDONLY | unix.O_NONBLOCK)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("is no regular file")
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

func readAtMost(r io.Reader, limit int64) ([]byte, error) {
	return io.ReadAll(io.LimitReader(r, limit))
}
