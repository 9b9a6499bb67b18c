package walls

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// securebits forbids for good that user 0 or a change of user gives capabilities, and that
// ambient ones are raised (capabilities(7), "The securebits flags").
const securebits = 1<<0 | 1<<1 | // NOROOT
	1<<2 | 1<<3 | // NO_SETUID_FIXUP
	1<<5 | // KEEP_CAPS stays off, locked
	1<<6 | 1<<7 // NO_CAP_AMBIENT_RAISE

// maxCapability is more than any kernel has; the loop ends at the kernel's own last one.
const maxCapability = 64

// becomeInside makes this process the user of the program. In a user namespace without a
// user 0 that keeps its capabilities, which building the walls needs.
func becomeInside() error {
	if err := syscall.Setresgid(UID, UID, UID); err != nil {
		return fmt.Errorf("becoming group %d: %w", UID, err)
	}
	if err := syscall.Setresuid(UID, UID, UID); err != nil {
		return fmt.Errorf("becoming user %d: %w", UID, err)
	}
	return nil
}

// confine takes from this process, and so from all that it starts, every privilege and every
// system call that the program does not need. Nothing of it can be undone.
func confine(plan *Plan) error {
	if err := setLimits(plan.Limits); err != nil {
		return at(Rlimits, err)
	}
	if err := dropCapabilities(); err != nil {
		return at(Capabilities, err)
	}
	return at(Seccomp, installFilter(plan.Filter))
}

// setLimits sets soft and hard limits alike.
func setLimits(limits []Limit) error {
	for _, l := range limits {
		// syscall's, which tells the runtime not to restore the limit of open files.
		err := syscall.Setrlimit(l.Resource, &syscall.Rlimit{Cur: l.Value, Max: l.Value})
		if err != nil {
			return fmt.Errorf("limit %d to %d: %w", l.Resource, l.Value, err)
		}
	}
	return nil
}

// dropCapabilities empties every set and sees to it that none can be regained. What only counts
// when something is executed concerns this thread, which alone does that; the others of this
// process lose what they could use.
func dropCapabilities() error {
	for capability := range maxCapability {
		err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(capability), 0, 0, 0)
		if errors.Is(err, unix.EINVAL) {
			break // the kernel has no more
		}
		if err != nil {
			return fmt.Errorf("bounding set, capability %d: %w", capability, err)
		}
	}
	if err := unix.Prctl(unix.PR_SET_SECUREBITS, securebits, 0, 0, 0); err != nil {
		return fmt.Errorf("securebits: %w", err)
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("ambient set: %w", err)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET,
		uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&none[0])), 0) //nolint:gosec // G103: the call takes pointers, kept alive below
	runtime.KeepAlive(&header)
	runtime.KeepAlive(&none)
	if errno != 0 {
		return fmt.Errorf("capset: %w", errno)
	}
	// The filter takes this one to all threads.
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no_new_privs: %w", err)
	}
	return nil
}

// installFilter puts every thread under a seccomp program.
func installFilter(raw []byte) error {
	const size = 8 // struct sock_filter: u16 code, u8 jt, u8 jf, u32 k
	if len(raw) == 0 || len(raw)%size != 0 || len(raw)/size > unix.BPF_MAXINSNS {
		return fmt.Errorf("a filter of %d bytes: %w", len(raw), unix.EINVAL)
	}
	filter := make([]unix.SockFilter, len(raw)/size)
	for i := range filter {
		one := raw[i*size:]
		filter[i] = unix.SockFilter{
			Code: binary.NativeEndian.Uint16(one), Jt: one[2], Jf: one[3], K: binary.NativeEndian.Uint32(one[4:]),
		}
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	failed, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
		unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog))) //nolint:gosec // G103: the call takes a pointer
	runtime.KeepAlive(filter)
	if errno != 0 {
		return errno
	}
	if failed != 0 {
		return fmt.Errorf("thread %d did not take the filter", failed)
	}
	return nil
}
