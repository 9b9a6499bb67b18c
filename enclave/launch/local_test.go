package launch_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/core"
	"github.com/cloister-run/cloister/core/receipt"
	"github.com/cloister-run/cloister/enclave/client"
	"github.com/cloister-run/cloister/enclave/image"
	"github.com/cloister-run/cloister/enclave/launch"
	"github.com/cloister-run/cloister/enclave/launch/launchtest"
	"github.com/cloister-run/cloister/jobspec"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == hostileArg {
		playHostile(os.Args[2:])
		return
	}
	status := launchtest.Main(m)
	if err := goleak.Find(); status == 0 && err != nil {
		println(err.Error())
		status = 1
	}
	os.Exit(status)
}

// TestAsOrdinaryUser runs every test once more, as a user with no rights.
func TestAsOrdinaryUser(t *testing.T) {
	launchtest.AsOrdinaryUser(t, filepath.Dir(launchtest.Image(t)), nil)
}

// job is a job in a folder of its own.
type job struct{ dir, text string }

const header = `version: 1
name: probe
application: {from: app, command: {entrypoint: main.py, args: ["${inputs.in}", "${outputs.out}"], outputs: {out: out}}}
inputs: {in: {from: in}}
outputs: {out: {save_to: out}}
limits: {memory: 512MiB, disk: 16MiB}
`

func newJob(t testing.TB, input, app string) job {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "app"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"app/main.py": app, "in": input} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return job{dir, header}
}

func (j job) run(ctx context.Context, t *testing.T, cfg client.Config, o client.Observer) (*client.Report, error) {
	t.Helper()
	spec, err := jobspec.Parse("job.yaml", []byte(j.text))
	if err != nil {
		t.Fatal(err)
	}
	p, err := client.Prepare(spec, client.Options{Dir: j.dir})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	c, err := client.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.Run(ctx, p, o, func(*client.Report) error { return nil })
}

func (j job) out() string {
	content, _ := os.ReadFile(filepath.Join(j.dir, "out")) // empty if nothing landed
	return string(content)
}

func TestConsole(t *testing.T) {
	for name, row := range map[string]struct {
		lines []string
		ready bool
	}{
		"ready":                    {[]string{"cloisterd: booting\n", image.Ready + "\n"}, true},
		"ready after a long story": {[]string{strings.Repeat("line\n", 100_000), image.Ready + "\n"}, true},
		"never":                    {[]string{"cloisterd: error: no profile\n"}, false},
		"not a whole line":         {[]string{image.Ready}, false},
	} {
		kept, ready, err := launch.ReadConsole(row.lines...)
		if err != nil || ready != row.ready {
			t.Errorf("%s: ready is %v, %v", name, ready, err)
		}
		if last := row.lines[len(row.lines)-1]; !strings.HasSuffix(kept, last) || len(kept) > 64<<10 {
			t.Errorf("%s: %d bytes were kept, the last of them %q", name, len(kept), kept[max(0, len(kept)-20):])
		}
	}
}

// A machine that ends says why with its last words: they are kept, and nobody waits for a process that has the
// console and writes no more.
func TestLastWords(t *testing.T) {
	for range 100 {
		if said, err := launch.LastWords("booting\n", "no memory\n"); err != nil || said != "booting\nno memory\n" {
			t.Fatalf("%q, %v", said, err)
		}
	}
}

// Why a machine ended is what its devices say, or that it did, and a few last words of what it wrote.
func TestWhyAMachineEnded(t *testing.T) {
	long := strings.Repeat(strings.Repeat("x", 60<<10)+"\n", 19)
	for name, row := range map[string]struct {
		err   error
		lines []string
		want  string // the beginning
		end   string
	}{
		"the guest broke a rule": {errors.New("the machine's sockets: descriptor 7"), nil, "the machine's sockets: descriptor 7", "7"},
		"it ended":               {nil, []string{"booting\n", "out of memory\n\n"}, "the machine ended\nbooting\n", "\nout of memory"},
		"it wrote much":          {nil, []string{long, "é panic\n"}, "the machine ended\n", "xx\né panic"},
		"no whole letters":       {nil, []string{"a" + strings.Repeat("é", 6000)}, "the machine ended\n", "éé"},
	} {
		said, err := launch.WhyOf(row.err, row.lines...)
		if err != nil || !strings.HasPrefix(said, row.want) || !strings.HasSuffix(said, row.end) {
			t.Errorf("%s: %.80q … %q, %v", name, said, said[max(0, len(said)-20):], err)
		}
		if len(said) > 8<<10+100 || !utf8.ValidString(said) {
			t.Errorf("%s: %d bytes", name, len(said))
		}
	}
}

// TestAConsoleIsFollowed: whoever follows gets what was kept and what comes, each once and in order.
func TestAConsoleIsFollowed(t *testing.T) {
	r, w := io.Pipe()
	write, done, err := launch.FollowConsole(t.Context(), 1<<20, w)
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(r)
	for i := range 100 {
		line := fmt.Sprintf("line %d", i)
		if err := write(line + "\n"); err != nil {
			t.Fatal(err)
		}
		if !lines.Scan() || lines.Text() != line {
			t.Fatalf("%q, want %q", lines.Text(), line)
		}
	}
	if err := done(); err != nil {
		t.Error(err)
	}
}

func TestNoImage(t *testing.T) {
	cfg, _ := bare(t)
	cfg.Image = t.TempDir()
	_, err := launch.Local(t.Context(), cfg)
	if !errors.Is(err, launch.ErrStart) {
		t.Errorf("error %v, want %v", err, launch.ErrStart)
	}
}

// TestFailureShowsTheReason: what the daemon said last is what the caller is told.
func TestFailureShowsTheReason(t *testing.T) {
	broken := t.TempDir()
	if err := os.CopyFS(broken, os.DirFS(launchtest.Image(t))); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(broken, "profile.json"), []byte(`{"realm":""}`), 0o644); err != nil {
		t.Fatal(err)
	}
	cfg, _ := bare(t)
	cfg.Image = broken
	_, err := launch.Local(t.Context(), cfg)
	if !errors.Is(err, launch.ErrStart) || !strings.Contains(err.Error(), "profile.realm") {
		t.Errorf("error %v", err)
	}
}

func TestContextEndsDuringStart(t *testing.T) {
	stopped := errors.New("stopped")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(stopped)
	cfg, _ := bare(t)
	if _, err := launch.Local(ctx, cfg); !errors.Is(err, stopped) {
		t.Errorf("error %v, want %v", err, stopped)
	}
	for _, after := range []time.Duration{time.Millisecond, 5 * time.Millisecond, 20 * time.Millisecond} {
		ctx, cancel := context.WithTimeoutCause(t.Context(), after, stopped)
		e, err := launch.Local(ctx, cfg)
		cancel()
		switch {
		case err == nil:
			err = e.Stop() // it was faster
		case errors.Is(err, stopped):
			err = nil
		}
		if err != nil {
			t.Errorf("after %v: %v", after, err)
		}
	}
}

func TestStopTwice(t *testing.T) {
	e := start(t)
	pid := e.PID()
	for range 2 {
		if err := e.Stop(); err != nil {
			t.Error(err)
		}
	}
	if err := unix.Kill(pid, 0); !errors.Is(err, unix.ESRCH) {
		t.Errorf("the enclave's first process: %v", err)
	}
	if _, err := e.Dial(t.Context()); err == nil {
		t.Error("an enclave that was stopped answers")
	}
}

// TestMissingPython: the fault is the runtime's, and the message names where one was sought.
func TestMissingPython(t *testing.T) {
	cfg, known := bare(t)
	e, err := launch.WithoutMachine(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Stop()
	known.Dial = e.Dial
	j := newJob(t, "", "")
	report, err := j.run(t.Context(), t, known, client.Observer{})
	if err != nil {
		t.Fatal(err)
	}
	if r := report.Result; r.Outcome != receipt.Broken || r.Fault != core.FaultRuntime || len(report.Landed) > 0 {
		t.Errorf("%+v", r)
	}
}

// TestUnknownExecutor: it is refused before anything is sent, and what there is is named.
func TestUnknownExecutor(t *testing.T) {
	j := newJob(t, "", "")
	j.text = strings.Replace(header, "entrypoint:", "executor: cobol, entrypoint:", 1)
	_, err := j.run(t.Context(), t, trust(start(t)), client.Observer{})
	if err == nil || !strings.Contains(err.Error(), `"cobol" (installed: exec, node, python, wasi)`) {
		t.Errorf("error %v", err)
	}
}

// TestI9KilledEnclave: the daemon is killed while the application runs.
func TestI9KilledEnclave(t *testing.T) {
	e := start(t)
	j := newJob(t, "secret", "import shutil, sys, time; shutil.copy(sys.argv[1], sys.argv[2]); time.sleep(3600)")
	_, err := j.run(t.Context(), t, trust(e), client.Observer{Phase: func(p core.Phase) {
		if p == core.Executing {
			_ = unix.Kill(e.PID(), unix.SIGKILL)
		}
	}})
	if !errors.Is(err, client.ErrUnavailable) {
		t.Errorf("error %v, want %v", err, client.ErrUnavailable)
	}
	<-e.Ended()
	if why := e.Why(); !strings.Contains(why.Error(), "status 137") || !strings.Contains(why.Error(), image.Ready) {
		t.Errorf("why it ended: %v", why)
	}
	j.nothingLanded(t)
}

// TestI9CutRelease: the connection breaks, or the enclave is killed, while an output arrives.
func TestI9CutRelease(t *testing.T) {
	const size = 8 << 20
	for name, end := range map[string]func(*launch.Simulated, net.Conn){
		"connection": func(_ *launch.Simulated, c net.Conn) { c.Close() },
		"enclave":    func(e *launch.Simulated, _ net.Conn) { _ = unix.Kill(e.PID(), unix.SIGKILL) },
	} {
		t.Run(name, func(t *testing.T) {
			e := start(t)
			j := newJob(t, "", "import sys; open(sys.argv[2], 'wb').write(b'x' * (8 << 20))")
			cfg := trust(e)
			cfg.Dial = func(ctx context.Context) (net.Conn, error) {
				c, err := e.Dial(ctx)
				return &cutConn{Conn: c, left: size / 2, cut: func() { end(e, c) }}, err
			}
			_, err := j.run(t.Context(), t, cfg, client.Observer{})
			if !errors.Is(err, client.ErrUnavailable) {
				t.Errorf("error %v, want %v", err, client.ErrUnavailable)
			}
			j.nothingLanded(t)
		})
	}
}

// cutConn calls cut when left bytes were read.
type cutConn struct {
	net.Conn
	left int
	cut  func()
}

func (c *cutConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.left -= n; c.left <= 0 && n > 0 {
		c.cut()
		return n, io.ErrUnexpectedEOF
	}
	return n, err
}

func (j job) nothingLanded(t *testing.T) {
	t.Helper()
	entries, err := os.ReadDir(j.dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("there is %v, %v", entries, err)
	}
}
