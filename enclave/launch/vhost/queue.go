package vhost

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A split virtqueue (virtio 1.2, 2.7).
const (
	descriptorSize = 16
	availableHead  = 4 // flags and index; then 2 bytes for each entry
	availableEntry = 2
	usedHead       = 4
	usedEntry      = 8
	maxQueueSize   = 1 << 15

	flagNext     = 1 // VIRTQ_DESC_F_NEXT
	flagWrite    = 2 // VIRTQ_DESC_F_WRITE
	flagIndirect = 4 // VIRTQ_DESC_F_INDIRECT, which is not offered
	noInterrupt  = 1 // VIRTQ_AVAIL_F_NO_INTERRUPT
)

// ErrGuest: the driver in the guest, or the front-end, broke the rules.
var ErrGuest = errors.New("the guest breaks the rules of virtio")

// Queue is a virtqueue, from the device's side. It is safe for concurrent use.
type Queue struct {
	fail func(error)

	mu      sync.Mutex
	size    uint16 // a power of two
	address ringAddress
	next    uint16 // of the available ring
	put     uint16 // of the used ring
	running bool
	mem     memory
	desc    []byte
	avail   []byte
	used    []byte
	call    *os.File
	chain   Chain

	enabled bool // these three belong to the goroutine of Serve
	kick    *os.File
	watched chan struct{} // closed when nothing waits for kick any more
}

// ringAddress is where a ring is, in addresses of the front-end.
type ringAddress struct{ descriptors, used, available uint64 }

// Chain is a buffer of the guest: what the device reads, then what it writes. It is valid within the
// call of [Queue.Take].
type Chain struct {
	readable, writable int
	in, out            [][]byte
}

// Readable and Writable are how many bytes are left to read and to write.
func (c *Chain) Readable() int { return c.readable }

// Writable is said with Readable.
func (c *Chain) Writable() int { return c.writable }

// Read copies what comes next out of the guest, as much as there is.
func (c *Chain) Read(p []byte) int {
	n := 0
	for len(c.in) > 0 && n < len(p) {
		k := copy(p[n:], c.in[0])
		n += k
		if c.in[0] = c.in[0][k:]; len(c.in[0]) == 0 {
			c.in = c.in[1:]
		}
	}
	c.readable -= n
	return n
}

// Write copies into the guest, as much as there is room for.
func (c *Chain) Write(p []byte) int {
	n := 0
	for len(c.out) > 0 && n < len(p) {
		k := copy(c.out[0], p[n:])
		n += k
		if c.out[0] = c.out[0][k:]; len(c.out[0]) == 0 {
			c.out = c.out[1:]
		}
	}
	c.writable -= n
	return n
}

// Take hands the next buffer of the driver to use, and gives it back with the number of bytes that use
// says it wrote. Without a buffer it returns false. use must not block, and must not call the queue. An error, of
// use or because the driver broke the rules, ends the whole device. The driver is not told: [Queue.Notify] does.
func (q *Queue) Take(use func(*Chain) (written int, err error)) (bool, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	taken, err := q.take(use)
	if err != nil {
		q.running = false
		q.fail(err)
	}
	return taken, err
}

func (q *Queue) take(use func(*Chain) (int, error)) (bool, error) {
	pending, err := q.pending()
	if err != nil || pending == 0 {
		return false, err
	}
	at := availableHead + availableEntry*int(q.next&(q.size-1))
	head := binary.LittleEndian.Uint16(q.avail[at:])
	if err := q.collect(head); err != nil {
		return false, err
	}
	written, err := use(&q.chain)
	if err != nil {
		return false, err
	}
	at = usedHead + usedEntry*int(q.put&(q.size-1))
	binary.LittleEndian.PutUint32(q.used[at:], uint32(head))
	binary.LittleEndian.PutUint32(q.used[at+4:], uint32(written))
	q.next++
	q.put++
	atomic.StoreUint32(word(q.used), uint32(q.put)<<16) // the flags stay 0: every buffer is to be announced
	return true, nil
}

// Pending is how many buffers the driver has made available.
func (q *Queue) Pending() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	pending, err := q.pending()
	if err != nil {
		q.running = false
		q.fail(err)
	}
	return pending
}

func (q *Queue) pending() (int, error) {
	if !q.running {
		return 0, nil
	}
	index := uint16(atomic.LoadUint32(word(q.avail)) >> 16)
	if pending := index - q.next; pending <= q.size {
		return int(pending), nil
	}
	return 0, fmt.Errorf("%w: the ring of %d entries goes from %d to %d", ErrGuest, q.size, q.next, index)
}

// collect fills q.chain with the buffers of a chain. Each descriptor is read once: the guest may change it
// meanwhile.
func (q *Queue) collect(head uint16) error {
	c := &q.chain
	*c = Chain{in: c.in[:0], out: c.out[:0]}
	at := head
	for range q.size {
		if at >= q.size {
			return fmt.Errorf("%w: descriptor %d of %d", ErrGuest, at, q.size)
		}
		raw := [descriptorSize]byte(q.desc[descriptorSize*int(at):])
		length := binary.LittleEndian.Uint32(raw[8:])
		flags, next := binary.LittleEndian.Uint16(raw[12:]), binary.LittleEndian.Uint16(raw[14:])
		if flags&^(flagNext|flagWrite) != 0 {
			return fmt.Errorf("%w: descriptor %d has flags %#x", ErrGuest, at, flags)
		}
		if err := q.add(binary.LittleEndian.Uint64(raw[0:]), length, flags&flagWrite != 0); err != nil {
			return fmt.Errorf("%w: descriptor %d: %w", ErrGuest, at, err)
		}
		if flags&flagNext == 0 {
			return nil
		}
		at = next
	}
	return fmt.Errorf("%w: a chain of descriptors has no end", ErrGuest)
}

// maxChain bounds the bytes of a chain: a hundred times what any device here needs.
const maxChain = 16 << 20

func (q *Queue) add(address uint64, length uint32, write bool) error {
	c := &q.chain
	if c.readable+c.writable+int(length) > maxChain {
		return fmt.Errorf("a chain of more than %d bytes", maxChain)
	}
	data, err := q.mem.guest(address, uint64(length))
	switch {
	case err != nil:
		return err
	case write:
		c.out = append(c.out, data)
		c.writable += len(data)
	case len(c.out) > 0:
		return errors.New("what is to be read comes after what is to be written")
	default:
		c.in = append(c.in, data)
		c.readable += len(data)
	}
	return nil
}

// Notify tells the driver about buffers that it got back, unless it asked not to be told.
func (q *Queue) Notify() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.running || q.call == nil || atomic.LoadUint32(word(q.avail))&noInterrupt != 0 {
		return
	}
	raw, err := q.call.SyscallConn()
	if err != nil {
		return
	}
	// An event that was not taken yet counts for this one too: whoever lets it fill up is not waited for.
	_ = raw.Write(func(fd uintptr) (done bool) {
		_, _ = unix.Write(int(fd), []byte{1, 0, 0, 0, 0, 0, 0, 0})
		return true
	})
}

// run begins, or goes on after the memory changed. q.mu is held.
func (q *Queue) run(m memory) (err error) {
	size := uint64(q.size)
	if q.desc, err = m.user(q.address.descriptors, descriptorSize*size); err != nil {
		return fmt.Errorf("descriptors: %w", err)
	}
	if q.avail, err = m.user(q.address.available, availableHead+availableEntry*size); err != nil {
		return fmt.Errorf("available ring: %w", err)
	}
	if q.used, err = m.user(q.address.used, usedHead+usedEntry*size); err != nil {
		return fmt.Errorf("used ring: %w", err)
	}
	// The specification lets the available ring begin at any even address; every driver of Linux has it after
	// its descriptors, where flags and index are one aligned word.
	if !aligned(q.avail) || !aligned(q.used) {
		return errors.New("its rings are not aligned")
	}
	if !q.running {
		q.put = uint16(atomic.LoadUint32(word(q.used)) >> 16)
	}
	q.mem, q.running = m, true
	return nil
}

// word is the flags and the index of a ring: what both sides change under each other.
func word(ring []byte) *uint32 {
	return (*uint32)(unsafe.Pointer(unsafe.SliceData(ring))) //nolint:gosec // the one way to an atomic access; run checks length and alignment
}

func aligned(ring []byte) bool {
	return uintptr(unsafe.Pointer(unsafe.SliceData(ring)))%4 == 0 //nolint:gosec // an address to look at
}
