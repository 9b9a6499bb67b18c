package launch

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/enclave/launch/vhost/nsm"
)

// machine is a process of QEMU.
type machine struct {
	pid        int
	vsock, nsm *net.UnixConn // QEMU's ends of its devices are at their other ends
	ended      chan struct{}
	kill       func() error
}

// What QEMU finds open, by its number.
const (
	vsockFile = 3 + iota
	nsmFile
	kernelFile
	ramdiskFile
)

// startMachine starts QEMU on a payload. It has no network, no disk and no name in any file system, and
// dies with this process.
func startMachine(cfg VMConfig, how pace, p *payload, console *os.File) (*machine, error) {
	ours, theirs, err := socketPairs(2)
	if err != nil {
		return nil, err
	}
	defer closeAll(theirs)
	m := &machine{vsock: ours[0], nsm: ours[1], ended: make(chan struct{})}
	cmd := exec.Command(cfg.QEMU, arguments(p, how)...)
	cmd.Env = []string{"PATH=/usr/bin:/bin"} // for the script that starts it
	cmd.Stdout, cmd.Stderr = console, console
	cmd.ExtraFiles = []*os.File{theirs[0], theirs[1], p.kernel, p.ramdisk}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // whose end is what Pdeathsig is about (prctl(2))
		defer runtime.UnlockOSThread()
		started <- cmd.Start()
		if cmd.Process != nil {
			_ = cmd.Wait() // its status says nothing that the console does not
			close(m.ended)
		}
	}()
	if err := <-started; err != nil {
		_ = errors.Join(m.vsock.Close(), m.nsm.Close()) // nobody is at the other ends
		return nil, fmt.Errorf("starting QEMU: %w", err)
	}
	m.pid = cmd.Process.Pid
	m.kill = sync.OnceValue(func() error {
		err := unix.Kill(-m.pid, unix.SIGKILL)
		if errors.Is(err, unix.ESRCH) {
			err = nil
		}
		return err
	})
	return m, nil
}

// end kills QEMU and returns when it is gone. It may be called again.
func (m *machine) end() error {
	select {
	case <-m.ended:
		return nil
	default:
	}
	err := m.kill()
	<-m.ended
	return err
}

// arguments describes the machine: a processor, memory that the devices share, a console, two devices, and the
// parts of the image, with its command line and nothing more.
func arguments(p *payload, how pace) []string {
	size := strconv.FormatInt(p.memory/mib, 10)
	file := func(n int) string { return "/proc/self/fd/" + strconv.Itoa(n) }
	return append(how.accelerator(),
		"-no-user-config", "-nodefaults", "-no-reboot", "-display", "none", "-name", "cloister",
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
		"-smp", strconv.Itoa(p.cpus), "-m", size,
		"-M", "microvm,memory-backend=mem,auto-kernel-cmdline=off", "-global", "virtio-mmio.force-legacy=false",
		"-object", "memory-backend-memfd,id=mem,share=on,seal=on,size="+size+"M",
		"-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
		"-chardev", "socket,id=vsock,fd="+strconv.Itoa(vsockFile), "-device", "vhost-user-vsock-device,chardev=vsock",
		"-chardev", "socket,id=nsm,fd="+strconv.Itoa(nsmFile),
		"-device", fmt.Sprintf("vhost-user-test-device,chardev=nsm,virtio-id=%d,num_vqs=1", nsm.ID),
		"-kernel", file(kernelFile), "-initrd", file(ramdiskFile), "-append", p.commandLine,
	)
}

// hasKVM says whether a guest runs on the processor itself. Opening /dev/kvm is not enough: where this machine is
// a guest, its host may let it make machines in which no kernel runs.
func hasKVM() bool {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil || !hasVirtualMachines(info) {
		return false
	}
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	return f.Close() == nil
}

// hasVirtualMachines looks for the flag of Intel's or AMD's processors in /proc/cpuinfo.
func hasVirtualMachines(cpuinfo []byte) bool {
	for lines := bufio.NewScanner(bytes.NewReader(cpuinfo)); lines.Scan(); {
		name, flags, _ := strings.Cut(lines.Text(), ":")
		if strings.TrimSpace(name) != "flags" {
			continue
		}
		for _, flag := range strings.Fields(flags) {
			if flag == "vmx" || flag == "svm" {
				return true
			}
		}
	}
	return false
}

// socketPairs makes connected sockets: our ends, and those for another process.
func socketPairs(n int) (ours []*net.UnixConn, theirs []*os.File, err error) {
	defer func() {
		if err != nil {
			closeAll(ours)
			closeAll(theirs)
		}
	}()
	for range n {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return ours, theirs, err
		}
		theirs = append(theirs, os.NewFile(uintptr(pair[1]), "vhost-user"))
		mine := os.NewFile(uintptr(pair[0]), "vhost-user")
		conn, err := net.FileConn(mine)
		_ = mine.Close() // conn has its own
		if err != nil {
			return ours, theirs, err
		}
		ours = append(ours, conn.(*net.UnixConn)) // of this family
	}
	return ours, theirs, nil
}

func closeAll[C interface{ Close() error }](list []C) {
	for _, c := range list {
		_ = c.Close() // sockets and files that nobody uses
	}
}
