package launch_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/core"
	"github.com/cloister-run/cloister/core/receipt"
	"github.com/cloister-run/cloister/enclave/client"
	"github.com/cloister-run/cloister/enclave/image"
	"github.com/cloister-run/cloister/enclave/launch"
	"github.com/cloister-run/cloister/enclave/launch/launchtest"
	"github.com/cloister-run/cloister/plugins/executor"
	"github.com/cloister-run/cloister/plugins/sdk"
)

// hostileArg makes the test binary the hostile executor, or what that starts: its first argument. It is
// also how a test finds whatever of it still runs.
const hostileArg = "cloister-test-hostile"

// large is the size of what the hostile executor writes: too much to read in no time.
const large = 8 << 20

// playHostile is the main of the test binary as the executor: the process itself, a child in a session
// of its own, and a grandchild in another one, whose parent ends.
func playHostile(args []string) {
	switch args[0] {
	case "executor":
		sdk.Serve(hostile{})
	case "middle":
		must(startHostile("daemon", args[1], os.NewFile(3, "ready")))
	case "daemon":
		signal.Ignore(unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT)
		f, err := os.OpenFile(args[1], os.O_RDWR, 0)
		must(err)
		mapped, err := unix.Mmap(int(f.Fd()), 0, large, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		must(err)
		_, err = fmt.Fprintln(os.NewFile(3, "ready"), "ready")
		must(err)
		for {
			for at := 0; at < large; at += 4096 {
				mapped[at]++
			}
		}
	}
}

func startHostile(what, output string, ready *os.File) error {
	c := exec.Command("/proc/self/exe", hostileArg, what, output)
	c.ExtraFiles = []*os.File{ready}
	c.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	return c.Start()
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(99)
	}
}

// hostile is an executor that forks away: what it leaves writes to the output for ever. It then ends as
// its input says.
type hostile struct{}

var _ executor.Executor = hostile{}

func (hostile) Describe(context.Context) (executor.Description, error) {
	return executor.Description{Name: "hostile", Version: "1"}, nil
}

func (hostile) Prepare(context.Context) (executor.Runtime, error) {
	return executor.Runtime{Name: "hostile", Version: "1"}, nil
}

func (hostile) Run(_ context.Context, task executor.Task) (executor.Result, error) {
	how, err := os.ReadFile(task.Args[0])
	must(err)
	must(os.WriteFile(task.Args[1], make([]byte, large), 0o600))
	r, w, err := os.Pipe()
	must(err)
	must(startHostile("middle", task.Args[1], w))
	must(w.Close())
	_, err = bufio.NewReader(r).ReadString('\n')
	must(err)
	switch string(how) {
	case "exits":
		os.Exit(0)
	case "hangs":
		select {}
	}
	return executor.Result{}, nil
}

func (hostile) Stop(context.Context) error { select {} }

// hostileImage is the image with the hostile executor in it.
func hostileImage(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(launchtest.Image(t))); err != nil {
		t.Fatal(err)
	}
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	program, err := os.OpenFile(filepath.Join(dir, image.Executors, "hostile-program"), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.New()
	_, err = io.Copy(io.MultiWriter(program, sum), self)
	manifest := fmt.Sprintf(`{"name": "hostile", "version": "1", "protocol": 1, "executable": "hostile-program", "args": [%q, "executor"], "sha256": "%x"}`,
		hostileArg, sum.Sum(nil))
	own := filepath.Join(dir, image.Executors, "hostile")
	if err := errors.Join(err, program.Close(), os.Mkdir(own, 0o755), os.WriteFile(own+"/manifest.json", []byte(manifest), 0o644)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestI1ExecutorForksAway: an executor leaves a daemon behind that writes to the output through a mapping. Nothing
// of it is left when the output is frozen, so what is released is what was judged, however the executor ends.
func TestI1ExecutorForksAway(t *testing.T) {
	e := startOf(t, launch.Simulation{Image: hostileImage(t), Home: newHome(t), KMS: noKMS})
	for how, want := range map[string]core.Result{
		"returns": {Outcome: receipt.Succeeded},
		"exits":   {Outcome: receipt.Broken, Fault: core.FaultGone},
		"hangs":   {Outcome: receipt.TimedOut},
	} {
		t.Run(how, func(t *testing.T) {
			j := newJob(t, how, "")
			j.text = strings.NewReplacer("entrypoint:", "executor: hostile, entrypoint:", "memory: 512MiB", "run: 2s, memory: 1GiB").Replace(header)
			if how != "hangs" {
				j.text = strings.Replace(j.text, "run: 2s, ", "", 1)
			}
			report, err := j.run(t.Context(), t, trust(e), client.Observer{})
			if err != nil {
				t.Fatal(err)
			}
			if r := report.Result; r.Outcome != want.Outcome || r.Fault != want.Fault {
				t.Errorf("%+v", r)
			}
			if got, released := len(j.out()), want.Outcome == receipt.Succeeded; released != (got == large) || !released && got > 0 {
				t.Errorf("%d bytes landed", got)
			}
			if left := running(t, hostileArg); len(left) > 0 {
				t.Errorf("%v still run", left)
			}
			nothingLeft(t, e)
		})
	}
}

// running lists the processes of this machine with a word among their arguments, but for this one.
func running(t *testing.T, word string) (found []string) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range all {
		raw, _ := os.ReadFile(path) // it may have ended
		if path != fmt.Sprintf("/proc/%d/cmdline", os.Getpid()) && strings.Contains(string(raw), word) {
			found = append(found, path)
		}
	}
	return found
}

// nothingLeft checks that an enclave has no folder of any job.
func nothingLeft(t *testing.T, e *launch.Simulated) {
	t.Helper()
	left, err := os.ReadDir(fmt.Sprintf("/proc/%d/root%s", e.PID(), image.State))
	if err != nil || len(left) > 0 {
		t.Errorf("the enclave holds %v, %v", left, err)
	}
}

// planter leaves what would run in, or tell something to, the next job, wherever anything can be left:
// what Python, the loader and shells look for, System V's shared memory, and a daemon.
const planter = `
import ctypes, os, site, sys
own = open(sys.argv[1]).read()
home = os.environ["HOME"]
places = {"/", "/tmp", "/var/tmp", "/dev/shm", "/run", "/run/plugin", "/etc", "/etc/profile.d", "/etc/ld.so.conf.d", "/root", "/job", "/job/application",
    "/work", "/work/outputs", "/work/logs", "/cloister", "/rootfs", "/opt", "/usr/bin", "/usr/lib", "/usr/local/bin", home, site.getusersitepackages(),
    *site.getsitepackages(), *(p for p in sys.path if p), os.path.dirname(os.__file__), os.path.dirname(os.path.realpath(sys.executable))}
names = ["sitecustomize.py", "usercustomize.py", own + ".pth", "os.py", "json.py", "ld.so.preload", "ld.so.conf", ".bashrc", ".profile", "profile", ".pythonrc", "python3"]
planted = []
for place in sorted(places):
    try: os.makedirs(place, exist_ok=True)
    except OSError: pass
    for name in [*names, own]:
        try:
            with open(f"{place}/{name}", "w") as f: f.write(f"import sys; sys.trick = '{own}'\n")
            if name == own: planted.append(place)
        except OSError: pass
libc = ctypes.CDLL(None)
planted.append(f"System V: {libc.shmget(4711, 4096, 0o1666) >= 0}")
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0: os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(3600)", own])
    os._exit(0)
os.wait()
open(sys.argv[2], "w").write("\n".join(planted) + "\n")
`

// startup looks for what was planted from where it would have its effect: before the first line.
const startup = `
import sys
early = sorted(sys.modules)
import ctypes, os
found = [f"{name} comes from {sys.modules[name].__file__}" for name in early if name in ("sitecustomize", "usercustomize")
    and not os.path.realpath(sys.modules[name].__file__).startswith(("/usr/", "/etc/python"))]
if hasattr(sys, "trick"): found.append("a trick was played: " + sys.trick)
if ctypes.CDLL(None).shmget(4711, 0, 0) >= 0: found.append("System V")
open(sys.argv[2], "w").write("\n".join(found) + "\n")
`

// TestI9NextJob: nothing that a job leaves anywhere is there for the next one in the same enclave, and nothing
// of it runs in it.
func TestI9NextJob(t *testing.T) {
	e := start(t)
	const trick = "trick-of-the-first"
	first := newJob(t, trick, planter)
	if _, err := first.run(t.Context(), t, trust(e), client.Observer{}); err != nil {
		t.Fatal(err)
	}
	for _, place := range []string{"/tmp", "/dev/shm", "/work", "/work/tmp", "/work/outputs", "/run/plugin", "System V: True"} {
		if !strings.Contains("\n"+first.out(), "\n"+place+"\n") {
			t.Errorf("nothing was left at %s:\n%s", place, first.out())
		}
	}
	if left := running(t, trick); len(left) > 0 {
		t.Errorf("%v still run", left)
	}
	nothingLeft(t, e)
	for name, app := range map[string]string{"search": seeker, "startup": startup} {
		next := newJob(t, "marker-of-the-next "+trick+" go", app)
		if _, err := next.run(t.Context(), t, trust(e), client.Observer{}); err != nil {
			t.Fatal(err)
		}
		if next.out() != "\n" {
			t.Errorf("%s: the next job finds:\n%s", name, next.out())
		}
	}
}

// TestI6ApplicationInheritsNothing: of its executor and of the enclave an application has three descriptors that
// lead nowhere, and sees no file.
func TestI6ApplicationInheritsNothing(t *testing.T) {
	const look = `
import fcntl, glob, os, sys
found = []
for name in os.listdir("/proc/self/fd"):
    try: target, flags = os.readlink(f"/proc/self/fd/{name}"), fcntl.fcntl(int(name), fcntl.F_GETFD)
    except OSError: continue
    if not flags & fcntl.FD_CLOEXEC and (int(name) > 2 or target != "/dev/null"): found.append(f"{name} is {target}")
for path in "/cloister", "/cloister/cloisterd", "/rootfs", "/host", "/sys", "/var/lib/cloister", "/run/cloister", "/proc/1/exe", "/proc/1/root/cloister":
    try: os.close(os.open(path, os.O_RDONLY)); found.append(path)
    except OSError: pass
for path in glob.glob("/proc/[0-9]*/exe"):
    try: target = os.readlink(path)
    except OSError: continue
    try: os.close(os.open(path, os.O_RDWR)); found.append(f"{path} can be written: {target}")
    except OSError: pass
open(sys.argv[2], "w").write("\n".join(found) + "\n")
`
	j := newJob(t, "", look)
	if _, err := j.run(t.Context(), t, trust(start(t)), client.Observer{}); err != nil {
		t.Fatal(err)
	}
	if j.out() != "\n" {
		t.Errorf("the application has:\n%s", j.out())
	}
}
