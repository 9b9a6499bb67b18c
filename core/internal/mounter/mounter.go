// Package mounter mounts the file systems of spaces. It is apart from package space so that only
// what lies below core can put something else in its place: nothing that ships does.
package mounter

import (
	"fmt"
	"os"
	"syscall"
)

// Mounter gives a job a file system of its own.
type Mounter interface {
	// Mount puts a file system of at most size bytes at dir, which it makes.
	Mount(dir string, size int64) error
	// Unmount lets go of it, and of everything that it holds.
	Unmount(dir string) error
}

// Tmpfs mounts file systems in memory.
type Tmpfs struct{}

var _ Mounter = Tmpfs{}

// Mount mounts a tmpfs that holds no devices and grants no rights.
func (Tmpfs) Mount(dir string, size int64) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	options := fmt.Sprintf("size=%d,nr_inodes=%d,mode=0700", size, inodes(size))
	if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV, options); err != nil {
		return fmt.Errorf("mounting a file system in memory: %w", err)
	}
	return nil
}

// umountNoFollow is UMOUNT_NOFOLLOW (umount(2)), which package syscall lacks.
const umountNoFollow = 0x8

// Unmount lets go of a file system; the kernel frees it with the last descriptor on it.
func (Tmpfs) Unmount(dir string) error {
	return syscall.Unmount(dir, syscall.MNT_DETACH|umountNoFollow)
}

// inodes bounds the files of a file system: one for every 4 KiB that it may hold, and some.
func inodes(size int64) int64 { return min(size>>12, 1<<20) + 64 }
