// Package vsock owns the sockets between an enclave and its parent: today the Unix sockets that stand in
// for AF_VSOCK where an enclave is a process of this machine.
//
// It trusts the kernel for who is at the other end, and nothing that comes in.
package vsock

import (
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// ListenUnix listens on a Unix socket of mode 0600, and admits peers of this process's own user
// alone: whoever else gets hold of the name, or is root in another namespace, is cut off.
func ListenUnix(path string) (net.Listener, error) {
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("vsock: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("vsock: %w", err)
	}
	return &own{l.(*net.UnixListener), os.Geteuid()}, nil
}

// own is a listener that admits one user.
type own struct {
	*net.UnixListener
	user int
}

// Accept waits for the next peer that is admitted.
func (o *own) Accept() (net.Conn, error) {
	for {
		conn, err := o.AcceptUnix()
		if err != nil {
			return nil, err
		}
		if user, err := peer(conn); err == nil && user == o.user {
			return conn, nil
		}
		_ = conn.Close() // it is told nothing
	}
}

// peer is the user at the other end, as this process's user namespace knows it (unix(7), SO_PEERCRED).
func peer(conn *net.UnixConn) (int, error) {
	raw, err := conn.SyscallConn()
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
