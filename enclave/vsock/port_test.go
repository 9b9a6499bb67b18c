package vsock_test

import (
	"context"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	lib "github.com/mdlayher/vsock"

	"github.com/cloister-run/cloister/enclave/image"
	"github.com/cloister-run/cloister/enclave/vsock"
)

// queue is a listener of connections that are there already.
type queue chan net.Conn

func (q queue) Accept() (net.Conn, error) {
	conn, ok := <-q
	if !ok {
		return nil, net.ErrClosed
	}
	return conn, nil
}
func (q queue) Close() error   { return nil }
func (q queue) Addr() net.Addr { return &lib.Addr{} }

// Strangers are cut off without a word, and whoever comes after them is served.
func TestStrangersAreCutOff(t *testing.T) {
	q := make(queue, 3)
	var far []net.Conn
	for range cap(q) {
		a, b := net.Pipe()
		far = append(far, a)
		q <- b
	}
	close(q)
	asked := 0
	l := vsock.Admitting(q, func(net.Conn) bool { asked++; return asked == 3 })
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		_, _ = conn.Write([]byte{1})
		_ = conn.Close()
	}()
	for i, a := range far {
		said, err := io.ReadAll(a)
		if want := i / 2; len(said) != want || err != nil {
			t.Errorf("peer %d is told %d bytes, %v; want %d", i, len(said), err, want)
		}
	}
	if conn, err := l.Accept(); conn != nil || !errors.Is(err, net.ErrClosed) {
		t.Errorf("after the last: %v, %v", conn, err)
	}
}

// Whatever a listener's owner admits, this machine itself is none of the peers.
func TestThisMachineIsNoPeer(t *testing.T) {
	for _, test := range []struct {
		own, peer uint32
		want      bool
	}{
		{16, image.ParentCID, true},
		{image.ParentCID, 16, true},
		{16, 17, true}, // a sibling: admit knows
		{16, lib.Local, false},
		{lib.Local, lib.Local, false},
		{16, 16, false},
		{image.ParentCID, image.ParentCID, false},
	} {
		if got := vsock.Admissible(test.own, test.peer); got != test.want {
			t.Errorf("own %d, peer %d: %v", test.own, test.peer, got)
		}
	}
}

// A listener admits another machine that its owner admits, and nobody else: not this machine though its owner would, and
// nobody of whom it is not known where they come from.
func TestAListenerAdmitsOthers(t *testing.T) {
	for name, row := range map[string]struct {
		own, peer uint32
		unknown   error
		admits    bool
		want      bool
	}{
		"an enclave":              {image.ParentCID, 16, nil, true, true},
		"another's enclave":       {image.ParentCID, 17, nil, false, false},
		"the loopback device":     {image.ParentCID, lib.Local, nil, true, false},
		"by its own CID":          {16, 16, nil, true, false},
		"nobody knows from where": {image.ParentCID, 16, errors.New("no address"), true, false},
	} {
		q := make(queue, 1)
		near, far := net.Pipe()
		q <- far
		close(q)
		l := vsock.Admitting(q, vsock.Others(
			func(net.Conn) (uint32, uint32, error) { return row.own, row.peer, row.unknown },
			func(cid uint32) bool { return row.admits && cid == row.peer },
		))
		if conn, err := l.Accept(); (conn != nil) != row.want || (err == nil) != row.want {
			t.Errorf("%s: %v, %v", name, conn, err)
		}
		_ = near.Close()
		_ = far.Close()
	}
}

func TestErrorsSayWhatToDo(t *testing.T) {
	said := map[string]bool{}
	for _, errno := range []syscall.Errno{
		syscall.EAFNOSUPPORT, syscall.ENODEV, syscall.EADDRNOTAVAIL, syscall.EADDRINUSE, syscall.EACCES, syscall.ECONNRESET, syscall.ETIMEDOUT,
	} {
		err := vsock.Explain(&net.OpError{Op: "x", Net: "vsock", Err: errno})
		if !errors.Is(err, errno) || len(err.Error()) < len(errno.Error())+10 || said[err.Error()] {
			t.Errorf("%v: %v", errno, err)
		}
		said[err.Error()] = true
	}
	if err := vsock.Explain(&net.OpError{Op: "dial", Err: context.Canceled}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if err := vsock.Explain(io.EOF); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}

// anyone admits every peer.
func anyone(uint32) bool { return true }

// listenPort listens on a port, where the kernel has AF_VSOCK.
func listenPort(t *testing.T, port uint32) net.Listener {
	t.Helper()
	l, err := vsock.ListenPort(port, anyone)
	if errors.Is(err, syscall.EAFNOSUPPORT) || errors.Is(err, syscall.ENODEV) || errors.Is(err, syscall.EADDRNOTAVAIL) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func TestAPortIsTakenOnce(t *testing.T) {
	l := listenPort(t, 0)
	port := l.Addr().(*lib.Addr).Port
	again, err := vsock.ListenPort(port, anyone)
	if again != nil || !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("%v, %v", again, err)
	}
	accepted := make(chan error, 1)
	go func() {
		_, err := l.Accept()
		accepted <- err
	}()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if err := <-accepted; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept of a closed listener: %v", err)
	}
}

// A CID that nobody has is waited for by the kernel; the context comes first.
func TestDialingEndsWithItsContext(t *testing.T) {
	listenPort(t, 0) // skips
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if conn, err := vsock.DialPort(ctx, nobody, 1); conn != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("ended: %v, %v", conn, err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	began := time.Now()
	conn, err := vsock.DialPort(ctx, nobody, 1)
	if conn != nil || err == nil || time.Since(began) > time.Second {
		t.Errorf("%v, %v after %v", conn, err, time.Since(began))
	}
}

// nobody has this CID.
const nobody = 1 << 30

// loopback skips where this kernel has no vsock_loopback.
func loopback(t *testing.T) {
	t.Helper()
	l, err := lib.ListenContextID(lib.Local, 0, nil)
	if err != nil {
		t.Skipf("no vsock_loopback here: %v", err)
	}
	_ = l.Close()
}

// The kernel's own word for where a peer comes from is believed: this machine is not admitted.
func TestLoopbackIsCutOff(t *testing.T) {
	loopback(t)
	l := listenPort(t, 0)
	go func() {
		if conn, err := l.Accept(); err == nil {
			_, _ = conn.Write([]byte{1})
			_ = conn.Close()
		}
	}()
	cids := []uint32{lib.Local}
	if own, err := lib.ContextID(); err == nil && own != lib.Local {
		cids = append(cids, own)
	}
	for _, cid := range cids {
		conn, err := vsock.DialPort(t.Context(), cid, l.Addr().(*lib.Addr).Port)
		if err != nil {
			continue // cut off before the connection stood
		}
		if said, _ := io.ReadAll(conn); len(said) != 0 {
			t.Errorf("CID %d was served", cid)
		}
		_ = conn.Close()
	}
}
