package vsock_test

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/cloister-run/cloister/enclave/vsock"
)

func TestAnAddressIsDialled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := vsock.ListenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := vsock.UnixAddress(path).Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
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
