// Package walls builds the walls of a sandbox from the inside: it is stage two of package
// sandbox, the first process of the new namespaces.
//
// It trusts the starter, which sends a [Plan] over an inherited pipe, and the kernel. It
// runs before any hostile code does, and gives up every privilege before it starts any.
// Whatever cannot be built ends it: it never starts a program behind fewer walls.
//
// The package imports little on purpose, since every sandbox pays for its start.
package walls

import "errors"

// The descriptors of stage two. Those that the program inherits follow.
const (
	// PlanFD is a pipe from the starter: a frame with the [Plan], then nothing. It stays
	// open as long as the starter lives, so its end means that the starter is gone.
	PlanFD = 3
	// ReportFD is a pipe to the starter: one [Report] a line.
	ReportFD = 4
	// FirstFD is the first descriptor that the program inherits, as its descriptor 3.
	FirstFD = 5
)

// MaxPlan bounds the JSON of a plan, MaxReport that of all reports, in bytes.
const (
	MaxPlan   = 4 << 20
	MaxReport = 64 << 10
)

// UID is the user and group that the program is, inside. A nested enclave is user 0.
const UID = 1000

// Plan says what stage two builds and starts.
type Plan struct {
	// Root is a host folder whose content becomes the root; empty is an empty root.
	Root string `json:"root,omitempty"`
	// Mounts are placed in order, after /proc, /dev and /tmp.
	Mounts []Mount `json:"mounts,omitempty"`
	// Path, Args (with the program's own name), Env and Dir are those of the program.
	Path string   `json:"path"`
	Args []string `json:"args"`
	Env  []string `json:"env"`
	Dir  string   `json:"dir"`
	// Files counts the descriptors from FirstFD on.
	Files int `json:"files"`
	// Nested makes the program the first process, with its capabilities, its /proc writable.
	Nested bool `json:"nested,omitempty"`
	// Filter is the seccomp program as the kernel's struct sock_filter, 8 bytes each.
	Filter []byte `json:"filter,omitempty"`
	// Limits are set as soft and hard limits.
	Limits []Limit `json:"limits,omitempty"`
}

// Mount is one mount: a bind of Source, or a tmpfs of Tmpfs bytes, or a symbolic link to Link.
type Mount struct {
	Target   string `json:"target"`
	Source   string `json:"source,omitempty"`
	Writable bool   `json:"writable,omitempty"`
	Tmpfs    int64  `json:"tmpfs,omitempty"`
	Link     string `json:"link,omitempty"`
}

// Limit is one resource limit (setrlimit(2)).
type Limit struct {
	Resource int    `json:"resource"`
	Value    uint64 `json:"value"`
}

// Report is what stage two tells the starter.
type Report struct {
	// Started says that the program runs; Ready that a nested program is about to be
	// executed, where the end of the pipe is the confirmation.
	Started bool `json:"started,omitempty"`
	Ready   bool `json:"ready,omitempty"`
	// Wall names the wall that could not be built, or is [Program].
	Wall string `json:"wall,omitempty"`
	// Reason says what happened, Errno the kernel's error number if it was one.
	Reason string `json:"reason,omitempty"`
	Errno  int    `json:"errno,omitempty"`
}

// The walls, in the order in which they are built.
const (
	Starter      = "starter"
	Descriptors  = "descriptors"
	Mounts       = "mounts"
	Proc         = "proc"
	Devices      = "devices"
	Root         = "root"
	Host         = "host name"
	Rlimits      = "limits"
	Capabilities = "capabilities"
	Seccomp      = "seccomp"
	// Program and Paths are no walls: the program cannot be executed, or a path of the plan is
	// not there, or cannot be made where the plan wants it.
	Program = "program"
	Paths   = "paths"
)

// failure is an error that knows its wall.
type failure struct {
	wall string
	err  error
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// at names the wall that err comes from, unless err knows better; nil stays nil.
func at(wall string, err error) error {
	if err == nil {
		return nil
	}
	if inner, ok := errors.AsType[*failure](err); ok {
		wall = inner.wall
	}
	return &failure{wall: wall, err: err}
}
