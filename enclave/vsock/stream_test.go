package vsock_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	lib "github.com/mdlayher/vsock"

	"github.com/cloister-run/cloister/enclave/vsock"
	"github.com/cloister-run/cloister/enclave/vsock/vsocktest"
)

// exercise runs both sides in this process.
func exercise(t *testing.T, l net.Listener, dial func(context.Context) (net.Conn, error)) {
	t.Helper()
	served := make(chan error, 1)
	go func() { served <- vsocktest.Serve(l) }()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := vsocktest.Exercise(ctx, dial); err != nil {
		t.Error(err)
	}
	_ = l.Close()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

func TestUnixStreams(t *testing.T) {
	dir, err := os.MkdirTemp("", "vsock") // a short name: a socket's is limited
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "s")
	l, err := vsock.ListenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	exercise(t, l, func(ctx context.Context) (net.Conn, error) { return new(net.Dialer).DialContext(ctx, "unix", path) })
}

// ListenPort admits nobody of this machine: the listener is the library's.
func TestPortStreams(t *testing.T) {
	loopback(t)
	l, err := lib.ListenContextID(lib.Local, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*lib.Addr).Port
	exercise(t, vsock.Closable(l), func(ctx context.Context) (net.Conn, error) { return vsock.DialPort(ctx, lib.Local, port) })
}
