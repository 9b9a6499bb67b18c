package sandbox_test

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/plugins/sandbox"
)

// bomb starts processes that stay until it is refused one, and writes how many there are.
func bomb([]string) int {
	count := 1 // itself
	for range 10_000 {
		c := exec.Command("/usr/bin/sleep", "1000")
		if err := c.Start(); err != nil {
			fmt.Printf("%d %v\n", count, err)
			return 0
		}
		count++
	}
	fmt.Println(count, "and no end")
	return 1
}

func TestLimit_Processes(t *testing.T) {
	everybody(t, func(t *testing.T) {
		const limit = 60
		s := spec(t, "bomb")
		s.Limits.Processes = limit
		out, _ := run(t, s)
		count, err := strconv.Atoi(strings.Fields(out + " ")[0])
		// The probe has several threads; stage two has some, which do not count.
		if err != nil || count < limit/2 || count > limit+16 || strings.Contains(out, "no end") {
			t.Errorf("the fork bomb made %q", out)
		}
	})
}

// eater takes memory, by the megabyte, and says after each how many it has. It is no Go program
// since the race detector's runtime takes more than all that.
const eater = `
all = []
for i in range(4096):
    all.append(b"x" * (1 << 20))
    print(i, flush=True)
`

func TestLimit_Memory(t *testing.T) {
	everybody(t, func(t *testing.T) {
		const limit = 128
		s := spec(t, "")
		s.Path, s.Args, s.Env = "/usr/bin/python3", []string{"-c", eater}, nil
		s.Limits.Memory = limit << 20
		s.Stderr = nil // a MemoryError
		out, status := run(t, s)
		if lines := strings.Count(out, "\n"); status == 0 || lines < 16 || lines > limit {
			t.Errorf("the eater ended with %d after %d MiB", status, lines)
		}
	})
}

// TestLimit_MemoryOfAllTogether: whoever asks for it is refused where there is no memory cgroup, and else has one.
func TestLimit_MemoryOfAllTogether(t *testing.T) {
	everybody(t, func(t *testing.T) {
		s := spec(t, "")
		s.Path, s.Args, s.Env = "/bin/true", nil, nil
		s.Limits.Together = true
		p, err := sandbox.Start(t.Context(), s)
		if missing, ok := errors.AsType[*sandbox.UnavailableError](err); ok {
			if missing.Wall != "memory cgroup" || missing.Cure == "" {
				t.Error(missing)
			}
			s.Limits.Together = false
			if p = start(t, s); slices.Contains(p.Walls(), "memory: cgroup") {
				t.Errorf("it was refused, and there is one: %v", p.Walls())
			}
		} else if err != nil {
			t.Fatal(err)
		} else if !slices.Contains(p.Walls(), "memory: cgroup") {
			t.Errorf("%v", p.Walls())
		}
		if _, err := p.Wait(); err != nil {
			t.Error(err)
		}
	})
}

// large writes a file, by the kilobyte.
func large([]string) int {
	signal.Ignore(unix.SIGXFSZ)
	f, err := os.Create("/tmp/large")
	if err != nil {
		return 2
	}
	defer f.Close()
	for range 1 << 20 {
		if _, err := f.Write(make([]byte, 1024)); err != nil {
			at, _ := f.Seek(0, 2)
			fmt.Println(at, errors.Is(err, unix.EFBIG))
			return 0
		}
	}
	return 1
}

func TestLimit_FileSize(t *testing.T) {
	everybody(t, func(t *testing.T) {
		s := spec(t, "large")
		s.Limits.FileSize = 100 << 10
		if out, status := run(t, s); status != 0 || out != "102400 true\n" {
			t.Errorf("ended with %d, %q", status, out)
		}
	})
}

// filler fills what a sandbox has of its own with one large file, and then with many empty ones.
const filler = `
import errno, os
for place in "/tmp", "/dev/shm":
    size = files = 0
    try:
        fd = os.open(place + "/large", os.O_CREAT | os.O_WRONLY)
        while size < 256 << 20: size += os.write(fd, bytes(1 << 16))
    except OSError as e: assert e.errno == errno.ENOSPC, e
    os.close(fd); os.unlink(place + "/large")
    try:
        while files < 1 << 17: os.close(os.open(f"{place}/{files}", os.O_CREAT)); files += 1
    except OSError as e: assert e.errno == errno.ENOSPC, e
    print(size, files)
`

// TestLimit_TheFilesOfASandbox: neither bytes nor names without end, where no cgroup counts them either.
func TestLimit_TheFilesOfASandbox(t *testing.T) {
	everybody(t, func(t *testing.T) {
		s := spec(t, "")
		s.Path, s.Args, s.Env = "/usr/bin/python3", []string{"-c", filler}, nil
		s.Limits.Memory = 64 << 20
		out, status := run(t, s)
		var tmp, tmpFiles, shm, shmFiles int
		if _, err := fmt.Sscan(out, &tmp, &tmpFiles, &shm, &shmFiles); err != nil || status != 0 {
			t.Fatalf("ended with %d, %q: %v", status, out, err)
		}
		if tmp != 16<<20 || shm != 32<<20 {
			t.Errorf("%d bytes fit into /tmp, %d into /dev/shm", tmp, shm)
		}
		// One for each 4 KiB, and some.
		if tmpFiles > 4096+64 || shmFiles > 8192+64 {
			t.Errorf("%d files fit into /tmp, %d into /dev/shm", tmpFiles, shmFiles)
		}
	})
}

// hoarders take memory that is no process's own, by the megabyte, and say after each how many they have.
var hoarders = map[string]string{
	"memory files": `
import os
for i in range(1024):
    os.write(os.memfd_create("x"), bytes(1 << 20))
    print(i, flush=True)
`,
	"shared memory of System V": `
import ctypes
libc = ctypes.CDLL(None)
libc.shmat.restype = ctypes.c_void_p
for i in range(1024):
    ctypes.memset(libc.shmat(libc.shmget(0, 1 << 20, 0o1600), None, 0), 120, 1 << 20)
    print(i, flush=True)
`,
	"memory of children": `
import os, time
for i in range(1024):
    if os.fork() == 0:
        held = b"x" * (1 << 20)
        print(i, flush=True)
        while True: time.sleep(1000)
`,
}

func TestLimit_MemoryOfEveryKind(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs a cgroup, which an ordinary user has none of")
	}
	const limit = 96
	for kind, hoarder := range hoarders {
		t.Run(kind, func(t *testing.T) {
			s := spec(t, "")
			s.Path, s.Args, s.Env = "/usr/bin/python3", []string{"-c", hoarder}, nil
			s.Limits.Memory, s.Limits.Processes, s.Stderr = limit<<20, 1024, nil
			out, status := run(t, s)
			if lines := strings.Count(out, "\n"); status == 0 || lines < 8 || lines > limit {
				t.Errorf("ended with %d after %d MiB", status, lines)
			}
		})
	}
}

// hoard opens descriptors until it is refused one, and writes how many there are.
func hoard([]string) int {
	for {
		fd, err := unix.Open("/dev/null", unix.O_RDONLY, 0)
		if err != nil {
			fmt.Println(errors.Is(err, unix.EMFILE))
			return 0
		}
		if fd >= 100 {
			return 1
		}
	}
}

func TestLimit_Descriptors(t *testing.T) {
	everybody(t, func(t *testing.T) {
		s := spec(t, "hoard")
		s.Limits.OpenFiles = 100
		if out, status := run(t, s); status != 0 || out != "true\n" {
			t.Errorf("ended with %d, %q", status, out)
		}
	})
}

// crasher wants to leave its memory behind, and crashes.
const crasher = `
import os, resource, signal
for wanted in (1 << 30, 1 << 30), (1 << 30, resource.getrlimit(resource.RLIMIT_CORE)[1]):
    try: resource.setrlimit(resource.RLIMIT_CORE, wanted)
    except ValueError: pass
if (child := os.fork()) == 0:
    os.kill(os.getpid(), signal.SIGSEGV)
_, status = os.waitpid(child, 0)
print(os.WTERMSIG(status), os.WCOREDUMP(status), os.listdir("."))
`

func TestI9_NoCoreDump(t *testing.T) {
	everybody(t, func(t *testing.T) {
		s := spec(t, "")
		s.Path, s.Args, s.Env, s.Dir = "/usr/bin/python3", []string{"-c", crasher}, nil, "/tmp"
		if out, status := run(t, s); status != 0 || out != "11 False []\n" {
			t.Errorf("ended with %d, %q", status, out)
		}
	})
}

// own writes the limits of the process.
func own([]string) int {
	for _, resource := range []int{unix.RLIMIT_NOFILE, unix.RLIMIT_CORE, unix.RLIMIT_MEMLOCK, unix.RLIMIT_MSGQUEUE} {
		var l unix.Rlimit
		if err := unix.Getrlimit(resource, &l); err != nil {
			return 1
		}
		fmt.Print(l.Max, " ")
	}
	return 0
}

func TestLimit_OfAProcess(t *testing.T) {
	everybody(t, func(t *testing.T) {
		s := spec(t, "own")
		s.Limits.OpenFiles = 77
		if out, status := run(t, s); status != 0 || out != "77 1 65536 0 " {
			t.Errorf("ended with %d, %q", status, out)
		}
	})
}

func TestWalls_SayWhatEnforces(t *testing.T) {
	everybody(t, func(t *testing.T) {
		s := spec(t, "sleeper")
		s.Limits.CPUs = 1.5
		want := []string{"cpu: none", "memory: per-process", "processes: per-user"}
		if os.Geteuid() == 0 {
			want = []string{"cpu: cgroup", "memory: cgroup", "processes: cgroup"}
		}
		p := start(t, s)
		if got := p.Walls(); !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		if os.Geteuid() != 0 {
			return
		}
		dirs := groupsOf(t, child(t, os.Getpid()))
		if dirs["cpu"] == "" || dirs["memory"] == "" || dirs["pids"] == "" {
			t.Fatalf("the cgroups are %v", dirs)
		}
		quota := filepath.Join(dirs["cpu"], "cpu.cfs_quota_us")
		if dirs["cpu"] == dirs["memory"] { // version 2
			quota = filepath.Join(dirs["cpu"], "cpu.max")
		}
		if raw, err := os.ReadFile(quota); err != nil || !strings.HasPrefix(string(raw), "150000") {
			t.Errorf("the quota is %s, %v", raw, err)
		}
		if err := p.Kill(); err != nil {
			t.Fatal(err)
		}
		if _, err := p.Wait(); err != nil {
			t.Fatal(err)
		}
		for _, dir := range dirs {
			if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s is left: %v", dir, err)
			}
		}
	})
}

func TestWalls_WhatAKilledStarterLeftIsRemoved(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs a cgroup, which an ordinary user has none of")
	}
	start(t, spec(t, "sleeper"))
	used := groupsOf(t, child(t, os.Getpid()))["memory"]
	left := filepath.Join(filepath.Dir(used), "cloister-test-left")
	if err := os.Mkdir(left, 0o755); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(left)
	old := time.Now().Add(-2 * time.Hour)
	for _, dir := range []string{left, used} {
		if err := os.Chtimes(dir, old, old); err != nil {
			t.Fatal(err)
		}
	}
	start(t, spec(t, "sleeper"))
	if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the old group is left: %v", err)
	}
	if _, err := os.Stat(used); err != nil {
		t.Errorf("a group in use: %v", err)
	}
}

// child is the one child of a process, on whatever thread.
func child(t *testing.T, parent int) int {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", parent))
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, task := range tasks {
		raw, _ := os.ReadFile(task) // a thread may be gone
		all = append(all, strings.Fields(string(raw))...)
	}
	if len(all) != 1 {
		t.Fatalf("the children are %v", all)
	}
	pid, err := strconv.Atoi(all[0])
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// groupsOf gives, for each controller, the folder of the cgroup that was made for a process.
func groupsOf(t *testing.T, pid int) map[string]string {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		t.Fatal(err)
	}
	dirs := make(map[string]string)
	for line := range strings.Lines(string(raw)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if !strings.Contains(parts[2], "/cloister-") {
			continue
		}
		dir := filepath.Join("/sys/fs/cgroup", parts[1], parts[2])
		if _, err := os.Stat(dir); err != nil {
			t.Error(err)
		}
		for name := range strings.SplitSeq(cmp.Or(parts[1], "cpu,memory,pids"), ",") {
			dirs[name] = dir
		}
	}
	return dirs
}
