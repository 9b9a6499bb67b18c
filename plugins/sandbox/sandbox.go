// Package sandbox puts the walls around a process and everything that it starts.
//
// A process in a sandbox has its own user, process, mount, network, IPC and UTS namespace,
// a root that holds the runtime read-only and the folders that it was given, no capabilities,
// no way to gain privileges, a seccomp filter and limits. Killing it kills its whole process
// namespace: when Wait returns, nothing of it runs.
//
// The package trusts the kernel and its own stage two ([Main]), which runs as the first
// process of the namespaces, builds the walls from the inside and then starts the program.
// It never falls back to fewer walls: what the machine cannot give is an [UnavailableError].
package sandbox

import (
	"os"
)

// InsideUID is the user and group that a sandboxed process sees itself as.
const InsideUID = 1000

// Spec describes a sandbox. The zero value of a field means what its comment says.
type Spec struct {
	// Init is the host path of the executable whose main calls [Main]. Required.
	Init string
	// Root is a host folder whose content becomes the read-only root. Required.
	Root string
	// Mounts are placed over Root in order, after a private /proc, a minimal /dev and an empty /tmp.
	Mounts []Mount
	// Path is the executable, as seen inside. Required, absolute.
	Path string
	// Args are the arguments after Path's own name; Env is the whole environment.
	Args []string
	Env  []string
	// Dir is the working directory inside; "/" if empty.
	Dir string
	// Owner is the user and group outside that InsideUID maps to: -1 is the caller's own.
	Owner int
	// Limits bound the process and everything that it starts.
	Limits Limits
	// Stdin, Stdout, Stderr: nil is /dev/null.
	Stdin, Stdout, Stderr *os.File
	// Files are further descriptors to inherit, from 3 on. No other descriptor crosses.
	Files []*os.File
}

// Mount makes a host file or folder visible inside.
type Mount struct {
	// Source is a host path; Target is absolute, inside, and is created where Root lets it be.
	Source, Target string
	// Writable mounts are read-write; all are nosuid and nodev, and writable ones noexec is NOT
	// set since applications run code that they unpack.
	Writable bool
}

// Limits are per sandbox where the machine has cgroups, else per process (see [Process.Walls]).
// Zero means the default in brackets.
type Limits struct {
	// Memory in bytes [1 GiB].
	Memory int64
	// Processes, threads included [256].
	Processes int
	// OpenFiles per process [1024].
	OpenFiles int
	// FileSize of one file in bytes [unlimited].
	FileSize int64
	// CPUs as a number of cores [unlimited]; needs a cgroup.
	CPUs float64
}
