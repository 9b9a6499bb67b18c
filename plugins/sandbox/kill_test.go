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
