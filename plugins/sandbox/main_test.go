package sandbox_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/plugins/sandbox"
)

// The environment of a test binary that is not to run tests.
const (
	probeVar = "CLOISTER_PROBE" // be a probe: its name; the arguments are the probe's
	wallsVar = "CLOISTER_WALLS" // be another user's test: where cloister-walls is
)

// noDelay keeps a probe under the race detector from staying a second longer.
const noDelay = "GORACE=atexit_sleep_ms=0"

// nobody runs the tests as an ordinary user, someone is whom root gives a sandbox.
const (
	nobody  = 65534
	someone = 64321
)

// deadline is for what happens at once on a machine that is not overwhelmed.
const deadline = 30 * time.Second

var (
	wallsPath string // cloister-walls, readable by everybody
	selfPath  string // this test binary, readable by everybody
)

func TestMain(m *testing.M) {
	if name := os.Getenv(probeVar); name != "" {
		os.Exit(probes()[name](os.Args[1:]))
	}
	os.Exit(testMain(m))
}

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "cloister-walls-test")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	wallsPath, selfPath = os.Getenv(wallsVar), os.Args[0]
	if wallsPath == "" {
		if err := install(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	if status := m.Run(); status != 0 {
		return status
	}
	if err := goleak.Find(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// install puts cloister-walls and this binary where another user can execute them.
func install(dir string) error {
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	wallsPath, selfPath = filepath.Join(dir, "cloister-walls"), filepath.Join(dir, "self")
	build := exec.Command("go", "build", "-o", wallsPath, "github.com/cloister-run/cloister/cmd/cloister-walls")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return err
	}
	return os.WriteFile(selfPath, self, 0o755)
}

// everybody runs a test as who started it and, if that is root, once more as an ordinary user.
func everybody(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	if os.Geteuid() != 0 {
		test(t)
		return
	}
	t.Run("root", test)
	t.Run("ordinary user", func(t *testing.T) {
		name, _, _ := strings.Cut(t.Name(), "/")
		again := exec.CommandContext(t.Context(), selfPath, "-test.run=^"+name+"$", "-test.v", "-test.count=1")
		again.Dir = "/"
		again.Env = []string{"PATH=/usr/bin:/bin", wallsVar + "=" + wallsPath, noDelay}
		again.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		out, err := again.CombinedOutput()
		if err != nil || !bytes.Contains(out, []byte("--- PASS: "+name)) || bytes.Contains(out, []byte("--- SKIP")) {
			t.Errorf("%v\n%s", err, out)
		}
	})
}

// spec describes a sandbox with the machine's programs and this binary as the probe name.
func spec(t *testing.T, name string, args ...string) sandbox.Spec {
	t.Helper()
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { self.Close() })
	s := sandbox.Spec{
		Init:   wallsPath,
		Root:   folder(t, 0o755),
		Mounts: system(),
		Path:   "/proc/self/fd/3",
		Args:   args,
		Env:    []string{probeVar + "=" + name, noDelay},
		Owner:  owner(),
		Stderr: os.Stderr,
		Files:  []*os.File{self},
	}
	return s
}

// system are the machine's programs and libraries, for a dynamically linked test binary too.
func system() []sandbox.Mount {
	return []sandbox.Mount{
		{Source: "/usr", Target: "/usr"},
		{Link: "usr/bin", Target: "/bin"},
		{Link: "usr/lib", Target: "/lib"},
		{Link: "usr/lib64", Target: "/lib64"},
	}
}

func owner() int {
	if os.Geteuid() == 0 {
		return someone
	}
	return -1
}

// folder makes a folder of the one whom the sandbox is, which that one can reach.
func folder(t *testing.T, mode os.FileMode) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "cloister-sandbox-test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if os.Geteuid() == 0 {
		if err := os.Chown(dir, someone, someone); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, mode); err != nil {
		t.Fatal(err)
	}
	return dir
}

// start starts a sandbox that the test does not outlive.
func start(t *testing.T, s sandbox.Spec) *sandbox.Process {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	p, err := sandbox.Start(ctx, s)
	if err != nil {
		if u, ok := errors.AsType[*sandbox.UnavailableError](err); ok {
			t.Fatalf("%v (cure: %s)", err, u.Cure)
		}
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Kill(); err != nil {
			t.Error(err)
		}
		if _, err := p.Wait(); err != nil {
			t.Error(err)
		}
		var zombie unix.Siginfo
		err := unix.Waitid(unix.P_ALL, 0, &zombie, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		if err == nil && zombie.Signo != 0 {
			t.Error("a zombie is left")
		}
	})
	return p
}

// run runs a sandbox to its end and gives its output and exit status.
func run(t *testing.T, s sandbox.Spec) (string, int) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	s.Stdout = w
	p := start(t, s)
	w.Close()
	if err := r.SetReadDeadline(time.Now().Add(deadline)); err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(io.LimitReader(r, 1<<20))
	if err != nil {
		t.Fatalf("reading the output: %v (so far: %s)", err, out)
	}
	status, err := p.Wait()
	if err != nil {
		t.Fatal(err)
	}
	return string(out), status
}

// attempt is a way out that a probe tries inside, and what must come of it.
type attempt struct {
	rule string
	try  func() error
	want []error // one of them; nil is success
}

func refused(rule string, try func() error, want ...error) attempt { return attempt{rule, try, want} }
func works(rule string, try func() error) attempt                  { return attempt{rule, try, []error{nil}} }

// tryAll makes the attempts of a table inside s and checks each.
func tryAll(t *testing.T, s sandbox.Spec, table []attempt) {
	t.Helper()
	out, status := run(t, s)
	if status != 0 {
		t.Fatalf("the probe ended with %d: %s", status, out)
	}
	var results map[string]result
	if err := json.Unmarshal([]byte(out), &results); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	for _, a := range table {
		t.Run(a.rule, func(t *testing.T) {
			got, ok := results[a.rule]
			if !ok {
				t.Fatal("was not tried")
			}
			for _, want := range a.want {
				errno, _ := errors.AsType[unix.Errno](want)
				if want == nil && got.Error == "" || want != nil && got.Errno == int(errno) {
					return
				}
			}
			t.Errorf("got %+v, want one of %v", got, a.want)
		})
	}
}

// result is what came of an attempt.
type result struct {
	Error string
	Errno int
}

// report makes the attempts inside and writes what came of them.
func report(table []attempt) int {
	results := make(map[string]result)
	for _, a := range table {
		var r result
		if err := a.try(); err != nil {
			errno, _ := errors.AsType[unix.Errno](err)
			r = result{err.Error(), int(errno)}
		}
		results[a.rule] = r
	}
	if err := json.NewEncoder(os.Stdout).Encode(results); err != nil {
		return 1
	}
	return 0
}
