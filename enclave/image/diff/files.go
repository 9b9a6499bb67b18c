package diff

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"

	"github.com/cloister-run/cloister/enclave/image/ramdisk"
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

// ramdisk compares two ramdisks file by file. One that cannot be read through is said to be such.
func (c *comparison) ramdisk(i int, before, after io.Reader) error {
	one, err := c.files(before)
	if err == nil {
		var other map[string]file
		if other, err = c.files(after); err == nil {
			c.compare(i, one, other)
			return nil
		}
	}
	if unreadable, ok := errors.AsType[*ramdisk.Error](err); ok {
		c.found.Measured = append(c.found.Measured, Change{What: fmt.Sprintf("ramdisk %d cannot be read through: %s", i, unreadable.Reason)})
		return nil
	}
	return err
}

func (c *comparison) compare(i int, one, other map[string]file) {
	names := maps.Clone(one)
	maps.Copy(names, other)
	differ := false
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
	if !differ {
		c.found.Measured = append(c.found.Measured, Change{What: fmt.Sprintf("ramdisk %d has the same files, in another order or packed otherwise", i)})
	}
}

// files reads a ramdisk as the kernel does: what comes later takes the place of what has its name, and the
// names of one file share its content.
func (c *comparison) files(from io.Reader) (map[string]file, error) {
	all := map[string]file{}
	r := ramdisk.NewReader(untilDone{c.ctx, from}, maxUnpacked)
	type identity struct {
		inode  uint32
		device [2]uint32
	}
	links := map[identity]int{}
	var linked []file // what each group of names holds; index 0 is none
	buf := make([]byte, 1<<20)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		f := file{
			kind: h.Kind, mode: h.Mode, user: h.User, group: h.Group, time: h.Time, size: h.Size, target: h.Target, major: h.Major, minor: h.Minor,
		}
		if h.Kind == ramdisk.Symlink {
			f.size = 0
		}
		sum := sha256.New()
		if _, err := io.CopyBuffer(sum, r, buf); err != nil {
			return nil, err
		}
		f.sum = [sha256.Size]byte(sum.Sum(nil))
		if h.Kind == ramdisk.File && h.Names > 1 {
			id := identity{h.Inode, h.Device}
			if links[id] == 0 {
				linked = append(linked, f)
				links[id] = len(linked)
			}
			if f.link = links[id]; h.Size > 0 {
				linked[f.link-1] = f
			}
		}
		all[path.Clean("/" + h.Name)[1:]] = f
	}
	for name, f := range all {
		if f.link > 0 {
			f.size, f.sum = linked[f.link-1].size, linked[f.link-1].sum
			all[name] = f
		}
	}
	return all, nil
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
