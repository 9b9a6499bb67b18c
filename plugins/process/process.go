// Package process runs one program of an application to its end. Executors that start a
// program — an interpreter, a binary — share it.
//
// It owns the program's process group, its environment, its log files and its exit status. It
// runs inside the sandbox and guards nothing that the enclave relies on: what leaves the
// process group is killed with the sandbox.
package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/plugins/executor"
)

// ErrStart: the program's executable is missing or cannot be executed.
var ErrStart = errors.New("program cannot be started")

// Grace is how long a program has between SIGTERM and SIGKILL unless a Runner says otherwise.
const Grace = 2 * time.Second

// Program is what to run. All paths are absolute.
type Program struct {
	Path string
	// Args follow the program's own name; Env is the whole environment.
	Args []string
	Env  []string
	Dir  string
	// Stdout and Stderr are files to create; they must not exist. Empty means /dev/null.
	Stdout, Stderr string
}

// Runner runs one program, once. The zero value is ready; Stop is safe at any time.
type Runner struct {
	// Grace between SIGTERM and SIGKILL [Grace].
	Grace time.Duration

	mu      sync.Mutex
	begun   bool
	stopped bool
	group   int           // the process group while it may be signalled, else 0
	ended   chan struct{} // closed when the program was reaped; nil before it began
}

// Run starts the program in a process group of its own, with /dev/null as stdin, waits for its
// end, and kills what is left of the group. When ctx ends, so does the program, and Run
// returns the cause. An error that is ErrStart is the executable's fault.
func (r *Runner) Run(ctx context.Context, p Program) (executor.Result, error) {
	cmd := &exec.Cmd{
		Path:        p.Path,
		Args:        append([]string{p.Path}, p.Args...),
		Env:         p.Env,
		Dir:         p.Dir,
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true},
	}
	if info, err := os.Stat(p.Dir); err != nil || !info.IsDir() {
		return executor.Result{}, fmt.Errorf("process: working directory %s is missing", p.Dir)
	}
	if err := context.Cause(ctx); err != nil {
		return executor.Result{}, fmt.Errorf("process: %w", err)
	}
	closeLogs, err := openLogs(cmd, p)
	if err != nil {
		return executor.Result{}, fmt.Errorf("process: %w", err)
	}
	err = r.begin(cmd)
	closeLogs()
	if err != nil {
		return executor.Result{}, fmt.Errorf("process: %w", err)
	}
	release := context.AfterFunc(ctx, func() { _ = r.Stop(context.Background()) })
	defer release()
	r.reap(cmd)
	if err := context.Cause(ctx); err != nil {
		return executor.Result{}, fmt.Errorf("process: %w", err)
	}
	return result(cmd.ProcessState)
}

// Stop ends the program: SIGTERM to its group, SIGKILL after the grace. It returns when the
// program is reaped or ctx ends. A program that has not begun never will.
func (r *Runner) Stop(ctx context.Context) error {
	r.mu.Lock()
	r.stopped = true
	ended := r.ended
	r.mu.Unlock()
	if ended == nil {
		return nil
	}
	grace := r.Grace
	if grace == 0 {
		grace = Grace
	}
	r.signal(unix.SIGTERM)
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-ended:
		return nil
	case <-timer.C:
	case <-ctx.Done():
	}
	r.signal(unix.SIGKILL)
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (r *Runner) begin(cmd *exec.Cmd) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.begun:
		return errors.New("a runner runs once")
	case r.stopped:
		return fmt.Errorf("stopped before it began: %w", context.Canceled)
	}
	r.begun = true
	if err := cmd.Start(); err != nil {
		for _, errno := range []error{unix.ENOENT, unix.EACCES, unix.EPERM, unix.ENOEXEC, unix.ENOTDIR, unix.EISDIR, unix.ELIBBAD} {
			if errors.Is(err, errno) {
				return fmt.Errorf("%w: %w", ErrStart, err)
			}
		}
		return err
	}
	r.group = cmd.Process.Pid
	r.ended = make(chan struct{})
	return nil
}

// reap waits for the program and kills the rest of its group while its number is still taken,
// so that no signal ever reaches a group that only inherited the number.
func (r *Runner) reap(cmd *exec.Cmd) {
	for {
		err := unix.Waitid(unix.P_PID, cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	r.signal(unix.SIGKILL)
	r.mu.Lock()
	r.group = 0
	r.mu.Unlock()
	_ = cmd.Wait() // the status is in ProcessState; there is nothing to copy that could fail
	close(r.ended)
}

func (r *Runner) signal(sig unix.Signal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.group > 0 {
		_ = unix.Kill(-r.group, sig) // ESRCH: all of it has ended
	}
}

func result(state *os.ProcessState) (executor.Result, error) {
	if state == nil {
		return executor.Result{}, errors.New("process: its end was missed")
	}
	if ws, ok := state.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return executor.Result{Status: 128 + int(ws.Signal())}, nil
	}
	return executor.Result{Status: state.ExitCode()}, nil
}

// openLogs creates the program's log files and returns what closes them again.
func openLogs(cmd *exec.Cmd, p Program) (func(), error) {
	var files []*os.File
	closeAll := func() {
		for _, f := range files {
			_ = f.Close()
		}
	}
	create := func(name string) (*os.File, error) {
		f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
		if err == nil {
			files = append(files, f)
		}
		return f, err
	}
	if p.Stdout != "" {
		f, err := create(p.Stdout)
		if err != nil {
			return nil, fmt.Errorf("stdout: %w", err)
		}
		cmd.Stdout = f
	}
	if p.Stderr != "" {
		f, err := create(p.Stderr)
		if err != nil {
			closeAll()
			return nil, fmt.Errorf("stderr: %w", err)
		}
		cmd.Stderr = f
	}
	return closeAll, nil
}
