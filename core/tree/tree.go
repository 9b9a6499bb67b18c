// Package tree owns files on the move: a folder or a file as a tar stream, the bounded way
// back, and the digest that names its content.
//
// Plain assets arrive as such streams and outputs leave as such streams. The package trusts
// no stream and no folder: every name, kind, count and size is checked before it is used, no
// link is followed, and nothing but regular files and folders is carried. Owners, times,
// attributes and all mode bits but "executable" are not carried either.
package tree

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Bounds on names; the rest is in [Limits].
const (
	// maxPath and maxName are the kernel's own (limits.h: PATH_MAX, NAME_MAX).
	maxPath = 4096
	maxName = 255
	// maxDepth keeps walks and path handling cheap.
	maxDepth = 64
)

// ErrRefused is the cause of every error about the content of a stream or folder, as
// opposed to failing input or output.
var ErrRefused = errors.New("refused")

// ErrTooLarge is an ErrRefused for a stream or folder that exceeds its [Limits].
var ErrTooLarge = fmt.Errorf("%w: too large", ErrRefused)

// Limits bound what is carried. Every field is required.
type Limits struct {
	// Bytes sums the content of all files.
	Bytes int64
	// Entries counts files and folders. The bytes of their paths are bounded with them, for they are held in
	// memory: see [Limits.names].
	Entries int
}

// Bytes of paths: on average averagePath, and freely freePaths of them.
const (
	averagePath = 256
	freePaths   = maxDepth * maxPath / 2 // of one file, and of all folders that it is in
)

// names bounds the bytes of all paths together.
func (l Limits) names() int64 { return freePaths + averagePath*int64(l.Entries) }

// Summary says what was carried.
type Summary struct {
	// Digest is the "sha256:…" of the tree; see [Entry].
	Digest string `json:"digest"`
	// Bytes sums the content of all files; Files counts them.
	Bytes int64 `json:"bytes"`
	Files int   `json:"files"`
}

// Entry is one file or folder below the root. The digest of a tree is SHA-256 over
// "cloister tree v1\n" and, for every entry in the byte order of its path: the length of the
// path (u32, big-endian), the path, a kind byte ('d' folder, 'f' file, 'x' executable file)
// and, for files, the size (u64, big-endian) and the SHA-256 of the content.
type Entry struct {
	// Path is slash-separated and relative to the root.
	Path string
	Kind byte
	Size int64
	Sum  [sha256.Size]byte
}

// Kinds of entries.
const (
	Folder     = 'd'
	File       = 'f'
	Executable = 'x'
)

// Sum makes the summary of entries, in any order.
func Sum(entries []Entry) Summary {
	sorted := slices.SortedFunc(slices.Values(entries), func(a, b Entry) int { return cmp.Compare(a.Path, b.Path) })
	h := sha256.New()
	h.Write([]byte("cloister tree v1\n"))
	var s Summary
	for _, e := range sorted {
		var n [8]byte
		binary.BigEndian.PutUint32(n[:4], uint32(len(e.Path)))
		h.Write(n[:4])
		h.Write([]byte(e.Path))
		h.Write([]byte{e.Kind})
		if e.Kind == Folder {
			continue
		}
		binary.BigEndian.PutUint64(n[:], uint64(e.Size))
		h.Write(n[:])
		h.Write(e.Sum[:])
		s.Bytes += e.Size
		s.Files++
	}
	s.Digest = Hex(h.Sum(nil))
	return s
}

// Hex spells a SHA-256 sum as digests are spelt everywhere: "sha256:…".
func Hex(sum []byte) string { return "sha256:" + hex.EncodeToString(sum) }

// CheckName reports why a path below the root may not be carried: it must be clean, relative,
// valid UTF-8 without control characters or backslashes, and within the kernel's lengths.
func CheckName(name string) error {
	switch {
	case name == "" || name == "." || path.IsAbs(name) || path.Clean(name) != name || name == ".." || strings.HasPrefix(name, "../"):
		return fmt.Errorf("%w: %q is not a clean path below the root", ErrRefused, clip(name))
	case len(name) > maxPath:
		return fmt.Errorf("%w: path of %d bytes is over %d", ErrRefused, len(name), maxPath)
	case !utf8.ValidString(name):
		return fmt.Errorf("%w: %q is not UTF-8", ErrRefused, clip(name))
	case strings.ContainsFunc(name, func(r rune) bool { return r == '\\' || !unicode.IsPrint(r) }):
		return fmt.Errorf("%w: %q has a control character or a backslash", ErrRefused, clip(name))
	case strings.Count(name, "/") >= maxDepth:
		return fmt.Errorf("%w: %q is nested deeper than %d folders", ErrRefused, clip(name), maxDepth)
	}
	for part := range strings.SplitSeq(name, "/") {
		if len(part) > maxName {
			return fmt.Errorf("%w: %q is longer than %d bytes", ErrRefused, clip(part), maxName)
		}
	}
	return nil
}

// clip keeps a hostile name from filling a terminal.
func clip(name string) string {
	if len(name) > 80 {
		return name[:80] + "…"
	}
	return name
}

// checkMode refuses whatever is neither a regular file nor a folder.
func checkMode(name string, mode fs.FileMode) error {
	switch {
	case mode.IsRegular() || mode.IsDir():
		return nil
	case mode&fs.ModeSymlink != 0:
		return fmt.Errorf("%w: %q is a symbolic link", ErrRefused, clip(name))
	default:
		return fmt.Errorf("%w: %q is neither a regular file nor a folder", ErrRefused, clip(name))
	}
}

// budget counts entries, their paths and bytes down.
type budget struct {
	limits  Limits
	entries int
	names   int64
	bytes   int64
}

// entry counts a file or folder with a path of so many bytes.
func (b *budget) entry(path int) error {
	if b.entries++; b.entries > b.limits.Entries {
		return fmt.Errorf("%w: more than %d files and folders", ErrTooLarge, b.limits.Entries)
	}
	if b.names += int64(path); b.names > b.limits.names() {
		return fmt.Errorf("%w: the paths of %d files and folders have over %d bytes together", ErrTooLarge, b.limits.Entries, b.limits.names())
	}
	return nil
}

// left is how many entries more there may be.
func (b *budget) left() int { return b.limits.Entries - b.entries }

// room is how many bytes the next file may have.
func (b *budget) room() int64 { return b.limits.Bytes - b.bytes }

func (b *budget) spend(n int64) error {
	if n < 0 || n > b.room() {
		return fmt.Errorf("%w: more than %d bytes", ErrTooLarge, b.limits.Bytes)
	}
	b.bytes += n
	return nil
}
