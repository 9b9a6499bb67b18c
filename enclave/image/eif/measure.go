package eif

import (
	"context"
	"crypto/sha512"
	"encoding/hex"
	"hash"
	"hash/crc32"
	"sync"
	"sync/atomic"
)

// PCR is a platform configuration register: SHA-384.
type PCR [sha512.Size384]byte

func (p PCR) String() string { return hex.EncodeToString(p[:]) }

// PCRs are what a Nitro hypervisor measures an image as (AWS, "Cryptographic attestation"): PCR0 the kernel,
// the command line and all ramdisks, PCR1 the same with the first ramdisk alone, PCR2 the other ramdisks. They are
// hashes of the sections' data one after the other, without lengths: images whose boundaries differ inside of
// what one register covers measure alike. Package build says what an image does about it.
type PCRs struct{ PCR0, PCR1, PCR2 PCR }

// chunk is how much of a file is hashed at a time; buffered is how many chunks wait for one hash at most.
const (
	chunk    = 1 << 20
	buffered = 4
)

// Measure reads a file once, holds its CRC-32 against what it says, and gives its PCRs. It takes a few
// chunks of memory, whatever the size. Errors are an [*Error], ctx's or the reader's.
func (img *Image) Measure(ctx context.Context) (PCRs, error) {
	m := newMeasurer()
	crc, err := img.feed(ctx, m)
	pcrs := m.end()
	if err != nil {
		return PCRs{}, err
	}
	if crc != img.CRC {
		return PCRs{}, refuse("its CRC-32 is %08x, and it says %08x: it is damaged", crc, img.CRC)
	}
	return pcrs, nil
}

// feed reads everything that the CRC covers, in order, and hands to m what is measured.
func (img *Image) feed(ctx context.Context, m *measurer) (crc uint32, err error) {
	read := func(at, size int64, use func([]byte)) error {
		for size > 0 {
			if err := context.Cause(ctx); err != nil {
				return err
			}
			data := m.buffer()[:min(size, chunk)] // it is hashed while the next one is read
			if err := readAt(img.r, data, at, img.size, "a section"); err != nil {
				return err
			}
			crc = crc32.Update(crc, crc32.IEEETable, data)
			use(data)
			at, size = at+int64(len(data)), size-int64(len(data))
		}
		return nil
	}
	headers := m.release
	if err := read(0, crcAt, headers); err != nil {
		return 0, err
	}
	for _, s := range img.Sections {
		if err := read(s.Offset-sectionHeaderSize, sectionHeaderSize, headers); err != nil {
			return 0, err
		}
		m.section(s.Kind)
		if err := read(s.Offset, s.Size, m.add); err != nil {
			return 0, err
		}
	}
	return crc, nil
}

// measurer hashes the sections of an image, in their order. Two hashes run side by side: of everything, and
// of the first ramdisk with what boots it or the other ramdisks, to which each byte belongs but once.
type measurer struct {
	free             chan []byte // buffers of a chunk that nobody uses
	all, half        *runner
	first, rest      hash.Hash
	ramdisks         int
	measured, isRest bool
}

func newMeasurer() *measurer {
	return &measurer{
		free: make(chan []byte, 2*buffered), all: newRunner(), half: newRunner(), first: sha512.New384(), rest: sha512.New384(),
	}
}

// buffer gives one of a chunk, with anything in it. An image takes thousands, and collecting them took as long as hashing.
func (m *measurer) buffer() []byte {
	select {
	case b := <-m.free:
		return b
	default:
		return make([]byte, chunk)
	}
}

// release takes back a buffer, or a part of one from its beginning.
func (m *measurer) release(b []byte) {
	select {
	case m.free <- b[:cap(b)]:
	default: // there are enough
	}
}

// section begins one.
func (m *measurer) section(k Kind) {
	m.measured, m.isRest = k == Kernel || k == CommandLine || k == Ramdisk, false
	if k == Ramdisk {
		m.isRest = m.ramdisks > 0
		m.ramdisks++
	}
}

// add hashes data of the section, in a buffer of [measurer.buffer], which is the measurer's from now on.
func (m *measurer) add(data []byte) {
	if !m.measured {
		m.release(data)
		return
	}
	var done atomic.Int32 // hashes
	hashed := func() {
		if done.Add(1) == 2 {
			m.release(data)
		}
	}
	m.all.write(m.all.whole, data, hashed)
	if m.isRest {
		m.half.write(m.rest, data, hashed)
	} else {
		m.half.write(m.first, data, hashed)
	}
}

// end waits for everything to be hashed. It is called once.
func (m *measurer) end() PCRs {
	m.all.end()
	m.half.end()
	return PCRs{Extended(m.all.whole.Sum(nil)), Extended(m.first.Sum(nil)), Extended(m.rest.Sum(nil))}
}

// runner hashes on a goroutine of its own.
type runner struct {
	whole hash.Hash
	work  chan func()
	done  sync.WaitGroup
}

func newRunner() *runner {
	r := &runner{whole: sha512.New384(), work: make(chan func(), buffered)}
	r.done.Go(func() {
		for do := range r.work {
			do()
		}
	})
	return r
}

func (r *runner) write(to hash.Hash, data []byte, done func()) {
	r.work <- func() {
		_, _ = to.Write(data) // never fails
		done()
	}
}

func (r *runner) end() {
	close(r.work)
	r.done.Wait()
}

// Extended is a register of zeros, extended once by a digest.
func Extended(digest []byte) PCR {
	h := sha512.New384()
	_, _ = h.Write(make([]byte, len(PCR{}))) // never fails
	_, _ = h.Write(digest)
	return PCR(h.Sum(nil))
}
