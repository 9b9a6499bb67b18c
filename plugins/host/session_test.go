package host_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cloister-run/cloister/plugins/executor"
	"github.com/cloister-run/cloister/plugins/executor/executortest"
	"github.com/cloister-run/cloister/plugins/host"
	"github.com/cloister-run/cloister/plugins/sandbox"
)

var _ executortest.Session = (*host.Session)(nil)

func TestDescribeRefuses(t *testing.T) {
	hasty := host.Config{DescribeTimeout: brief}
	for _, test := range []struct {
		part, want string
		cfg        host.Config
	}{
		{"dies", "", host.Config{}},
		{"mute", "no answer to describe within 300ms", hasty},
		{"no TLS", "the connection broke", host.Config{}},
		{"other cert", "the connection broke", host.Config{}},
		{"describe hangs", "no answer to describe within 300ms", hasty},
		{"describe fails", "an error of its own", host.Config{}},
		{"other name", "not describe itself as its manifest does", host.Config{}},
		{"other version", "not describe itself as its manifest does", host.Config{}},
		{"unprintable", "printable characters was expected", host.Config{}},
		{"large answer", "its answer is too large", host.Config{}},
		{"large trailer", "", host.Config{}},
		{"large header", "", host.Config{}},
	} {
		t.Run(test.part, func(t *testing.T) {
			leaves(t)
			s := launch(t, newHost(t, test.part, test.cfg))
			d, err := s.Describe(t.Context())
			if err == nil {
				t.Fatalf("believed: %+v", d)
			}
			wantGone(t, err, test.want)
			if _, err := s.Prepare(t.Context()); !errors.Is(err, executor.ErrOrder) {
				t.Errorf("it can be prepared all the same: %v", err)
			}
		})
	}
}

func TestPrepareRefuses(t *testing.T) {
	for _, test := range []struct {
		part string
		want error
	}{
		{"prepare hangs", executor.ErrGone},
		{"no runtime", executor.ErrRuntime},
	} {
		t.Run(test.part, func(t *testing.T) {
			leaves(t)
			s := launch(t, newHost(t, test.part, host.Config{PrepareTimeout: brief}))
			_, err := s.Describe(t.Context())
			try(t, err)
			if _, err := s.Prepare(t.Context()); !errors.Is(err, test.want) {
				t.Errorf("%v, want %v", err, test.want)
			} else {
				wantSilent(t, err)
			}
			if _, err := s.Run(t.Context(), task()); !errors.Is(err, executor.ErrOrder) {
				t.Errorf("it can be run all the same: %v", err)
			}
		})
	}
}

func TestRunRefuses(t *testing.T) {
	for part, want := range map[string]error{
		"status -1":          executor.ErrGone,
		"status 256":         executor.ErrGone,
		"status -2147483648": executor.ErrGone,
		"exits":              executor.ErrGone,
		"code 1":             executor.ErrGone, // CANCELLED, though nobody cancelled
		"code 2":             executor.ErrGone,
		"code 4":             executor.ErrGone, // DEADLINE_EXCEEDED, though there is none
		"code 5":             executor.ErrEntrypoint,
		"code 9":             executor.ErrRuntime,
		"code 14":            executor.ErrGone,
		"code 77":            executor.ErrGone,
	} {
		t.Run(part, func(t *testing.T) {
			leaves(t)
			s := prepared(t, part)
			r, err := s.Run(t.Context(), task())
			if !errors.Is(err, want) {
				t.Errorf("%+v, %v, want %v", r, err, want)
			}
			wantSilent(t, err)
			if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%v: the plugin passes for the caller", err)
			}
			if part == "exits" {
				<-s.Done()
			}
		})
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	leaves(t)
	s := prepared(t, "hangs")
	enough := errors.New("enough")
	ctx, cancel := context.WithTimeoutCause(t.Context(), brief, enough)
	defer cancel()
	if _, err := s.Run(ctx, task()); !errors.Is(err, enough) {
		t.Errorf("%v, want the cause of the context", err)
	}
}

func TestRunRefusesTask(t *testing.T) {
	leaves(t)
	s := prepared(t, "fine")
	bad := task()
	bad.Dir = "work"
	if _, err := s.Run(t.Context(), bad); err == nil || !strings.Contains(err.Error(), "task.dir") {
		t.Errorf("%v", err)
	}
}

func TestStopEndsAtItsDeadline(t *testing.T) {
	leaves(t)
	s := launch(t, newHost(t, "stop hangs", host.Config{StopTimeout: brief}))
	wantGone(t, s.Stop(t.Context()), "no answer to stop within 300ms")
}

// Kill asks nobody: a plugin that hangs in everything is gone all the same, from any goroutine.
func TestKillFromManySides(t *testing.T) {
	leaves(t)
	s := prepared(t, "hangs")
	ended := make(chan error, 1)
	go func() {
		_, err := s.Run(t.Context(), task())
		ended <- err
	}()
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			if err := s.Kill(); err != nil {
				t.Error(err)
			}
			select {
			case <-s.Done():
			default:
				t.Error("killed, and not done")
			}
		})
	}
	all.Wait()
	wantGone(t, <-ended, "")
	_, err := s.Describe(t.Context())
	wantGone(t, err, "")
	wantGone(t, s.Stop(t.Context()), "")
}

// A plugin that prints is served as long as it prints little, and can never fill the host.
func TestPluginThatPrints(t *testing.T) {
	t.Run("a little", func(t *testing.T) {
		leaves(t)
		s := prepared(t, "chats")
		_, err := s.Run(t.Context(), task())
		try(t, err)
	})
	t.Run("without end", func(t *testing.T) {
		leaves(t)
		s := launch(t, newHost(t, "floods", host.Config{}))
		_, _ = s.Describe(t.Context()) // it may have died before it answered
		select {                       // its pipe is closed after a megabyte, which ends a Go program
		case <-s.Done():
		case <-time.After(20 * time.Second):
			t.Fatal("somebody still reads")
		}
	})
}

// I8: nothing unmeasured changes behaviour. What the enclave's own process has in its
// environment reaches no plugin, and steers neither go-plugin nor the host.
func TestI8_EnvironmentOfPluginIsFixed(t *testing.T) {
	leaves(t)
	var spec sandbox.Spec
	h, _ := tapped(t, "fine", func(s sandbox.Spec) { spec = s })
	place := executortest.Place(t)
	place.Memory, place.CPUs, place.Processes, place.FileSize, place.Owner = 1<<30, 2, 256, 1<<20, 1234
	for name, value := range map[string]string{
		"LD_PRELOAD": "/evil.so", "LD_LIBRARY_PATH": "/evil", "PYTHONPATH": "/evil", "GODEBUG": "http2client=0",
		"PATH": t.TempDir(), "HOME": "/evil", "TMPDIR": "/nonexistent", "LANG": "evil", "HTTPS_PROXY": "http://evil",
		"PLUGIN_MIN_PORT": "1", "PLUGIN_UNIX_SOCKET_DIR": "/evil", "PLUGIN_UNIX_SOCKET_GROUP": "evil",
		"PLUGIN_MULTIPLEX_GRPC": "true", "PLUGIN_PROTOCOL_VERSIONS": "9", "PLUGIN_CLIENT_CERT": "evil",
		"CLOISTER_EXECUTOR": "evil", "GRPC_GO_LOG_SEVERITY_LEVEL": "info", "AWS_SECRET_ACCESS_KEY": secret,
	} {
		t.Setenv(name, value)
	}
	s, err := h.Launch(t.Context(), "hostile", place)
	try(t, err)
	defer s.Kill()
	_, err = s.Describe(t.Context())
	try(t, err)

	env := slices.Clone(spec.Env)
	slices.Sort(env)
	const cert = "PLUGIN_CLIENT_CERT="
	i := slices.IndexFunc(env, func(v string) bool { return strings.HasPrefix(v, cert+"-----BEGIN CERTIFICATE-----\n") })
	if i < 0 {
		t.Fatalf("no certificate of the host's in %q", env)
	}
	env[i] = cert
	want := []string{
		"CLOISTER_EXECUTOR=executor.v1", "HOME=/work/tmp", "LANG=C.UTF-8", "PATH=/usr/local/bin:/usr/bin:/bin",
		cert, "PLUGIN_PROTOCOL_VERSIONS=1", "PLUGIN_UNIX_SOCKET_DIR=/run/plugin", "TMPDIR=/work/tmp",
	}
	if !slices.Equal(env, want) {
		t.Errorf("environment\n%q, want\n%q", env, want)
	}
	wantMounts := []sandbox.Mount{
		{Source: place.Assets, Target: "/job"},
		{Source: place.Work, Target: "/work", Writable: true},
		{Source: place.Socket, Target: "/run/plugin", Writable: true},
	}
	if !slices.Equal(spec.Mounts, wantMounts) {
		t.Errorf("mounts %+v, want %+v", spec.Mounts, wantMounts)
	}
	if spec.Path != "/proc/self/fd/3" || len(spec.Files) != 1 || !slices.Equal(spec.Args, []string{"plugin", "fine"}) {
		t.Errorf("started %s %q with %d descriptors", spec.Path, spec.Args, len(spec.Files))
	}
	if spec.Stdin != nil || spec.Stderr != nil || spec.Owner != 1234 {
		t.Errorf("stdin %v, stderr %v, owner %d", spec.Stdin, spec.Stderr, spec.Owner)
	}
	if want := (sandbox.Limits{Memory: 1 << 30, Together: true, Processes: 256, OpenFiles: 1024, FileSize: 1 << 20, CPUs: 2}); spec.Limits != want {
		t.Errorf("limits %+v, want %+v", spec.Limits, want)
	}
}

// prepared is a session of the part whose turn is Run.
func prepared(t *testing.T, part string) *host.Session {
	t.Helper()
	s := launch(t, newHost(t, part, host.Config{}))
	_, err := s.Describe(t.Context())
	try(t, err)
	_, err = s.Prepare(t.Context())
	try(t, err)
	return s
}

func task() executor.Task {
	return executor.Task{Application: "/job/application", Entrypoint: "main", Dir: "/work/dir"}
}
