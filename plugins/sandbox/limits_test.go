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
		if out, status := run(t, s); status != 0 || out != "77 0 65536 0 " {
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
