package proxy_test

import (
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"testing"

	"github.com/cloister-run/cloister/enclave/proxy"
)

// relayed serves a relay to dial, and gives what connects to it.
func relayed(t *testing.T, dial func(context.Context) (net.Conn, error)) func() net.Conn {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- proxy.Relay(ctx, l, dial) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return func() net.Conn {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
}

func TestARelayCarriesBothWaysAndPassesTheEndOn(t *testing.T) {
	far, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	go func() { // echoes once it has everything
		for {
			conn, err := far.Accept()
			if err != nil {
				return
			}
			all, _ := io.ReadAll(conn)
			_, _ = conn.Write(all)
			conn.Close()
		}
	}()
	connect := relayed(t, func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", far.Addr().String())
	})
	for range 3 {
		conn := connect()
		if _, err := io.WriteString(conn, "to the enclave"); err != nil {
			t.Fatal(err)
		}
		if err := conn.(*net.UnixConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(conn); err != nil || string(got) != "to the enclave" {
			t.Errorf("%q, %v", got, err)
		}
	}
}

func TestARelayToNobodyEndsTheConnection(t *testing.T) {
	connect := relayed(t, func(context.Context) (net.Conn, error) { return nil, errors.New("nobody") })
	if got, err := io.ReadAll(connect()); len(got) > 0 {
		t.Errorf("%q, %v", got, err)
	}
}
