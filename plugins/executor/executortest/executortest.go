// Package executortest says what an executor must do: [Run] is the suite that every executor
// passes, over real gRPC and through a real host, and [Fake] is an executor in memory for the
// tests of whoever uses one.
//
// The suite asks for one program, the probe, written for the runtime in question. Its first
// argument is one of these words:
//
//	args …         write each further argument and a NUL to stdout
//	env            write NAME=VALUE and a NUL to stdout, for every variable
//	dir            write the working directory to stdout
//	print OUT ERR  write OUT to stdout and ERR to stderr, byte for byte
//	exit N         end with status N
//	signal N       end by sending itself signal N
//	fill N         write N bytes to stdout: "0123456789abcdef" over and over
//	stdin          read stdin to its end, and write the number of bytes read to stdout
//	wait FILE      open FILE for writing, write "ready" and a newline, keep FILE open and
//	               do nothing for ever
//	background FILE  start a child that shares stdout and stderr and does "wait FILE"; end with
//	               status 0 without waiting for it
package executortest

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cloister-run/cloister/plugins/executor"
)

// Session is one launched executor: what the host gives its user.
type Session interface {
	executor.Executor
	// Kill ends the executor and everything that it started, and returns when it is gone.
	Kill() error
	// Done is closed when the executor is gone.
	Done() <-chan struct{}
	// Walls says what enforces each limit.
	Walls() []string
}

// Config says which executor the suite is about.
type Config struct {
	// Launch starts the executor for one job. Required.
	Launch func(ctx context.Context, place executor.Place) (Session, error)
	// Description is what the executor must say of itself. Required.
	Description executor.Description
	// Application is a folder that holds the probe; Probe is its entrypoint. Required.
	Application, Probe string
	// Alone says that a program is one process and knows no other, as in WebAssembly: the probe has
	// neither signal nor background.
	Alone bool
	// Assets and Work are where the executor sees the folders of a place: those of package
	// executor behind walls. Empty: where they are.
	Assets, Work string
	// Place makes the folders of one job [Place].
	Place func(TB) executor.Place
}

// patience bounds each test of the suite: it passes within seconds or something hangs.
const patience = 2 * time.Minute

// Run runs the suite as a test of Go.
func Run(t *testing.T, cfg Config) { suite(goTest{t}, cfg) }

// suite is one test for each rule.
func suite(t T, cfg Config) {
	if cfg.Place == nil {
		cfg.Place = Place
	}
	for _, test := range []struct {
		rule string
		run  func(T, *job)
	}{
		{"describes itself as its manifest does", testDescribe},
		{"names its runtime", testPrepare},
		{"is called in order and once", testOrder},
		{"tells how the application ended", func(t T, _ *job) { testStatus(t, cfg) }},
		{"hands over arguments byte for byte", testArgs},
		{"hands over the longest argument", testLongArg},
		{"hands over the job's variables, its own win", testEnv},
		{"starts in the job's folder", testDir},
		{"keeps stdout and stderr apart, in their files and nowhere else", testLogs},
		{"discards what nobody asked for", testDiscard},
		{"overwrites no file", testNoOverwrite},
		{"follows no link to a log", testNoLink},
		{"gives an empty stdin", testStdin},
		{"loses nothing of a large output", testLargeOutput},
		{"runs nothing but a file of the application", func(t T, _ *job) { testEntrypoint(t, cfg) }},
		{"runs through a link that stays inside", testInnerLink},
		{"runs in no environment that is made for another executor", testEnvironment},
		{"ends a sleeping application when stopped", testStop},
		{"runs nothing after it was stopped", testStopFirst},
		{"ends the application when nobody waits any more", testCancel},
		{"waits for no child in the background", testBackground},
		{"is gone when killed", testKill},
	} {
		t.Run(test.rule, func(t T) { test.run(t, cfg.launch(t)) })
	}
}

// Place makes the folders of one job, owned by whoever runs the test.
func Place(t TB) executor.Place {
	t.Helper()
	// Neither t.TempDir nor any TMPDIR: its name can be longer than the address of a socket may be, 107
	// bytes (unix(7)).
	base := os.TempDir()
	if len(base) > 48 {
		base = "/tmp"
	}
	dir, err := os.MkdirTemp(base, "place")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	p := executor.Place{
		Assets: filepath.Join(dir, "assets"),
		Work:   filepath.Join(dir, "work"),
		Socket: filepath.Join(dir, "socket"),
		Owner:  -1,
	}
	for _, dir := range []string{p.Assets, p.Work, p.Socket} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// job is one launched executor with its folders.
type job struct {
	Session
	cfg   Config
	place executor.Place
	ctx   context.Context
}

func (cfg Config) launch(t T) *job {
	t.Helper()
	place := cfg.Place(t)
	if cfg.Assets == "" {
		cfg.Assets = place.Assets
	}
	if cfg.Work == "" {
		cfg.Work = place.Work
	}
	if err := os.CopyFS(filepath.Join(place.Assets, "application"), os.DirFS(cfg.Application)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"dir", "logs", "tmp"} {
		dir := filepath.Join(place.Work, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(dir, place.Owner, place.Owner); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	s, err := cfg.Launch(ctx, place)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Kill(); err != nil {
			t.Error(err)
		}
	})
	return &job{Session: s, cfg: cfg, place: place, ctx: ctx}
}

// task is the probe with args, logs and all.
func (j *job) task(args ...string) executor.Task {
	return executor.Task{
		Application: j.cfg.Assets + "/application",
		Entrypoint:  j.cfg.Probe,
		Args:        args,
		Dir:         j.cfg.Work + "/dir",
		Stdout:      j.cfg.Work + "/logs/stdout",
		Stderr:      j.cfg.Work + "/logs/stderr",
	}
}

// prepare brings the session to where Run is next.
func (j *job) prepare(t T) {
	t.Helper()
	if _, err := j.Describe(j.ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := j.Prepare(j.ctx); err != nil {
		t.Fatal(err)
	}
}

// run runs a task that must end with status 0, and gives its stdout.
func (j *job) run(t T, task executor.Task) []byte {
	t.Helper()
	j.prepare(t)
	r, err := j.Run(j.ctx, task)
	if err != nil {
		t.Fatal(err)
	}
	if r.Status != 0 {
		t.Fatalf("status %d; stderr: %s", r.Status, j.log(t, "stderr"))
	}
	if task.Stdout == "" {
		return nil
	}
	return j.log(t, "stdout")
}

func (j *job) log(t T, name string) []byte {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(j.place.Work, "logs", name))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}
