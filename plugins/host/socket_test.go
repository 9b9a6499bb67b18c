package host_test

import (
	"errors"
	"net"
	"os"
	"testing"

	"github.com/cloister-run/cloister/plugins/executor"
	"github.com/cloister-run/cloister/plugins/executor/executortest"
	"github.com/cloister-run/cloister/plugins/host"
)

// A plugin that swaps its socket, or the whole folder, for a link to a socket of the enclave
// is still talked to through what was checked.
func TestSwappedSocketIsNotDialled(t *testing.T) {
	for _, test := range []struct {
		rule string
		swap func(dir, other string) error
	}{
		{"the socket for a link", func(dir, other string) error {
			return errors.Join(os.Rename(dir+"/s", dir+"/old"), os.Symlink(other+"/s", dir+"/s"))
		}},
		{"the folder for a link", func(dir, other string) error {
			return errors.Join(os.Rename(dir, dir+".old"), os.Symlink(other, dir))
		}},
	} {
		t.Run(test.rule, func(t *testing.T) {
			leaves(t)
			place := executortest.Place(t)
			greet(t, place.Socket+"/s", "plugin")
			greet(t, place.Work+"/s", "enclave")
			s, err := host.OpenSockets(place.Socket)
			try(t, err)
			defer s.Close()
			if _, err = s.Open("unix", executor.SocketDir+"/s"); err != nil {
				t.Fatal(err)
			}
			try(t, test.swap(place.Socket, place.Work))
			conn, err := s.Dial(t.Context())
			try(t, err)
			defer conn.Close()
			name := make([]byte, 16)
			n, _ := conn.Read(name)
			if string(name[:n]) != "plugin" {
				t.Errorf("dialled the %q", name[:n])
			}
		})
	}
}

func TestFolderSwappedBeforeTheHandshake(t *testing.T) {
	leaves(t)
	place := executortest.Place(t)
	s, err := host.OpenSockets(place.Socket)
	try(t, err)
	defer s.Close()
	greet(t, place.Work+"/s", "enclave")
	try(t, errors.Join(os.Rename(place.Socket, place.Socket+".old"), os.Symlink(place.Work, place.Socket)))
	if _, err := s.Open("unix", executor.SocketDir+"/s"); !errors.Is(err, executor.ErrGone) {
		t.Errorf("%v, want ErrGone", err)
	}
}

func TestOneSocketOnly(t *testing.T) {
	leaves(t)
	place := executortest.Place(t)
	greet(t, place.Socket+"/s", "plugin")
	s, err := host.OpenSockets(place.Socket)
	try(t, err)
	_, err = s.Open("unix", executor.SocketDir+"/s")
	try(t, err)
	if _, err := s.Open("unix", executor.SocketDir+"/s"); !errors.Is(err, executor.ErrGone) {
		t.Errorf("a second socket: %v", err)
	}
	s.Close()
	if _, err := s.Dial(t.Context()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if _, err := s.Open("unix", executor.SocketDir+"/s"); !errors.Is(err, executor.ErrGone) {
		t.Errorf("after Close: %v", err)
	}
}

// greet listens at address and writes name to whoever connects.
func greet(t *testing.T, address, name string) {
	t.Helper()
	l, err := net.Listen("unix", address)
	try(t, err)
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte(name))
			conn.Close()
		}
	}()
}
