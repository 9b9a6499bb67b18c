// Package sandbox puts the walls around a process and everything that it starts.
//
// A process in a sandbox has its own user, process, mount, network, IPC and UTS namespace,
// a root that holds the runtime read-only and the folders that it was given, no capabilities,
// no way to gain privileges, a seccomp filter and limits. Killing it kills its whole process
// namespace: when Wait returns, nothing of it runs.
//
// The package trusts the kernel and its own stage two (package walls), which runs as the first
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
	// Init is the host path of the executable whose main is [walls.Main]. Required, absolute.
	Init string
	// Root is a host folder whose content becomes the read-only root, without its dev, proc, run, sys and
	// tmp. Required, absolute; a nested enclave may have none, and then has an empty root.
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
	// Owner is the user and group outside that InsideUID maps to: -1 is the caller's own. It
	// must not be the machine's root. A nested enclave is its caller.
	Owner int
	// Nested starts an enclave instead of a sandbox: the program is the first process of its
	// namespaces and user 0, keeps the capabilities that it has there, and can start sandboxes
	// itself. There is no seccomp filter, and of Limits only OpenFiles and FileSize count (zero:
	// as the caller's), and Memory as the size of /tmp. Root stays the machine's root, so that
	// it can use cgroups and users; anybody else is user 0 in a user namespace. The program
	// dies with the process that started it.
	Nested bool
	// Limits bound the process and everything that it starts.
	Limits Limits
	// Stdin, Stdout, Stderr: nil is /dev/null.
	Stdin, Stdout, Stderr *os.File
	// Files are further descriptors to inherit, from 3 on. No other descriptor crosses.
	Files []*os.File
}

// Mount makes a host file or folder visible inside, with all that is mounted below it, or makes
// an empty file system, or a symbolic link: one of Source, Tmpfs and Link is set.
type Mount struct {
	// Source is a host path; Target is absolute, inside, and is created where it is in no
	// read-only folder.
	Source, Target string
	// Tmpfs is the size in bytes of an empty, writable file system in memory.
	Tmpfs int64
	// Link is what a symbolic link at Target says.
	Link string
	// Writable mounts are read-write; all are nosuid and nodev, and writable ones noexec is NOT
	// set since applications run code that they unpack.
	Writable bool
}

// Limits are per sandbox where the machine has cgroups, else per process (see [Process.Walls]).
// Zero means the default in brackets.
type Limits struct {
	// Memory in bytes [1 GiB].
	Memory int64
	// Together refuses a machine where no cgroup holds Memory for all processes together.
	Together bool
	// Processes, threads included [256].
	Processes int
	// OpenFiles per process [1024].
	OpenFiles int
	// FileSize of one file in bytes [unlimited].
	FileSize int64
	// CPUs as a number of cores [unlimited]; needs a cgroup.
	CPUs float64
}
