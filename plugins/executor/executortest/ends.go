package executortest

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/plugins/executor"
)

func testEntrypoint(t T, cfg Config) {
	for _, test := range []struct {
		rule       string
		entrypoint string
		lay        func(application string) error
	}{
		{"missing", "missing", nil},
		{"a folder", "folder", func(dir string) error { return os.Mkdir(dir+"/folder", 0o755) }},
		{"the application itself", ".", nil},
		{"a path out of the application", "../secret", func(dir string) error {
			return os.WriteFile(dir+"/../secret", nil, 0o755)
		}},
		{"an absolute path", "/dev/null", nil},
		{"a link out of the application", "link", func(dir string) error {
			if err := os.WriteFile(dir+"/../secret", nil, 0o755); err != nil {
				return err
			}
			return os.Symlink("../secret", dir+"/link")
		}},
		{"a dangling link", "link", func(dir string) error { return os.Symlink("nowhere", dir+"/link") }},
		{"a link to itself", "link", func(dir string) error { return os.Symlink("link", dir+"/link") }},
		{"a pipe", "pipe", func(dir string) error { return unix.Mkfifo(dir+"/pipe", 0o666) }},
	} {
		t.Run(test.rule, func(t T) {
			j := cfg.launch(t)
			if test.lay != nil {
				if err := test.lay(filepath.Join(j.place.Assets, "application")); err != nil {
					t.Fatal(err)
				}
			}
			j.prepare(t)
			task := j.task("exit", "0")
			task.Entrypoint = test.entrypoint
			if r, err := j.Run(j.ctx, task); !errors.Is(err, executor.ErrEntrypoint) {
				t.Errorf("%+v, %v, want ErrEntrypoint", r, err)
			}
		})
	}
}

func testEnvironment(t T, j *job) {
	dir := filepath.Join(j.place.Assets, "environment")
	manifest := `{"version": 1, "executor": "nobody", "runtime": "none", "platform": "any", "packages": []}`
	if err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(filepath.Join(dir, executor.EnvironmentFile), []byte(manifest), 0o644)); err != nil {
		t.Fatal(err)
	}
	j.prepare(t)
	task := j.task("exit", "0")
	task.Environment = j.cfg.Assets + "/environment"
	if r, err := j.Run(j.ctx, task); !errors.Is(err, executor.ErrEnvironment) {
		t.Errorf("%+v, %v, want ErrEnvironment", r, err)
	}
}

func testInnerLink(t T, j *job) {
	if err := os.Symlink(j.cfg.Probe, filepath.Join(j.place.Assets, "application", "link")); err != nil {
		t.Fatal(err)
	}
	task := j.task("args", "x")
	task.Entrypoint = "link"
	if out := j.run(t, task); string(out) != "x\x00" {
		t.Errorf("%q", out)
	}
}

func testStop(t T, j *job) {
	j.prepare(t)
	beacon := j.beacon(t)
	ended := j.runAside(j.ctx, j.task("wait", j.cfg.Work+"/dir/beacon"))
	beacon.awaitReady(t)
	if err := j.Stop(j.ctx); err != nil {
		t.Fatal(err)
	}
	beacon.awaitEnd(t)
	if end := <-ended; end.err != nil || end.Succeeded() {
		t.Errorf("%+v, %v, want the status that it was stopped with", end.Result, end.err)
	}
	if err := j.Stop(j.ctx); err != nil {
		t.Errorf("stopping again: %v", err)
	}
}

func testStopFirst(t T, j *job) {
	j.prepare(t)
	if err := j.Stop(j.ctx); err != nil {
		t.Fatal(err)
	}
	if r, err := j.Run(j.ctx, j.task("exit", "0")); err == nil {
		t.Errorf("it ran: %+v", r)
	}
}

func testCancel(t T, j *job) {
	j.prepare(t)
	beacon := j.beacon(t)
	enough := errors.New("enough")
	ctx, cancel := context.WithCancelCause(j.ctx)
	ended := j.runAside(ctx, j.task("wait", j.cfg.Work+"/dir/beacon"))
	beacon.awaitReady(t)
	cancel(enough)
	if end := <-ended; !errors.Is(end.err, enough) {
		t.Errorf("%+v, %v, want the cause of the context", end.Result, end.err)
	}
	beacon.awaitEnd(t)
	select {
	case <-j.Done():
		t.Error("the executor itself is gone")
	default:
	}
}

func testBackground(t T, j *job) {
	if j.cfg.Alone {
		t.Skip("its programs start no other")
	}
	beacon := j.beacon(t)
	j.run(t, j.task("background", j.cfg.Work+"/dir/beacon"))
	if err := j.Kill(); err != nil {
		t.Fatal(err)
	}
	beacon.awaitEnd(t)
}

func testKill(t T, j *job) {
	j.prepare(t)
	beacon := j.beacon(t)
	ended := j.runAside(j.ctx, j.task("wait", j.cfg.Work+"/dir/beacon"))
	beacon.awaitReady(t)
	for range 2 {
		if err := j.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	if end := <-ended; !errors.Is(end.err, executor.ErrGone) {
		t.Errorf("Run: %+v, %v, want ErrGone", end.Result, end.err)
	}
	beacon.awaitEnd(t)
	select {
	case <-j.Done():
	default:
		t.Error("killed, and not done")
	}
	if _, err := j.Describe(j.ctx); !errors.Is(err, executor.ErrGone) {
		t.Errorf("Describe: %v, want ErrGone", err)
	}
	if len(j.Walls()) == 0 {
		t.Error("no wall has a name")
	}
}

type end struct {
	executor.Result
	err error
}

// runAside runs a task in a goroutine.
func (j *job) runAside(ctx context.Context, task executor.Task) <-chan end {
	ended := make(chan end, 1)
	go func() {
		r, err := j.Run(ctx, task)
		ended <- end{r, err}
	}()
	return ended
}

// beacon is a named pipe that the probe's "wait" opens: it tells when that process runs and
// when it has ended, whatever process namespace it lives in.
type beacon struct {
	name       string
	read, keep *os.File
}

func (j *job) beacon(t T) *beacon {
	t.Helper()
	name := filepath.Join(j.place.Work, "dir/beacon")
	if err := unix.Mkfifo(name, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(name, j.place.Owner, j.place.Owner); err != nil {
		t.Fatal(err)
	}
	b := &beacon{name: name, keep: open(t, name, os.O_RDWR), read: open(t, name, os.O_RDONLY)}
	return b
}

func open(t T, name string, flag int) *os.File {
	t.Helper()
	f, err := os.OpenFile(name, flag|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	if err := f.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return f
}

// awaitReady returns when the probe has opened the pipe.
func (b *beacon) awaitReady(t T) {
	t.Helper()
	if line, err := bufio.NewReader(b.read).ReadString('\n'); line != "ready\n" {
		t.Fatalf("%q, %v", line, err)
	}
}

// awaitEnd returns when no process holds the pipe open any more.
func (b *beacon) awaitEnd(t T) {
	t.Helper()
	_ = b.keep.Close()
	if _, err := io.Copy(io.Discard, b.read); err != nil {
		t.Fatalf("the application still runs: %v", err)
	}
}
