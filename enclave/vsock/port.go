package vsock

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"
)

// ListenPort listens on a port of AF_VSOCK at every address that this machine has, and admits the peers of
// which admit says so by their CID: an enclave admits its parent alone, a parent its enclaves. Whoever else
// connects is cut off and told nothing, and so is whoever connects from this machine itself, by way of the
// loopback device (CID 1) or of the machine's own CID, whatever admit says. admit is called by Accept.
//
// What Accept gives has CloseWrite. An error is a syscall.Errno for errors.Is: EADDRINUSE where the port is
// taken.
func ListenPort(port uint32, admit func(cid uint32) bool) (net.Listener, error) {
	l, err := vsock.ListenContextID(unix.VMADDR_CID_ANY, port, nil)
	if err != nil {
		return nil, fmt.Errorf("vsock: listening on port %d: %w", port, explain(err))
	}
	return &admitting{ports{l}, others(ends, admit)}, nil
}

// others admits other machines whose CID admit admits. Whoever's ends cannot be told is none.
func others(ends func(net.Conn) (own, peer uint32, err error), admit func(cid uint32) bool) func(net.Conn) bool {
	return func(conn net.Conn) bool {
		own, peer, err := ends(conn)
		return err == nil && admissible(own, peer) && admit(peer)
	}
}

// ports says that it is closed as other listeners do.
type ports struct{ *vsock.Listener }

func (p ports) Accept() (net.Conn, error) {
	conn, err := p.Listener.Accept()
	if errors.Is(err, unix.EBADF) {
		return nil, net.ErrClosed // mdlayher/vsock does not see that in what accept4 says
	}
	return conn, err
}

// DialPort connects to a port of the peer with a CID. It gives up when ctx ends, and after two seconds at
// the latest (VSOCK_DEFAULT_CONNECT_TIMEOUT of the kernel). ctx is of no concern to the connection, which has
// CloseWrite.
//
// Over AF_VSOCK a peer that is gone looks like one that has ended: what must not be cut short says itself
// how long it is, as HTTP does.
func DialPort(ctx context.Context, cid, port uint32) (net.Conn, error) {
	conn, err := vsock.DialContext(ctx, cid, port, nil)
	if err != nil {
		return nil, fmt.Errorf("vsock: connecting to port %d of CID %d: %w", port, cid, explain(err))
	}
	return conn, nil
}

// admissible tells whether a peer is another machine.
func admissible(own, peer uint32) bool {
	return peer != own && peer != unix.VMADDR_CID_LOCAL
}

// ends are the CIDs that a connection which was accepted goes to and comes from, as the kernel has them: the
// listener's own address is none in particular.
func ends(conn net.Conn) (own, peer uint32, err error) {
	remote, ok := conn.RemoteAddr().(*vsock.Addr)
	socket, is := conn.(*vsock.Conn)
	if !ok || !is {
		return 0, 0, errors.New("no connection of AF_VSOCK")
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return 0, 0, err
	}
	var local unix.Sockaddr
	var failed error
	if err := raw.Control(func(fd uintptr) { local, failed = unix.Getsockname(int(fd)) }); err != nil {
		return 0, 0, err
	}
	address, ok := local.(*unix.SockaddrVM)
	if failed != nil || !ok {
		return 0, 0, errors.Join(errors.New("no address of its own"), failed)
	}
	return address.CID, remote.ContextID, nil
}

// explain says what an error of AF_VSOCK means (vsock(7)), and what to do about it.
func explain(err error) error {
	for errno, says := range map[unix.Errno]string{
		unix.EAFNOSUPPORT:  "this kernel has no AF_VSOCK: load its module vsock",
		unix.ENODEV:        "there is no way to that CID: this kernel's vsock has no device (/dev/vsock), or no module of its transport",
		unix.EADDRNOTAVAIL: "this machine has no such CID",
		unix.EADDRINUSE:    "another process listens on that port: end it first",
		unix.EACCES:        "the port is one of root's, or AF_VSOCK is forbidden here",
		unix.ECONNRESET:    "nobody listens there",
		unix.ETIMEDOUT:     "nobody with that CID answers: is it running?",
	} {
		if errors.Is(err, errno) {
			return fmt.Errorf("%s (%w)", says, errno)
		}
	}
	if operation, ok := errors.AsType[*net.OpError](err); ok {
		return operation.Err // the rest names the addresses, which the caller has said
	}
	return err
}
