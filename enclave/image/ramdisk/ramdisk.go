// Package ramdisk is the archive that a kernel unpacks into its first file system: cpio in the "newc" format
// (Linux, Documentation/driver-api/early-userspace/buffer-format.rst).
//
// It owns the format: writing an archive whose bytes depend on names, kinds, modes and content alone, and
// reading one that anybody made. What is read is untrusted: every length is bounded before anything is
// allocated. It opens no file by name and knows nothing of what an image needs.
package ramdisk

import (
	"errors"
	"fmt"
	"io"
	"strings"
)

// The format's numbers.
const (
	magic = "070701"
	// headerSize is of the magic and thirteen fields of eight hexadecimal digits.
	headerSize = len(magic) + fields*digits
	fields     = 13
	digits     = 8
	// trailer is the name of what ends an archive.
	trailer = "TRAILER!!!"
	// block is what an archive is padded to, as cpio does it: the kernel takes a further archive that is not
	// compressed at multiples of four bytes only.
	block = 512

	// MaxName bounds a path and the target of a link, in bytes: the kernel leaves out what is longer, without
	// a word (init/initramfs.c, PATH_MAX with the NUL).
	MaxName = 4095
	// MaxFile bounds the content of a file: its size has eight hexadecimal digits.
	MaxFile = 1<<32 - 1
	// MaxEntries bounds what an archive holds.
	MaxEntries = 1 << 20
	// MaxNames bounds all names and targets of links together, in bytes: who reads an archive holds them.
	MaxNames = 256 << 20
)

// Kind is what an entry is.
type Kind uint32

// The kinds, as the kernel numbers them (include/uapi/linux/stat.h).
const (
	Folder  Kind = 0o040000
	File    Kind = 0o100000
	Symlink Kind = 0o120000
	Device  Kind = 0o020000 // a character device
)

func (k Kind) String() string {
	switch k {
	case Folder:
		return "folder"
	case File:
		return "file"
	case Symlink:
		return "symbolic link"
	case Device:
		return "character device"
	}
	return fmt.Sprintf("kind %#o", uint32(k))
}

// Node is what a name leads to. Names that share one are hard links; only those of files may.
type Node struct {
	Kind Kind
	// Mode holds permission bits, at most 0o7777.
	Mode uint32
	// Size is of a file's content, in bytes; Open opens it.
	Size int64
	Open func() (io.ReadCloser, error)
	// Target is where a symbolic link leads.
	Target string
	// Major and Minor number a device.
	Major, Minor uint32
}

// Entry is a name in an archive.
type Entry struct {
	// Name is a slash-separated path from the root, without a slash in front: "etc/passwd".
	Name string
	*Node
}

// Error says what is wrong with an archive, or with what is to become one.
type Error struct{ Reason string }

func (e *Error) Error() string { return "ramdisk: " + e.Reason }

func refuse(format string, args ...any) error { return &Error{fmt.Sprintf(format, args...)} }

// ErrChanged: a file was not as long as it was when it was looked at.
var ErrChanged = errors.New("changed while it was read")

// CheckName says why a name cannot stand in an archive. Names are bytes: only what Linux does not allow in
// one, or what could lead out of the root, is refused.
func CheckName(name string) error {
	switch {
	case name == "":
		return refuse("a name is empty")
	case len(name) > MaxName:
		return refuse("%.64q…: a path of %d bytes; the kernel takes %d", name, len(name), MaxName)
	case name == trailer:
		return refuse("%q is the name that ends an archive", name)
	case strings.IndexByte(name, 0) >= 0:
		return refuse("%q: a name with a NUL byte", name)
	}
	for part := range strings.SplitSeq(name, "/") {
		switch {
		case part == "" || part == "." || part == "..":
			return refuse("%q is no plain path below the root", name)
		case len(part) > 255: // NAME_MAX, linux/limits.h
			return refuse("%.64q…: a name of %d bytes; Linux takes 255", part, len(part))
		}
	}
	return nil
}

// CheckTarget says why a symbolic link cannot lead there.
func CheckTarget(target string) error {
	if target == "" || len(target) > MaxName || strings.IndexByte(target, 0) >= 0 {
		return refuse("a link to %.64q, which is no path that Linux takes", target)
	}
	return nil
}
