package diff

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/cloister-run/cloister/enclave/image/ramdisk"
	"github.com/cloister-run/cloister/enclave/image/until"
)

// maxUnpacked bounds a ramdisk once it is unpacked, in bytes: as much as a section may hold.
const maxUnpacked = 64 << 30

// FileChange is a file of a ramdisk that one image has, or has otherwise.
type FileChange struct {
	// Ramdisk counts from 0: the first one is what boots.
	Ramdisk int    `json:"ramdisk"`
	Path    string `json:"path"`
	// Change is added, removed or changed.
	Change string `json:"change"`
	// Before and After say what there is; empty where there is nothing.
	Before string `json:"before,omitempty"`
	After  string `json:"after,omitempty"`
}

// file is what the kernel makes of an entry.
type file struct {
	kind         ramdisk.Kind
	mode         uint32
	user, group  uint32
	time         uint32
	size         int64
	sum          [sha256.Size]byte
	target       string
	major, minor uint32
	// link is what its other names share; 0 if it has none.
	link int
}

// files are those of a ramdisk.
type files struct {
	all map[string]file
	// odd says why an entry is something else to the kernel than it reads like, of the first such; others counts
	// further ones. Where there are any, nobody can tell by names and contents what is unpacked.
	odd    string
	others int
}

// doubt says what cannot be told; empty if all can.
func (f *files) doubt() string {
	if f.others > 0 {
		return fmt.Sprintf("%s; and %d more such", f.odd, f.others)
	}
	return f.odd
}

// ramdisk compares two ramdisks file by file. One that cannot be read through is said to be such.
func (c *comparison) ramdisk(i int, before, after io.Reader) error {
	one, err := c.files(before)
	if err == nil {
		var other *files
		if other, err = c.files(after); err == nil {
			c.conclude(i, one, other)
			return nil
		}
	}
	if unreadable, ok := errors.AsType[*ramdisk.Error](err); ok {
		c.found.Measured = append(c.found.Measured, Change{What: fmt.Sprintf("ramdisk %d cannot be read through: %s", i, unreadable.Reason)})
		return nil
	}
	return err
}

// conclude says what differs, and that nothing does only where the files say all.
func (c *comparison) conclude(i int, one, other *files) {
	differ := c.compare(i, one.all, other.all)
	switch before, after := one.doubt(), other.doubt(); {
	case before != "" || after != "":
		what := fmt.Sprintf("ramdisk %d holds what the kernel does not unpack as it reads: its files do not say what boots", i)
		c.found.Measured = append(c.found.Measured, Change{what, before, after})
	case !differ:
		c.found.Measured = append(c.found.Measured, Change{What: fmt.Sprintf("ramdisk %d has the same files, in another order or packed otherwise", i)})
	}
}

// compare lists the files that differ, and reports whether any does.
func (c *comparison) compare(i int, one, other map[string]file) (differ bool) {
	names := maps.Clone(one)
	maps.Copy(names, other)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		before, was := one[name]
		after, is := other[name]
		before.link, after.link = 0, 0
		if was && is && before == after {
			continue
		}
		differ = true
		if len(c.found.Files) == Most {
			c.found.Others++
			continue
		}
		change := FileChange{Ramdisk: i, Path: name}
		switch {
		case !was:
			change.Change, change.After = "added", after.String()
		case !is:
			change.Change, change.Before = "removed", before.String()
		default:
			change.Change, change.Before, change.After = "changed", before.String(), after.String()
		}
		c.found.Files = append(c.found.Files, change)
	}
	return differ
}

// identity is what the names of one file share.
type identity struct {
	archive int
	inode   uint32
	device  [2]uint32
}

// files reads a ramdisk as the kernel does: the names of one file share its content and its mode. Where the kernel
// goes by more than that, the files are in doubt.
func (c *comparison) files(from io.Reader) (*files, error) {
	found := &files{all: map[string]file{}}
	r := ramdisk.NewReader(until.Done(c.ctx, from), maxUnpacked)
	var names ramdisk.Names
	links := map[identity]int{}
	linked := []file{{}} // what each group of names holds; index 0 is none
	buf := make([]byte, 1<<20)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		f, err := readFile(h, r, buf)
		if err != nil {
			return nil, err
		}
		if h.Kind == ramdisk.File && h.Names > 1 {
			id := identity{h.Archive, h.Inode, h.Device}
			if links[id] == 0 {
				links[id] = len(linked)
				linked = append(linked, f)
			}
			f.link = links[id]
			linked[f.link] = f.over(linked[f.link])
		}
		name, odd := names.Add(h)
		switch {
		case odd != "" && found.odd == "":
			found.odd = odd
		case odd != "":
			found.others++
		}
		found.all[name] = f
	}
	for name, f := range found.all {
		if f.link > 0 {
			found.all[name] = linked[f.link]
		}
	}
	return found, nil
}

// readFile reads an entry with its content.
func readFile(h *ramdisk.Header, content io.Reader, buf []byte) (file, error) {
	f := file{
		kind: h.Kind, mode: h.Mode, user: h.User, group: h.Group, time: h.Time, size: h.Size, target: h.Target, major: h.Major, minor: h.Minor,
	}
	if h.Kind == ramdisk.Symlink {
		f.size = 0
	}
	sum := sha256.New()
	if _, err := io.CopyBuffer(sum, content, buf); err != nil {
		return file{}, err
	}
	f.sum = [sha256.Size]byte(sum.Sum(nil))
	return f, nil
}

// over is what a further name makes of a file: it brings its mode, and its content if it has any.
func (f file) over(old file) file {
	if f.size == 0 {
		f.size, f.sum = old.size, old.sum
	}
	return f
}

func (f file) String() string {
	text := fmt.Sprintf("%s %04o", f.kind, f.mode)
	switch f.kind {
	case ramdisk.File:
		text += fmt.Sprintf(", %d bytes, sha256:%s", f.size, hex.EncodeToString(f.sum[:]))
	case ramdisk.Symlink:
		text += fmt.Sprintf(" to %q", f.target)
	case ramdisk.Device:
		text += fmt.Sprintf(" %d:%d", f.major, f.minor)
	case ramdisk.Folder:
	}
	return text + f.owner()
}

// owner says what an image of cloister does not have.
func (f file) owner() string {
	text := ""
	if f.user != 0 || f.group != 0 {
		text += fmt.Sprintf(", of %d:%d", f.user, f.group)
	}
	if f.time != 0 {
		text += fmt.Sprintf(", at %d", f.time)
	}
	return text
}
