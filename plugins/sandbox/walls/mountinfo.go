package walls

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// mounted is one line of /proc/self/mountinfo (proc(5)): where, and the flags of the mount
// that a remount must name again or lose.
type mounted struct {
	path  string
	flags uintptr
}

// harden sets nosuid and nodev, and read-only unless writable, on the mount at target and
// on every mount below it. What a mount already forbids stays forbidden.
func harden(target string, dir, writable bool) error {
	if !dir {
		return hardenFile(target, writable)
	}
	path, err := resolve(target)
	if err != nil {
		return err
	}
	raw, err := os.ReadFile(outer + "/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("listing mounts: %w", err)
	}
	all, err := parseMountinfo(raw)
	if err != nil {
		return fmt.Errorf("listing mounts: %w", err)
	}
	found := false
	for _, m := range all {
		if m.path != path && !strings.HasPrefix(m.path, path+"/") {
			continue
		}
		found = found || m.path == path
		if err := hardenOne(m, writable); err != nil && (m.path == path || !hidden(err)) {
			return fmt.Errorf("hardening %s: %w", m.path, err)
		}
	}
	if !found {
		return fmt.Errorf("mount %s: %w", path, unix.ENOENT)
	}
	return nil
}

// hardenFile is harden for a file, below which nothing is mounted.
func hardenFile(target string, writable bool) error {
	var st unix.Statfs_t
	if err := unix.Statfs(target, &st); err != nil {
		return fmt.Errorf("hardening %s: %w", target, err)
	}
	// Each of these has the number of its mount flag.
	const kept = unix.ST_RDONLY | unix.ST_NOSUID | unix.ST_NODEV | unix.ST_NOEXEC
	if err := hardenOne(mounted{path: target, flags: uintptr(st.Flags) & kept}, writable); err != nil {
		return fmt.Errorf("hardening %s: %w", target, err)
	}
	return nil
}

func hardenOne(m mounted, writable bool) error {
	flags := m.flags | unix.MS_NOSUID
	if !isDevice(m.path) {
		flags |= unix.MS_NODEV
	}
	if !writable {
		flags |= unix.MS_RDONLY
	}
	if flags == m.flags {
		return nil
	}
	return unix.Mount("", m.path, "", unix.MS_REMOUNT|unix.MS_BIND|flags, "")
}

// isDevice tells the binds of single devices, of which nodev would take the use.
func isDevice(path string) bool {
	var st unix.Stat_t
	err := unix.Lstat(path, &st)
	return err == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR
}

// hidden says that no path leads to a mount since another one lies over it, which the program
// cannot take away. Then its path has nothing, or nothing that is mounted.
func hidden(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.EINVAL)
}

// resolve is the path of target without symbolic links, as mountinfo has it.
func resolve(target string) (string, error) {
	f, err := os.OpenFile(target, unix.O_PATH, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return os.Readlink(fmt.Sprintf("%s/proc/self/fd/%d", outer, f.Fd()))
}

// lockable are the flags that a more privileged mount namespace may have locked.
var lockable = map[string]uintptr{
	"ro": unix.MS_RDONLY, "nosuid": unix.MS_NOSUID, "nodev": unix.MS_NODEV, "noexec": unix.MS_NOEXEC,
}

// parseMountinfo reads what /proc/self/mountinfo holds, in its order. The access time flags
// are left out since a remount that names none keeps them.
func parseMountinfo(raw []byte) ([]mounted, error) {
	var all []mounted
	for line := range bytes.Lines(raw) {
		fields := strings.Fields(string(line))
		if len(fields) < 10 {
			return nil, fmt.Errorf("mountinfo has the line %.80q", line)
		}
		path, err := unescape(fields[4])
		if err != nil {
			return nil, err
		}
		m := mounted{path: path}
		for option := range strings.SplitSeq(fields[5], ",") {
			m.flags |= lockable[option]
		}
		all = append(all, m)
	}
	return all, nil
}

// unescape undoes the octal escapes of mountinfo: space, tab, newline and backslash.
func unescape(field string) (string, error) {
	var out strings.Builder
	for {
		head, tail, found := strings.Cut(field, `\`)
		out.WriteString(head)
		if !found {
			return out.String(), nil
		}
		code := 0
		for i := range 3 {
			if i >= len(tail) || tail[i] < '0' || tail[i] > '7' {
				return "", fmt.Errorf("mountinfo has the escape %.8q", tail)
			}
			code = code<<3 | int(tail[i]-'0')
		}
		if code > 0xff {
			return "", fmt.Errorf("mountinfo has the escape %.8q", tail)
		}
		out.WriteByte(byte(code))
		field = tail[3:]
	}
}
