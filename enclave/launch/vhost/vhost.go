// Package vhost is the back-end of a virtio device in a process of its own: what QEMU says over a vhost-user
// socket, and the virtqueues that it shares with the guest (virtio 1.2, 2.7; QEMU, docs/interop/vhost-user.rst).
//
// It owns the guest's memory as this process sees it, and the rings in it. It trusts nothing that comes from
// there or over the socket: every address, length, index and chain is checked before it is followed, each value
// is read once, and every loop is bounded. Whoever breaks the rules loses the device; nothing is skipped over or
// mended. It offers no more features than it needs: split rings, no indirect descriptors, no event index.
package vhost

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// What is offered: VIRTIO_F_VERSION_1 to the driver, the rest to the front-end.
const (
	version1         = 1 << 32
	protocolFeatures = 1 << 30 // VHOST_USER_F_PROTOCOL_FEATURES

	protocolMQ       = 1 << 0 // VHOST_USER_PROTOCOL_F_MQ
	protocolReplyAck = 1 << 3 // VHOST_USER_PROTOCOL_F_REPLY_ACK
	protocolConfig   = 1 << 9 // VHOST_USER_PROTOCOL_F_CONFIG

	offered = version1 | protocolFeatures
)

// Config configures a device. Every field is required unless it says otherwise.
type Config struct {
	// Queues is how many virtqueues it has: 1 to 8.
	Queues int
	// Space is its configuration space, which nobody changes. Default: none.
	Space []byte
	// Kicked is called when the driver may have made buffers available in a queue: by one goroutine
	// for each queue. Its error ends the device.
	Kicked func(ctx context.Context, queue int) error
	// Stopped is called when a queue has stopped: nothing of it is used any more. Default: nobody is told.
	Stopped func(queue int)
}

// Device is a device without its driver. It is safe for concurrent use.
type Device struct {
	cfg    Config
	queues []*Queue

	mu     sync.Mutex
	failed error
	end    func() // ends Serve

	mem      memory // the rest belongs to the goroutine of Serve
	features uint64
	protocol uint64
}

// New makes a device.
func New(cfg Config) *Device {
	d := &Device{cfg: cfg, end: func() {}}
	for range cfg.Queues {
		d.queues = append(d.queues, &Queue{fail: d.fail})
	}
	return d
}

// Queue is one of its queues, counted from 0. It has no buffers while no driver runs it.
func (d *Device) Queue(i int) *Queue { return d.queues[i] }

// fail keeps the first reason, and ends Serve.
func (d *Device) fail(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failed == nil {
		d.failed = err
	}
	d.end()
}

// Serve speaks to one front-end until that or ctx ends, which gives nil, or a rule is broken. It closes conn,
// and returns when nothing of the device is in use. It is called once.
func (d *Device) Serve(ctx context.Context, conn *net.UnixConn) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	d.mu.Lock()
	d.end = sync.OnceFunc(func() { _ = conn.Close() })
	d.mu.Unlock()
	defer d.end()
	defer context.AfterFunc(ctx, d.end)()
	err := d.converse(ctx, conn)
	cancel()
	for i := range d.queues {
		d.pause(i)
	}
	for _, q := range d.queues {
		q.drop()
	}
	d.mem.unmap()
	d.mem = nil
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failed != nil {
		err = d.failed
	}
	if err != nil {
		return fmt.Errorf("vhost: %w", err)
	}
	return nil
}

// converse answers messages until there are no more.
func (d *Device) converse(ctx context.Context, conn *net.UnixConn) error {
	for {
		m, err := receive(conn)
		switch {
		case errors.Is(err, io.EOF), ctx.Err() != nil, errors.Is(err, net.ErrClosed), errors.Is(err, unix.ECONNRESET):
			if m != nil {
				m.close()
			}
			return nil
		case err != nil:
			return err
		}
		payload, err := d.answer(ctx, m)
		m.close()
		if err != nil {
			return fmt.Errorf("message %d: %w", m.request, err)
		}
		if payload == nil && m.flags&needReply != 0 && d.protocol&protocolReplyAck != 0 {
			payload = word64(0) // it was done
		}
		if payload == nil {
			continue
		}
		if err := reply(conn, m.request, payload); err != nil {
			return nil //nolint:nilerr // the front-end has gone
		}
	}
}

var errUnknown = errors.New("it is unknown, or was not agreed on")

// answer does what a message asks for, and gives the payload of the reply, if it takes one.
func (d *Device) answer(ctx context.Context, m *message) ([]byte, error) {
	switch m.request {
	case getFeatures:
		return word64(offered), nil
	case getProtocolFeatures:
		return word64(d.offeredProtocol()), nil
	case getQueueNum:
		return word64(uint64(len(d.queues))), nil
	case setFeatures, setProtocolFeatures:
		return nil, d.agree(m)
	case setOwner, resetOwner:
		return nil, nil
	case setMemTable:
		return nil, d.setMemory(m)
	case getConfig:
		return d.space(m)
	case setVringNum, setVringAddr, setVringBase, getVringBase, setVringKick, setVringCall, setVringErr, setVringEnable:
		return d.ring(ctx, m)
	}
	if m.flags&needReply != 0 && d.protocol&protocolReplyAck != 0 {
		return word64(1), nil // it was not done; setConfig is one: nothing there may be written
	}
	return nil, errUnknown
}

// agree takes what the driver, or the front-end, chose of what was offered.
func (d *Device) agree(m *message) error {
	chosen, err := m.number()
	if err != nil {
		return err
	}
	if m.request == setProtocolFeatures {
		if more := chosen &^ d.offeredProtocol(); more != 0 {
			return fmt.Errorf("protocol features %#x were not offered", more)
		}
		d.protocol = chosen
		return nil
	}
	if chosen&^offered != 0 || chosen&version1 == 0 {
		return fmt.Errorf("features %#x, of %#x: nothing else is spoken", chosen, uint64(offered))
	}
	d.features = chosen
	return nil
}

func (d *Device) offeredProtocol() uint64 {
	if len(d.cfg.Space) == 0 {
		return protocolMQ | protocolReplyAck
	}
	return protocolMQ | protocolReplyAck | protocolConfig
}

// space answers for the configuration space; no payload at all says that there is no such part.
func (d *Device) space(m *message) ([]byte, error) {
	offset, size, err := m.config()
	if err != nil {
		return nil, err
	}
	if uint64(offset)+uint64(size) > uint64(len(d.cfg.Space)) {
		return []byte{}, nil
	}
	out := append([]byte{}, m.payload[:configHead]...)
	return append(out, d.cfg.Space[offset:offset+size]...), nil
}

// setMemory maps the guest's memory anew, under the feet of queues that run.
func (d *Device) setMemory(m *message) error {
	regions, err := m.regions()
	if err != nil {
		return err
	}
	mem, err := mapMemory(regions, m.files)
	if err != nil {
		return err
	}
	for _, q := range d.queues {
		q.mu.Lock()
		if q.running && err == nil {
			err = q.run(mem)
		}
		if err != nil {
			q.running = false
		}
		q.mu.Unlock()
	}
	d.mem.unmap()
	d.mem = mem
	return err
}

// ring does what a message about one queue asks for.
func (d *Device) ring(ctx context.Context, m *message) ([]byte, error) {
	switch m.request {
	case setVringAddr:
		index, address, err := m.address()
		if err != nil {
			return nil, err
		}
		return nil, d.change(index, func(q *Queue) error { q.address = address; return nil })
	case setVringKick, setVringCall, setVringErr:
		return nil, d.file(ctx, m)
	}
	index, num, err := m.state()
	if err != nil {
		return nil, err
	}
	switch m.request {
	case setVringNum:
		if num == 0 || num > maxQueueSize || bits.OnesCount32(num) != 1 {
			return nil, fmt.Errorf("a queue of %d entries", num)
		}
		return nil, d.change(index, func(q *Queue) error { q.size = uint16(num); return nil })
	case setVringBase:
		if num > 0xffff {
			return nil, fmt.Errorf("a queue begins at %d", num)
		}
		return nil, d.change(index, func(q *Queue) error { q.next = uint16(num); return nil })
	case setVringEnable:
		q, err := d.queue(index)
		if err != nil {
			return nil, err
		}
		q.enabled = num == 1
		return nil, d.settle(ctx, int(index))
	default: // getVringBase
		return d.stop(index)
	}
}

func (d *Device) queue(index uint32) (*Queue, error) {
	if uint64(index) >= uint64(len(d.queues)) {
		return nil, fmt.Errorf("queue %d of %d", index, len(d.queues))
	}
	return d.queues[index], nil
}

// change changes how a queue that does not run is set up.
func (d *Device) change(index uint32, how func(*Queue) error) error {
	q, err := d.queue(index)
	if err != nil {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.running {
		return fmt.Errorf("queue %d runs", index)
	}
	return how(q)
}

// file takes the file of an event of a queue. That of errors has no use: the socket is closed on an error.
func (d *Device) file(ctx context.Context, m *message) error {
	index, f, err := m.file()
	if err != nil {
		return err
	}
	q, err := d.queue(index)
	switch {
	case err != nil || m.request == setVringErr:
		if f != nil {
			_ = f.Close() // another process's
		}
		return err
	case m.request == setVringCall:
		q.mu.Lock()
		old := q.call
		q.call = f
		q.mu.Unlock()
		if old != nil {
			_ = old.Close() // another process's
		}
		return nil
	case f == nil:
		return errors.New("a queue without an event would have to be polled")
	}
	d.pause(int(index))
	q.kick = f
	return d.settle(ctx, int(index))
}

// settle lets a queue run once it has all that it needs, and pauses one that is disabled.
func (d *Device) settle(ctx context.Context, index int) error {
	q := d.queues[index]
	if !q.enabled && d.features&protocolFeatures != 0 {
		d.silence(index)
		return nil
	}
	if q.kick == nil || q.watched != nil {
		return nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.size == 0 || d.mem == nil || d.features == 0 {
		return fmt.Errorf("queue %d is kicked before it is set up", index)
	}
	if err := q.run(d.mem); err != nil {
		return fmt.Errorf("queue %d: %w", index, err)
	}
	q.watched = make(chan struct{})
	go d.watch(ctx, index, q.kick, q.watched)
	return nil
}

// watch waits for kicks. The driver may have made buffers available before.
func (d *Device) watch(ctx context.Context, index int, kick *os.File, done chan struct{}) {
	defer close(done)
	event := make([]byte, 8)
	for {
		if err := d.cfg.Kicked(ctx, index); err != nil {
			d.fail(err)
			return
		}
		if n, err := kick.Read(event); err != nil || n != len(event) {
			return
		}
	}
}
