package walls

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// descriptor reads from a descriptor that nobody owns: an os.File would close it when it is
// collected, and by then the number may be the program's.
type descriptor int

func (d descriptor) Read(p []byte) (int, error) {
	for {
		n, err := unix.Read(int(d), p)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, err
		case n == 0 && len(p) > 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

// seal makes sure that only the promised descriptors cross into the program: the files from
// FirstFD on are marked close-on-exec like everything else, since the program gets duplicates,
// and what the starter leaked is closed.
func seal(files int) error {
	fds, err := descriptors()
	if err != nil {
		return err
	}
	given := 0
	for _, fd := range fds {
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if errors.Is(err, unix.EBADF) {
			continue // the descriptor that listed the others
		}
		if err != nil {
			return fmt.Errorf("descriptor %d: %w", fd, err)
		}
		switch {
		case fd < FirstFD:
		case fd < FirstFD+files:
			given++
			unix.CloseOnExec(fd)
		case flags&unix.FD_CLOEXEC == 0:
			// Only a leak can be without the flag: the runtime sets it on its own.
			if err := unix.Close(fd); err != nil {
				return fmt.Errorf("closing descriptor %d: %w", fd, err)
			}
		}
	}
	if given != files {
		return fmt.Errorf("%d of %d files were inherited", given, files)
	}
	return sealed()
}

// sealed checks that nothing but the standard streams would survive an exec.
func sealed() error {
	fds, err := descriptors()
	if err != nil {
		return err
	}
	for _, fd := range fds {
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err == nil && fd > 2 && flags&unix.FD_CLOEXEC == 0 {
			return fmt.Errorf("descriptor %d would be inherited", fd)
		}
	}
	return nil
}

// descriptors lists the open descriptors of this process.
func descriptors() ([]int, error) {
	dir, err := os.Open("/proc/self/fd")
	if err != nil {
		return nil, fmt.Errorf("listing descriptors: %w", err)
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("listing descriptors: %w", err)
	}
	fds := make([]int, 0, len(names))
	for _, name := range names {
		fd, err := strconv.Atoi(name)
		if err != nil {
			return nil, fmt.Errorf("listing descriptors: %q", name)
		}
		if fd != int(dir.Fd()) {
			fds = append(fds, fd)
		}
	}
	return fds, nil
}

// given lists the descriptors that the program inherits, in its order.
func given(files int) []uintptr {
	fds := []uintptr{0, 1, 2}
	for i := range files {
		fds = append(fds, uintptr(FirstFD+i))
	}
	return fds
}
