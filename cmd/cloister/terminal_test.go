package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long a test waits for something to be seen; it never waits for time alone.
const patience = time.Minute

// eventually waits until something can be seen.
func eventually(t *testing.T, what string, seen func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !seen(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it never came to this: %s", what)
		}
	}
}

// session is a cloister on a terminal of its own.
type session struct {
	cmd    *exec.Cmd
	master *os.File
	ended  chan error
	// drained is closed when everything that was shown was read.
	drained chan struct{}

	mu   sync.Mutex
	text bytes.Buffer
}

// onTerminal starts cloister in dir, on a terminal.
func onTerminal(t *testing.T, dir string, args ...string) *session {
	t.Helper()
	return onTerminalWith(t, dir, nil, args...)
}

// onTerminalWith is onTerminal with more of an environment.
func onTerminalWith(t *testing.T, dir string, env []string, args ...string) *session {
	t.Helper()
	master, slave := openTerminal(t)
	s := &session{master: master, ended: make(chan error, 1), drained: make(chan struct{})}
	s.cmd = exec.Command(filepath.Join(beside(t), "cloister"), args...)
	s.cmd.Dir, s.cmd.Env = dir, append([]string{"XDG_STATE_HOME=" + os.Getenv("XDG_STATE_HOME"), "HOME=" + dir, "TMPDIR=" + filepath.Join(dir, "tmp"), "TERM=xterm"}, env...)
	s.cmd.Stdin, s.cmd.Stdout, s.cmd.Stderr = slave, slave, slave
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	slave.Close()
	go s.read()
	go func() { s.ended <- s.cmd.Wait() }()
	t.Cleanup(func() { _ = s.cmd.Process.Kill(); master.Close() })
	return s
}

func openTerminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := master.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var number int
	var failed error
	err = raw.Control(func(fd uintptr) {
		number, failed = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		failed = errors.Join(failed, unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0),
			unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 200}))
	})
	if err := errors.Join(err, failed); err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return master, slave
}

func (s *session) read() {
	defer close(s.drained)
	buf := make([]byte, 4096)
	for {
		n, err := s.master.Read(buf)
		s.mu.Lock()
		s.text.Write(buf[:n])
		s.mu.Unlock()
		if err != nil {
			return // EIO: nobody has the other end open any more
		}
	}
}

func (s *session) shown() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// await waits until the terminal shows text.
func (s *session) await(t *testing.T, text string) {
	t.Helper()
	end := time.Now().Add(patience)
	for !strings.Contains(s.shown(), text) {
		select {
		case err := <-s.ended:
			t.Fatalf("cloister ended (%v) before it showed %q:\n%s", err, text, s.shown())
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(end) {
			t.Fatalf("cloister never showed %q:\n%s", text, s.shown())
		}
	}
}

// press types on the terminal.
func (s *session) press(t *testing.T, keys string) {
	t.Helper()
	if _, err := s.master.WriteString(keys); err != nil {
		t.Fatal(err)
	}
}

// wait waits for the end, and gives the exit status as a shell would.
func (s *session) wait(t *testing.T) int {
	t.Helper()
	select {
	case err := <-s.ended:
		<-s.drained
		if err == nil {
			return 0
		}
		ended, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			t.Fatal(err)
		}
		if status := ended.Sys().(syscall.WaitStatus); status.Signaled() {
			return 128 + int(status.Signal())
		}
		return ended.ExitCode()
	case <-time.After(patience):
		t.Fatalf("cloister does not end:\n%s", s.shown())
		return 0
	}
}

// process is one process for good: numbers are used again, with another start.
type process struct {
	pid   int
	start string
}

func (p process) alive() bool {
	_, start, ok := stat(p.pid)
	return ok && start == p.start
}

// stat gives the parent and the start of a process that has not ended (proc_pid_stat(5)).
func stat(pid int) (parent int, start string, ok bool) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, "", false
	}
	fields := strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:]))
	if len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" {
		return 0, "", false
	}
	parent, err = strconv.Atoi(fields[1])
	return parent, fields[19], err == nil
}

// below lists everything that pid started, and what that started.
func below(pid int) []process {
	children := map[int][]process{}
	entries, _ := os.ReadDir("/proc") // an unreadable /proc shows as a missing process
	for _, entry := range entries {
		child, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if parent, start, ok := stat(child); ok {
			children[parent] = append(children[parent], process{child, start})
		}
	}
	var all []process
	for next := []int{pid}; len(next) > 0; next = next[1:] {
		for _, child := range children[next[0]] {
			all = append(all, child)
			next = append(next, child.pid)
		}
	}
	return all
}

// nothingHolds looks through the file systems that a run could have written to for a marker,
// in files that changed since then.
func nothingHolds(t *testing.T, marker string, since time.Time, but string) {
	t.Helper()
	home, _ := os.UserHomeDir()
	for _, root := range []string{os.TempDir(), "/tmp", "/var/tmp", "/dev/shm", "/run", "/var/run", home, beside(t)} {
		_ = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || !entry.Type().IsRegular() || path == but {
				return nil // gone, or not ours to read
			}
			info, err := entry.Info()
			if err != nil || info.ModTime().Before(since) || info.Size() > 64<<20 {
				return nil
			}
			if content, err := os.ReadFile(path); err == nil && bytes.Contains(content, []byte(marker)) {
				t.Errorf("%s holds what should be nowhere", path)
			}
			return nil
		})
	}
}
