package ramdisk

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
)

// chunk is how much is handed on at a time: what comes after hashes it, and takes a copy.
const chunk = 1 << 20

// Write writes an archive of entries, in whatever order they come: sorted by name, and else as [WriteInOrder] does.
func Write(ctx context.Context, to io.Writer, entries []Entry) error {
	return WriteInOrder(ctx, to, slices.SortedFunc(slices.Values(entries), byName))
}

func byName(a, b Entry) int { return cmp.Compare(a.Name, b.Name) }

// WriteInOrder writes an archive of entries in the order in which they come: owned by 0:0, with times of zero and
// inodes that count from 1. The content of a file with several names stands under the first of them: the kernel
// fills the file there and links the others to it (init/initramfs.c, maybe_link).
//
// Every folder above an entry must be an entry before it. It takes memory for the names, and a chunk for content. An
// error leaves a part of an archive; what is wrong with entries is an [*Error], told before anything is written.
func WriteInOrder(ctx context.Context, to io.Writer, entries []Entry) error {
	names, err := check(entries)
	if err != nil {
		return err
	}
	w := &writer{ctx: ctx, to: to, chunk: make([]byte, 0, chunk)}
	inodes := map[*Node]uint32{}
	for _, e := range entries {
		inode, again := inodes[e.Node]
		if !again {
			inode = uint32(len(inodes) + 1)
			inodes[e.Node] = inode
		}
		if err := w.entry(e, inode, names[e.Node], again); err != nil {
			return fmt.Errorf("%q: %w", e.Name, err)
		}
	}
	w.header(trailer, &Node{}, 0, 1, 0)
	w.pad(block)
	return w.flush()
}

// check counts the names of every node.
func check(entries []Entry) (map[*Node]int, error) {
	if len(entries) > MaxEntries {
		return nil, refuse("%d entries; %d are allowed", len(entries), MaxEntries)
	}
	if name, found := twice(entries); found {
		return nil, refuse("%q is there twice", name)
	}
	names := map[*Node]int{}
	bytes := 0
	folders := map[string]bool{".": true}
	for _, e := range entries {
		if err := CheckName(e.Name); err != nil {
			return nil, err
		}
		bytes += len(e.Name) + len(e.Target)
		switch {
		case bytes > MaxNames:
			return nil, refuse("names and links of over %d MiB", MaxNames>>20)
		case !folders[path.Dir(e.Name)]:
			return nil, refuse("%q is in no folder of the archive, or before it", e.Name)
		case e.Mode > 0o7777:
			return nil, refuse("%q: mode %#o is none", e.Name, e.Mode)
		case names[e.Node] > 0 && e.Kind != File:
			return nil, refuse("%q: a %s has one name", e.Name, e.Kind)
		}
		switch e.Kind {
		case Folder:
			folders[e.Name] = true
		case File:
			if e.Size < 0 || e.Size > MaxFile {
				return nil, refuse("%q: a file of %d bytes; a ramdisk takes %d, 4 GiB less one", e.Name, e.Size, int64(MaxFile))
			}
		case Symlink:
			if err := CheckTarget(e.Target); err != nil {
				return nil, err
			}
		case Device:
		default:
			return nil, refuse("%q: %s", e.Name, e.Kind)
		}
		names[e.Node]++
	}
	return names, nil
}

// twice finds a name that two entries have.
func twice(entries []Entry) (name string, found bool) {
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name
	}
	slices.Sort(names)
	for i := 1; i < len(names); i++ {
		if names[i-1] == names[i] {
			return names[i], true
		}
	}
	return "", false
}

// writer gathers what is written in chunks. The first error of what it writes to stays.
type writer struct {
	ctx   context.Context
	to    io.Writer
	chunk []byte
	at    int64
	err   error
}

func (w *writer) entry(e Entry, inode uint32, names int, again bool) error {
	var size int64
	switch {
	case e.Kind == Symlink:
		size = int64(len(e.Target))
	case e.Kind == File && !again:
		size = e.Size
	}
	w.header(e.Name, e.Node, inode, names, size)
	switch {
	case e.Kind == Symlink:
		w.write([]byte(e.Target))
	case size > 0:
		if err := w.content(e.Node); err != nil {
			return err
		}
	}
	w.pad(4)
	return w.err
}

func (w *writer) header(name string, n *Node, inode uint32, names int, size int64) {
	head := make([]byte, 0, headerSize+len(name)+1)
	head = append(head, magic...)
	for _, v := range [fields]uint32{
		inode, uint32(n.Kind) | n.Mode, 0, 0, uint32(names), 0, uint32(size), 0, 0, n.Major, n.Minor, uint32(len(name) + 1), 0,
	} {
		head = fmt.Appendf(head, "%08x", v)
	}
	head = append(head, name...)
	w.write(append(head, 0))
	w.pad(4)
}

// content copies the content of a file, which must be as long as it was.
func (w *writer) content(n *Node) (err error) {
	from, err := n.Open()
	if err != nil {
		return err
	}
	defer from.Close()
	for left := n.Size; left > 0 && w.err == nil; {
		if len(w.chunk) == cap(w.chunk) {
			if err := w.flush(); err != nil {
				return err
			}
		}
		free := w.chunk[len(w.chunk):min(int64(cap(w.chunk)), int64(len(w.chunk))+left)]
		got, err := io.ReadFull(from, free)
		w.chunk, w.at, left = w.chunk[:len(w.chunk)+got], w.at+int64(got), left-int64(got)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return fmt.Errorf("%w: it is shorter than it was", ErrChanged)
		}
		if err != nil {
			return err
		}
	}
	if got, err := from.Read(make([]byte, 1)); got > 0 {
		return fmt.Errorf("%w: it is longer than it was", ErrChanged)
	} else if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return w.err
}

func (w *writer) write(p []byte) {
	w.at += int64(len(p))
	for len(p) > 0 && w.err == nil {
		if len(w.chunk) == cap(w.chunk) {
			w.err = w.flush()
		}
		n := min(len(p), cap(w.chunk)-len(w.chunk))
		w.chunk, p = append(w.chunk, p[:n]...), p[n:]
	}
}

// pad fills up to a multiple of to, a power of two.
func (w *writer) pad(to int64) { w.write(make([]byte, -w.at&(to-1))) }

func (w *writer) flush() error {
	if w.err == nil {
		w.err = context.Cause(w.ctx)
	}
	if w.err == nil {
		_, w.err = w.to.Write(w.chunk)
	}
	w.chunk = w.chunk[:0]
	return w.err
}
