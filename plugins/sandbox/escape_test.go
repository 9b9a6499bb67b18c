package sandbox_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/plugins/sandbox"
)

// first and second are what a test tells its probe.
func first() string  { return os.Args[1] }
func second() string { return os.Args[2] }

func socket(domain, kind int) func() error {
	return func() error {
		fd, err := unix.Socket(domain, kind, 0)
		if err == nil {
			unix.Close(fd)
		}
		return err
	}
}

// call makes a system call as it is: a library may not know it, or not let one ask so.
func call(trap uintptr, args ...uintptr) func() error {
	return func() error {
		var a [6]uintptr
		copy(a[:], args)
		if _, _, errno := unix.Syscall6(trap, a[0], a[1], a[2], a[3], a[4], a[5]); errno != 0 {
			return errno
		}
		return nil
	}
}

var network = []attempt{
	refused("AF_INET", socket(unix.AF_INET, unix.SOCK_STREAM), unix.EAFNOSUPPORT),
	refused("AF_INET6", socket(unix.AF_INET6, unix.SOCK_STREAM), unix.EAFNOSUPPORT),
	refused("AF_INET datagrams", socket(unix.AF_INET, unix.SOCK_DGRAM), unix.EAFNOSUPPORT),
	refused("AF_INET raw", socket(unix.AF_INET, unix.SOCK_RAW), unix.EAFNOSUPPORT),
	refused("AF_INET6 raw", socket(unix.AF_INET6, unix.SOCK_RAW), unix.EAFNOSUPPORT),
	refused("AF_VSOCK", socket(unix.AF_VSOCK, unix.SOCK_STREAM), unix.EAFNOSUPPORT),
	refused("AF_NETLINK", socket(unix.AF_NETLINK, unix.SOCK_RAW), unix.EAFNOSUPPORT),
	refused("AF_PACKET", socket(unix.AF_PACKET, unix.SOCK_RAW), unix.EAFNOSUPPORT),
	refused("AF_ALG", socket(unix.AF_ALG, unix.SOCK_SEQPACKET), unix.EAFNOSUPPORT),
	refused("AF_VSOCK datagrams", socket(unix.AF_VSOCK, unix.SOCK_DGRAM), unix.EAFNOSUPPORT),
	refused("AF_VSOCK packets", socket(unix.AF_VSOCK, unix.SOCK_SEQPACKET), unix.EAFNOSUPPORT),
	works("no family but AF_UNIX", func() (err error) {
		for family := range 64 {
			made := socket(family, unix.SOCK_STREAM)()
			if family != unix.AF_UNIX && !errors.Is(made, unix.EAFNOSUPPORT) {
				err = errors.Join(err, fmt.Errorf("family %d: %w", family, made))
			}
		}
		return err
	}),
	// x32, whose calls are x86_64's with this bit set, and share its number for the architecture.
	refused("a socket through another ABI", call(0x40000000|unix.SYS_SOCKET, unix.AF_VSOCK, unix.SOCK_STREAM, 0), unix.ENOSYS),
	refused("AF_VSOCK behind high bits", call(unix.SYS_SOCKET, 1<<32|unix.AF_VSOCK, unix.SOCK_STREAM, 0), unix.EAFNOSUPPORT),
	refused("a pair of AF_INET", func() error { _, err := unix.Socketpair(unix.AF_INET, unix.SOCK_STREAM, 0); return err }, unix.EAFNOSUPPORT),
	refused("an abstract socket of the host", func() error {
		c, err := net.Dial("unix", "@"+first())
		if err == nil {
			c.Close()
		}
		return err
	}, unix.ECONNREFUSED),
	refused("a socket of the host", func() error {
		c, err := net.Dial("unix", second())
		if err == nil {
			c.Close()
		}
		return err
	}, unix.ENOENT),
	refused("a network namespace by clone", call(unix.SYS_CLONE, unix.CLONE_NEWNET|uintptr(unix.SIGCHLD), 0, 0), unix.EPERM),
	works("a Unix socket of one's own", func() error {
		l, err := net.Listen("unix", "/tmp/socket")
		if err == nil {
			l.Close()
		}
		return err
	}),
	works("no interface but the loopback", func() error {
		raw, err := os.ReadFile("/proc/self/net/dev")
		if lines := strings.Count(string(raw), ":"); err == nil && lines > 1 {
			return fmt.Errorf("%d interfaces", lines)
		}
		return err
	}),
}

func TestI6_NoNetwork(t *testing.T) {
	everybody(t, func(t *testing.T) {
		name := fmt.Sprintf("cloister-test-%d", os.Getpid())
		l, err := net.Listen("unix", "@"+name)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		path := filepath.Join(folder(t, 0o755), "socket")
		m, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		if err := os.Chmod(path, 0o777); err != nil {
			t.Fatal(err)
		}
		tryAll(t, spec(t, "network", name, path), network)
	})
}

// foreign makes a socket through the calls of i386, which a 64-bit program has as well: there 102 is
// socketcall(2), here it is a call that everybody may make. It needs machine code.
const foreign = `
import ctypes, mmap, struct
low = mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) # MAP_32BIT
at = ctypes.addressof(ctypes.c_char.from_buffer(low))
low[256:268] = struct.pack("=III", 40, 1, 0) # AF_VSOCK, SOCK_STREAM
low[:20] = b"\x53\xb8" + struct.pack("=I", 102) + b"\xbb" + struct.pack("=I", 1) + b"\xb9" + struct.pack("=I", at + 256) + b"\xcd\x80\x5b\xc3"
print(ctypes.CFUNCTYPE(ctypes.c_int)(at)())
`

// A filter that took the numbers of one architecture for those of another would let a socket through.
func TestI6_NoNetworkThroughAnotherArchitecture(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("the foreign calls are those of i386")
	}
	everybody(t, func(t *testing.T) {
		s := spec(t, "")
		s.Path, s.Args, s.Env = "/usr/bin/python3", []string{"-c", foreign}, nil
		out, status := run(t, s)
		// A kernel without these calls ends whoever makes one.
		if killed := out == "" && status == 128+int(unix.SIGSEGV); !killed && out != fmt.Sprintf("%d\n", -int(unix.ENOSYS)) {
			t.Errorf("ended with %d, %q", status, out)
		}
	})
}

var processes = []attempt{
	works("/proc shows own processes alone", func() error {
		pids, err := filepath.Glob("/proc/[0-9]*")
		if err == nil && len(pids) != 2 {
			err = fmt.Errorf("there are %v", pids)
		}
		return err
	}),
	refused("a signal to the host", func() error { pid, _ := strconv.Atoi(first()); return unix.Kill(pid, 0) }, unix.ESRCH),
	refused("ptrace of the first process", func() error { return unix.PtraceAttach(1) }, unix.EPERM),
	refused("memory of the first process", func() error { _, err := os.Open("/proc/1/mem"); return err }, unix.EACCES),
	refused("descriptors of the first process", func() error { _, err := os.ReadDir("/proc/1/fd"); return err }, unix.EACCES),
	refused("root of the first process", func() error { _, err := os.ReadDir("/proc/1/root/"); return err }, unix.EACCES),
	refused("executable of the first process", read("/proc/1/exe"), unix.EACCES),
	refused("environment of the first process", read("/proc/1/environ"), unix.EACCES),
	refused("mappings of the first process", list("/proc/1/map_files"), unix.EACCES, unix.EPERM),
	refused("another's memory", func() error { _, err := unix.ProcessVMReadv(1, nil, nil, 0); return err }, unix.EPERM),
	refused("another's descriptor", call(unix.SYS_PIDFD_GETFD, 0, 0, 0), unix.EPERM),
	refused("settings of the machine", func() error { return os.WriteFile("/proc/sys/kernel/core_pattern", []byte("x"), 0) }, unix.EROFS, unix.EACCES),
	refused("its own score for the killer", func() error { return os.WriteFile("/proc/self/oom_score_adj", []byte("0"), 0) }, unix.EROFS),
	works("the machine's memory, keys and timers are not shown", func() (err error) {
		for _, name := range []string{"kcore", "kallsyms", "keys", "key-users", "timer_list"} {
			if raw, failed := os.ReadFile("/proc/" + name); failed == nil && len(raw) > 0 {
				err = errors.Join(err, fmt.Errorf("/proc/%s has %d bytes", name, len(raw)))
			}
		}
		return err
	}),
	works("user and group", func() error {
		if os.Getuid() != sandbox.InsideUID || os.Getgid() != sandbox.InsideUID {
			return fmt.Errorf("is %d:%d", os.Getuid(), os.Getgid())
		}
		return nil
	}),
	refused("groups", func() error { return unix.Setgroups([]int{0}) }, unix.EPERM),
	works("host name", func() error {
		if name, _ := os.Hostname(); name != "cloister" {
			return errors.New(name)
		}
		return nil
	}),
}

func TestI6_NoOtherProcess(t *testing.T) {
	everybody(t, func(t *testing.T) {
		tryAll(t, spec(t, "processes", strconv.Itoa(os.Getpid())), processes)
	})
}

func read(path string) func() error {
	return func() error { _, err := os.ReadFile(path); return err }
}

func list(path string) func() error {
	return func() error { _, err := os.ReadDir(path); return err }
}

func write(path string) func() error {
	return func() error { return os.WriteFile(path, []byte("x"), 0o600) }
}

var files = []attempt{
	refused("/etc/shadow", read("/etc/shadow"), unix.ENOENT),
	refused("/root", list("/root"), unix.ENOENT),
	refused("/home", list("/home"), unix.ENOENT),
	refused("/sys", list("/sys"), unix.ENOENT),
	refused("the old root", list("/.outer"), unix.ENOENT),
	refused("writing to the root", write("/file"), unix.EROFS),
	refused("writing to a folder of the root", write("/etc/file"), unix.EROFS),
	refused("writing to the machine's programs", write("/usr/file"), unix.EROFS),
	refused("writing to an input", write("/job/file"), unix.EROFS),
	refused("changing an input", func() error { return os.Chmod("/job/input", 0o777) }, unix.EROFS),
	refused("removing an input", func() error { return os.Remove("/job/input") }, unix.EROFS),
	works("reading an input", read("/job/input")),
	works("reading the root's own files", read("/etc/motd")),
	works("writing to /work", write("/work/file")),
	works("writing to /tmp", write("/tmp/file")),
	works("writing to /dev/shm", write("/dev/shm/file")),
	works("nothing but the given is mounted", func() error {
		raw, err := os.ReadFile("/proc/self/mountinfo")
		given := []string{"/", "/dev", "/dev/shm", "/etc", "/job", "/proc", "/tmp", "/usr", "/work"}
		for line := range strings.Lines(string(raw)) {
			at := strings.Fields(line)[4]
			if !slices.Contains(given, at) && !strings.HasPrefix(at, "/proc/") && !strings.HasPrefix(at, "/dev/") && !strings.HasPrefix(at, "/usr/") {
				err = errors.Join(err, errors.New(at))
			}
		}
		return err
	}),
	works("every mount is nosuid", func() error {
		for _, path := range []string{"/", "/etc", "/job", "/work", "/usr", "/tmp", "/dev", "/dev/shm", "/proc"} {
			var st unix.Statfs_t
			if err := unix.Statfs(path, &st); err != nil || st.Flags&unix.ST_NOSUID == 0 {
				return fmt.Errorf("%s: %#x, %w", path, st.Flags, err)
			}
		}
		return nil
	}),
}

func TestI6_NoHostFiles(t *testing.T) {
	everybody(t, func(t *testing.T) {
		s := spec(t, "files")
		for path, content := range map[string]string{"etc/motd": "hello", "tmp/hidden": "x"} {
			path = filepath.Join(s.Root, path)
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o777), os.WriteFile(path, []byte(content), 0o644)); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chmod(filepath.Join(s.Root, "etc"), 0o777); err != nil {
			t.Fatal(err)
		}
		inputs, work := folder(t, 0o777), folder(t, 0o700)
		if err := os.WriteFile(filepath.Join(inputs, "input"), []byte("x"), 0o666); err != nil {
			t.Fatal(err)
		}
		s.Mounts = append(s.Mounts, sandbox.Mount{Source: inputs, Target: "/job"},
			sandbox.Mount{Source: work, Target: "/work", Writable: true})
		tryAll(t, s, files)
	})
}

var devices = []attempt{
	refused("/dev/nsm", read("/dev/nsm"), unix.ENOENT),
	refused("/dev/vsock", read("/dev/vsock"), unix.ENOENT),
	refused("/dev/kmsg", read("/dev/kmsg"), unix.ENOENT),
	refused("making a device", func() error { return unix.Mknod("/tmp/nsm", unix.S_IFCHR|0o666, int(unix.Mkdev(10, 144))) }, unix.EPERM),
	refused("making a device in /dev", func() error { return unix.Mknod("/dev/nsm", unix.S_IFCHR|0o666, int(unix.Mkdev(10, 144))) }, unix.EPERM, unix.EROFS),
	refused("adding to /dev", write("/dev/file"), unix.EROFS),
	refused("changing a device", func() error { return os.Chmod("/dev/null", 0o600) }, unix.EROFS, unix.EPERM),
	works("/dev holds what is listed", func() error {
		entries, err := os.ReadDir("/dev")
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		want := []string{"fd", "full", "null", "random", "shm", "stderr", "stdin", "stdout", "urandom", "zero"}
		if err == nil && !slices.Equal(names, want) {
			err = fmt.Errorf("holds %v", names)
		}
		return err
	}),
	works("writing to /dev/null", write("/dev/null")),
	works("reading from /dev/urandom", func() error {
		f, err := os.Open("/dev/urandom")
		if err == nil {
			_, err = f.Read(make([]byte, 8))
		}
		return err
	}),
}

func TestI6_NoNSM(t *testing.T) {
	everybody(t, func(t *testing.T) { tryAll(t, spec(t, "devices"), devices) })
}

var descriptors = []attempt{
	works("0, 1, 2 and the files alone", func() error {
		entries, err := os.ReadDir("/proc/self/fd")
		var open []string
		for _, e := range entries {
			fd, _ := strconv.Atoi(e.Name())
			link, _ := os.Readlink("/proc/self/fd/" + e.Name())
			flags, _ := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
			// The runtime's own and the listing's are close-on-exec, as nothing inherited is.
			if flags&unix.FD_CLOEXEC == 0 && link != "" {
				open = append(open, e.Name())
			}
		}
		if err == nil && !slices.Equal(open, []string{"0", "1", "2", "3", "4"}) {
			err = fmt.Errorf("has %v", open)
		}
		return err
	}),
	works("the given environment alone", func() error {
		if env := os.Environ(); !slices.Equal(env, []string{probeVar + "=descriptors", noDelay}) {
			return fmt.Errorf("is %q", env)
		}
		return nil
	}),
	works("the file arrives as number 4", func() error {
		if raw, err := os.ReadFile("/proc/self/fd/4"); err != nil || string(raw) != "given" {
			return fmt.Errorf("%q, %w", raw, err)
		}
		return nil
	}),
}

func TestI6_NoDescriptors(t *testing.T) {
	everybody(t, func(t *testing.T) {
		s := spec(t, "descriptors")
		path := filepath.Join(folder(t, 0o755), "file")
		if err := os.WriteFile(path, []byte("given"), 0o644); err != nil {
			t.Fatal(err)
		}
		given, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer given.Close()
		s.Files = append(s.Files, given)
		leak, err := unix.Open("/", unix.O_RDONLY|unix.O_DIRECTORY, 0) // as a careless library does
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(leak)
		tryAll(t, s, descriptors)
	})
}

// privileges has one attempt for each system call that would reach out of the walls.
var privileges = append([]attempt{
	works("no capability in any set, no new privileges, a filter", func() error {
		raw, err := os.ReadFile("/proc/self/status")
		for _, want := range []string{
			"CapInh:\t0000000000000000\n", "CapPrm:\t0000000000000000\n", "CapEff:\t0000000000000000\n",
			"CapBnd:\t0000000000000000\n", "CapAmb:\t0000000000000000\n", "NoNewPrivs:\t1\n", "Seccomp:\t2\n",
		} {
			if !strings.Contains(string(raw), want) {
				err = errors.Join(err, fmt.Errorf("no %q", want))
			}
		}
		return err
	}),
	works("no thread of the first process either", func() error {
		threads, err := filepath.Glob("/proc/1/task/*/status")
		if err == nil && len(threads) == 0 {
			err = errors.New("it has none")
		}
		for _, status := range threads {
			raw, problem := os.ReadFile(status)
			if !strings.Contains(string(raw), "CapPrm:\t0000000000000000\n") || !strings.Contains(string(raw), "Seccomp:\t2\n") {
				err = errors.Join(err, fmt.Errorf("%s: %s, %w", status, raw, problem))
			}
		}
		return err
	}),
	works("securebits locked", func() error {
		bits, err := unix.PrctlRetInt(unix.PR_GET_SECUREBITS, 0, 0, 0, 0)
		if err == nil && bits != 0xef {
			err = fmt.Errorf("are %#x", bits)
		}
		return err
	}),
	refused("a terminal's input", func() error { return unix.IoctlSetInt(0, unix.TIOCSTI, 0) }, unix.EPERM),
	refused("a terminal's input behind high bits", call(unix.SYS_IOCTL, 0, 1<<32|unix.TIOCSTI, 0), unix.EPERM),
	refused("clone with a user namespace", call(unix.SYS_CLONE, unix.CLONE_NEWUSER|uintptr(unix.SIGCHLD), 0, 0), unix.EPERM),
	refused("clone3", call(unix.SYS_CLONE3, 0, 0), unix.ENOSYS),
	refused("a call that does not exist", call(9999), unix.ENOSYS),
	refused("another personality", call(unix.SYS_PERSONALITY, 0x0040000), unix.EPERM),
	works("the usual personality", call(unix.SYS_PERSONALITY, 0xffffffff)),
	// All jobs see the runtime's files: whoever watched them would see what the others open.
	refused("watching the runtime", call(unix.SYS_INOTIFY_INIT1, 0), unix.EPERM),
	refused("watching a folder of the runtime", notify, unix.EPERM),
	refused("watching a folder behind high bits", call(unix.SYS_FCNTL, 0, 1<<32|unix.F_NOTIFY, dnAccess), unix.EPERM),
	refused("becoming root", func() error { return unix.Setuid(0) }, unix.EINVAL, unix.EPERM),
}, forbidden()...)

// dnAccess is DN_ACCESS (fcntl(2)), which package unix lacks.
const dnAccess = 1

// notify asks for a signal when anybody reads a file of a folder (fcntl(2), F_NOTIFY).
func notify() error {
	dir, err := os.Open("/usr/bin")
	if err != nil {
		return err
	}
	defer dir.Close()
	_, err = unix.FcntlInt(dir.Fd(), unix.F_NOTIFY, dnAccess)
	return err
}

// forbidden tries system calls with arguments that mean nothing: a kernel that were asked would
// find fault with them, and not refuse them.
func forbidden() []attempt {
	var all []attempt
	for name, trap := range map[string][]uintptr{
		"unshare": {unix.SYS_UNSHARE, unix.CLONE_NEWUSER}, "setns": {unix.SYS_SETNS, 0, 0},
		"mount": {unix.SYS_MOUNT, 0}, "umount": {unix.SYS_UMOUNT2}, "pivot_root": {unix.SYS_PIVOT_ROOT, 0, 0},
		"chroot": {unix.SYS_CHROOT}, "open_tree": {unix.SYS_OPEN_TREE, 0}, "move_mount": {unix.SYS_MOVE_MOUNT},
		"fsopen": {unix.SYS_FSOPEN}, "mount_setattr": {unix.SYS_MOUNT_SETATTR}, "ptrace": {unix.SYS_PTRACE},
		"process_vm_writev": {unix.SYS_PROCESS_VM_WRITEV}, "kcmp": {unix.SYS_KCMP}, "userfaultfd": {unix.SYS_USERFAULTFD},
		"io_uring_setup": {unix.SYS_IO_URING_SETUP}, "io_uring_enter": {unix.SYS_IO_URING_ENTER},
		"perf_event_open": {unix.SYS_PERF_EVENT_OPEN}, "bpf": {unix.SYS_BPF}, "keyctl": {unix.SYS_KEYCTL},
		"add_key": {unix.SYS_ADD_KEY}, "request_key": {unix.SYS_REQUEST_KEY}, "init_module": {unix.SYS_INIT_MODULE},
		"finit_module": {unix.SYS_FINIT_MODULE}, "delete_module": {unix.SYS_DELETE_MODULE}, "kexec_load": {unix.SYS_KEXEC_LOAD},
		"open_by_handle_at": {unix.SYS_OPEN_BY_HANDLE_AT}, "reboot": {unix.SYS_REBOOT}, "syslog": {unix.SYS_SYSLOG},
		"sethostname": {unix.SYS_SETHOSTNAME}, "acct": {unix.SYS_ACCT}, "swapon": {unix.SYS_SWAPON}, "quotactl": {unix.SYS_QUOTACTL},
		"settimeofday": {unix.SYS_SETTIMEOFDAY}, "fanotify_init": {unix.SYS_FANOTIFY_INIT},
	} {
		all = append(all, refused(name, call(trap[0], trap[1:]...), unix.EPERM))
	}
	return all
}

func TestI6_NoPrivileges(t *testing.T) {
	everybody(t, func(t *testing.T) { tryAll(t, spec(t, "privileges"), privileges) })
}
