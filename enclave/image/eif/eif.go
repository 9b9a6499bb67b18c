// Package eif is the Enclave Image Format: what AWS's tools and QEMU boot, and what an enclave's PCRs are
// taken over.
//
// It owns the format: reading a file that anybody made, measuring it, and writing one. A file is untrusted:
// every size is bounded before anything is read, and nothing that is not measured, metadata above all, decides
// anything. The format is AWS's (aws-nitro-enclaves-image-format, src/defs).
package eif

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// The format's numbers. All are big-endian.
const (
	magic = ".eif"
	// oldest and newest are the versions that are read; newest is written. Version 3 has no metadata.
	oldest, newest = 3, 4
	// armFlag is set where the image is for arm64.
	armFlag = 1

	headerSize        = 548
	crcAt             = headerSize - 4
	sectionHeaderSize = 12
	maxSections       = 32
)

// Kind is what a section is.
type Kind uint16

// The kinds.
const (
	Kernel Kind = iota + 1
	CommandLine
	Ramdisk
	Signature
	Metadata
)

func (k Kind) String() string {
	names := []string{"", "kernel", "command line", "ramdisk", "signature", "metadata"}
	if int(k) < len(names) && k > 0 {
		return names[k]
	}
	return fmt.Sprintf("unknown kind %d", uint16(k))
}

// most bounds the data of a section, in bytes.
func (k Kind) most() int64 {
	switch k {
	case Kernel:
		return 1 << 30
	case CommandLine:
		return 64 << 10 // far above COMMAND_LINE_SIZE of any kernel
	case Ramdisk:
		return 64 << 30
	case Signature:
		return 32 << 10
	case Metadata:
		return 1 << 20
	}
	return 0
}

// Section is one part of an image.
type Section struct {
	Kind Kind
	// Offset and Size are of its data in the file, in bytes.
	Offset, Size int64
}

// Image is a file that was read. Its methods are safe for concurrent use if its reader is.
type Image struct {
	// ARM says that it is for arm64; else it is for x86_64.
	ARM bool
	// Memory and CPUs are what it asks for by default; whoever starts it may give more. Not attested.
	Memory, CPUs uint64
	// Sections are in the order of the file: one kernel, one command line and ramdisks, in this order, and at most one
	// signature and one metadata.
	Sections []Section
	// CRC is what the file says that its CRC-32 is; [Image.Measure] compares it.
	CRC uint32

	r    io.ReaderAt
	size int64
}

// Error says what is wrong with a file.
type Error struct{ Reason string }

func (e *Error) Error() string { return "eif: " + e.Reason }

func refuse(format string, args ...any) error { return &Error{fmt.Sprintf(format, args...)} }

// header is the file's, without its magic and its CRC.
type header struct {
	Version, Flags uint16
	Memory, CPUs   uint64
	Reserved       uint16
	Sections       uint16
	Offsets, Sizes [maxSections]uint64
	Unused         uint32
}

// Read reads how a file is divided. It reads no section. Errors are an [*Error], or the reader's.
func Read(r io.ReaderAt, size int64) (*Image, error) {
	raw := make([]byte, headerSize)
	if err := readAt(r, raw, 0, size, "the header"); err != nil {
		return nil, err
	}
	if string(raw[:len(magic)]) != magic {
		return nil, refuse("it does not begin with %q: no enclave image", magic)
	}
	var h header
	if _, err := binary.Decode(raw[len(magic):], binary.BigEndian, &h); err != nil {
		return nil, err
	}
	switch {
	case h.Version < oldest || h.Version > newest:
		return nil, refuse("version %d is not known; %d to %d are", h.Version, oldest, newest)
	case h.Flags&^armFlag != 0:
		return nil, refuse("flags %#x are not known", h.Flags)
	case h.Sections == 0 || h.Sections > maxSections:
		return nil, refuse("it has %d sections; 1 to %d are allowed", h.Sections, maxSections)
	}
	img := &Image{
		ARM: h.Flags&armFlag != 0, Memory: h.Memory, CPUs: h.CPUs, CRC: binary.BigEndian.Uint32(raw[crcAt:]), r: r, size: size,
	}
	if err := img.walk(&h); err != nil {
		return nil, err
	}
	return img, img.check()
}

// walk finds the sections. AWS's tools walk from one to the next, QEMU goes by the table in the header: a file
// in which the two differ would boot as one thing and be measured as another.
func (img *Image) walk(h *header) error {
	at := int64(headerSize)
	for i := range int(h.Sections) {
		raw := make([]byte, sectionHeaderSize)
		if err := readAt(img.r, raw, at, img.size, fmt.Sprintf("the header of section %d", i)); err != nil {
			return err
		}
		kind, size := Kind(binary.BigEndian.Uint16(raw)), binary.BigEndian.Uint64(raw[4:])
		data := at + sectionHeaderSize
		switch {
		case kind.most() == 0:
			return refuse("section %d: %s", i, kind)
		case binary.BigEndian.Uint16(raw[2:]) != 0:
			return refuse("section %d: flags %#x are not known", i, raw[2:4])
		case size > uint64(kind.most()):
			return refuse("section %d: a %s of %d bytes; at most %d are allowed", i, kind, size, kind.most())
		case size > uint64(img.size-data):
			return refuse("section %d: a %s of %d bytes leaves the file, which ends after %d", i, kind, size, img.size-data)
		case h.Offsets[i] != uint64(at) || h.Sizes[i] != size:
			return refuse("section %d stands at %d with %d bytes, and the header says at %d with %d", i, at, size, h.Offsets[i], h.Sizes[i])
		}
		img.Sections = append(img.Sections, Section{Kind: kind, Offset: data, Size: int64(size)})
		at = data + int64(size)
	}
	for i := int(h.Sections); i < maxSections; i++ {
		if h.Offsets[i] != 0 || h.Sizes[i] != 0 {
			return refuse("the header places a section %d, and there are %d", i, h.Sections)
		}
	}
	if at != img.size {
		return refuse("%d bytes follow the last section", img.size-at)
	}
	return nil
}

// check says whether an image has what boots, once.
func (img *Image) check() error {
	count := map[Kind]int{}
	for _, s := range img.Sections {
		count[s.Kind]++
	}
	switch {
	case count[Kernel] != 1:
		return refuse("it has %d kernels; one is needed", count[Kernel])
	case count[CommandLine] != 1:
		return refuse("it has %d command lines; one is needed", count[CommandLine])
	case count[Ramdisk] == 0:
		return refuse("it has no ramdisk")
	case count[Signature] > 1:
		return refuse("it has %d signatures; at most one is allowed", count[Signature])
	case count[Metadata] > 1:
		return refuse("it has %d metadata; at most one is allowed", count[Metadata])
	}
	return img.checkOrder()
}

// checkOrder holds what is measured against the order in which AWS's tool writes it. What is measured has no lengths, so
// that in another order it could be divided otherwise: a ramdisk that ends early goes on in the next one.
func (img *Image) checkOrder() error {
	last := Kernel
	for _, s := range img.Sections {
		switch {
		case s.Kind != Kernel && s.Kind != CommandLine && s.Kind != Ramdisk:
		case s.Kind < last:
			return refuse("a %s follows a %s; the order is kernel, command line, ramdisks", s.Kind, last)
		default:
			last = s.Kind
		}
	}
	return nil
}

// Data reads the data of a section. It stays valid as long as the reader of the image does.
func (img *Image) Data(s Section) *io.SectionReader {
	return io.NewSectionReader(img.r, s.Offset, s.Size)
}

// readAt fills raw, or says that the file ends in what.
func readAt(r io.ReaderAt, raw []byte, at, size int64, what string) error {
	if int64(len(raw)) > size-at {
		return refuse("it ends in %s", what)
	}
	if n, err := r.ReadAt(raw, at); n < len(raw) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("eif: reading %s: %w", what, err)
	}
	return nil
}
