// Package machine owns what lies under an enclave that boots by itself: its mounts, the modules and settings
// of its kernel, the kernel's entropy and clock, processes that nobody waits for, and its end.
//
// It trusts the measured image and the Nitro Security Module, and nothing that the parent instance can change:
// the console is one way out and says as little as it can. None of this happens in a local enclave, which
// is a process on somebody's machine.
package machine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/enclave/image"
)

// place is one file system of the enclave.
type place struct {
	kind, at string
	flags    uintptr
	options  string
}

const harmless = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

// places are mounted in this order. What is plain among a job's assets is in image.State itself, and bounded by what
// the ledger promised the job; the rest of a job is in file systems of their own size below it.
func places() []place {
	return []place{
		{"proc", "/proc", harmless, ""},
		{"sysfs", "/sys", harmless, ""},
		{"cgroup2", "/sys/fs/cgroup", harmless, ""},
		{"devtmpfs", "/dev", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=0755"},
		{"tmpfs", image.Run, harmless, "mode=0700,size=1m,nr_inodes=256"},
		{"tmpfs", image.State, unix.MS_NOSUID | unix.MS_NODEV, "mode=0700,size=100%,nr_inodes=0"},
	}
}

// ComeUp makes of a kernel that has just started its first process what an enclave runs on. It is called
// once, by PID 1, before anything else is opened. An error leaves a machine that is good for nothing.
func ComeUp() error {
	if err := comeUp(); err != nil {
		return fmt.Errorf("machine: %w", err)
	}
	return nil
}

func comeUp() error {
	if err := moveRoot(); err != nil {
		return err
	}
	for _, p := range places() {
		if err := unix.Mount(p.kind, p.at, p.kind, p.flags, p.options); err != nil {
			return fmt.Errorf("mounting %s at %s: %w; the kernel may lack it", p.kind, p.at, err)
		}
	}
	if err := checkCommandLine(startedWith, filepath.Join(image.Dir, image.CommandLine)); err != nil {
		return err
	}
	if err := loadModules(filepath.Join(image.Dir, image.Modules)); err != nil {
		return err
	}
	if err := applySettings("/proc/sys"); err != nil {
		return err
	}
	return quietConsole()
}

// moveRoot makes the unpacked ramdisks a mount of their own, read-only, and enters it. The kernel's first
// root, in which they are until then, is one that no pivot_root(2) can leave, which walls rely on. The order
// is that of switch_root(8).
func moveRoot() error {
	const via = image.Run // any folder serves
	if err := unix.Mount("/", via, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("moving the root: %w", err)
	}
	if err := os.Chdir(via); err != nil {
		return fmt.Errorf("moving the root: %w", err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("moving the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("moving the root: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return fmt.Errorf("moving the root: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, ""); err != nil {
		return fmt.Errorf("making the root read-only: %w", err)
	}
	return nil
}

// loadModules loads what is in a folder, in the order of the names. Without one there is nothing to load.
func loadModules(dir string) error {
	files, err := os.ReadDir(dir) // sorted
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("modules: %w", err)
	}
	for _, f := range files {
		if err := loadModule(filepath.Join(dir, f.Name())); err != nil {
			return fmt.Errorf("modules: loading %s: %w", f.Name(), err)
		}
	}
	return nil
}

func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) { // built in, or there already
		return err
	}
	return nil
}

// settings of the kernel (docs.kernel.org, admin-guide/sysctl), by their paths below /proc/sys.
func settings() map[string]string {
	return map[string]string{
		"kernel/modules_disabled":          "1", // what was loaded is what was measured
		"kernel/kexec_load_disabled":       "1",
		"kernel/unprivileged_bpf_disabled": "1",
		"kernel/dmesg_restrict":            "1",
		"kernel/kptr_restrict":             "2",
		"kernel/sysrq":                     "0",
		"kernel/panic":                     "-1", // a kernel that panics ends at once, and nobody waits for it
		"kernel/panic_on_oops":             "1",  // else it goes on, with everything on the console from then on
		"kernel/print-fatal-signals":       "0",
		"debug/exception-trace":            "0", // else a program that crashes has its name on the console
		"vm/oom_dump_tasks":                "0", // the same of one that uses too much memory
		"kernel/core_pattern":              "/dev/null",
		"net/core/bpf_jit_harden":          "2",
	}
}

// applySettings writes them. A kernel without a setting has nothing that it would keep.
func applySettings(dir string) error {
	for name, value := range settings() {
		err := os.WriteFile(filepath.Join(dir, name), []byte(value), 0)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("setting %s: %w", name, err)
		}
	}
	return nil
}

// consoleOff is SYSLOG_ACTION_CONSOLE_OFF (syslog(2)).
const consoleOff = 6

// quietConsole keeps the kernel's messages off the console, which the parent instance may read: applications
// choose names and moments that end up in them. What a kernel says as it panics is said anyway.
func quietConsole() error {
	if _, err := unix.Klogctl(consoleOff, nil); err != nil {
		return fmt.Errorf("quieting the console: %w", err)
	}
	// What is left are emergencies, which name the program that runs.
	if err := os.WriteFile("/proc/sys/kernel/printk", []byte("0 0 0 0"), 0); err != nil {
		return fmt.Errorf("quieting the console: %w", err)
	}
	return nil
}

// Down ends the machine, and whatever runs on it. It does not return, unless with an error. What was in memory
// is gone with it; there is nothing else.
func Down() error {
	// As aws-nitro-enclaves-sdk-bootstrap does in init.c; a hypervisor that is told not to boot again ends it.
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART); err != nil {
		return fmt.Errorf("machine: ending: %w", err)
	}
	return nil
}
