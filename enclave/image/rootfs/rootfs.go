// Package rootfs reads what becomes a file system of an enclave image: a folder, a tar, an image in
// a folder or in a registry.
//
// It owns what is carried over and how: names byte for byte, content, symbolic and hard links, of modes
// whether a file may be executed and whether a folder is sticky. Owners, times, attributes, setuid and the
// rest of modes are not carried: they say who made a copy and not what it is, and an enclave gives no program
// more rights than who starts it has. A source is untrusted: nothing in it leads out of its root, and names and
// bytes are bounded, each and together. The package starts nothing and believes no size that it did not count.
package rootfs

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/cloister-run/cloister/enclave/image/ramdisk"
)

// The bounds of a source.
const (
	// maxEntries leaves room for what an image adds.
	maxEntries = ramdisk.MaxEntries - 1024
	// maxBytes is what a section of an image takes (package eif).
	maxBytes = 64 << 30
	// maxPath leaves room for the folder that an image puts it into.
	maxPath = ramdisk.MaxName - 64
	// maxNames bounds all paths and targets of links together.
	maxNames = ramdisk.MaxNames
	// maxHops bounds the links on the way to a name (Linux, MAXSYMLINKS).
	maxHops = 40
)

// Error says what is wrong with a source.
type Error struct{ Reason string }

func (e *Error) Error() string { return "rootfs: " + e.Reason }

func refuse(format string, args ...any) error { return &Error{fmt.Sprintf(format, args...)} }

// ours is an error of a source that package ramdisk found.
func ours(err error) error {
	if wrong, ok := errors.AsType[*ramdisk.Error](err); ok {
		return refuse("%s", wrong.Reason)
	}
	return err
}

// Tree is a file system whose content is read when it is written. It is used by one goroutine.
type Tree struct {
	top   *node
	bytes int64
	// entries are the names below the root, names the bytes of their paths and targets.
	entries, names int
	most           bounds
	// layer counts the layers that were laid over one another.
	layer  int
	closes []io.Closer
}

// node is a name's: what it leads to, what is below it if that is a folder, the layer that it is of, the last one
// that took away what others have below it, and how long its path is, links followed.
type node struct {
	*ramdisk.Node
	below                  map[string]*node
	layer, cleared, length int
}

// bounds are those of a tree.
type bounds struct {
	entries int
	bytes   int64
}

func newTree() *Tree {
	return &Tree{top: &node{Node: folder(0o755), below: map[string]*node{}}, most: bounds{maxEntries, maxBytes}}
}

func folder(mode uint32) *ramdisk.Node { return &ramdisk.Node{Kind: ramdisk.Folder, Mode: mode} }

// Close gives back what the tree reads from. Entries cannot be read any more.
func (t *Tree) Close() error {
	var first error
	for _, c := range t.closes {
		if err := c.Close(); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// Size is how many names there are below the root, and the bytes of content that were read from the source.
func (t *Tree) Size() (entries int, bytes int64) { return t.entries, t.bytes }

// Entries are all names below the root, with prefix in front of each.
func (t *Tree) Entries(prefix string) []ramdisk.Entry {
	all := make([]ramdisk.Entry, 0, t.entries)
	var list func(at string, n *node)
	list = func(at string, n *node) {
		for _, name := range slices.Sorted(maps.Keys(n.below)) {
			child := n.below[name]
			all = append(all, ramdisk.Entry{Name: path.Join(at, name), Node: child.Node})
			list(path.Join(at, name), child)
		}
	}
	list(prefix, t.top)
	return all
}

// Find is what a name leads to, its links followed; nil if there is nothing.
func (t *Tree) Find(name string) *ramdisk.Node {
	hops := maxHops
	for {
		dir, err := t.folder(path.Dir(name), false, &hops)
		if err != nil || dir == nil {
			return nil
		}
		n := dir.below[path.Base(name)]
		switch {
		case n == nil:
			return nil
		case n.Kind != ramdisk.Symlink:
			return n.Node
		case hops == 0:
			return nil
		}
		hops--
		name = join(path.Dir(name), n.Target)
	}
}

// Put gives a name a node, in place of whatever has that name. Folders above it are made, and links on the way
// to it followed inside the root. A folder in the place of a folder keeps what is below.
func (t *Tree) Put(name string, n *ramdisk.Node) error {
	hops := maxHops
	dir, err := t.folder(path.Dir(name), true, &hops)
	if err != nil {
		return err
	}
	return t.put(dir, name, n)
}

func (t *Tree) put(dir *node, name string, n *ramdisk.Node) error {
	if err := ramdisk.CheckName(name); err != nil {
		return ours(err)
	}
	if n.Kind == ramdisk.Symlink {
		if err := ramdisk.CheckTarget(n.Target); err != nil {
			return ours(err)
		}
	}
	base := path.Base(name)
	length := dir.length + 1 + len(base)
	if length > maxPath {
		return refuse("%.64q…: a path of %d bytes, links followed; %d are allowed", name, length, maxPath)
	}
	old := dir.below[base]
	if old != nil && old.below != nil && n.Kind == ramdisk.Folder {
		old.Node, old.layer = n, t.layer
		return nil
	}
	t.remove(dir, base)
	child := &node{Node: n, layer: t.layer, length: length}
	t.entries++
	t.names += child.bytes()
	switch {
	case t.entries > t.most.entries:
		return refuse("it holds more than %d files and folders", t.most.entries)
	case t.names > maxNames:
		return refuse("its paths, and what its links lead to, are over %d MiB", maxNames>>20)
	}
	if n.Kind == ramdisk.Folder {
		child.below = map[string]*node{}
	}
	dir.below[strings.Clone(base)] = child // what name is cut from may be much longer, and go through links
	return nil
}

// Remove takes a name away, with all that is below it.
func (t *Tree) Remove(name string) error {
	hops := maxHops
	dir, err := t.folder(path.Dir(name), false, &hops)
	if err == nil && dir != nil {
		t.remove(dir, path.Base(name))
	}
	return err
}

func (t *Tree) remove(dir *node, base string) {
	if old := dir.below[base]; old != nil {
		t.uncount(old)
		delete(dir.below, base)
	}
}

// uncount takes a name and all below it out of the sums.
func (t *Tree) uncount(n *node) {
	t.entries--
	t.names -= n.bytes()
	for _, child := range n.below {
		t.uncount(child)
	}
}

// bytes are those of a name's path and target.
func (n *node) bytes() int { return n.length + len(n.Target) }

// folder finds a folder, links followed as inside a root of its own: what leads to the root's parent leads to
// the root. Missing ones are made or, if they shall not be, nil.
func (t *Tree) folder(name string, create bool, hops *int) (*node, error) {
	at, stack := t.top, []*node{t.top}
	for steps := strings.Split(name, "/"); len(steps) > 0; {
		step := steps[0]
		steps = steps[1:]
		switch step {
		case "", ".":
			continue
		case "..":
			stack = stack[:max(1, len(stack)-1)]
			at = stack[len(stack)-1]
			continue
		}
		child := at.below[step]
		switch {
		case child == nil && !create:
			return nil, nil //nolint:nilnil // nothing is there
		case child == nil:
			if err := t.put(at, step, folder(0o755)); err != nil {
				return nil, err
			}
			child = at.below[step]
		case child.Kind == ramdisk.Symlink:
			if *hops--; *hops < 0 {
				return nil, refuse("%q: more than %d links lead there", name, maxHops)
			}
			if strings.HasPrefix(child.Target, "/") {
				at, stack = t.top, stack[:1]
			}
			steps = append(strings.Split(child.Target, "/"), steps...)
			continue
		case child.below == nil:
			return nil, refuse("%q: it would be in %q, which is a %s", name, step, child.Kind)
		}
		at = child
		stack = append(stack, at)
	}
	return at, nil
}

// join is where a link in the folder dir leads.
func join(dir, target string) string {
	if strings.HasPrefix(target, "/") {
		return path.Join("/", target)[1:]
	}
	return path.Join("/", dir, target)[1:]
}

// content counts what a file adds.
func (t *Tree) content(name string, size int64) error {
	if size > ramdisk.MaxFile {
		return refuse("%q: a file of %d bytes; a ramdisk takes files of 4 GiB less one byte", name, size)
	}
	if t.bytes += size; t.bytes > t.most.bytes {
		return refuse("it holds more than %d GiB", t.most.bytes>>30)
	}
	return nil
}

// mode is what is carried of a mode.
func mode(k ramdisk.Kind, executable, sticky bool) uint32 {
	switch {
	case k == ramdisk.Symlink:
		return 0o777
	case k == ramdisk.Folder && sticky:
		return 0o1777
	case k == ramdisk.Folder || executable:
		return 0o755
	}
	return 0o644
}
