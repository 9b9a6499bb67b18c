// Package vsock is a virtio socket device (virtio 1.2, 5.10): AF_VSOCK between a guest that is started here and
// its parent, in this process and without a module of this machine's kernel.
//
// It owns the connections. It trusts nothing of the guest: connections, what is buffered for each and what waits to
// be sent are bounded, a stream that overruns its credit is reset, and a packet that is none ends the device.
// It knows streams alone.
package vsock

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/enclave/image"
	"github.com/cloister-run/cloister/enclave/launch/vhost"
)

// The device's queues (virtio 1.2, 5.10.2). QEMU keeps the one for events.
const (
	toGuest   = 0
	fromGuest = 1
)

// Bounds.
const (
	maxConnections = 256
	maxWaiting     = 256 // packets for the guest, beyond what each connection has
	backlog        = 64  // connections that nobody has accepted yet, for each listener
	batch          = 32  // packets between two notifications
)

// hostCID is where a guest finds its host (vsock(7), VMADDR_CID_HOST); an enclave uses image.ParentCID.
// Both are answered.
const hostCID = 2

// firstPort is the first port of connections to the guest; they go up from there.
const firstPort = 1 << 30

// ErrEnded: the guest has ended, or its driver has.
var ErrEnded = errors.New("vsock: the guest has ended")

// errBusy: too much waits for a guest that takes nothing.
var errBusy = errors.New("vsock: too many connections to the guest")

// Device is the socket device of one guest. It is safe for concurrent use.
type Device struct {
	cid     uint64
	closing time.Duration // how long the guest may take to agree that a connection is closed
	device  *vhost.Device
	scratch []byte // belongs to who is called about fromGuest

	mu        sync.Mutex
	conns     map[key]*Conn
	listeners map[uint32]*listener
	waiting   []packet           // for the guest
	starved   map[*Conn]struct{} // writers that wait for buffers of the guest
	nextPort  uint32
	ended     bool
}

// key names a connection.
type key struct {
	host        uint64
	port, guest uint32
}

// packet waits for a buffer of the guest. Credit is filled in when it goes; conn is nil where there is none.
type packet struct {
	header
	conn *Conn
}

// New makes the device of a guest that is to have cid, which is more than 3.
func New(cid uint32) *Device {
	d := &Device{cid: uint64(cid), closing: closing, scratch: make([]byte, maxData), conns: map[key]*Conn{}, listeners: map[uint32]*listener{},
		starved: map[*Conn]struct{}{}, nextPort: firstPort}
	d.device = vhost.New(vhost.Config{Queues: 2, Space: binary.LittleEndian.AppendUint64(nil, d.cid),
		Kicked: d.kicked, Stopped: func(int) { d.reset(false) }})
	return d
}

// Serve plays the device for one front-end, which it hangs up on at the end: when that or ctx ends, which gives
// nil, or when the guest breaks the rules. Every connection and listener ends with it. It is called once.
func (d *Device) Serve(ctx context.Context, conn *net.UnixConn) error {
	defer d.reset(true)
	return d.device.Serve(ctx, conn)
}

// reset ends every connection; with the device itself every listener too.
func (d *Device) reset(ended bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.conns {
		c.gone(unix.ECONNRESET)
	}
	d.waiting = nil
	if !ended {
		return
	}
	d.ended = true
	for _, l := range d.listeners {
		l.end()
	}
}

// kicked is called when the driver made buffers available.
func (d *Device) kicked(_ context.Context, queue int) error {
	if queue == fromGuest {
		return d.receive()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	err := d.flush()
	for c := range d.starved {
		c.changed.Broadcast()
	}
	clear(d.starved)
	return err
}

// receive takes packets until there are no more.
func (d *Device) receive() error {
	for {
		n := 0
		for n < batch {
			var h header
			var data []byte
			taken, err := d.device.Queue(fromGuest).Take(func(c *vhost.Chain) (_ int, err error) {
				h, data, err = take(c, d.scratch)
				return 0, err
			})
			if err != nil {
				return err
			}
			if !taken {
				break
			}
			n++
			d.mu.Lock()
			d.packet(h, data)
			d.mu.Unlock()
		}
		if n == 0 {
			return nil
		}
		d.device.Queue(fromGuest).Notify()
		d.mu.Lock()
		err := d.flush()
		d.mu.Unlock()
		if err != nil {
			return err
		}
	}
}

// packet does what a packet of the guest asks for. d.mu is held.
func (d *Device) packet(h header, data []byte) {
	if h.source != d.cid {
		return // there is nobody to answer
	}
	c := d.conns[key{h.destination, h.port, h.sourcePort}]
	switch known := h.destination == hostCID || h.destination == image.ParentCID; {
	case !known || h.kind != typeStream:
		d.refuse(h)
	case c != nil:
		c.packet(h, data)
	case h.op == opRequest:
		d.accept(h)
	default:
		d.refuse(h)
	}
}

// refuse answers a packet that belongs to no connection; what is too much is not answered.
func (d *Device) refuse(h header) {
	if h.op == opReset || len(d.waiting) >= maxWaiting {
		return
	}
	d.waiting = append(d.waiting, packet{header: header{source: h.destination, destination: h.source,
		sourcePort: h.port, port: h.sourcePort, kind: h.kind, op: opReset}})
}

// accept makes a connection that a listener is to accept, or refuses.
func (d *Device) accept(h header) {
	l := d.listeners[h.port]
	if l == nil || len(l.queue) >= backlog || len(d.conns) >= maxConnections || len(d.waiting) >= maxWaiting {
		d.refuse(h)
		return
	}
	c := d.connection(key{h.destination, h.port, h.sourcePort}, open)
	c.credit(h)
	c.send(opResponse, 0)
	l.queue = append(l.queue, c)
	l.changed.Broadcast()
}

// connection makes one and knows it from now on.
func (d *Device) connection(k key, s state) *Conn {
	c := &Conn{d: d, key: k, state: s, changed: sync.NewCond(&d.mu)}
	d.conns[k] = c
	return c
}

// flush sends what waits, as far as the guest has buffers. d.mu is held.
func (d *Device) flush() error {
	sent := 0
	var err error
	for sent < len(d.waiting) && err == nil {
		p := d.waiting[sent]
		var taken bool
		if taken, _, err = d.write(p.header, p.conn, nil); !taken {
			break
		}
		if p.conn != nil && p.op == opCreditUpdate {
			p.conn.updating = false
		}
		sent++
	}
	if sent > 0 {
		d.waiting = append(d.waiting[:0], d.waiting[sent:]...)
		d.device.Queue(toGuest).Notify()
	}
	return err
}

// write puts one packet into a buffer of the guest, without telling it. d.mu is held.
func (d *Device) write(h header, c *Conn, data []byte) (taken bool, sent int, err error) {
	if c != nil {
		h.room, h.forwarded = window, c.forwarded
	}
	taken, err = d.device.Queue(toGuest).Take(func(chain *vhost.Chain) (_ int, err error) {
		sent, err = put(chain, h, data)
		return headerSize + sent, err
	})
	if taken && c != nil {
		c.announced = h.forwarded
	}
	return taken, sent, err
}

// Listen takes the connections that the guest makes to a port of its parent.
func (d *Device) Listen(port uint32) (net.Listener, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.ended:
		return nil, ErrEnded
	case d.listeners[port] != nil:
		return nil, fmt.Errorf("vsock: port %d: %w", port, unix.EADDRINUSE)
	}
	l := &listener{d: d, port: port, changed: sync.NewCond(&d.mu)}
	d.listeners[port] = l
	return l, nil
}

// Dial connects to a port of the guest, from image.ParentCID. A guest that boots answers once its driver
// is there. A port on which nobody listens is ECONNREFUSED. ctx bounds the connecting alone.
func (d *Device) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	c, err := d.dial(ctx, port)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: Addr{uint32(d.cid), port}, Err: err}
	}
	return c, nil
}

func (d *Device) dial(ctx context.Context, port uint32) (*Conn, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.ended:
		return nil, ErrEnded
	case len(d.conns) >= maxConnections || len(d.waiting) >= maxWaiting:
		return nil, errBusy
	}
	k := key{image.ParentCID, d.nextPort, port}
	for d.conns[k] != nil {
		k.port = next(k.port)
	}
	d.nextPort = next(k.port)
	c := d.connection(k, connecting)
	c.send(opRequest, 0)
	_ = d.flush() // the device ends, and c with it
	stop := context.AfterFunc(ctx, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		c.changed.Broadcast()
	})
	defer stop()
	for c.state == connecting && ctx.Err() == nil {
		c.changed.Wait()
	}
	switch {
	case c.state == open:
		return c, nil
	case c.state == connecting:
		d.withdraw(c)
		return nil, context.Cause(ctx)
	case d.ended:
		return nil, ErrEnded
	}
	return nil, unix.ECONNREFUSED
}

// withdraw gives up a connection that the guest has not answered, or not even heard of.
func (d *Device) withdraw(c *Conn) {
	before := len(d.waiting)
	d.waiting = slices.DeleteFunc(d.waiting, func(p packet) bool { return p.conn == c })
	if len(d.waiting) < before {
		c.gone(net.ErrClosed)
		return
	}
	c.abort(net.ErrClosed)
	_ = d.flush() // the device ends, and c with it
}

// next is the port after another: never one that anybody would listen on.
func next(port uint32) uint32 { return max(firstPort, port+1) }
