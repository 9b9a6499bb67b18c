package client

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/core/tree"
	"github.com/cloister-run/cloister/policies/abi"
)

// ErrLanding: the results arrived and could not be written.
var ErrLanding = errors.New("cannot write the results")

// ErrMismatch: what the enclave says or released is not what was sent, or not what its receipt says.
var ErrMismatch = errors.New("what arrived is not what the receipt says")

// destination is where the artifact of a channel lands.
type destination struct {
	// at is the destination's path in the job file.
	at      string
	channel abi.Channel
	path    string
	tree    bool
	// recipients are those that it is sealed to, sorted; nil if it comes plain.
	recipients []string
}

// check says before the job runs why nothing could land there.
func (d destination) check() (message, hint string) {
	info, err := os.Lstat(d.path)
	switch {
	case err == nil && !d.tree && info.IsDir():
		return fmt.Sprintf("%q is a folder", d.path), "name the file that is to land in it"
	case err == nil && !d.tree && !info.Mode().IsRegular():
		return fmt.Sprintf("%q is no regular file", d.path), "remove it, or choose another destination"
	case err == nil && d.tree && !info.IsDir():
		return fmt.Sprintf("%q is no folder", d.path), "remove it, or choose another destination"
	case err == nil && d.tree && !emptyDir(d.path):
		return fmt.Sprintf("%q exists, and a folder that lands replaces nothing", d.path), "remove it, or choose another destination"
	case err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR):
		return fmt.Sprintf("%q: %v", d.path, err), "choose another destination"
	}
	above := filepath.Dir(d.path)
	for {
		info, err := os.Stat(above)
		switch {
		case err == nil && !info.IsDir():
			return fmt.Sprintf("%q is no folder", above), "remove it, or choose another destination"
		case err == nil:
			return tryWriting(above)
		case filepath.Dir(above) == above:
			return fmt.Sprintf("%q: %v", above, err), ""
		}
		above = filepath.Dir(above)
	}
}

// tryWriting says why no file can be made in a folder, by making one. Asking for the permission
// is not enough: root has it everywhere, and still cannot write to /proc.
func tryWriting(dir string) (message, hint string) {
	f, name, err := openTemp(filepath.Join(dir, "trial"))
	if err == nil {
		err = f.Close()
	}
	if name != "" {
		err = errors.Join(err, os.Remove(name))
	}
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EROFS) {
		return fmt.Sprintf("%q may not be written to", dir), "give yourself the permission, or choose another destination"
	}
	if fault, ok := errors.AsType[*fs.PathError](err); ok {
		return fmt.Sprintf("%q cannot be written to: %v", dir, fault.Err), "choose another destination"
	}
	return "", ""
}

func emptyDir(path string) bool {
	entries, err := os.ReadDir(path)
	return err == nil && len(entries) == 0
}

// staged is an artifact that arrived whole and waits beside its destination.
type staged struct {
	destination
	// file is an open file, without a name where the file system has such; nil for a tree.
	file *os.File
	// name is the temporary name; empty if there is none.
	name string
	// landed says that the destination's name was given, old that name holds what was there before.
	landed, old bool
}

// discard leaves nothing behind but what landed.
func (s *staged) discard() {
	if s.file != nil {
		_ = s.file.Close() // it was synchronised, or is not wanted
	}
	switch {
	case s.name == "":
	case s.tree:
		_ = os.RemoveAll(s.name) // a folder of our own making
	default:
		_ = os.Remove(s.name) // a file, whoever's: never what a folder holds
	}
	s.name = ""
}

// stage takes what is released beside its destination, whose folder exists, and holds it
// against the receipt.
func (d destination) stage(ctx context.Context, want abi.Artifact, from io.Reader) (_ *staged, err error) {
	if (want.Kind == "tree") != d.tree {
		return nil, fmt.Errorf("%w: %s is a %s", ErrMismatch, d.channel, want.Kind)
	}
	if !slices.Equal(want.Recipients, d.recipients) {
		return nil, fmt.Errorf("%w: %s is sealed to others than the job says", ErrMismatch, d.channel)
	}
	s := &staged{destination: d}
	defer func() {
		if err != nil {
			s.discard()
		}
	}()
	if d.tree {
		return s, s.receiveTree(ctx, want, from)
	}
	return s, s.receiveFile(want, from)
}

func (s *staged) receiveFile(want abi.Artifact, from io.Reader) (err error) {
	if s.file, s.name, err = openTemp(s.path); err != nil {
		return fmt.Errorf("%w: %w", ErrLanding, err)
	}
	h := sha256.New()
	in := &failing{from: from}
	n, err := io.Copy(io.MultiWriter(s.file, h), io.LimitReader(in, want.Bytes+1))
	switch {
	case in.err != nil:
		return fmt.Errorf("%w: receiving %s: %w", ErrUnavailable, s.channel, in.err)
	case err != nil:
		return fmt.Errorf("%w: %s: %w", ErrLanding, s.path, err)
	case n != want.Bytes || tree.Hex(h.Sum(nil)) != want.Digest:
		return fmt.Errorf("%w: %s", ErrMismatch, s.channel)
	}
	if err := s.file.Sync(); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrLanding, s.path, err)
	}
	return nil
}

func (s *staged) receiveTree(ctx context.Context, want abi.Artifact, from io.Reader) (err error) {
	name := tempName(s.path)
	if err := os.Mkdir(name, 0o755); err != nil {
		return fmt.Errorf("%w: %w", ErrLanding, err)
	}
	s.name = name
	root, err := os.OpenRoot(s.name)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrLanding, err)
	}
	defer root.Close()
	in := &failing{from: from}
	got, err := tree.Unpack(ctx, in, root, tree.Limits{Bytes: want.Bytes, Entries: maxEntries})
	switch {
	case in.err != nil:
		return fmt.Errorf("%w: receiving %s: %w", ErrUnavailable, s.channel, in.err)
	case errors.Is(err, tree.ErrRefused):
		return fmt.Errorf("%w: %s: %w", ErrMismatch, s.channel, err)
	case err != nil:
		return fmt.Errorf("%w: %s: %w", ErrLanding, s.path, err)
	case got.Digest != want.Digest || got.Bytes != want.Bytes || got.Files != want.Files:
		return fmt.Errorf("%w: %s", ErrMismatch, s.channel)
	}
	err = fs.WalkDir(root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		return root.Chmod(name, info.Mode().Perm()|0o200) // what lands is the operator's to change
	})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrLanding, err)
	}
	return nil
}

// failing remembers that reading failed, to tell it from failing to write.
type failing struct {
	from io.Reader
	err  error
}

func (f *failing) Read(p []byte) (int, error) {
	n, err := f.from.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		f.err = err
	}
	return n, err
}
