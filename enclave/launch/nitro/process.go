package nitro

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// process is one that is no child of this one: the one that nitro-cli leaves behind, which holds the enclave and
// ends with it. A descriptor names it for good (pidfd_open(2), Linux 5.3), and nothing has to be asked again and
// again.
type process struct{ file *os.File }

func openProcess(pid int) (*process, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ENOSYS) {
		return nil, errors.New("this kernel is older than Linux 5.3: update it")
	}
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(fd, true); err != nil { // so that waiting ends with close
		_ = unix.Close(fd)
		return nil, err
	}
	return &process{os.NewFile(uintptr(fd), "pidfd")}, nil
}

// wait waits until the process has ended, or until close: then it gives false.
func (p *process) wait() bool {
	raw, err := p.file.SyscallConn()
	if err != nil {
		return false
	}
	ended := false
	err = raw.Read(func(fd uintptr) bool {
		ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(ready, 0)
		ended = err == nil && n == 1
		return ended
	})
	return err == nil && ended
}

// close ends wait.
func (p *process) close() { _ = p.file.Close() }
