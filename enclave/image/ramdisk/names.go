package ramdisk

import (
	"fmt"
	"path"
	"strings"
)

// Further kinds that the kernel makes (include/uapi/linux/stat.h).
const (
	fifo        Kind = 0o010000
	blockDevice Kind = 0o060000
	socket      Kind = 0o140000
)

// Names follows an archive entry by entry, for whoever tells by its names what the kernel unpacks
// (init/initramfs.c). The kernel resolves a name as any program does, through links and "..", leaves out without a
// word what it cannot make, and writes through what has the name already. Names says where it comes to that, so
// that nobody takes such a name for what it reads like. The zero value is ready.
type Names struct {
	// kinds are those of the names so far.
	kinds map[string]Kind
}

// Add takes the next entry. It gives its path below the root, "." for the root itself, and why the kernel makes
// something else of it than it reads like; odd is empty if it does not, and the path is then a plain one.
func (n *Names) Add(h *Header) (name, odd string) {
	name, slash := strings.CutPrefix(h.Name, "/")
	if !slash {
		name = strings.TrimPrefix(name, "./")
	}
	if name == "" {
		name = "."
	}
	odd = n.odd(name, h)
	if n.kinds == nil {
		n.kinds = map[string]Kind{".": Folder}
	}
	n.kinds[name] = h.Kind
	return name, odd
}

func (n *Names) odd(name string, h *Header) string {
	if name != "." {
		if err := CheckName(name); err != nil {
			return reason(err)
		}
	}
	before, again := n.kinds[name]
	above := path.Dir(name)
	switch {
	case above != "." && n.kinds[above] != Folder:
		return fmt.Sprintf("%q is in no folder", name)
	case again && (before != Folder || h.Kind != Folder), name == "." && h.Kind != Folder:
		return fmt.Sprintf("%q is there more than once", name)
	}
	return oddKind(name, h)
}

// oddKind says what of an entry's kind the kernel does not take as it stands there.
func oddKind(name string, h *Header) string {
	switch h.Kind {
	case File:
		return ""
	case Symlink:
		if err := CheckTarget(h.Target); err != nil {
			return fmt.Sprintf("%q: %s", name, reason(err))
		}
		return ""
	case Folder:
	case Device, blockDevice, fifo, socket:
		if h.Names > 1 { // a further one becomes a name of the first
			return fmt.Sprintf("%q is a %s with %d names", name, h.Kind, h.Names)
		}
	default:
		return fmt.Sprintf("%q is a %s, of which nothing is made", name, h.Kind)
	}
	if h.Size > 0 {
		return fmt.Sprintf("%q is a %s with content, which is left out", name, h.Kind)
	}
	return ""
}

// reason is that of an [*Error].
func reason(err error) string { return strings.TrimPrefix(err.Error(), "ramdisk: ") }
