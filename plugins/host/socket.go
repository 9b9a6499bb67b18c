package host

import (
	"context"
	"fmt"
	"net"
	"os"
	"path"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/plugins/executor"
)

// maxSocketName bounds the name of the plugin's socket (Linux, NAME_MAX).
const maxSocketName = 255

// sockets opens the one socket that a plugin may offer. It holds the folder and then the
// socket themselves, by descriptor: no link is followed, and what is swapped afterwards is
// not what is dialled.
type sockets struct {
	mu     sync.Mutex
	dir    *os.File
	socket *os.File
}

func openSockets(dir string) (*sockets, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening the socket folder: %w", err)
	}
	return &sockets{dir: os.NewFile(uintptr(fd), dir)}, nil
}

// open takes the address of a handshake, as the plugin sees it, and gives the one to dial.
func (s *sockets) open(network, address string) (string, error) {
	if network != "unix" {
		return "", breach("its address is no Unix socket")
	}
	dir, name := path.Split(address)
	if dir != executor.SocketDir+"/" || name == "" || name == "." || name == ".." ||
		len(name) > maxSocketName || strings.ContainsRune(name, 0) {
		return "", breach("its socket is not directly in %s", executor.SocketDir)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dir == nil || s.socket != nil {
		return "", breach("it offers a second socket")
	}
	fd, err := unix.Openat(int(s.dir.Fd()), name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", breach("its socket cannot be opened")
	}
	s.socket = os.NewFile(uintptr(fd), "plugin socket")
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return "", breach("its address is no socket")
	}
	return s.path(), nil
}

func (s *sockets) path() string { return fmt.Sprintf("/proc/self/fd/%d", s.socket.Fd()) }

// dial connects to the socket that open accepted, whatever address gRPC has in mind.
func (s *sockets) dial(ctx context.Context, _ string) (net.Conn, error) {
	s.mu.Lock()
	if s.socket == nil {
		s.mu.Unlock()
		return nil, net.ErrClosed
	}
	// A descriptor of its own: Close may come while the kernel still looks at the path.
	fd, err := unix.FcntlInt(s.socket.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(fd) }() // a duplicate of our own
	var d net.Dialer
	return d.DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d", fd))
}

func (s *sockets) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range []**os.File{&s.dir, &s.socket} {
		if *f != nil {
			_ = (*f).Close()
			*f = nil
		}
	}
}
