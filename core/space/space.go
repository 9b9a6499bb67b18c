// Package space owns the folders of one job inside the enclave: where its assets wait, where
// the application sees them, where it writes, and the end of all of it.
//
// Everything is in memory. Nothing of a job is left when [Space.Wipe] has returned, and when
// the enclave ends in any way the kernel drops the rest. The package trusts no name and no
// content: it never follows what an application left behind.
package space

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/cloister-run/cloister/core/internal/mounter"
)

// Space is the folders of one job. It is not safe for concurrent use.
type Space struct {
	// Staging holds assets as they arrive; no sandbox sees it. It is on the file system of Assets.
	Staging string
	// Assets is what the application sees, read-only; empty until [Space.Publish].
	Assets string
	// Work is the application's to write. It holds outputs, logs and tmp.
	Work string
	// Redacted takes what policies put in the place of outputs. It shares the room of Work.
	Redacted string
	// Sealed takes outputs that are sealed; empty if the job seals none.
	Sealed string
	// Socket is where the executor's socket goes.
	Socket string
	// Own holds what the enclave itself writes about the job.
	Own string
	// Owner is the user and group of Work and Socket; -1 for the enclave's own.
	Owner int

	root    string
	bin     string // on the file system of Work, see [bin]
	mounter mounter.Mounter
	// mounts are the file systems to let go of.
	mounts []string
	// free takes Owner back.
	free func()
}

// The folders below Work.
const (
	Outputs = "outputs"
	Logs    = "logs"
	Temp    = "tmp"
)

// make creates every folder. The caller wipes the space if it fails.
func (s *Space) make() error {
	if err := os.Chmod(filepath.Dir(s.Work), 0o711); err != nil { // the walls pass through as nobody
		return err
	}
	for _, dir := range []string{s.Staging, s.Assets, s.Own} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	for _, dir := range []string{s.Redacted, s.bin} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
	}
	for _, dir := range []string{s.Work, s.Socket} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		if err := s.give(dir); err != nil {
			return err
		}
	}
	for _, name := range []string{Outputs, Logs, Temp} {
		if err := s.MakeWork(name); err != nil {
			return err
		}
	}
	return nil
}

// MakeWork creates a folder below Work, and those above it, for the application. name is a
// clean relative path; nothing of the application runs yet.
func (s *Space) MakeWork(name string) error {
	root, err := os.OpenRoot(s.Work)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.MkdirAll(filepath.FromSlash(name), 0o700); err != nil {
		return err
	}
	for at := filepath.FromSlash(name); at != "."; at = filepath.Dir(at) {
		if s.Owner >= 0 {
			if err := root.Lchown(at, s.Owner, s.Owner); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Space) give(dir string) error {
	if s.Owner < 0 {
		return nil
	}
	return os.Chown(dir, s.Owner, s.Owner)
}

// Publish makes everything in Staging visible to the application, by name and at once for
// each: nothing is copied.
func (s *Space) Publish() error {
	entries, err := os.ReadDir(s.Staging)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.Rename(filepath.Join(s.Staging, e.Name()), filepath.Join(s.Assets, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// DropAssets removes the assets; nothing may run in the sandbox any more.
func (s *Space) DropAssets() error {
	return errors.Join(empty(s.Staging), empty(s.Assets))
}

// Keep removes what the application and its policies wrote, but for what is at places: files and folders, by their
// full names. It fails if a place is not below Work or Redacted. Nothing may run in the sandbox any more, and
// nobody else may write there.
func (s *Space) Keep(places []string) error {
	disk := filepath.Dir(s.Work)
	// Folders that are looked through, and with true what is kept whole.
	kept := map[string]bool{disk: false, s.Work: false, s.Redacted: false, s.bin: true}
	for _, place := range slices.Sorted(slices.Values(places)) { // what is above comes first
		if !within(place, s.Work) && !within(place, s.Redacted) {
			return fmt.Errorf("space: %s is no place in the job's work", filepath.Base(place))
		}
		above := filepath.Dir(place)
		for above != disk && !kept[above] {
			above = filepath.Dir(above)
		}
		if above != disk { // a folder above it is kept
			continue
		}
		kept[place] = true
		for dir := filepath.Dir(place); dir != disk; dir = filepath.Dir(dir) {
			kept[dir] = false
		}
	}
	gone := bin{dir: s.bin}
	for dir, whole := range kept {
		if !whole {
			if err := gone.strip(dir, kept); err != nil {
				return fmt.Errorf("space: %w", err)
			}
		}
	}
	if err := errors.Join(gone.empty(), empty(s.Socket)); err != nil {
		return fmt.Errorf("space: %w", err)
	}
	return nil
}

// within says whether a name is below a folder.
func within(name, dir string) bool {
	rel, err := filepath.Rel(dir, name)
	return err == nil && rel != "." && filepath.IsLocal(rel)
}

// Wipe removes everything. Where it fails it may be called again, and does what is left to do;
// where it did not, another call does nothing.
func (s *Space) Wipe() error {
	if s.root == "" {
		return nil
	}
	var errs []error
	var left []string
	for _, dir := range s.mounts {
		if err := s.mounter.Unmount(dir); err != nil {
			errs, left = append(errs, err), append(left, dir)
		}
	}
	s.mounts = left
	if len(left) == 0 { // what is mounted goes at once and whole, or not at all
		errs = append(errs, os.RemoveAll(s.root))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("space: wiping: %w", err)
	}
	s.root = ""
	s.free()
	return nil
}

// empty removes what is in a folder. Assets are read-only for the application, so nothing
// can add to it meanwhile.
func empty(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, e := range entries {
		errs = append(errs, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return errors.Join(errs...)
}
