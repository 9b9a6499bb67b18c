// Package vhosttest plays the other end of a vhost-user device for tests: the front-end, and the driver in a guest
// whose memory is a file. It is for tests alone, and does as it is told: also what no driver may do.
package vhosttest

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Where things are in the memory of the guest, and where that is.
const (
	Size      = 64       // of each queue
	Slot      = 70 << 10 // bytes for the buffer of each descriptor
	ringSpace = 0x4000
	buffers   = 8 * ringSpace
	Base      = 0x100000       // the guest's address of its memory
	UserBase  = 0x7f0000000000 // the front-end's
	patience  = 10 * time.Second
)

// Guest is a front-end with its guest. It is for one goroutine, but for what says otherwise.
type Guest struct {
	T      testing.TB
	Conn   *net.UnixConn
	Memory []byte
	Rings  []*Ring
	File   *os.File

	served chan struct{}
	err    error
}

// Ring is one queue, from the driver's side. Each ring is for one goroutine.
type Ring struct {
	guest      *Guest
	number     int
	desc       []byte
	avail      []byte
	used       []byte
	next, seen uint16
	kick, call *os.File
}

// Connect connects to a device that serve plays, and says nothing yet. Both end with the test.
func Connect(t testing.TB, serve func(context.Context, *net.UnixConn) error, queues int) *Guest {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	g := &Guest{T: t, Conn: conn(t, pair[0]), served: make(chan struct{})}
	ctx, stop := context.WithCancel(context.Background())
	theirs := conn(t, pair[1])
	go func() {
		g.err = serve(ctx, theirs)
		close(g.served)
	}()
	t.Cleanup(func() {
		stop()
		_ = g.Conn.Close()
		<-g.served
	})
	size := buffers + queues*Size*Slot
	fd, err := unix.MemfdCreate("guest", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	must(t, err)
	g.File = os.NewFile(uintptr(fd), "guest")
	t.Cleanup(func() { _ = g.File.Close() })
	must(t, g.File.Truncate(int64(size)))
	_, err = unix.FcntlInt(g.File.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW)
	must(t, err)
	g.Memory, err = unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(t, err)
	t.Cleanup(func() { _ = unix.Munmap(g.Memory) })
	for i := range queues {
		at := g.Memory[i*ringSpace:]
		g.Rings = append(g.Rings, &Ring{guest: g, number: i, desc: at[:16*Size], avail: at[0x1000:0x2000], used: at[0x2000:0x3000],
			kick: event(t), call: event(t)})
	}
	return g
}

// New connects, and starts every queue.
func New(t testing.TB, serve func(context.Context, *net.UnixConn) error, queues int) *Guest {
	t.Helper()
	g := Connect(t, serve, queues)
	g.Negotiate()
	for i := range queues {
		g.Start(i)
	}
	return g
}

func conn(t testing.TB, fd int) *net.UnixConn {
	t.Helper()
	f := os.NewFile(uintptr(fd), "vhost-user")
	defer f.Close()
	c, err := net.FileConn(f)
	must(t, err)
	return c.(*net.UnixConn) // of this family
}

func event(t testing.TB) *os.File {
	t.Helper()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	must(t, err)
	f := os.NewFile(uintptr(fd), "event")
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Ended waits for the device to end, and says how.
func (g *Guest) Ended() error {
	g.T.Helper()
	select {
	case <-g.served:
	case <-time.After(patience):
		g.T.Fatal("the device goes on")
	}
	return g.err
}

// Send sends one message of the protocol.
func (g *Guest) Send(request, flags uint32, payload []byte, files ...*os.File) {
	g.T.Helper()
	raw := binary.LittleEndian.AppendUint32(nil, request)
	raw = binary.LittleEndian.AppendUint32(raw, flags|1)
	raw = binary.LittleEndian.AppendUint32(raw, uint32(len(payload)))
	var fds []int
	for _, f := range files {
		raw, err := f.SyscallConn()
		must(g.T, err)
		must(g.T, raw.Control(func(fd uintptr) { fds = append(fds, int(fd)) }))
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	// A device that has ended takes nothing: [Guest.Ended] says why.
	_, _, _ = g.Conn.WriteMsgUnix(append(raw, payload...), rights, nil)
}

// Reply reads the reply to a request.
func (g *Guest) Reply(request uint32) []byte {
	g.T.Helper()
	must(g.T, g.Conn.SetReadDeadline(time.Now().Add(patience)))
	head := make([]byte, 12)
	_, err := io.ReadFull(g.Conn, head)
	must(g.T, err)
	if got, flags := binary.LittleEndian.Uint32(head), binary.LittleEndian.Uint32(head[4:]); got != request || flags != 1|4 {
		g.T.Fatalf("a reply to %d with flags %#x, not to %d", got, flags, request)
	}
	payload := make([]byte, binary.LittleEndian.Uint32(head[8:]))
	_, err = io.ReadFull(g.Conn, payload)
	must(g.T, err)
	return payload
}

// Ask is Send and Reply.
func (g *Guest) Ask(request uint32, payload []byte) []byte {
	g.T.Helper()
	g.Send(request, 0, payload)
	return g.Reply(request)
}

// Do is Send of what has no reply of its own, and waits until it is done.
func (g *Guest) Do(request uint32, payload []byte, files ...*os.File) {
	g.T.Helper()
	g.Send(request, 8, payload, files...)
	if answer := g.Reply(request); binary.LittleEndian.Uint64(answer) != 0 {
		g.T.Fatalf("message %d was not done", request)
	}
}

// U64 and State are payloads.
func U64(n uint64) []byte { return binary.LittleEndian.AppendUint64(nil, n) }

// State is a vring state description.
func State(index, num uint32) []byte {
	return binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, index), num)
}

// Table describes one region of memory.
func Table(guest, size, user, offset uint64) []byte {
	out := State(1, 0)
	for _, n := range []uint64{guest, size, user, offset} {
		out = append(out, U64(n)...)
	}
	return out
}

// Negotiate agrees on features and shows the memory.
func (g *Guest) Negotiate() {
	g.T.Helper()
	features := binary.LittleEndian.Uint64(g.Ask(1, nil))
	protocol := binary.LittleEndian.Uint64(g.Ask(15, nil))
	g.Send(16, 0, U64(protocol))
	g.Do(3, nil)
	g.Do(2, U64(features))
	g.Do(5, Table(Base, uint64(len(g.Memory)), UserBase, 0), g.File)
}

// Start sets a queue up where its ring has got to, and enables it.
func (g *Guest) Start(i int) {
	g.T.Helper()
	r := g.Rings[i]
	user := UserBase + uint64(i*ringSpace)
	address := append(State(uint32(i), 0), U64(user)...)
	address = append(append(append(address, U64(user+0x2000)...), U64(user+0x1000)...), U64(0)...)
	g.Do(8, State(uint32(i), Size))
	g.Do(10, State(uint32(i), uint32(r.seen)))
	g.Do(9, address)
	g.Do(13, U64(uint64(i)), r.call)
	g.Do(12, U64(uint64(i)), r.kick)
	g.Do(18, State(uint32(i), 1))
}

// Stop stops a queue, and says how far the device got.
func (g *Guest) Stop(i int) uint16 {
	g.T.Helper()
	return uint16(binary.LittleEndian.Uint32(g.Ask(11, State(uint32(i), 0))[4:]))
}

// Address is where the buffer of a descriptor is.
func (r *Ring) Address(descriptor int) uint64 {
	return Base + uint64(r.offset(descriptor))
}

func (r *Ring) offset(descriptor int) int { return buffers + (r.number*Size+descriptor)*Slot }

// Buffer is the memory of a descriptor.
func (r *Ring) Buffer(descriptor int) []byte {
	return r.guest.Memory[r.offset(descriptor) : r.offset(descriptor)+Slot]
}

// Describe writes a descriptor.
func (r *Ring) Describe(i int, address uint64, length uint32, flags, next uint16) {
	at := r.desc[16*i:]
	binary.LittleEndian.PutUint64(at, address)
	binary.LittleEndian.PutUint32(at[8:], length)
	binary.LittleEndian.PutUint16(at[12:], flags)
	binary.LittleEndian.PutUint16(at[14:], next)
}

// Offer makes a chain available, without a kick.
func (r *Ring) Offer(head uint16) {
	r.Entry(head)
	r.SetIndex(r.next)
}

// Entry writes the next entry of the ring, and makes nothing available.
func (r *Ring) Entry(head uint16) {
	binary.LittleEndian.PutUint16(r.avail[4+2*int(r.next%Size):], head)
	r.next++
}

// SetIndex says how many chains were ever made available.
func (r *Ring) SetIndex(n uint16) { atomic.StoreUint32(word(r.avail), uint32(n)<<16) }

// Silence asks the device not to tell the driver anything.
func (r *Ring) Silence(on bool) {
	flags := uint32(0)
	if on {
		flags = 1
	}
	atomic.StoreUint32(word(r.avail), uint32(r.next)<<16|flags)
}

// Send offers what the device is to read, in one buffer.
func (r *Ring) Send(descriptor int, data []byte) {
	r.Describe(descriptor, r.Address(descriptor), uint32(copy(r.Buffer(descriptor), data)), 0, 0)
	r.Offer(uint16(descriptor))
}

// Room offers what the device is to write, in one buffer.
func (r *Ring) Room(descriptor, size int) {
	r.Describe(descriptor, r.Address(descriptor), uint32(size), 2, 0)
	r.Offer(uint16(descriptor))
}

// Both offers a chain of two buffers, the descriptor's and the next one's: what the device is to read, and room.
func (r *Ring) Both(descriptor int, data []byte, room int) {
	r.Describe(descriptor, r.Address(descriptor), uint32(copy(r.Buffer(descriptor), data)), 1, uint16(descriptor+1))
	r.Describe(descriptor+1, r.Address(descriptor+1), uint32(room), 2, 0)
	r.Offer(uint16(descriptor))
}

// Kick tells the device.
func (r *Ring) Kick() { _, _ = r.kick.Write(U64(1)) } // an event is never full here

// Used is the next chain that came back, if there is one.
func (r *Ring) Used() (head uint32, written int, ok bool) {
	if uint16(atomic.LoadUint32(word(r.used))>>16) == r.seen {
		return 0, 0, false
	}
	at := r.used[4+8*int(r.seen%Size):]
	r.seen++
	return binary.LittleEndian.Uint32(at), int(binary.LittleEndian.Uint32(at[4:])), true
}

// Wait waits for the device to tell the driver something; false once the device has ended, or after a while.
func (r *Ring) Wait() bool {
	_ = r.call.SetReadDeadline(time.Now().Add(patience))
	n, err := r.call.Read(make([]byte, 8))
	return err == nil && n == 8
}

// Interrupt makes Wait return in every ring.
func (g *Guest) Interrupt() {
	for _, r := range g.Rings {
		_, _ = r.call.Write(U64(1)) // an event is never full here
	}
}

// Fill fills the event by which the driver is told, so that there is no room for another.
func (r *Ring) Fill() {
	r.guest.T.Helper()
	_, err := r.call.Write(U64(1<<64 - 2)) // eventfd(2)
	must(r.guest.T, err)
}

// Next waits for the next chain that comes back.
func (r *Ring) Next() (head uint32, written int) {
	r.guest.T.Helper()
	for {
		if head, written, ok := r.Used(); ok {
			return head, written
		}
		if !r.Wait() {
			r.guest.T.Fatal("nothing comes back")
		}
	}
}

func word(ring []byte) *uint32 { return (*uint32)(unsafe.Pointer(unsafe.SliceData(ring))) } //nolint:gosec // memory that the device shares

// Told says whether the driver was told anything since it last looked.
func (r *Ring) Told() (told bool) {
	r.guest.T.Helper()
	must(r.guest.T, r.call.SetReadDeadline(time.Time{}))
	raw, err := r.call.SyscallConn()
	must(r.guest.T, err)
	must(r.guest.T, raw.Read(func(fd uintptr) bool {
		n, err := unix.Read(int(fd), make([]byte, 8))
		told = err == nil && n == 8
		return true
	}))
	return told
}

// Raw sends bytes, with two files.
func (g *Guest) Raw(raw []byte) {
	rights := unix.UnixRights(int(g.File.Fd()), int(g.File.Fd()))
	_, _, _ = g.Conn.WriteMsgUnix(raw, rights, nil) // a device that has ended takes nothing
}
