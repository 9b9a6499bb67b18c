package launch_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cloister-run/cloister/enclave/client"
)

// seeker leaves its own marker wherever another job could find it, looks everywhere for the
// marker in its input, and writes where it found it. With "stay" it then stays.
const seeker = `
import glob, os, signal, socket, sys, time
own, sought, stay = open(sys.argv[1]).read().split()
held = []
def leave(how):
    try: held.append(how())
    except OSError as e: held.append(e)
for place in ("/tmp", "/dev/shm", "/work/tmp", "/work/outputs", "/var/tmp", "/run", "/job"):
    leave(lambda: open(f"{place}/{own}", "w").write(own))
def listen(family, address):
    s = socket.socket(family)
    s.bind(address)
    s.listen()
    return s
leave(lambda: listen(socket.AF_UNIX, "\0" + own))
if stay == "stay": leave(lambda: listen(socket.AF_INET, ("127.0.0.1", 45454)))
if os.fork() == 0:
    os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(3600)", own])
for _ in range(2000):
    if any(own in open(f, errors="replace").read() for f in glob.glob("/proc/[0-9]*/cmdline")): break
    time.sleep(0.001)

found = []
def look(path):
    try:
        with open(path, "rb") as f:
            if sought.encode() in f.read(1 << 20): found.append(path)
    except OSError: pass
for process in glob.glob("/proc/[0-9]*"):
    for what in ("cmdline", "environ", "comm", "mountinfo", "net/unix"): look(f"{process}/{what}")
    try: found.extend(f"{process}/root" for name in os.listdir(f"{process}/root/work/tmp") if sought in name)
    except OSError: pass
for root, folders, files in os.walk("/"):
    if root == "/": folders[:] = [d for d in folders if d not in ("proc", "sys", "usr")]
    found.extend(os.path.join(root, n) for n in folders + files if sought in n)
    for name in files:
        path = os.path.join(root, name)
        if os.path.isfile(path): look(path)
for family, address in ((socket.AF_UNIX, "\0" + sought), (socket.AF_INET, ("127.0.0.1", 45454))):
    if stay == "control" or own == sought: break
    try:
        socket.socket(family).connect(address)
        found.append(f"socket {address!r}")
    except OSError: pass
open(sys.argv[2], "w").write("\n".join(f for f in found if not f.startswith("/job/inputs")) + "\n")
if stay == "stay":
    open("/work/tmp/ready", "w").close()
    while True: time.sleep(3600)
# The last thing: everybody whom it may signal.
signal.signal(signal.SIGTERM, signal.SIG_IGN)
try: os.kill(-1, signal.SIGUSR1)
except OSError: pass
`

// TestI6OtherJob: two jobs in one enclave do not see each other's files, processes and sockets,
// and cannot signal each other.
func TestI6OtherJob(t *testing.T) {
	e := start(t)
	const mine, others = "marker-of-mine", "marker-of-others"

	// The search itself finds what there is.
	control := newJob(t, mine+" "+mine+" control", seeker)
	if _, err := control.run(t.Context(), t, trust(e), client.Observer{}); err != nil {
		t.Fatal(err)
	}
	for _, place := range []string{"/proc/", "/cmdline", "/tmp/" + mine, "/work/tmp/" + mine} {
		if !strings.Contains(control.out(), place) {
			t.Errorf("the search does not find its own %s:\n%s", place, control.out())
		}
	}

	// The other job is at its work.
	other := newJob(t, others+" "+mine+" stay", seeker)
	ctx, cancel := context.WithCancelCause(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := other.run(ctx, t, trust(e), client.Observer{})
		ended <- err
	}()
	pid := awaitReady(t, ended)

	// This one looks for it, and signals all that it can.
	seek := newJob(t, mine+" "+others+" go", seeker)
	if _, err := seek.run(t.Context(), t, trust(e), client.Observer{}); err != nil {
		t.Fatal(err)
	}
	if seek.out() != "\n" {
		t.Errorf("one job sees of the other:\n%s", seek.out())
	}
	if _, err := os.Stat(fmt.Sprintf("/proc/%d/root/work/tmp/ready", pid)); err != nil {
		t.Errorf("the other job did not survive: %v", err)
	}
	done := errors.New("done")
	cancel(done)
	if err := <-ended; !errors.Is(err, done) {
		t.Errorf("the other job ended with %v", err)
	}
}

// awaitReady waits until a process that this one started has /work/tmp/ready, and names it.
func awaitReady(t *testing.T, ended <-chan error) (pid int) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		found, _ := filepath.Glob("/proc/[0-9]*/root/work/tmp/ready") // the pattern is well formed
		for _, path := range found {
			if _, err := os.Stat(filepath.Join(filepath.Dir(path), "marker-of-others")); err == nil {
				_, _ = fmt.Sscanf(path, "/proc/%d/", &pid)
				return pid
			}
		}
		select {
		case err := <-ended:
			t.Fatalf("the other job ended: %v", err)
		default:
		}
	}
	t.Fatal("the other job never came to its work")
	return 0
}

// TestI6NoNSMAndNoDoor: an application reaches neither the module that vouches for its enclave nor the way
// out of it, by any name that it can think of.
func TestI6NoNSMAndNoDoor(t *testing.T) {
	const search = `
import glob, os, socket, stat, sys
found = []
names = ["/host/nsm.sock", "/host/door.sock", "/run/cloister/api.sock", "/dev/nsm", "/dev/vsock"]
names += [f"{root}{name}" for root in glob.glob("/proc/[0-9]*/root") for name in names]
for name in names:
    try:
        socket.socket(socket.AF_UNIX).connect(name)
        found.append(name)
    except OSError: pass
    if os.path.exists(name): found.append(f"{name} exists")
for root, folders, files in os.walk("/"):
    if root == "/": folders[:] = [d for d in folders if d not in ("proc", "sys", "usr")]
    for name in files:
        try: mode = os.lstat(os.path.join(root, name)).st_mode
        except OSError: continue
        if stat.S_ISSOCK(mode) and root != "/run/plugin": found.append(os.path.join(root, name)) # its executor's own is no way out
open(sys.argv[2], "w").write("\n".join(found) + "\n")
`
	j := newJob(t, "", search)
	if _, err := j.run(t.Context(), t, trust(start(t)), client.Observer{}); err != nil {
		t.Fatal(err)
	}
	if j.out() != "\n" {
		t.Errorf("the application sees:\n%s", j.out())
	}
}
