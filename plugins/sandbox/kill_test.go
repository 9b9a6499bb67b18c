package sandbox_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/plugins/sandbox"
)

// daemon leaves a grandchild in a session of its own behind, which ignores signals and holds
// descriptor 4 open, and ends.
func daemon(args []string) int {
	if len(args) > 0 && args[0] == "stay" {
		signal.Ignore(unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT)
		held := os.NewFile(4, "held")
		fmt.Fprintln(held, "ready")
		sleeper(nil)
	}
	generation := "middle"
	if len(args) > 0 {
		generation = "stay"
	}
	c := exec.Command("/proc/self/exe", generation)
	c.Env = os.Environ()
	c.ExtraFiles = []*os.File{os.NewFile(3, "self"), os.NewFile(4, "held")}
	c.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	if err := c.Start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if generation == "middle" {
		sleeper(nil) // the program itself stays
	}
	return 0
}

// held is a pipe whose writing end goes into a sandbox, and a line that was read from it.
func held(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

func line(t *testing.T, r *os.File) string {
	t.Helper()
	if err := r.SetReadDeadline(time.Now().Add(deadline)); err != nil {
		t.Fatal(err)
	}
	text, err := bufio.NewReaderSize(r, 16).ReadString('\n')
	if err != nil {
		t.Fatalf("waiting for a line: %v", err)
	}
	return strings.TrimSpace(text)
}

// gone says whether nobody holds the other end of a pipe at this very moment.
func gone(t *testing.T, r *os.File) bool {
	t.Helper()
	raw, err := r.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	closed := false
	err = raw.Control(func(fd uintptr) {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		_, err := unix.Poll(poll, 0)
		closed = err == nil && poll[0].Revents&unix.POLLHUP != 0
	})
	if err != nil {
		t.Fatal(err)
	}
	return closed
}

func TestKill_EndsADaemonThatIgnoresSignals(t *testing.T) {
	everybody(t, func(t *testing.T) {
		r, w := held(t)
		s := spec(t, "daemon")
		s.Files = append(s.Files, w)
		p := start(t, s)
		w.Close()
		line(t, r)
		if gone(t, r) {
			t.Fatal("the daemon did not stay")
		}
		if err := p.Kill(); err != nil {
			t.Fatal(err)
		}
		if status, err := p.Wait(); status != 128+int(unix.SIGKILL) || err != nil {
			t.Errorf("ended with %d, %v", status, err)
		}
		if !gone(t, r) {
			t.Error("the daemon outlived its sandbox")
		}
		if err := p.Kill(); err != nil {
			t.Errorf("killing again: %v", err)
		}
	})
}

// fork leaves a process behind and ends, as a program with a daemon does.
func fork([]string) int {
	c := exec.Command("/proc/self/exe", "stay")
	c.Env = []string{probeVar + "=daemon", noDelay}
	c.ExtraFiles = []*os.File{os.NewFile(3, "self"), os.NewFile(4, "held")}
	if err := c.Start(); err != nil {
		return 1
	}
	return 7
}

func TestWait_EndsWhatTheProgramLeavesBehind(t *testing.T) {
	everybody(t, func(t *testing.T) {
		r, w := held(t)
		s := spec(t, "fork")
		s.Files = append(s.Files, w)
		p := start(t, s)
		w.Close()
		if status, err := p.Wait(); status != 7 || err != nil {
			t.Errorf("ended with %d, %v", status, err)
		}
		if !gone(t, r) {
			t.Error("what the program left behind outlived the sandbox")
		}
	})
}

// scribbler maps the file /work/output for writing, in a daemon that leaves the program's session, and
// writes to it without end.
func scribbler(args []string) int {
	if len(args) == 0 {
		c := exec.Command("/proc/self/exe", "stay")
		c.Env = os.Environ()
		c.ExtraFiles = []*os.File{os.NewFile(3, "self"), os.NewFile(4, "held")}
		c.SysProcAttr = &unix.SysProcAttr{Setsid: true}
		if err := c.Start(); err != nil {
			return 1
		}
		return sleeper(nil)
	}
	f, err := os.OpenFile("/work/output", os.O_RDWR, 0)
	if err != nil {
		return 1
	}
	mapped, err := unix.Mmap(int(f.Fd()), 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil || f.Close() != nil {
		return 1
	}
	fmt.Fprintln(os.NewFile(4, "held"), "ready")
	for {
		mapped[0]++
	}
}

// writable says whether anybody has a file open or mapped for writing. Only then is a lease for
// reading refused (fcntl(2), F_SETLEASE).
func writable(t *testing.T, path string) bool {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	_, err = unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_RDLCK)
	if err != nil && !errors.Is(err, unix.EAGAIN) {
		t.Fatal(err)
	}
	return err != nil
}

// What an application mapped is its to write as long as the mapping is there, whatever became of
// names and descriptors. So nothing may have one when outputs are frozen.
func TestI1_NoMappingOutlivesTheSandbox(t *testing.T) {
	everybody(t, func(t *testing.T) {
		work := folder(t, 0o777)
		output := filepath.Join(work, "output")
		if err := os.WriteFile(output, make([]byte, os.Getpagesize()), 0o666); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(output, 0o666); err != nil {
			t.Fatal(err)
		}
		r, w := held(t)
		s := spec(t, "scribbler")
		s.Files = append(s.Files, w)
		s.Mounts = append(s.Mounts, sandbox.Mount{Source: work, Target: "/work", Writable: true})
		p := start(t, s)
		w.Close()
		line(t, r)
		if !writable(t, output) {
			t.Fatal("nobody has the output mapped")
		}
		if err := p.Kill(); err != nil {
			t.Fatal(err)
		}
		if _, err := p.Wait(); err != nil {
			t.Fatal(err)
		}
		if writable(t, output) || !gone(t, r) {
			t.Error("a mapping outlived the sandbox")
		}
	})
}

// forker has children that start children for as long as they are let.
const forker = `
import os
held = os.fdopen(3, "w")
print("ready", file=held, flush=True)
while True:
    try: os.fork()
    except OSError: pass
`

func TestKill_EndsWhatNeverStopsForking(t *testing.T) {
	everybody(t, func(t *testing.T) {
		r, w := held(t)
		s := spec(t, "")
		s.Path, s.Args, s.Env, s.Files = "/usr/bin/python3", []string{"-c", forker}, nil, []*os.File{w}
		s.Limits.Processes = 40
		p := start(t, s)
		w.Close()
		line(t, r)
		if err := p.Kill(); err != nil {
			t.Fatal(err)
		}
		if _, err := p.Wait(); err != nil {
			t.Fatal(err)
		}
		if !gone(t, r) {
			t.Error("a process outlived its sandbox")
		}
	})
}

// signaller sends every signal to the first process.
func signaller([]string) int {
	for sig := unix.Signal(1); sig <= 64; sig++ {
		if err := unix.Kill(1, sig); err != nil {
			fmt.Fprintln(os.Stderr, sig, err)
			return 1
		}
	}
	// It still does what it is there for, the last of which is to say how the program ended.
	if err := exec.Command("/usr/bin/true").Run(); err != nil {
		return 1
	}
	return 7
}

func TestI6_NoSignalReachesTheFirstProcess(t *testing.T) {
	everybody(t, func(t *testing.T) {
		if out, status := run(t, spec(t, "signaller")); status != 7 {
			t.Errorf("ended with %d, %q", status, out)
		}
	})
}

// starter starts a sandbox, nested or not, whose program holds descriptor 4, and stays.
func starter(args []string) int {
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		return 1
	}
	p, err := sandbox.Start(context.Background(), sandbox.Spec{
		Init: args[1], Root: args[2], Mounts: system(), Path: "/proc/self/fd/3", Args: []string{"stay"},
		Env: []string{probeVar + "=daemon", noDelay}, Owner: owner(), Nested: args[0] == "nested",
		Stderr: os.Stderr, Files: []*os.File{self, os.NewFile(3, "held")},
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	_, _ = p.Wait()
	return 1
}

func TestKill_TheStartersDeathIsTheSandboxs(t *testing.T) {
	for _, kind := range []string{"sandbox", "nested"} {
		t.Run(kind, func(t *testing.T) {
			everybody(t, func(t *testing.T) {
				r, w := held(t)
				c := exec.CommandContext(t.Context(), selfPath, kind, wallsPath, folder(t, 0o755))
				c.Env = []string{probeVar + "=starter", noDelay}
				c.Stderr = os.Stderr
				c.ExtraFiles = []*os.File{w}
				if err := c.Start(); err != nil {
					t.Fatal(err)
				}
				w.Close()
				line(t, r)
				if gone(t, r) {
					t.Fatal("the program did not stay")
				}
				groups := groupsOf(t, child(t, c.Process.Pid))
				if err := c.Process.Kill(); err != nil {
					t.Fatal(err)
				}
				_ = c.Wait() // it was killed
				// The kernel kills at once, but in its own time.
				if err := r.SetReadDeadline(time.Now().Add(deadline)); err != nil {
					t.Fatal(err)
				}
				if _, err := r.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
					t.Errorf("the program outlived its starter: %v", err)
				}
				// What a killed starter leaves is empty, and another one's to sweep after a while.
				for _, group := range groups {
					removed := func() bool { err := os.Remove(group); return err == nil || errors.Is(err, os.ErrNotExist) }
					for end := time.Now().Add(deadline); !removed() && time.Now().Before(end); {
						runtime.Gosched() // until whoever inherited the dead has reaped them
					}
				}
			})
		})
	}
}
