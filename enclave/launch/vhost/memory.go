package vhost

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// region is a piece of the guest's memory, as a front-end describes it.
type region struct {
	guest, size, user, offset uint64
	data                      []byte // size bytes, once it is mapped
	mapped                    []byte
}

// memory is the guest's: it changes at any moment, under whoever reads it.
type memory []region

// mapMemory maps regions, one for each file. Their files belong to the caller. A file must be long
// enough for good: a page that is taken away would end this process.
func mapMemory(regions []region, files []*os.File) (_ memory, err error) {
	if len(regions) != len(files) {
		return nil, fmt.Errorf("%d regions of memory come with %d files", len(regions), len(files))
	}
	m := make(memory, 0, len(regions))
	defer func() {
		if err != nil {
			m.unmap()
		}
	}()
	for i, r := range regions {
		end := r.offset + r.size
		if r.size == 0 || end < r.offset || r.guest+r.size < r.guest || r.user+r.size < r.user || int64(end) < 0 {
			return nil, fmt.Errorf("region %d: %d bytes at %#x", i, r.size, r.guest)
		}
		if err := lasts(files[i], int64(end)); err != nil {
			return nil, fmt.Errorf("region %d: %w", i, err)
		}
		r.mapped, err = unix.Mmap(int(files[i].Fd()), 0, int(end), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			return nil, fmt.Errorf("region %d: %w", i, err)
		}
		r.data = r.mapped[r.offset:]
		m = append(m, r)
	}
	return m, nil
}

// lasts checks that a file has so many bytes and cannot lose any (fcntl(2), file sealing).
func lasts(f *os.File, size int64) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	seals, err := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0)
	if err != nil || seals&unix.F_SEAL_SHRINK == 0 {
		return errors.New("its file may shrink")
	}
	if info.Size() < size {
		return fmt.Errorf("its file has %d bytes, not %d", info.Size(), size)
	}
	return nil
}

func (m memory) unmap() {
	for _, r := range m {
		_ = unix.Munmap(r.mapped) // it was mapped
	}
}

// guest finds so many bytes at an address of the guest.
func (m memory) guest(address, length uint64) ([]byte, error) {
	return m.find(address, length, func(r *region) uint64 { return r.guest })
}

// user finds so many bytes at an address of the front-end, which is how it names rings.
func (m memory) user(address, length uint64) ([]byte, error) {
	return m.find(address, length, func(r *region) uint64 { return r.user })
}

func (m memory) find(address, length uint64, start func(*region) uint64) ([]byte, error) {
	for i := range m {
		at := address - start(&m[i]) // wraps below the start, and is too large then
		if at < m[i].size && length <= m[i].size-at {
			return m[i].data[at : at+length : at+length], nil
		}
	}
	return nil, fmt.Errorf("%d bytes at %#x are not memory of the guest", length, address)
}
