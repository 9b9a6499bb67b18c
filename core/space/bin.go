package space

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
)

// batch is how many names of a folder are held at a time.
const batch = 1024

// bin is where folders wait to be removed, on the file system that they are on. What an application left may be
// nested deeper than a process has descriptors, hold more names than it has memory, and leave no room for one
// more: so nothing here walks down or makes anything, and the folders in a folder are moved up into the bin before
// it goes.
type bin struct {
	dir string
	// first is the next folder to remove, next the number of the next one to come.
	first, next int
}

// strip throws away what is in a folder, but for the names that are kept.
func (b *bin) strip(dir string, kept map[string]bool) error {
	if err := os.Chmod(dir, 0o700); err != nil { // where root may not do everything
		return err
	}
	for { // what is removed while a folder is read may hide what comes after it
		thrown, err := b.pass(dir, kept)
		if err != nil || thrown == 0 {
			return err
		}
	}
}

func (b *bin) pass(dir string, kept map[string]bool) (thrown int, err error) {
	f, err := os.Open(dir)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for {
		names, err := f.Readdirnames(batch)
		for _, name := range names {
			name = filepath.Join(dir, name)
			if _, ok := kept[name]; ok {
				continue
			}
			if err := b.throw(name); err != nil {
				return thrown, err
			}
			thrown++
		}
		if errors.Is(err, io.EOF) {
			return thrown, nil
		}
		if err != nil {
			return thrown, err
		}
	}
}

// throw removes a file, and takes in a folder.
func (b *bin) throw(name string) error {
	info, err := os.Lstat(name)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return os.Remove(name)
	}
	if err := os.Chmod(name, 0o700); err != nil {
		return err
	}
	if err := os.Rename(name, b.at(b.next)); err != nil {
		return err
	}
	b.next++
	return nil
}

// empty removes everything that was taken in.
func (b *bin) empty() error {
	for ; b.first < b.next; b.first++ {
		if err := errors.Join(b.strip(b.at(b.first), nil), os.Remove(b.at(b.first))); err != nil {
			return err
		}
	}
	return nil
}

func (b *bin) at(n int) string { return filepath.Join(b.dir, strconv.Itoa(n)) }
