package ramdisk

import (
	"bufio"
	"bytes"
	"compress/flate"
	"compress/gzip"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Header is what an archive says of an entry. Names are as they stand there, whatever they are.
type Header struct {
	Name string
	Kind Kind
	// Mode holds the permission bits.
	Mode uint32
	// Inode is the same for all names of a file, of which there are Names.
	Inode, Names uint32
	User, Group  uint32
	// Time is in seconds since 1970.
	Time uint32
	// Size is of the content that stands here, in bytes; Target, of a symbolic link, is read already.
	Size   int64
	Target string
	// Device is what the file was on, Major and Minor what a device is.
	Device       [2]uint32
	Major, Minor uint32
	// Archive counts from 0: at the end of one the kernel forgets its inodes, so that names of one file are of one
	// archive (init/initramfs.c, free_hash).
	Archive int
}

// Reader reads what the kernel takes for a ramdisk: archives one after the other, with zeros between them, each
// plain or compressed with gzip. It is used by one goroutine. Errors are an [*Error], or the reader's.
type Reader struct {
	base *bufio.Reader
	// in is what archives are read from: base, or what unpacks a part of it.
	in *bufio.Reader
	// most is what may still come; at counts from the beginning of in.
	most int64
	at   int64
	// entries came so far, and names are the bytes of their names and targets.
	entries, names int
	// within says that an archive has begun, and not ended. left is content of the entry under way.
	within bool
	left   int64
	// ended counts the archives that have.
	ended int
}

// NewReader reads from r, and refuses what holds more than most bytes, unpacked, or more than
// [MaxEntries] or [MaxNames].
func NewReader(r io.Reader, most int64) *Reader {
	base := bufio.NewReaderSize(r, 1<<18)
	return &Reader{base: base, in: base, most: most}
}

// Next goes to the next entry, and leaves out what was not read of the one before. It returns io.EOF behind the
// last one.
func (r *Reader) Next() (*Header, error) {
	if err := r.skip(r.left); err != nil {
		return nil, err
	}
	r.left = 0
	for {
		if !r.within {
			if err := r.begin(); err != nil {
				return nil, err
			}
		} else if err := r.align(); err != nil {
			return nil, err
		}
		h, err := r.header()
		switch {
		case err != nil:
			return nil, err
		case h.Name == trailer:
			r.within = false
			r.ended++
			if err := r.skip(h.Size); err != nil {
				return nil, err
			}
			continue
		}
		r.within, h.Archive = true, r.ended
		if r.entries++; r.entries > MaxEntries {
			return nil, refuse("more than %d entries", MaxEntries)
		}
		if err := r.target(h); err != nil {
			return nil, err
		}
		if r.names += len(h.Name) + len(h.Target); r.names > MaxNames {
			return nil, refuse("names and links of over %d MiB", MaxNames>>20)
		}
		return h, nil
	}
}

// Read reads content of the entry that Next went to.
func (r *Reader) Read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	n, err := r.in.Read(p[:min(int64(len(p)), r.left)])
	r.left -= int64(n)
	if n > 0 {
		return n, r.count(int64(n))
	}
	return 0, cut(err)
}

// begin finds where the next archive does: behind zeros, and in what unpacks it if it is compressed.
func (r *Reader) begin() error {
	for {
		c, err := r.in.ReadByte()
		switch {
		case errors.Is(err, io.EOF) && r.in != r.base:
			r.in, r.at = r.base, 0
			continue
		case err != nil:
			return unpackable(err)
		case c == 0:
			if err := r.count(1); err != nil {
				return err
			}
			continue
		}
		if err := r.in.UnreadByte(); err != nil {
			return err
		}
		head, err := r.in.Peek(2)
		if err != nil && !errors.Is(err, io.EOF) {
			return unpackable(err)
		}
		if r.in != r.base || !bytes.Equal(head, []byte{0x1f, 0x8b}) { // RFC 1952
			return nil
		}
		z, err := gzip.NewReader(r.base)
		if err != nil {
			return unpackable(err)
		}
		z.Multistream(false) // what follows may be something else
		r.in, r.at = bufio.NewReaderSize(z, 1<<18), 0
	}
}

// header reads the next one, and its name.
func (r *Reader) header() (*Header, error) {
	raw, err := r.take(int64(headerSize))
	if err != nil {
		return nil, err
	}
	if string(raw[:len(magic)]) != magic {
		return nil, refuse("%q begins no entry of an archive in the newc format", raw[:len(magic)])
	}
	var field [fields]uint32
	for i := range field {
		text := raw[len(magic)+i*digits:][:digits]
		number, err := hex.AppendDecode(nil, text)
		if err != nil {
			return nil, refuse("a header holds %q for a number", text)
		}
		field[i] = binary.BigEndian.Uint32(number)
	}
	length := int64(field[11])
	if length == 0 || length > MaxName+1 {
		return nil, refuse("a name of %d bytes; the kernel takes %d", length, MaxName)
	}
	name, err := r.take(length)
	if err != nil {
		return nil, err
	}
	text, ended := strings.CutSuffix(string(name), "\x00")
	if !ended || strings.IndexByte(text, 0) >= 0 {
		return nil, refuse("%q does not end in the NUL byte that ends a name", name)
	}
	return &Header{
		Name: text, Inode: field[0], Kind: Kind(field[1] & 0o170000), Mode: field[1] & 0o7777, User: field[2], Group: field[3],
		Names: field[4], Time: field[5], Size: int64(field[6]), Device: [2]uint32{field[7], field[8]}, Major: field[9], Minor: field[10],
	}, r.align()
}

// target reads that of a symbolic link; content of other entries is left for Read.
func (r *Reader) target(h *Header) error {
	switch {
	case h.Kind == Symlink && h.Size > MaxName+1:
		return refuse("%q: a link to a path of %d bytes", h.Name, h.Size)
	case h.Size > r.most:
		return tooLarge()
	case h.Kind != Symlink:
		r.left = h.Size
		return nil
	}
	target, err := r.take(h.Size)
	h.Target = string(target)
	return err
}

// take reads n bytes, of which there are few.
func (r *Reader) take(n int64) ([]byte, error) {
	if err := r.count(n); err != nil {
		return nil, err
	}
	data := make([]byte, n)
	_, err := io.ReadFull(r.in, data)
	return data, cut(err)
}

func (r *Reader) skip(n int64) error {
	for n > 0 {
		step := int(min(n, 1<<30)) // Discard counts in int
		if err := r.count(int64(step)); err != nil {
			return err
		}
		if _, err := r.in.Discard(step); err != nil {
			return cut(err)
		}
		n -= int64(step)
	}
	return nil
}

// align goes to the next multiple of four bytes.
func (r *Reader) align() error { return r.skip(-r.at & 3) }

func (r *Reader) count(n int64) error {
	if r.most -= n; r.most < 0 {
		return tooLarge()
	}
	r.at += n
	return nil
}

func tooLarge() error { return refuse("it is larger than is allowed once it is unpacked") }

// cut is an error in the middle of an archive.
func cut(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return refuse("it ends in the middle of an archive")
	}
	return unpackable(err)
}

// unpackable tells what is compressed wrongly from what cannot be read.
func unpackable(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	_, corrupt := errors.AsType[flate.CorruptInputError](err)
	if corrupt || errors.Is(err, gzip.ErrHeader) || errors.Is(err, gzip.ErrChecksum) || errors.Is(err, io.ErrUnexpectedEOF) {
		return refuse("it cannot be unpacked: %v", err)
	}
	return fmt.Errorf("ramdisk: %w", err)
}
