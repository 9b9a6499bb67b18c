package sandbox

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/cgroups/v3"
	"github.com/containerd/cgroups/v3/cgroup1"
	"github.com/containerd/cgroups/v3/cgroup2"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// cpuPeriod is the kernel's own default, in microseconds.
const cpuPeriod = 100_000

// prefix begins the name of every group. A group that is stale and without a process is one
// whose starter was killed before it could remove it.
const (
	prefix = "cloister-"
	stale  = time.Hour
)

// controllers says which limits a cgroup holds.
type controllers struct{ cpu, memory, pids bool }

// group is the cgroup of a sandbox, or stands for there being none.
type group struct {
	held   controllers
	v1     cgroup1.Cgroup
	inside []string // the folders of v1, and those of the starter
	beside []string
	v2     *cgroup2.Manager
}

// newGroup makes a cgroup below the starter's own, so that a limit on that stays one. Where the
// machine gives none, which an ordinary user is used to, the group holds nothing.
func newGroup(spec *Spec) *group {
	if spec.Nested || !isRoot() {
		return &group{}
	}
	name := prefix + rand.Text()
	switch cgroups.Mode() {
	case cgroups.Legacy, cgroups.Hybrid:
		return newGroup1(&spec.Limits, name)
	case cgroups.Unified:
		return newGroup2(&spec.Limits, name)
	default:
		return &group{}
	}
}

// newGroup1 uses those controllers of version 1 that somebody's machine has. An enclave that boots by itself
// mounts version 2 alone.
func newGroup1(l *Limits, name string) *group {
	g := &group{}
	mounted, err := cgroup1.Default()
	if err != nil {
		return g
	}
	own := cgroup1.NestedPath("")
	var used []cgroup1.Subsystem
	for _, s := range mounted {
		at, ok := s.(interface{ Path(string) string })
		parent, err := own(s.Name())
		if !ok || err != nil || !g.held.add(s.Name(), l) {
			continue
		}
		used = append(used, s)
		g.beside = append(g.beside, at.Path(parent))
		g.inside = append(g.inside, filepath.Join(at.Path(parent), name))
	}
	if len(used) == 0 {
		return g
	}
	sweep(g.beside)
	period := uint64(cpuPeriod)
	g.v1, err = cgroup1.New(cgroup1.NestedPath(name), &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: ptr(l.bytes()), Swap: ptr(l.bytes())},
		Pids:   &specs.LinuxPids{Limit: ptr(l.tasks())},
		CPU:    &specs.LinuxCPU{Period: &period, Quota: l.quota()},
	}, cgroup1.WithHierarchy(func() ([]cgroup1.Subsystem, error) { return used, nil }))
	if err != nil {
		for _, dir := range g.inside {
			_ = os.Remove(dir) // it may never have been made
		}
		return &group{}
	}
	return g
}

// add notes that a controller holds its limit, if it is one of ours and there is a limit.
func (c *controllers) add(name cgroup1.Name, l *Limits) bool {
	switch {
	case name == cgroup1.Memory:
		c.memory = true
	case name == cgroup1.Pids:
		c.pids = true
	case name == cgroup1.Cpu && l.CPUs > 0:
		c.cpu = true
	default:
		return false
	}
	return true
}

// newGroup2 makes a group beside the starter's own: in version 2 a group with processes has
// no children that have limits.
func newGroup2(l *Limits, name string) *group {
	const mountpoint = "/sys/fs/cgroup"
	_, own, err := cgroups.ParseCgroupFileUnified("/proc/self/cgroup")
	if err != nil {
		return &group{}
	}
	parent := path.Dir(path.Join("/", own))
	raw, err := os.ReadFile(filepath.Join(mountpoint, parent, "cgroup.controllers"))
	if err != nil {
		return &group{}
	}
	available := strings.Fields(string(raw))
	resources := &cgroup2.Resources{}
	var held controllers
	if slices.Contains(available, "memory") {
		held.memory = true
		resources.Memory = &cgroup2.Memory{Max: ptr(l.bytes()), Swap: ptr(int64(0))}
	}
	if slices.Contains(available, "pids") {
		held.pids = true
		resources.Pids = &cgroup2.Pids{Max: l.tasks()}
	}
	if quota := l.quota(); quota != nil && slices.Contains(available, "cpu") {
		period := uint64(cpuPeriod)
		held.cpu = true
		resources.CPU = &cgroup2.CPU{Max: cgroup2.NewCPUMax(quota, &period)}
	}
	if held == (controllers{}) {
		return &group{}
	}
	sweep([]string{filepath.Join(mountpoint, parent)})
	manager, err := cgroup2.NewManager(mountpoint, path.Join(parent, name), resources)
	if err != nil {
		return &group{}
	}
	return &group{held: held, v2: manager}
}

// sweep removes from folders the groups that killed starters left. The kernel keeps those
// that hold a process, and a start takes far less than stale from making a group to filling it.
func sweep(folders []string) {
	for _, dir := range folders {
		left, _ := filepath.Glob(filepath.Join(dir, prefix+"*"))
		for _, group := range left {
			if info, err := os.Stat(group); err == nil && time.Since(info.ModTime()) > stale {
				_ = os.Remove(group) // fails if it is in use
			}
		}
	}
}

// enter makes what this thread starts from now on start inside. The thread itself has to
// [group.leave] before the group can be removed. Moving only itself spares a thread the lock
// for which every fork of the machine would wait.
func (g *group) enter() error { return moveThread(g.inside) }

func (g *group) leave() error { return moveThread(g.beside) }

func moveThread(folders []string) error {
	for _, dir := range folders {
		if err := os.WriteFile(filepath.Join(dir, "tasks"), []byte("0"), 0); err != nil {
			return fmt.Errorf("moving to a cgroup: %w", err)
		}
	}
	return nil
}

// adopt takes in a process that no [group.enter] let start inside.
func (g *group) adopt(pid int) error {
	if g.v2 == nil {
		return nil
	}
	return g.v2.AddProc(uint64(pid))
}

// remove deletes the group, which must hold no process any more.
func (g *group) remove() error {
	var errs []error
	if g.v1 != nil {
		errs = append(errs, g.v1.Delete())
	}
	if g.v2 != nil {
		errs = append(errs, g.v2.Delete())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("sandbox: removing the cgroup: %w", err)
	}
	return nil
}

// walls says, in sorted lines, what enforces each limit.
func (g *group) walls() []string {
	line := func(held bool, name, otherwise string) string {
		if held {
			return name + ": cgroup"
		}
		return name + ": " + otherwise
	}
	return []string{
		line(g.held.cpu, "cpu", "none"),
		line(g.held.memory, "memory", "per-process"),
		line(g.held.pids, "processes", "per-user"),
	}
}

func (l *Limits) bytes() int64 { return orDefault(l.Memory, defaultMemory) }

func (l *Limits) tasks() int64 { return int64(orDefault(l.Processes, defaultProcesses) + ownThreads) }

// quota is the time of all processors in a cpuPeriod; nil is no limit.
func (l *Limits) quota() *int64 {
	if l.CPUs == 0 {
		return nil
	}
	return ptr(max(1000, int64(l.CPUs*cpuPeriod))) // 1 ms is the least that the kernel takes
}

func ptr[T any](v T) *T { return &v }
