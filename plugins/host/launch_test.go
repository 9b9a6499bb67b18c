package host_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/cloister-run/cloister/plugins/executor"
	"github.com/cloister-run/cloister/plugins/executor/executortest"
	"github.com/cloister-run/cloister/plugins/host"
	"github.com/cloister-run/cloister/plugins/host/hosttest"
	"github.com/cloister-run/cloister/plugins/host/internal/starter"
	"github.com/cloister-run/cloister/plugins/sandbox"
)

// brief is a deadline that a hanging plugin runs into, and that no other does.
const brief = 300 * time.Millisecond

func TestLaunchRefusesHandshake(t *testing.T) {
	for part, want := range map[string]string{
		"ends":             "it ended before its handshake",
		"half a line, end": "it ended before its handshake",
		"no handshake":     "its handshake has 1 parts",
		"a long line":      "its handshake is longer than 4096 bytes",
		"megabytes":        "its handshake is longer than 4096 bytes",
		"not printable":    "not printable",
		"NUL in a name":    "not printable",
		"other core":       "not version 1 of go-plugin's",
		"core in words":    "not version 1 of go-plugin's",
		"other protocol":   "it speaks executor protocol 2, this enclave speaks 1",
		"minus protocol":   "its protocol version is no number",
		"words protocol":   "its protocol version is no number",
		"net/rpc":          "it does not speak gRPC",
		"no transport":     "its handshake has 4 parts",
		"no certificate":   "its handshake has 5 parts",
		"empty cert":       "its handshake has no certificate",
		"short cert":       "its handshake has no certificate",
		"no base64":        "its handshake was refused",
		"no DER":           "its handshake was refused",
		"eight parts":      "its handshake has 8 parts",
		"tcp":              "its address is no Unix socket",
		"unixgram":         "its address is no Unix socket",
		"outside":          "not directly in /run/plugin",
		"climbing":         "not directly in /run/plugin",
		"deeper":           "not directly in /run/plugin",
		"the folder":       "not directly in /run/plugin",
		"dot":              "not directly in /run/plugin",
		"dot dot":          "not directly in /run/plugin",
		"relative":         "not directly in /run/plugin",
		"abstract":         "not directly in /run/plugin",
		"long name":        "not directly in /run/plugin",
		"nothing there":    "its socket cannot be opened",
		"a link":           "its address is no socket",
		"a pipe":           "its address is no socket",
		"a file":           "its address is no socket",
		"a folder":         "its address is no socket",
	} {
		t.Run(part, func(t *testing.T) {
			leaves(t)
			s, err := newHost(t, part, host.Config{}).Launch(t.Context(), "hostile", executortest.Place(t))
			if err == nil {
				t.Fatal("launched", s.Kill())
			}
			wantGone(t, err, want)
		})
	}
}

func TestLaunchEndsAtItsDeadline(t *testing.T) {
	for _, part := range []string{"never answers", "half a line"} {
		t.Run(part, func(t *testing.T) {
			leaves(t)
			_, err := newHost(t, part, host.Config{StartTimeout: brief}).Launch(t.Context(), "hostile", executortest.Place(t))
			wantGone(t, err, "no handshake within 300ms")
		})
	}
}

func TestLaunchEndsWithItsContext(t *testing.T) {
	leaves(t)
	enough := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	h, started := tapped(t, "never answers", nil)
	go func() {
		<-started
		cancel(enough)
	}()
	if _, err := h.Launch(ctx, "hostile", executortest.Place(t)); !errors.Is(err, enough) || errors.Is(err, executor.ErrGone) {
		t.Errorf("%v, want the cause of the context", err)
	}
	// Nothing is started for it: the tap would panic.
	if _, err := h.Launch(ctx, "hostile", executortest.Place(t)); !errors.Is(err, enough) {
		t.Errorf("with a context that has ended: %v", err)
	}
}

func TestSessionOutlivesTheContextOfItsLaunch(t *testing.T) {
	leaves(t)
	ctx, cancel := context.WithCancel(t.Context())
	s, err := newHost(t, "fine", host.Config{}).Launch(ctx, "hostile", executortest.Place(t))
	try(t, err)
	defer s.Kill()
	cancel()
	if _, err := s.Describe(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestLaunchOfNothing(t *testing.T) {
	leaves(t)
	h := newHost(t, "fine", host.Config{})
	if _, err := h.Launch(t.Context(), "python", executortest.Place(t)); !errors.Is(err, host.ErrNotFound) {
		t.Errorf("an executor that is not installed: %v", err)
	}
	place := executortest.Place(t)
	place.Socket += "/missing"
	if _, err := h.Launch(t.Context(), "hostile", place); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a socket folder that is missing: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := h.Launch(ended, "hostile", place); !errors.Is(err, context.Canceled) {
		t.Errorf("a context that has ended is looked at first: %v", err)
	}
	place = executortest.Place(t)
	try(t, os.Symlink(place.Work, place.Socket+"/link"))
	place.Socket += "/link"
	if s, err := h.Launch(t.Context(), "hostile", place); err == nil {
		t.Error("a socket folder that is a link", s.Kill())
	}
}

// What the machine lacks reaches whoever asked, with its cure.
func TestUnavailableWallSurvivesLaunch(t *testing.T) {
	leaves(t)
	missing := &sandbox.UnavailableError{Wall: "seccomp", Reason: "not built in", Cure: "another kernel"}
	h := startedBy(t, func(context.Context, sandbox.Spec) (starter.Process, error) { return nil, missing })
	_, err := h.Launch(t.Context(), "a", executortest.Place(t))
	var got *sandbox.UnavailableError
	if !errors.As(err, &got) || *got != *missing {
		t.Errorf("%v", err)
	}
	if errors.Is(err, executor.ErrGone) || !strings.HasPrefix(err.Error(), "executor(a): sandbox: the machine gives no seccomp") {
		t.Errorf("%v", err)
	}
}

func TestSandboxThatNeverStarts(t *testing.T) {
	leaves(t)
	h := startedBy(t, func(ctx context.Context, _ sandbox.Spec) (starter.Process, error) {
		<-ctx.Done()
		return nil, context.Cause(ctx)
	})
	ctx, cancel := context.WithTimeout(t.Context(), brief)
	defer cancel()
	if _, err := h.Launch(ctx, "a", executortest.Place(t)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

func TestSwappedExecutableIsNotWhatRuns(t *testing.T) {
	leaves(t)
	self, err := os.ReadFile("/proc/self/exe")
	try(t, err)
	exe := t.TempDir() + "/plugin"
	try(t, os.WriteFile(exe, self, 0o755))
	h := hosttest.New(t, host.Config{}, hosttest.Plugin{
		Name: "hostile", Version: "1", Executable: exe, Args: []string{"plugin", "fine"},
	})
	try(t, os.WriteFile(exe, []byte("#!/bin/sh\nexit 1\n"), 0o755))
	_, err = launch(t, h).Describe(t.Context())
	try(t, err)
	try(t, os.Remove(exe))
	_, err = launch(t, h).Describe(t.Context())
	try(t, err)
}

func TestPluginCannotChangeItsExecutable(t *testing.T) {
	leaves(t)
	h := newHost(t, "tampers", host.Config{})
	for range 2 { // the second one starts from what the first one had its hands on
		_, err := launch(t, h).Describe(t.Context())
		try(t, err)
	}
}

// All jobs of one executor start from one memory file. What a job does to it reaches no other.
func TestI6_AnExecutableCarriesNothingToTheNextJob(t *testing.T) {
	leaves(t)
	h := newHost(t, "leaves traces", host.Config{})
	for range 2 { // the first one still runs
		_, err := launch(t, h).Describe(t.Context())
		try(t, err)
	}
}

// startedBy is a host that starts its one executor, "a", with start.
func startedBy(t *testing.T, start starter.Func) *host.Host {
	t.Helper()
	dir := t.TempDir()
	write(t, dir+"/program", program)
	write(t, dir+"/a/manifest.json", manifest("a"))
	h, err := host.NewWith(config(dir), start)
	try(t, err)
	t.Cleanup(func() { try(t, h.Close()) })
	return h
}

// tapped is newHost that tells when the plugin was started, and what as.
func tapped(t *testing.T, part string, see func(sandbox.Spec)) (*host.Host, <-chan struct{}) {
	t.Helper()
	self, err := os.Executable()
	try(t, err)
	dir := t.TempDir()
	hosttest.Install(t, dir, hosttest.Plugin{Name: "hostile", Version: "1", Executable: self, Args: []string{"plugin", part}})
	started := make(chan struct{})
	cfg := config(dir)
	cfg.Together = true // nothing here has walls; the sandbox is told, and that is seen
	h, err := host.NewWith(cfg, func(ctx context.Context, spec sandbox.Spec) (starter.Process, error) {
		if see != nil {
			see(spec)
		}
		close(started) // once, as each test launches one
		return hosttest.Start(ctx, spec)
	})
	try(t, err)
	t.Cleanup(func() { try(t, h.Close()) })
	return h, started
}
