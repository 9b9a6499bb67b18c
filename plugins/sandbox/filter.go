package sandbox

import (
	"encoding/binary"
	"fmt"
	"slices"
	"sync"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// filter is the seccomp program of every sandbox, as the kernel's struct sock_filter.
//
// It is an allow-list. What is known to be dangerous or to need a privilege is refused with
// EPERM; what is in no list, or made through another ABI, does not exist (ENOSYS), so that
// libraries fall back to what does.
var filter = sync.OnceValues(func() ([]byte, error) {
	info, err := arch.GetInfo("")
	if err != nil {
		return nil, fmt.Errorf("system calls of this machine: %w", err)
	}
	// Calls whose arguments decide come first, in instructions of our own: the library's compare
	// the next call's number with an argument once a condition did not hold.
	program, err := decide(info)
	if err != nil {
		return nil, err
	}
	policy := seccomp.Policy{
		DefaultAction: seccomp.ActionErrno,
		Syscalls: []seccomp.SyscallGroup{
			{Action: seccomp.ActionAllow, Names: known(info, allowed)},
			{Action: seccomp.ActionErrno, Names: known(info, denied)},
		},
	}
	byNumber, err := policy.Assemble()
	if err != nil {
		return nil, fmt.Errorf("assembling: %w", err)
	}
	// The last instruction answers for unknown calls and foreign ABIs alike.
	byNumber[len(byNumber)-1] = refuse(unix.ENOSYS)
	raw, err := bpf.Assemble(append(program, byNumber...))
	if err != nil {
		return nil, fmt.Errorf("assembling: %w", err)
	}
	out := make([]byte, 0, 8*len(raw))
	for _, i := range raw {
		out = binary.NativeEndian.AppendUint16(out, i.Op)
		out = append(out, i.Jt, i.Jf)
		out = binary.NativeEndian.AppendUint32(out, i.K)
	}
	return out, nil
})

// Offsets in struct seccomp_data (seccomp(2)). Every argument that decides is one of which the
// kernel reads the low 32 bits only, so a filter that looked at all 64 could be passed.
const (
	offsetNumber = 0
	offsetArch   = 4
	offsetArgs   = 16
)

// namespaceFlags are those of clone(2) that make a namespace. CLONE_NEWTIME is none of them:
// its bit is part of the signal number there.
const namespaceFlags = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC |
	unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET

var allow = bpf.RetConstant{Val: uint32(seccomp.ActionAllow)}

func refuse(errno unix.Errno) bpf.Instruction {
	return bpf.RetConstant{Val: uint32(seccomp.ActionErrno) | uint32(errno)}
}

// decide gives the instructions for the calls whose arguments matter. Each block ends with an
// answer; a call that none is about falls through.
func decide(info *arch.Info) ([]bpf.Instruction, error) {
	argument := func(i uint32) bpf.Instruction { return bpf.LoadAbsolute{Off: offsetArgs + 8*i, Size: 4} }
	unless := func(cond bpf.JumpTest, value uint32) bpf.Instruction {
		return bpf.JumpIf{Cond: cond, Val: value, SkipFalse: 1}
	}
	onlyUnix := []bpf.Instruction{argument(0), unless(bpf.JumpEqual, unix.AF_UNIX), allow, refuse(unix.EAFNOSUPPORT)}
	blocks := []struct {
		call string
		body []bpf.Instruction
	}{
		{"socket", onlyUnix},
		{"socketpair", onlyUnix},
		{"clone", []bpf.Instruction{argument(0), unless(bpf.JumpBitsSet, namespaceFlags), refuse(unix.EPERM), allow}},
		// What it asks for is in memory, out of a filter's sight. Libraries fall back to clone.
		{"clone3", []bpf.Instruction{refuse(unix.ENOSYS)}},
		// Writing to another's terminal.
		{"ioctl", []bpf.Instruction{
			argument(1),
			unless(bpf.JumpEqual, unix.TIOCSTI), refuse(unix.EPERM),
			unless(bpf.JumpEqual, unix.TIOCLINUX), refuse(unix.EPERM), allow,
		}},
		// Watching a folder that all jobs see, as inotify(7) would.
		{"fcntl", []bpf.Instruction{argument(1), unless(bpf.JumpEqual, unix.F_NOTIFY), refuse(unix.EPERM), allow}},
		// Only the usual one, and the question which it is.
		{"personality", []bpf.Instruction{
			argument(0),
			unless(bpf.JumpEqual, 0), allow,
			unless(bpf.JumpEqual, 0xffffffff), allow, refuse(unix.EPERM),
		}},
	}
	program := []bpf.Instruction{
		bpf.LoadAbsolute{Off: offsetArch, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(info.ID), SkipTrue: 1},
		refuse(unix.ENOSYS),
		bpf.LoadAbsolute{Off: offsetNumber, Size: 4},
	}
	for _, b := range blocks {
		number, ok := info.SyscallNames[b.call]
		if !ok {
			return nil, fmt.Errorf("the call %s has no number on %s", b.call, info.Name)
		}
		program = append(program, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(number), SkipTrue: uint8(len(b.body))})
		program = append(program, b.body...)
	}
	return program, nil
}

// known leaves out what this architecture does not have, or the library not yet.
func known(info *arch.Info, names []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		_, ok := info.SyscallNames[name]
		return !ok
	})
}
