package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/plugins/sandbox/walls"
)

// start holds what the start of one sandbox needs.
type start struct {
	spec  *Spec
	plan  *walls.Plan
	group *group
	// files are the descriptors of stage two, of which own are closed after the fork.
	files, own []*os.File
	// lifeline is the writing end of the plan's pipe, which stage two outlives by no moment.
	lifeline *os.File
	report   *os.File
}

// prepare makes all that does not need stage two to be there.
func prepare(spec *Spec) (_ *start, err error) {
	s := &start{spec: spec}
	defer func() {
		if err != nil {
			s.release()
		}
	}()
	s.group = newGroup(spec)
	if spec.Limits.Together && !s.group.held.memory {
		return nil, unavailable(memoryCgroup, errors.New("without one a limit holds for each process and not for all together"))
	}
	if s.plan, err = spec.plan(s.group.held); err != nil {
		return nil, err
	}
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		return nil, unavailable(walls.Devices, err)
	}
	s.own = append(s.own, null)
	for _, std := range []*os.File{spec.Stdin, spec.Stdout, spec.Stderr} {
		if std == nil {
			std = null
		}
		s.files = append(s.files, std)
	}
	planOut, lifeline, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("sandbox: %w", err)
	}
	s.own, s.lifeline = append(s.own, planOut), lifeline
	report, reportIn, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("sandbox: %w", err)
	}
	s.own, s.report = append(s.own, reportIn), report
	s.files = append(append(s.files, planOut, reportIn), spec.Files...)
	return s, nil
}

// release closes everything of a start that came to nothing.
func (s *start) release() {
	for _, f := range append(s.own, s.lifeline, s.report) {
		_ = f.Close() // of a nil or closed file, an error that means nothing
	}
	_ = s.group.remove()
}

// onThread runs f on a thread of its own, which ends with it. It is never the first thread: what the kernel
// says of the process in /proc/self, its cgroup for one, it says of that thread.
func onThread(f func()) {
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			f()
			return
		}
		taken := make(chan struct{}) // by another thread, as this one is not free
		go func() {
			runtime.LockOSThread()
			close(taken)
			f()
		}()
		<-taken
		runtime.UnlockOSThread()
	}()
}

// live starts stage two and stays until it is gone. The kernel ends stage two when the thread
// that started it ends, so the thread does nothing else: see [onThread].
func (s *start) live(p *Process, forked chan<- error) {
	err := s.fork(p)
	if err != nil {
		s.release()
		forked <- err
		return
	}
	for _, f := range s.own {
		_ = f.Close()
	}
	forked <- nil
	state, err := p.init.Wait()
	_ = s.lifeline.Close()
	p.status, p.err = exitStatus(state), err
	if err := s.group.remove(); err != nil && p.err == nil {
		p.err = err
	}
	close(p.done)
}

// fork starts stage two inside of the cgroup, without groups.
func (s *start) fork(p *Process) (err error) {
	if err := leaveGroups(); err != nil {
		return err
	}
	if err := s.group.enter(); err != nil {
		return unavailable(walls.Rlimits, errors.Join(err, s.group.leave()))
	}
	p.init, err = os.StartProcess(s.spec.Init, []string{"cloister-walls"}, &os.ProcAttr{
		Dir:   "/",
		Env:   []string{},
		Files: s.files,
		Sys:   s.spec.namespaces(),
	})
	left := s.group.leave()
	if err != nil {
		return err
	}
	if err := errors.Join(left, s.group.adopt(p.init.Pid)); err != nil {
		_ = p.init.Kill()
		_, _ = p.init.Wait()
		return unavailable(walls.Rlimits, err)
	}
	return nil
}

// finish gives stage two its plan and waits for what it makes of it.
func (s *start) finish(ctx context.Context, p *Process) error {
	giveUp := context.AfterFunc(ctx, func() { _ = p.Kill() })
	err := s.hear()
	if !giveUp() {
		return context.Cause(ctx)
	}
	return err
}

// hear is finish without an end.
func (s *start) hear() error {
	// Of a stage two that is gone, the reports say more.
	if err := walls.WritePlan(s.lifeline, s.plan); err != nil && !errors.Is(err, syscall.EPIPE) {
		return fmt.Errorf("sandbox: sending the plan: %w", err)
	}
	outcome, err := walls.ReadOutcome(s.report)
	if err != nil {
		return unavailable(walls.Starter, err)
	}
	if !outcome.Started {
		return failed(outcome)
	}
	return nil
}

// namespaces says how stage two is born.
func (s *Spec) namespaces() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
		Setsid:     true,
		Pdeathsig:  syscall.SIGKILL,
	}
	if s.Nested && isRoot() {
		return attr
	}
	inside, owner, group := walls.UID, s.owner(), s.Owner
	if s.Nested {
		inside, owner = 0, os.Geteuid()
	}
	if s.Nested || s.Owner == -1 {
		group = os.Getegid()
	}
	attr.Cloneflags |= unix.CLONE_NEWUSER
	attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: inside, HostID: owner, Size: 1}}
	attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: inside, HostID: group, Size: 1}}
	if !s.Nested {
		attr.Cloneflags |= unix.CLONE_NEWCGROUP
		// Not being user 0, stage two keeps through its own execution only what is ambient.
		attr.AmbientCaps = []uintptr{unix.CAP_SETGID, unix.CAP_SETUID, unix.CAP_SETPCAP, unix.CAP_SYS_ADMIN}
	}
	return attr
}

func isRoot() bool { return os.Geteuid() == 0 }

// leaveGroups takes the supplementary groups from this thread, and so from what it starts.
// Inside, setgroups(2) is denied for good. An ordinary user cannot leave groups; their kernel
// numbers then stay, as the user's own, and mean nothing inside.
func leaveGroups() error {
	_, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0)
	if errno != 0 && errno != unix.EPERM {
		return fmt.Errorf("leaving groups: %w", errno)
	}
	return nil
}

func exitStatus(state *os.ProcessState) int {
	if state == nil {
		return -1
	}
	status, _ := state.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}
