package walls

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// outer is where the old root is while the new one is made. It is gone before the program starts.
const outer = "/.outer"

// The bounds of what the walls mount for themselves, in bytes and files.
const (
	rootOptions = "mode=0755,size=4m,nr_inodes=16384"
	devOptions  = "mode=0755,size=64k,nr_inodes=1024"
)

// someFiles is how many files a file system of the plan has room for beside one for each 4 KiB: an empty
// file takes memory that its size does not count.
const someFiles = 64

// enterRoot replaces the view of the file system: a tmpfs as root that holds what the plan
// lists and nothing else. Only mount(2) is used, which kernels from 4.14 on have.
func enterRoot(plan *Plan, s *sources) error {
	if err := pivot(); err != nil {
		return at(Root, err)
	}
	for _, src := range s.root {
		if err := show(src, "/"+src.name, false); err != nil {
			return at(Root, err)
		}
	}
	if err := mountProc(plan.Nested); err != nil {
		return at(Proc, err)
	}
	if err := mountDev(s.devices); err != nil {
		return at(Devices, err)
	}
	for i, m := range plan.Mounts {
		if err := place(m, s.mounts[m.Source]); err != nil {
			return at(Mounts, fmt.Errorf("mounts[%d]: %w", i, err))
		}
	}
	return at(Root, settle())
}

// pivot makes a fresh tmpfs the root, with the old one at outer.
func pivot() error {
	if err := mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	// Any folder serves as the place to mount at; /dev exists wherever there are devices.
	const base = "/dev"
	if err := mount("tmpfs", base, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, rootOptions); err != nil {
		return err
	}
	if err := os.Mkdir(base+outer, 0o700); err != nil {
		return err
	}
	if err := unix.PivotRoot(base, base+outer); err != nil {
		if errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("pivot_root: %w: the root may be the kernel's first ramdisk, over which boot moves no other", err)
		}
		return fmt.Errorf("pivot_root: %w", err)
	}
	return os.Chdir("/")
}

// mountProc makes /proc of the new process namespace. The program of a sandbox only reads it,
// without what tells of the machine: a process that the kernel knows as root could else write
// the machine's settings without any capability.
func mountProc(nested bool) error {
	if err := makeDir("/proc"); err != nil {
		return err
	}
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := mount("proc", "/proc", "proc", flags, ""); err != nil {
		return err
	}
	if nested {
		return nil
	}
	for _, name := range []string{"config.gz", "kallsyms", "kcore", "keys", "key-users", "sched_debug", "sysrq-trigger", "timer_list"} {
		err := mount(outer+"/dev/null", "/proc/"+name, "", unix.MS_BIND, "")
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
	}
	return mount("", "/proc", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|flags, "")
}

// mountDev makes a /dev of a few harmless devices. It is writable until [settle].
func mountDev(devices []source) error {
	if err := makeDir("/dev"); err != nil {
		return err
	}
	if err := mount("tmpfs", "/dev", "tmpfs", devFlags, devOptions); err != nil {
		return err
	}
	for _, d := range devices {
		if err := show(d, "/dev/"+d.name, false); err != nil {
			return err
		}
	}
	for name, link := range map[string]string{
		"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
	} {
		if err := os.Symlink(link, "/dev/"+name); err != nil {
			return err
		}
	}
	return nil
}

const devFlags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

// place makes one mount of the plan.
func place(m Mount, src source) error {
	if m.Target == outer || strings.HasPrefix(m.Target, outer+"/") {
		return at(Paths, fmt.Errorf("%s: %w", m.Target, fs.ErrInvalid))
	}
	switch {
	case m.Link != "":
		if err := makeDir(filepath.Dir(m.Target)); err != nil {
			return err
		}
		return explain(m.Target, os.Symlink(m.Link, m.Target))
	case m.Tmpfs > 0:
		if err := makeDir(m.Target); err != nil {
			return err
		}
		options := fmt.Sprintf("mode=1777,size=%d,nr_inodes=%d", m.Tmpfs, m.Tmpfs>>12+someFiles)
		return mount("tmpfs", m.Target, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, options)
	default:
		return show(src, m.Target, m.Writable)
	}
}

// show makes a source visible at target, with every mount below it.
func show(src source, target string, writable bool) error {
	switch {
	case src.path == nil:
		return explain(target, os.Symlink(src.link, target))
	case src.dir:
		if err := makeDir(target); err != nil {
			return err
		}
	default:
		if err := makeFile(target); err != nil {
			return err
		}
	}
	from := fmt.Sprintf("%s/proc/self/fd/%d", outer, src.path.Fd())
	if err := mount(from, target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("showing %s: %w", src.path.Name(), err)
	}
	return harden(target, src.dir, writable)
}

// makeDir makes a folder to mount at, and those above it, where there is none.
func makeDir(path string) error {
	return explain(path, os.MkdirAll(path, 0o755))
}

// makeFile makes a file to mount at where there is none.
func makeFile(path string) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	if err := makeDir(filepath.Dir(path)); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o444)
	if err != nil {
		return explain(path, err)
	}
	return f.Close()
}

// explain says what is wrong with a mount point, which is no wall but of the plan's choice.
func explain(target string, err error) error {
	if errors.Is(err, unix.EROFS) {
		err = fmt.Errorf("the mount point %s would lie in a read-only folder and is not in it: %w", target, err)
	}
	return at(Paths, err)
}

// settle lets go of the old root and makes the new one unchangeable.
func settle() error {
	if err := unix.Unmount(outer, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("detaching the old root: %w", err)
	}
	if err := os.Remove(outer); err != nil {
		return err
	}
	const frozen = unix.MS_REMOUNT | unix.MS_BIND | unix.MS_RDONLY
	if err := mount("", "/dev", "", frozen|devFlags, ""); err != nil {
		return err
	}
	return mount("", "/", "", frozen|unix.MS_NOSUID|unix.MS_NODEV, "")
}

func mount(from, target, kind string, flags uintptr, options string) error {
	if err := unix.Mount(from, target, kind, flags, options); err != nil {
		return fmt.Errorf("mount %s: %w", target, err)
	}
	return nil
}
