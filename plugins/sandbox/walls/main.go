package walls

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"

	"golang.org/x/sys/unix"
)

// exitBroken is the status of a stage two that could not build its walls. The starter
// reads the report and not this number.
const exitBroken = 125

// exitOrphan is the status of a stage two whose starter died.
const exitOrphan = 126

// Main is stage two, the whole of a binary that needs no arguments. It never returns. Outside
// of the namespaces that the starter makes it refuses to do anything.
func Main() {
	runtime.LockOSThread()
	if err := expected(); err != nil {
		fmt.Fprintln(os.Stderr, "cloister: error: this command is for cloister itself:", err)
		os.Exit(2)
	}
	unix.CloseOnExec(PlanFD)
	unix.CloseOnExec(ReportFD)
	report := os.NewFile(ReportFD, "report")
	tell(report, describe(run(report)))
	os.Exit(exitBroken)
}

// expected checks that this process is the first of a process namespace and was given its pipes.
func expected() error {
	if os.Getpid() != 1 {
		return errors.New("not the first process of a namespace")
	}
	for _, fd := range []int{PlanFD, ReportFD} {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFIFO {
			return fmt.Errorf("descriptor %d is no pipe", fd)
		}
	}
	return nil
}

// run builds every wall and starts the program. It returns only with an error.
func run(report *os.File) error {
	plan, err := readPlan(descriptor(PlanFD))
	if err != nil {
		return at(Starter, err)
	}
	if !plan.Nested {
		if err := dieFirst(); err != nil {
			return at(Rlimits, err)
		}
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return at(Capabilities, fmt.Errorf("clearing dumpable: %w", err))
	}
	if err := seal(plan.Files); err != nil {
		return at(Descriptors, err)
	}
	swallowSignals()
	if !plan.Nested {
		if err := watch(); err != nil {
			return at(Starter, err)
		}
	}
	if err := build(plan); err != nil {
		return err
	}
	if plan.Nested {
		return become(plan, report)
	}
	if err := confine(plan); err != nil {
		return err
	}
	return supervise(plan, report)
}

// dieFirst makes the kernel take the program, and nothing of the machine, when memory runs out.
func dieFirst() error {
	return os.WriteFile("/proc/self/oom_score_adj", []byte("1000"), 0)
}

// build makes the program's view of the machine.
func build(plan *Plan) error {
	unix.Umask(0o022)
	sources, err := openSources(plan)
	if err != nil {
		return at(Mounts, err)
	}
	defer sources.close()
	if !plan.Nested {
		if err := becomeInside(); err != nil {
			return at(Capabilities, err)
		}
	}
	if err := enterRoot(plan, sources); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte("cloister")); err != nil {
		return at(Host, fmt.Errorf("setting the host name: %w", err))
	}
	return at(Host, unix.Setdomainname([]byte("(none)")))
}

// watch ends this process, and with it the namespace, when the starter is gone: the
// starter holds the other end of the plan's pipe and never writes a second frame.
func watch() error {
	fd, err := unix.FcntlInt(PlanFD, unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("duplicating the lifeline: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return fmt.Errorf("readying the lifeline: %w", err)
	}
	line := os.NewFile(uintptr(fd), "lifeline")
	go func() {
		var one [1]byte
		_, _ = line.Read(one[:]) // whatever comes, it is the end
		os.Exit(exitOrphan)
	}()
	return nil
}

// swallowSignals keeps the program from ending its init by signal. The handlers are reset
// when the program is executed; ignoring would be inherited. The last four are those that the runtime
// takes for faults of its own if nobody is notified.
func swallowSignals() {
	signal.Notify(make(chan os.Signal, 1), unix.SIGHUP, unix.SIGINT, unix.SIGTERM, unix.SIGQUIT,
		unix.SIGABRT, unix.SIGTRAP, unix.SIGSYS, unix.SIGXCPU, unix.SIGXFSZ, unix.SIGSTKFLT,
		unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU, unix.SIGSEGV, unix.SIGBUS, unix.SIGFPE, unix.SIGILL)
}
