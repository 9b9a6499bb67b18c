package process_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/plugins/executor"
	"github.com/cloister-run/cloister/plugins/process"
)

func TestMain(m *testing.M) {
	// Whoever started the test may have left descriptors to it: they are not what is tested.
	if err := unix.CloseRange(3, 1<<20, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// shell is a program in the language that every machine has.
func shell(t *testing.T, script string, args ...string) process.Program {
	t.Helper()
	dir := t.TempDir()
	return process.Program{
		Path: "/bin/sh", Args: append([]string{"-c", script, "sh"}, args...), Env: []string{"PATH=/usr/bin:/bin", "A=b"},
		Dir: dir, Stdout: dir + "/stdout", Stderr: dir + "/stderr",
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// noChild checks that every child was reaped.
func noChild(t *testing.T) {
	t.Helper()
	if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); !errors.Is(err, unix.ECHILD) {
		t.Errorf("a child stays behind: %d, %v", pid, err)
	}
}

func TestStatus(t *testing.T) {
	for _, test := range []struct {
		rule, script string
		want         int
	}{
		{"0", "exit 0", 0},
		{"3", "exit 3", 3},
		{"255", "exit 255", 255},
		{"SIGTERM", "kill -TERM $$", 128 + 15},
		{"SIGKILL", "kill -KILL $$", 128 + 9},
		{"SIGSEGV", "kill -SEGV $$", 128 + 11},
		{"a status that looks like a signal", "exit 143", 143},
	} {
		t.Run(test.rule, func(t *testing.T) {
			var r process.Runner
			got, err := r.Run(t.Context(), shell(t, test.script))
			if err != nil || got.Status != test.want {
				t.Errorf("%+v, %v, want %d", got, err, test.want)
			}
			noChild(t)
		})
	}
}

func TestProgramGetsWhatItIsTold(t *testing.T) {
	p := shell(t, `printf '%s\0' "$@"; env | grep -v -e ^PWD= -e ^_= -e ^SHLVL= | sort; pwd; cat; ls /proc/self/fd >&2`, "a b", "", "c\nd")
	var r process.Runner
	if _, err := r.Run(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if got, want := read(t, p.Stdout), "a b\x00\x00c\nd\x00A=b\nPATH=/usr/bin:/bin\n"+p.Dir+"\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	// The fourth is the one that ls itself opened.
	if got := strings.Fields(read(t, p.Stderr)); strings.Join(got, " ") != "0 1 2 3" {
		t.Errorf("descriptors %q", got)
	}
}

func TestLogs(t *testing.T) {
	for _, test := range []struct {
		rule string
		lay  func(p *process.Program) error
	}{
		{"stdout exists", func(p *process.Program) error { return os.WriteFile(p.Stdout, []byte("kept"), 0o644) }},
		{"stderr exists", func(p *process.Program) error { return os.WriteFile(p.Stderr, []byte("kept"), 0o644) }},
		{"stdout is a link", func(p *process.Program) error { return os.Symlink("elsewhere", p.Stdout) }},
		{"stderr is a link to a file", func(p *process.Program) error {
			return errors.Join(os.WriteFile(p.Dir+"/kept", []byte("kept"), 0o644), os.Symlink("kept", p.Stderr))
		}},
		{"stdout is a pipe", func(p *process.Program) error { return unix.Mkfifo(p.Stdout, 0o644) }},
		{"both are one", func(p *process.Program) error { p.Stderr = p.Stdout; return nil }},
		{"a folder is missing", func(p *process.Program) error { p.Stdout = p.Dir + "/missing/stdout"; return nil }},
	} {
		t.Run(test.rule, func(t *testing.T) {
			p := shell(t, "touch ran")
			if err := test.lay(&p); err != nil {
				t.Fatal(err)
			}
			var r process.Runner
			if got, err := r.Run(t.Context(), p); err == nil || errors.Is(err, process.ErrStart) {
				t.Errorf("%+v, %v", got, err)
			}
			for _, name := range []string{"ran", "elsewhere"} {
				if _, err := os.Lstat(filepath.Join(p.Dir, name)); err == nil {
					t.Errorf("%s exists", name)
				}
			}
			for _, name := range []string{"stdout", "stderr", "kept"} {
				if info, err := os.Stat(filepath.Join(p.Dir, name)); err == nil && info.Mode().IsRegular() && info.Size() > 0 {
					if got := read(t, filepath.Join(p.Dir, name)); got != "kept" {
						t.Errorf("%s holds %q", name, got)
					}
				}
			}
		})
	}
}

func TestLogsBelongToTheOwnerAlone(t *testing.T) {
	p := shell(t, "echo out")
	var r process.Runner
	if _, err := r.Run(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(p.Stdout); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

func TestStartErrors(t *testing.T) {
	for _, test := range []struct {
		rule string
		path func(dir string) string
	}{
		{"missing", func(dir string) string { return dir + "/missing" }},
		{"a folder", func(dir string) string { return dir }},
		{"below a file", func(string) string { return "/bin/sh/x" }},
		{"not executable", func(dir string) string { return file(dir, "#!/bin/sh\n", 0o644) }},
		{"of no known format", func(dir string) string { return file(dir, "\x7fnothing", 0o755) }},
		{"with a missing interpreter", func(dir string) string { return file(dir, "#!/nonexistent\n", 0o755) }},
	} {
		t.Run(test.rule, func(t *testing.T) {
			p := shell(t, "")
			p.Path = test.path(p.Dir)
			var r process.Runner
			if got, err := r.Run(t.Context(), p); !errors.Is(err, process.ErrStart) {
				t.Errorf("%+v, %v, want ErrStart", got, err)
			}
			noChild(t)
		})
	}
	p := shell(t, "")
	p.Dir += "/missing"
	var r process.Runner
	if _, err := r.Run(t.Context(), p); err == nil || errors.Is(err, process.ErrStart) {
		t.Errorf("a missing folder is not the executable's fault: %v", err)
	}
}

func file(dir, content string, mode os.FileMode) string {
	name := dir + "/program"
	if err := os.WriteFile(name, []byte(content), mode); err != nil {
		panic(err)
	}
	return name
}

// What the program leaves in its group ends with it, whatever it holds open.
func TestGroupEndsWithTheProgram(t *testing.T) {
	p, beacon := lit(t, `exec 9>"$1"; echo ready >&9; (trap '' TERM HUP; sleep 1000) & exit 5`)
	var r process.Runner
	got, err := r.Run(t.Context(), p)
	if err != nil || got.Status != 5 {
		t.Errorf("%+v, %v", got, err)
	}
	beacon.awaitReady(t)
	beacon.awaitEnd(t)
	noChild(t)
}

func TestStopIsGentleFirst(t *testing.T) {
	p, beacon := lit(t, `trap 'echo bye; exit 7' TERM; exec 9>"$1"; echo ready >&9; while :; do sleep 1000 & wait; done`)
	r := process.Runner{Grace: time.Hour}
	ended := aside(t.Context(), &r, p)
	beacon.awaitReady(t)
	if err := r.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if end := <-ended; end.err != nil || end.Status != 7 || read(t, p.Stdout) != "bye\n" {
		t.Errorf("%+v", end)
	}
	beacon.awaitEnd(t) // the sleep, too
}

func TestStopIsFirmAfterTheGrace(t *testing.T) {
	p, beacon := lit(t, `trap '' TERM; exec 9>"$1"; echo ready >&9; while :; do sleep 1000; done`)
	r := process.Runner{Grace: 50 * time.Millisecond}
	ended := aside(t.Context(), &r, p)
	beacon.awaitReady(t)
	if err := r.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if end := <-ended; end.err != nil || end.Status != 128+9 {
		t.Errorf("%+v", end)
	}
	beacon.awaitEnd(t)
}

func TestStopWithoutPatienceKillsAtOnce(t *testing.T) {
	p, beacon := lit(t, `trap '' TERM; exec 9>"$1"; echo ready >&9; while :; do sleep 1000; done`)
	r := process.Runner{Grace: time.Hour}
	ended := aside(t.Context(), &r, p)
	beacon.awaitReady(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Stop(ctx); err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if end := <-ended; end.Status != 128+9 {
		t.Errorf("%+v", end)
	}
}

func TestContextEndsTheProgram(t *testing.T) {
	p, beacon := lit(t, `exec 9>"$1"; echo ready >&9; sleep 1000`)
	enough := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	var r process.Runner
	ended := aside(ctx, &r, p)
	beacon.awaitReady(t)
	cancel(enough)
	if end := <-ended; !errors.Is(end.err, enough) {
		t.Errorf("%+v", end)
	}
	beacon.awaitEnd(t)
	noChild(t)
}

func TestNothingStarts(t *testing.T) {
	t.Run("after Stop", func(t *testing.T) {
		var r process.Runner
		if err := r.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		ranNot(t.Context(), t, &r)
	})
	t.Run("when nobody waits for it", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		var r process.Runner
		p := ranNot(ctx, t, &r)
		if _, err := os.Stat(p.Stdout); err == nil {
			t.Error("a log was created")
		}
	})
	t.Run("twice", func(t *testing.T) {
		var r process.Runner
		if _, err := r.Run(t.Context(), shell(t, "")); err != nil {
			t.Fatal(err)
		}
		ranNot(t.Context(), t, &r)
		if err := r.Stop(t.Context()); err != nil {
			t.Errorf("stopping what has ended: %v", err)
		}
	})
}

func ranNot(ctx context.Context, t *testing.T, r *process.Runner) process.Program {
	t.Helper()
	p := shell(t, "touch ran")
	if got, err := r.Run(ctx, p); err == nil || errors.Is(err, process.ErrStart) {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := os.Stat(p.Dir + "/ran"); err == nil {
		t.Error("it ran")
	}
	return p
}

type end struct {
	executor.Result
	err error
}

func aside(ctx context.Context, r *process.Runner, p process.Program) <-chan end {
	ended := make(chan end, 1)
	go func() {
		got, err := r.Run(ctx, p)
		ended <- end{got, err}
	}()
	return ended
}

// beacon is a named pipe that tells when a program runs, and when nobody holds it any more.
type beacon struct{ read, keep *os.File }

// lit is shell with the name of a beacon as its argument.
func lit(t *testing.T, script string) (process.Program, *beacon) {
	t.Helper()
	p := shell(t, script)
	name := p.Dir + "/beacon"
	if err := unix.Mkfifo(name, 0o600); err != nil {
		t.Fatal(err)
	}
	open := func(flag int) *os.File {
		f, err := os.OpenFile(name, flag|unix.O_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		if err := f.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		return f
	}
	p.Args = append(p.Args, name)
	return p, &beacon{keep: open(os.O_RDWR), read: open(os.O_RDONLY)}
}

func (b *beacon) awaitReady(t *testing.T) {
	t.Helper()
	if line, err := bufio.NewReader(b.read).ReadString('\n'); line != "ready\n" {
		t.Fatalf("%q, %v", line, err)
	}
}

func (b *beacon) awaitEnd(t *testing.T) {
	t.Helper()
	b.keep.Close()
	if _, err := io.Copy(io.Discard, b.read); err != nil {
		t.Fatalf("something still runs: %v", err)
	}
}
