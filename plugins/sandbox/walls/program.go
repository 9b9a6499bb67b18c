package walls

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// supervise starts the program as a child, reaps whatever ends, and exits with the
// program's status; the kernel then kills what is left of the namespace. It returns only
// if the program cannot be started.
func supervise(plan *Plan, report *os.File) error {
	if err := checkDir(plan.Dir); err != nil {
		return at(Program, err)
	}
	unix.Umask(0o077)
	child, err := syscall.ForkExec(plan.Path, plan.Args, &syscall.ProcAttr{
		Dir:   plan.Dir,
		Env:   plan.Env,
		Files: given(plan.Files),
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return at(Program, fmt.Errorf("executing %s: %w", plan.Path, err))
	}
	if err := release(plan.Files); err != nil {
		return at(Descriptors, err)
	}
	tell(report, Report{Started: true})
	if err := report.Close(); err != nil {
		return at(Starter, err)
	}
	os.Exit(reap(child))
	return nil
}

// release lets go of the program's descriptors, so that their other ends see it close them.
func release(files int) error {
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening /dev/null: %w", err)
	}
	for fd := range 3 {
		if err := unix.Dup3(null, fd, unix.O_CLOEXEC); err != nil {
			return fmt.Errorf("replacing descriptor %d: %w", fd, err)
		}
	}
	for i := range files {
		if err := unix.Close(FirstFD + i); err != nil {
			return fmt.Errorf("closing descriptor %d: %w", FirstFD+i, err)
		}
	}
	return unix.Close(null)
}

// reap waits until child ends and returns its exit status, or 128 and its signal.
func reap(child int) int {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WALL, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return exitBroken
		case pid != child:
		case status.Exited():
			return status.ExitStatus()
		case status.Signaled():
			return 128 + int(status.Signal())
		}
	}
}

// become replaces stage two by a nested program, which keeps the capabilities that it has
// in its own user namespace. It returns only if that fails.
func become(plan *Plan, report *os.File) error {
	if err := setLimits(plan.Limits); err != nil {
		return at(Rlimits, err)
	}
	if err := checkDir(plan.Dir); err != nil {
		return at(Program, err)
	}
	if err := os.Chdir(plan.Dir); err != nil {
		return at(Program, err)
	}
	if err := mourn(); err != nil {
		return at(Starter, err)
	}
	above, err := shift(plan.Files)
	if err != nil {
		return at(Descriptors, err)
	}
	tell(above, Report{Ready: true})
	err = syscall.Exec(plan.Path, plan.Args, plan.Env)
	tell(above, describe(at(Program, fmt.Errorf("executing %s: %w", plan.Path, err))))
	runtime.KeepAlive(report) // its number is the program's by now: it must not be closed
	os.Exit(exitBroken)
	return nil
}

// mourn makes the kernel kill this process when the thread that started it dies, and checks
// that it has not died already. The starter asked for it too, but a root with fewer capabilities
// than it may have gains them by being executed, which clears that.
func mourn() error {
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("asking to die with the starter: %w", err)
	}
	poll := []unix.PollFd{{Fd: PlanFD, Events: unix.POLLIN}}
	if _, err := unix.Poll(poll, 0); err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("asking after the starter: %w", err)
	}
	if poll[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0 {
		os.Exit(exitOrphan)
	}
	return nil
}

// shift moves the program's descriptors down to 3 and up, and the report out of their way.
func shift(files int) (*os.File, error) {
	fd, err := unix.FcntlInt(ReportFD, unix.F_DUPFD_CLOEXEC, FirstFD+files)
	if err != nil {
		return nil, fmt.Errorf("moving the report: %w", err)
	}
	for i := range files {
		if err := unix.Dup3(FirstFD+i, 3+i, 0); err != nil {
			return nil, fmt.Errorf("moving descriptor %d: %w", FirstFD+i, err)
		}
	}
	for i := files; i < 2; i++ {
		if err := unix.Close(3 + i); err != nil {
			return nil, fmt.Errorf("closing descriptor %d: %w", 3+i, err)
		}
	}
	return os.NewFile(uintptr(fd), "report"), nil
}

// checkDir tells a missing working directory from a missing program.
func checkDir(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("working directory: %w", err)
	}
	if !info.IsDir() {
		return fmt.Errorf("working directory %s: %w", dir, unix.ENOTDIR)
	}
	return nil
}
