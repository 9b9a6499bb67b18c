package host_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/status"

	"github.com/cloister-run/cloister/plugins/executor"
	"github.com/cloister-run/cloister/plugins/executor/executortest"
	"github.com/cloister-run/cloister/plugins/host"
	"github.com/cloister-run/cloister/plugins/host/hosttest"
)

// secret is what a hostile plugin tries to get out; no error of the host's may hold it.
const secret = "SECRET-9f3c"

// TestMain lets the test binary play the plugins.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "plugin" {
		play(os.Args[2])
		return
	}
	goleak.VerifyTestMain(m)
}

// newHost is a host whose one executor, "hostile", is the test binary that plays part.
func newHost(t *testing.T, part string, cfg host.Config) *host.Host {
	t.Helper()
	self, err := os.Executable()
	try(t, err)
	return hosttest.New(t, cfg, hosttest.Plugin{
		Name: "hostile", Version: "1", Executable: self, Args: []string{"plugin", part},
	})
}

func launch(t *testing.T, h *host.Host) *host.Session {
	t.Helper()
	s, err := h.Launch(t.Context(), "hostile", executortest.Place(t))
	try(t, err)
	t.Cleanup(func() { try(t, s.Kill()) })
	return s
}

// wantGone checks that err is executor.ErrGone in words of the host's own.
func wantGone(t *testing.T, err error, words string) {
	t.Helper()
	switch {
	case !errors.Is(err, executor.ErrGone):
		t.Errorf("%v, want ErrGone", err)
	case !strings.HasPrefix(err.Error(), "executor(hostile): executor is gone"):
		t.Errorf("%q does not begin as it should", err)
	case !strings.Contains(err.Error(), words):
		t.Errorf("%q does not say %q", err, words)
	}
	wantSilent(t, err)
}

// wantSilent checks that no word of a plugin's is in err.
func wantSilent(t *testing.T, err error) {
	t.Helper()
	var carrier interface{ GRPCStatus() *status.Status }
	if strings.Contains(fmt.Sprintf("%+v %#v", err, err), "SECRET") || errors.As(err, &carrier) {
		t.Errorf("the plugin speaks through %+v", err)
	}
}

// leaves checks, after everything else of the test, that no goroutine, no descriptor and no
// child process stays behind.
func leaves(t *testing.T) {
	t.Helper()
	before := descriptors(t)
	t.Cleanup(func() {
		goleak.VerifyNone(t, goleak.IgnoreAnyFunction("testing.(*T).Run"))
		after := descriptors(t)
		for fd := range before {
			delete(after, fd)
		}
		if len(after) > 0 {
			t.Errorf("open descriptors stay behind: %v", after)
		}
		if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); !errors.Is(err, unix.ECHILD) {
			t.Errorf("a process stays behind: %d, %v", pid, err)
		}
	})
}

func descriptors(t *testing.T) map[string]string {
	t.Helper()
	// What the runtime opens once, at its first wait and its first child, is open from now on.
	r, w, err := os.Pipe()
	try(t, err)
	r.Close()
	w.Close()
	entries, err := os.ReadDir("/proc/self/fd")
	try(t, err)
	open := make(map[string]string)
	for _, e := range entries {
		if target, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
			open[e.Name()+" "+target] = target
		}
	}
	maps.DeleteFunc(open, func(_, target string) bool { return strings.HasPrefix(target, "anon_inode:[event") })
	return open
}
