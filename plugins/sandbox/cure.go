package sandbox

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/cloister-run/cloister/plugins/sandbox/walls"
)

// UnavailableError says that the machine cannot give a wall. Nothing was started.
type UnavailableError struct {
	// Wall names it: "user namespace", "mounts", "seccomp", …
	Wall string
	// Reason is what the kernel or the builder of the wall said.
	Reason string
	// Cure is what the operator can do about it; empty if nothing is known.
	Cure string
}

func (e *UnavailableError) Error() string {
	return fmt.Sprintf("sandbox: the machine gives no %s: %s", e.Wall, e.Reason)
}

// The walls that the starter itself makes.
const (
	userNamespace = "user namespace"
	namespaces    = "namespaces"
	memoryCgroup  = "memory cgroup"
)

// cures tells a person what to do about a missing wall.
var cures = map[string]string{
	userNamespace: "allow user namespaces (Debian: sysctl kernel.unprivileged_userns_clone=1; Ubuntu 24.04: sysctl " +
		"kernel.apparmor_restrict_unprivileged_userns=0; anywhere: sysctl user.max_user_namespaces=10000; in a container: " +
		"--security-opt seccomp=unconfined) or run as root",
	namespaces:   "run with CAP_SYS_ADMIN (in a container: --privileged) or as an ordinary user",
	memoryCgroup: "use a kernel with CONFIG_MEMCG, and have its controller mounted below /sys/fs/cgroup",
	walls.Proc: "the machine hides parts of /proc, and so no complete one can be mounted; in a container: " +
		"--security-opt systempaths=unconfined, or --privileged",
	walls.Root:         restricted + "; in an enclave, boot must move its root over the kernel's first ramdisk",
	walls.Mounts:       restricted,
	walls.Devices:      "the outer /dev must have null, zero, full, random and urandom, on a file system mounted without nodev",
	walls.Seccomp:      "use a kernel with CONFIG_SECCOMP_FILTER",
	walls.Capabilities: restricted,
	walls.Rlimits:      "the limits of the caller, or of its cgroup, are lower than those asked for",
}

// restricted is the cure where a user namespace can be made and gives no power over mounts.
const restricted = "run as root or, on Ubuntu 24.04: sysctl kernel.apparmor_restrict_unprivileged_userns=0; " +
	"in a container: --security-opt seccomp=unconfined --security-opt apparmor=unconfined"

func unavailable(wall string, err error) error {
	return &UnavailableError{Wall: wall, Reason: err.Error(), Cure: cures[wall]}
}

// refused explains why stage two could not be started.
func refused(spec *Spec, err error) error {
	if _, ok := errors.AsType[*UnavailableError](err); ok {
		return err
	}
	if isRoot() && errors.Is(err, syscall.EACCES) {
		return fmt.Errorf("sandbox: %w: Init must be executable without root's right to pass all folders", err)
	}
	for _, errno := range []syscall.Errno{syscall.EPERM, syscall.ENOSPC, syscall.EUSERS, syscall.EINVAL, syscall.EACCES, syscall.ENOSYS} {
		if !errors.Is(err, errno) {
			continue
		}
		if spec.Nested && isRoot() {
			return unavailable(namespaces, err)
		}
		return unavailable(userNamespace, err)
	}
	return fmt.Errorf("sandbox: starting the walls: %w", err)
}

// failed explains a report of stage two that no program was started.
func failed(report walls.Report) error {
	if report.Wall == walls.Program || report.Wall == walls.Paths {
		return fmt.Errorf("sandbox: %s", report.Reason)
	}
	return unavailable(report.Wall, errors.New(report.Reason))
}
