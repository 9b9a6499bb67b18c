package eif

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// Part is a section to write: what Write writes.
type Part struct {
	Kind Kind
	// Write writes the section's data; its size need not be known before.
	Write func(io.Writer) error
}

// Bytes is a part whose data is in memory.
func Bytes(k Kind, data []byte) Part {
	return Part{Kind: k, Write: func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	}}
}

// Spec is what the header of an image says beside its sections.
type Spec struct {
	ARM bool
	// Memory in bytes and CPUs are asked for by default.
	Memory, CPUs uint64
	// Sign, if it is set, makes the data of a last section, which vouches for the image: see [Sign].
	Sign func(pcr0 PCR) ([]byte, error)
}

// Write writes an image, and measures it meanwhile. The parts are in the order of the file. What is written
// depends on spec and parts alone. Memory does not depend on their size. An error leaves a part of an image.
func Write(ctx context.Context, to io.WriteSeeker, spec Spec, parts []Part) (PCRs, error) {
	sections := len(parts)
	if spec.Sign != nil {
		sections++
	}
	if sections > maxSections {
		return PCRs{}, refuse("it would have %d sections; at most %d are allowed", sections, maxSections)
	}
	w := &writer{ctx: ctx, to: to, measurer: newMeasurer(), at: headerSize}
	h := header{Version: newest, Memory: spec.Memory, CPUs: spec.CPUs, Sections: uint16(sections)}
	if spec.ARM {
		h.Flags = armFlag
	}
	var err error
	if _, err = to.Seek(headerSize, io.SeekStart); err == nil {
		for i, part := range parts {
			if err = w.part(&h, i, part); err != nil {
				break
			}
		}
	}
	pcrs := w.measurer.end()
	if err == nil && spec.Sign != nil {
		err = w.sign(&h, len(parts), pcrs.PCR0, spec.Sign)
	}
	if err == nil {
		err = w.header(&h)
	}
	if err != nil {
		return PCRs{}, err
	}
	img := &Image{}
	for _, part := range parts {
		img.Sections = append(img.Sections, Section{Kind: part.Kind})
	}
	return pcrs, img.check()
}

// writer writes one image.
type writer struct {
	ctx      context.Context
	to       io.WriteSeeker
	measurer *measurer
	at       int64
	// crc is of all sections so far with their headers, data that of the data of the section under way,
	// which has most bytes at most.
	crc, data uint32
	size      int64
	most      int64
	kind      Kind
}

func (w *writer) part(h *header, i int, part Part) error {
	w.kind, w.most, w.size, w.data = part.Kind, part.Kind.most(), 0, 0
	w.measurer.section(part.Kind)
	h.Offsets[i] = uint64(w.at)
	if _, err := w.to.Seek(w.at+sectionHeaderSize, io.SeekStart); err != nil {
		return err
	}
	if err := part.Write(w); err != nil {
		return fmt.Errorf("writing a %s: %w", part.Kind, err)
	}
	h.Sizes[i] = uint64(w.size)
	head := binary.BigEndian.AppendUint16(nil, uint16(part.Kind))
	head = binary.BigEndian.AppendUint16(head, 0)
	head = binary.BigEndian.AppendUint64(head, uint64(w.size))
	w.crc = combine(crc32.Update(w.crc, crc32.IEEETable, head), w.data, w.size)
	if err := writeAt(w.to, head, w.at); err != nil {
		return err
	}
	w.at += sectionHeaderSize + w.size
	return nil
}

// sign writes the last section. It is not measured.
func (w *writer) sign(h *header, i int, pcr0 PCR, sign func(PCR) ([]byte, error)) error {
	data, err := sign(pcr0)
	if err != nil {
		return err
	}
	return w.part(h, i, Bytes(Signature, data))
}

// Write takes data of the section under way.
func (w *writer) Write(p []byte) (int, error) {
	if err := context.Cause(w.ctx); err != nil {
		return 0, err
	}
	if int64(len(p)) > w.most-w.size {
		return 0, refuse("a %s of more than %d bytes", w.kind, w.most)
	}
	w.data = crc32.Update(w.data, crc32.IEEETable, p)
	w.size += int64(len(p))
	for data := p; len(data) > 0; { // it is hashed while the caller reuses p
		buffer := w.measurer.buffer()
		n := copy(buffer, data)
		w.measurer.add(buffer[:n])
		data = data[n:]
	}
	return w.to.Write(p)
}

func (w *writer) header(h *header) error {
	raw, err := binary.Append([]byte(magic), binary.BigEndian, h)
	if err != nil {
		return err
	}
	size := w.at - headerSize
	raw = binary.BigEndian.AppendUint32(raw, combine(crc32.ChecksumIEEE(raw), w.crc, size))
	if len(raw) != headerSize {
		return errors.New("eif: the header has another size than it has to have")
	}
	return writeAt(w.to, raw, 0)
}

func writeAt(to io.WriteSeeker, data []byte, at int64) error {
	if _, err := to.Seek(at, io.SeekStart); err != nil {
		return err
	}
	_, err := to.Write(data)
	return err
}

// combine is the CRC-32 of two texts one after the other, from that of each and the size of the second
// (zlib, crc32_combine): the first is carried over so many zeros, by squaring the matrix that carries it
// over one bit.
func combine(first, second uint32, size int64) uint32 {
	const polynomial = 0xedb88320
	var step [32]uint32 // over one bit
	step[0] = polynomial
	for i := 1; i < 32; i++ {
		step[i] = 1 << (i - 1)
	}
	step = square(square(square(step))) // over one byte
	for ; size > 0; size >>= 1 {
		if size&1 != 0 {
			first = times(step, first)
		}
		step = square(step)
	}
	return first ^ second
}

func times(matrix [32]uint32, vector uint32) (sum uint32) {
	for i := 0; vector != 0; i, vector = i+1, vector>>1 {
		if vector&1 != 0 {
			sum ^= matrix[i]
		}
	}
	return sum
}

func square(matrix [32]uint32) (squared [32]uint32) {
	for i := range matrix {
		squared[i] = times(matrix, matrix[i])
	}
	return squared
}
