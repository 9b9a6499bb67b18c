// Package vsock owns the sockets between an enclave and its parent: those of AF_VSOCK, and the Unix
// sockets that stand in for them where an enclave is a process of this machine.
//
// It trusts the kernel for who is at the other end, and nothing that comes in. A CID says from which
// machine a peer comes and is no proof of who it is.
package vsock

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// ListenUnix listens on a Unix socket of mode 0600, and admits peers of this process's own user
// alone: whoever else gets hold of the name, or is root in another namespace, is cut off. The path may be
// longer than the kernel lets a socket's be (unix(7)). Its name stays when the listener is closed.
func ListenUnix(path string) (net.Listener, error) {
	l, err := listenUnix(path)
	if err != nil {
		return nil, fmt.Errorf("vsock: listening at %s: %w", path, err)
	}
	return l, nil
}

func listenUnix(path string) (net.Listener, error) {
	short, folder, err := shorten(path)
	if err != nil {
		return nil, err
	}
	defer folder.Close()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: short})
	if err != nil {
		return nil, errors.Unwrap(err) // the rest names the short path
	}
	l.SetUnlinkOnClose(false)
	if err := os.Chmod(short, 0o600); err != nil {
		_ = l.Close()
		return nil, err
	}
	self := os.Geteuid()
	return &admitting{l, func(conn net.Conn) bool {
		user, err := peer(conn)
		return err == nil && user == self
	}}, nil
}

// shorten gives a path that the kernel takes for a socket's, of one of any length. It holds until folder is closed.
func shorten(path string) (short string, folder *os.File, err error) {
	if folder, err = os.OpenFile(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY, 0); err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", folder.Fd(), filepath.Base(path)), folder, nil
}

func dialUnix(ctx context.Context, path string) (net.Conn, error) {
	short, folder, err := shorten(path)
	if err != nil {
		return nil, err
	}
	defer folder.Close()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", short)
	if err != nil {
		return nil, errors.Unwrap(err) // the rest names the short path
	}
	return conn, nil
}

// peer is the user at the other end, as this process's user namespace knows it (unix(7), SO_PEERCRED).
func peer(conn net.Conn) (int, error) {
	socket, ok := conn.(*net.UnixConn)
	if !ok {
		return -1, errors.New("no Unix socket")
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return -1, err
	}
	var credentials *unix.Ucred
	var failed error
	err = raw.Control(func(fd uintptr) {
		credentials, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err == nil {
		err = failed
	}
	if err != nil {
		return -1, err
	}
	return int(credentials.Uid), nil
}
