package host_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/plugins/host"
)

// TestOneBinaryIsHeldOnce: executors of one binary share its memory, and a manifest that states another
// digest of it is refused all the same.
func TestOneBinaryIsHeldOnce(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/program", program)
	for _, name := range []string{"a", "b", "c"} {
		write(t, filepath.Join(dir, name, "manifest.json"), manifest(name))
	}
	before := heldImages(t)
	h, err := host.New(config(dir))
	try(t, err)
	if got := heldImages(t) - before; len(h.List()) != 3 || got != 1 {
		t.Errorf("%d executors hold %d images", len(h.List()), got)
	}
	try(t, h.Close())
	write(t, dir+"/b/manifest.json", manifest("b", programDigest(), strings.Repeat("0", 64)))
	if h, err := host.New(config(dir)); err == nil || h != nil || !strings.Contains(err.Error(), "b: executable: its digest is") {
		t.Errorf("%v", err)
	}
	if got := heldImages(t); got != before {
		t.Errorf("%d images are left", got-before)
	}
}

// heldImages counts the memory files of executables that this process has open.
func heldImages(t *testing.T) (n int) {
	t.Helper()
	fds, err := filepath.Glob("/proc/self/fd/*")
	try(t, err)
	for _, fd := range fds {
		if name, err := os.Readlink(fd); err == nil && strings.HasPrefix(name, "/memfd:executor-") {
			n++
		}
	}
	return n
}

// TestSealingWaitsForTheKernel: a page that it still holds is no writer; and it is not waited for without end.
func TestSealingWaitsForTheKernel(t *testing.T) {
	for _, test := range []struct {
		rule  string
		busy  int
		then  error
		tries int
		want  error
	}{
		{"at once", 0, nil, 1, nil},
		{"busy at first", 3, nil, 4, nil},
		{"busy for ever", host.SealTries, nil, host.SealTries, unix.EBUSY},
		{"another error", 1, unix.EPERM, 2, unix.EPERM},
	} {
		tries := 0
		err := host.Seal(func() error {
			if tries++; tries <= test.busy {
				return unix.EBUSY
			}
			return test.then
		})
		if !errors.Is(err, test.want) || tries != test.tries {
			t.Errorf("%s: %v after %d", test.rule, err, tries)
		}
	}
}
