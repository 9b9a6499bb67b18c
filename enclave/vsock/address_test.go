package vsock_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/cloister-run/cloister/enclave/vsock"
)

func TestAnAddressIsDialled(t *testing.T) {
	long := filepath.Join(t.TempDir(), strings.Repeat("long/", 40))
	if err := os.MkdirAll(long, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(t.TempDir(), "s"), filepath.Join(long, "s")} {
		l, err := vsock.ListenUnix(path)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := vsock.UnixAddress(path).Dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.Close()
		_ = l.Close()
		if _, err := vsock.UnixAddress(path).Dial(t.Context()); !errors.Is(err, syscall.ECONNREFUSED) || !strings.Contains(err.Error(), path) {
			t.Errorf("nobody listens: %v", err)
		}
	}
	if _, err := vsock.UnixAddress(long + "/nowhere/s").Dial(t.Context()); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func TestWhatIsNoAddressIsNotDialled(t *testing.T) {
	for _, a := range []vsock.Address{
		"", "unix", "unix:", "vsock", "vsock:", "vsock:3", "vsock:3:", "vsock::5005", "vsock:-1:5005", "vsock:3:5005:1", "vsock:4294967296:1",
		"vsock:3:4294967296", "tcp:127.0.0.1:80", "/run/x.sock", "UNIX:/run/x.sock", "vsock:3: 1",
	} {
		if conn, err := a.Dial(t.Context()); !errors.Is(err, vsock.ErrAddress) {
			t.Errorf("%q: %v, %v", a, conn, err)
		}
	}
	if a := vsock.PortAddress(16, 5005); a != "vsock:16:5005" {
		t.Errorf("%q", a)
	}
}
