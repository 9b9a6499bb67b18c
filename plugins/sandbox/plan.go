package sandbox

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/plugins/sandbox/walls"
)

// Defaults of Limits.
const (
	defaultMemory    = 1 << 30
	defaultProcesses = 256
	defaultOpenFiles = 1024
)

// ownThreads is what stage two itself may need of the limit of processes.
const ownThreads = 16

// lockedMemory bounds mlock(2): what the kernel gives an ordinary user by default.
const lockedMemory = 64 << 10

// noCore is a limit under which the kernel dumps no core. 0 only keeps it from writing a file: where the
// machine's core_pattern is a pipe, that gets all of a program's memory (core(5)), unless the limit is 1
// (Linux, fs/coredump.c).
const noCore = 1

// check reports every problem of a Spec at once.
func (s *Spec) check() error {
	var problems []error
	problem := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }

	if err := executable(s.Init); err != nil {
		problem("Init: %w", err)
	}
	if (!s.Nested || s.Root != "") && !filepath.IsAbs(s.Root) {
		problem("Root: %q is no absolute path", s.Root)
	}
	if !filepath.IsAbs(s.Path) {
		problem("Path: %q is no absolute path", s.Path)
	}
	if s.Dir != "" && !filepath.IsAbs(s.Dir) {
		problem("Dir: %q is no absolute path", s.Dir)
	}
	for i, m := range s.Mounts {
		if err := m.check(); err != nil {
			problem("Mounts[%d]: %w", i, err)
		}
	}
	for i, f := range s.Files {
		if f == nil {
			problem("Files[%d]: nil", i)
		}
	}
	switch {
	case s.Owner < -1:
		problem("Owner: %d", s.Owner)
	case !s.Nested && s.owner() == 0 && machineRoot():
		problem("Owner: the program would be the machine's root; give it a user of its own")
	case !s.Nested && !isRoot() && s.owner() != os.Geteuid():
		problem("Owner: %d: only root gives a program another user", s.Owner)
	}
	l := s.Limits
	if l.Memory < 0 || l.Processes < 0 || l.OpenFiles < 0 || l.FileSize < 0 || l.CPUs < 0 || math.IsNaN(l.CPUs) {
		problem("Limits: %+v has a negative one", l)
	}
	return errors.Join(problems...)
}

func (m *Mount) check() error {
	if !filepath.IsAbs(m.Target) || filepath.Clean(m.Target) != m.Target || m.Target == "/" {
		return fmt.Errorf("target: %q is no clean absolute path below the root", m.Target)
	}
	kinds := 0
	for _, set := range []bool{m.Source != "", m.Tmpfs != 0, m.Link != ""} {
		if set {
			kinds++
		}
	}
	switch {
	case kinds != 1:
		return fmt.Errorf("%s: has not exactly one of source, tmpfs and link", m.Target)
	case m.Source != "" && !filepath.IsAbs(m.Source):
		return fmt.Errorf("source: %q is no absolute path", m.Source)
	case m.Tmpfs < 0:
		return fmt.Errorf("%s: tmpfs of %d bytes", m.Target, m.Tmpfs)
	}
	return nil
}

// executable tells a wrong Init from a machine that gives no namespaces, of which execve's
// error number alone would say the same.
func executable(path string) error {
	if !filepath.IsAbs(path) {
		return fmt.Errorf("%q is no absolute path", path)
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is no regular file", path)
	}
	if err := unix.Access(path, unix.X_OK); err != nil {
		return fmt.Errorf("executing %s: %w", path, err)
	}
	return nil
}

// owner is the user outside that the program is.
func (s *Spec) owner() int {
	if s.Owner == -1 {
		return os.Geteuid()
	}
	return s.Owner
}

// machineRoot says whether user 0 here is user 0 of the machine. That of a user namespace is
// an ordinary user outside (user_namespaces(7)).
func machineRoot() bool {
	raw, err := os.ReadFile("/proc/self/uid_map")
	fields := strings.Fields(string(raw))
	return err != nil || len(fields) < 2 || fields[0] == "0" && fields[1] == "0"
}

// plan says what stage two builds. held are the limits that a cgroup holds already.
func (s *Spec) plan(held controllers) (*walls.Plan, error) {
	p := &walls.Plan{
		Root:   s.Root,
		Path:   s.Path,
		Args:   append([]string{s.Path}, s.Args...),
		Env:    s.Env,
		Dir:    s.Dir,
		Files:  len(s.Files),
		Nested: s.Nested,
		Limits: s.Limits.rlimits(s.Nested, held),
	}
	if p.Dir == "" {
		p.Dir = "/"
	}
	memory, err := s.Limits.memory(s.Nested)
	if err != nil {
		return nil, err
	}
	const page = 64 << 10 // the largest of arm64
	p.Mounts = []walls.Mount{
		{Target: "/tmp", Tmpfs: max(page, memory/4)},
		{Target: "/dev/shm", Tmpfs: max(page, memory/2)},
	}
	for _, m := range s.Mounts {
		p.Mounts = append(p.Mounts, walls.Mount{
			Target: m.Target, Source: m.Source, Writable: m.Writable, Tmpfs: m.Tmpfs, Link: m.Link,
		})
	}
	if !s.Nested {
		if p.Filter, err = filter(); err != nil {
			return nil, &UnavailableError{Wall: walls.Seccomp, Reason: err.Error(), Cure: cures[walls.Seccomp]}
		}
	}
	return p, nil
}

// memory is the limit in bytes; without one, for an enclave, what the machine has.
func (l *Limits) memory(nested bool) (int64, error) {
	if l.Memory > 0 {
		return l.Memory, nil
	}
	if !nested {
		return defaultMemory, nil
	}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0, fmt.Errorf("asking for the machine's memory: %w", err)
	}
	return int64(info.Totalram) * int64(info.Unit), nil
}

// rlimits are the limits of each process. The size of the address space is not among them:
// Go and Java reserve far more of it than they use. What may be written to is.
func (l *Limits) rlimits(nested bool, held controllers) []walls.Limit {
	var all []walls.Limit
	set := func(resource int, value int64) {
		all = append(all, walls.Limit{Resource: resource, Value: uint64(value)})
	}
	if l.FileSize > 0 {
		set(unix.RLIMIT_FSIZE, l.FileSize)
	}
	if nested {
		if l.OpenFiles > 0 {
			set(unix.RLIMIT_NOFILE, int64(l.OpenFiles))
		}
		return all
	}
	set(unix.RLIMIT_NOFILE, int64(orDefault(l.OpenFiles, defaultOpenFiles)))
	set(unix.RLIMIT_CORE, noCore)
	set(unix.RLIMIT_MEMLOCK, lockedMemory)
	set(unix.RLIMIT_MSGQUEUE, 0)
	if !held.memory {
		set(unix.RLIMIT_DATA, l.bytes())
	}
	if !held.pids {
		set(unix.RLIMIT_NPROC, l.tasks())
	}
	return all
}

func orDefault[T int | int64](value, fallback T) T {
	if value == 0 {
		return fallback
	}
	return value
}
