package hosttest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/plugins/executor"
	"github.com/cloister-run/cloister/plugins/host/internal/starter"
	"github.com/cloister-run/cloister/plugins/sandbox"
)

var _ starter.Func = Start

// Start runs what spec describes without walls. Folders are where they are outside: only the
// plugin's socket folder is translated, on the way in (its variable) and out (its handshake).
func Start(ctx context.Context, spec sandbox.Spec) (starter.Process, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	i := slices.IndexFunc(spec.Mounts, func(m sandbox.Mount) bool { return m.Target == executor.SocketDir })
	if i < 0 {
		return nil, errors.New("hosttest: no socket folder")
	}
	sockets := spec.Mounts[i].Source
	fd, err := unix.FcntlInt(spec.Stdout.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, err
	}
	to := os.NewFile(uintptr(fd), "stdout")
	from, out, err := os.Pipe()
	if err != nil {
		_ = to.Close()
		return nil, err
	}
	defer out.Close()
	cmd := &exec.Cmd{
		Path:        spec.Path,
		Args:        append([]string{filepath.Base(spec.Path)}, spec.Args...),
		Env:         slices.Clone(spec.Env),
		Dir:         spec.Dir,
		Stdout:      out,
		ExtraFiles:  spec.Files,
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	for i, v := range cmd.Env {
		cmd.Env[i] = strings.Replace(v, "PLUGIN_UNIX_SOCKET_DIR="+executor.SocketDir, "PLUGIN_UNIX_SOCKET_DIR="+sockets, 1)
	}
	if err := cmd.Start(); err != nil {
		_ = from.Close()
		_ = to.Close()
		return nil, fmt.Errorf("hosttest: %w", err)
	}
	p := &process{cmd: cmd, ended: make(chan struct{})}
	go p.reap(translate(to, from, sockets))
	return p, nil
}

// translate copies a plugin's stdout and puts the socket folder of a sandbox into the first line.
func translate(to, from *os.File, sockets string) (copied chan struct{}) {
	copied = make(chan struct{})
	go func() {
		defer close(copied)
		defer to.Close()
		defer from.Close()
		r := bufio.NewReaderSize(from, 64<<10)
		line, _ := r.ReadSlice('\n') // a line that is too long goes on as it is
		line = bytes.Replace(line, []byte("|"+sockets+"/"), []byte("|"+executor.SocketDir+"/"), 1)
		if _, err := to.Write(line); err == nil {
			_, _ = io.Copy(to, r)
		}
	}()
	return copied
}

// process is a plugin and its session: whatever it starts stays in the session, unless it
// leaves on purpose.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{}

	mu     sync.Mutex
	reaped bool
}

// reap kills the session when its leader ends, as the end of a process namespace would.
func (p *process) reap(copied <-chan struct{}) {
	defer close(p.ended)
	for errors.Is(unix.Waitid(unix.P_PID, p.cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil), unix.EINTR) {
	}
	for killSession(p.cmd.Process.Pid) > 0 {
		runtime.Gosched()
	}
	p.mu.Lock()
	p.reaped = true
	_ = p.cmd.Wait()
	p.mu.Unlock()
	<-copied
}

func (p *process) Wait() (int, error) {
	<-p.ended
	return p.cmd.ProcessState.ExitCode(), nil
}

func (p *process) Kill() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reaped {
		return nil
	}
	return unix.Kill(p.cmd.Process.Pid, unix.SIGKILL)
}

func (p *process) Walls() []string { return []string{"none: this is a test"} }

// killSession kills what lives in session sid and says how many processes that were.
func killSession(sid int) (n int) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range stats {
		raw, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended
		}
		// "PID (NAME) STATE PPID PGRP SESSION …" (proc(5)); a name may contain brackets.
		fields := strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:]))
		if len(fields) < 4 || fields[3] != strconv.Itoa(sid) || fields[0] == "Z" || fields[0] == "X" {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name))); err == nil && unix.Kill(pid, unix.SIGKILL) == nil {
			n++
		}
	}
	return n
}
