package devkit

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// maxFile bounds a file of the home: a key with its policy of 32 KiB, escaped as JSON.
const maxFile = 256 << 10

// private says that only the owner of a file or folder can use it.
func private(info fs.FileInfo) bool { return info.Mode().Perm()&0o077 == 0 }

// readPrivate reads a regular file that its owner alone may read and write.
func readPrivate(path string) ([]byte, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || !private(info) {
		return nil, fmt.Errorf("%s: not a file that its owner alone may read and write; chmod 600 it if it is yours", path)
	}
	data, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("%s: over %d bytes", path, maxFile)
	}
	return data, nil
}

// writeBeside writes data to a new file in the folder of path, mode 0600, and hands its name to
// place, which gives it the name that counts.
func writeBeside(path string, data []byte, place func(temporary string) error) error {
	file, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(file.Name()) }() // gone already where it was renamed
	_, err = file.Write(data)
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	return place(file.Name())
}

// create makes a file that is whole from the start. Where there is one, fs.ErrExist.
func create(path string, data []byte) error {
	return writeBeside(path, data, func(temporary string) error { return os.Link(temporary, path) })
}

// replace puts new content in the place of a file, at once.
func replace(path string, data []byte) error {
	return writeBeside(path, data, func(temporary string) error { return os.Rename(temporary, path) })
}

// locked runs change while no other process or goroutine runs one under the same file.
func locked(path string, change func() error) (err error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer file.Close() // which unlocks
	for {
		if err = unix.Flock(int(file.Fd()), unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("locking %s: %w", path, err)
	}
	return change()
}
