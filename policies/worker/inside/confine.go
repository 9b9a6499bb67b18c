package inside

import (
	"fmt"
	"slices"
	"strings"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/sys/unix"
)

// needed is every system call that a worker makes once its walls stand: memory, threads, clocks
// and descriptors that it has.
var needed = strings.Fields(`
	brk clock_gettime clock_nanosleep clone close epoll_create1 epoll_ctl epoll_pwait epoll_wait
	eventfd2 exit exit_group fcntl fstat futex getpeername getpid getrandom getsockname getsockopt gettid
	gettimeofday lseek madvise membarrier mincore mmap mprotect munmap nanosleep  pread64
	read recvmsg restart_syscall rseq rt_sigaction rt_sigprocmask rt_sigreturn
	sched_getaffinity sched_yield sendmsg set_robust_list setitimer shutdown sigaltstack tgkill
	timer_create timer_delete timer_settime write
`)

// missing answers a call as a kernel does that has none. What clone3 asks for is in memory, out of a
// filter's sight; libraries fall back to clone.
const missing = seccomp.ActionErrno&^0xffff | seccomp.Action(unix.ENOSYS)

// Confine takes every other system call from this process, for good. What it tries all the same
// ends it.
func Confine() error {
	info, err := arch.GetInfo("")
	if err != nil {
		return fmt.Errorf("system calls of this machine: %w", err)
	}
	names := slices.DeleteFunc(slices.Clone(needed), func(name string) bool {
		_, known := info.SyscallNames[name]
		return !known
	})
	return seccomp.LoadFilter(seccomp.Filter{
		NoNewPrivs: true,
		Flag:       seccomp.FilterFlagTSync,
		Policy: seccomp.Policy{
			DefaultAction: seccomp.ActionKillProcess,
			Syscalls: []seccomp.SyscallGroup{
				{Action: seccomp.ActionAllow, Names: names},
				{Action: missing, Names: []string{"clone3"}},
			},
		},
	})
}
