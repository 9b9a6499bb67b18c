package vsock

import (
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// update is how much is read before the guest is told that there is room again. Linux caps what it sends ahead
// at its own buffer, window: an update that comes later than that never comes.
const update = 64 << 10

// closing is how long the guest may take to agree that a connection is closed
// (linux/net/vmw_vsock/virtio_transport_common.c, VSOCK_CLOSE_TIMEOUT).
const closing = 8 * time.Second

const network = "vsock"

// Addr is one end of a connection.
type Addr struct{ CID, Port uint32 }

// Network is "vsock".
func (a Addr) Network() string { return network }

// String is CID:PORT.
func (a Addr) String() string { return fmt.Sprintf("%d:%d", a.CID, a.Port) }

// state is how far a connection is.
type state int

const (
	connecting state = iota
	open
	closed // by its owner; the guest is to agree
	ended  // the device does not know it any more
)

// Conn is a stream between the guest and this process.
type Conn struct {
	d       *Device
	key     key
	changed *sync.Cond // on d.mu, as is everything below

	state                      state
	reason                     error // of ended, for whoever reads or writes; nil is an orderly end
	noMore                     bool  // the guest sends nothing any more
	noneTaken                  bool  // the guest takes nothing any more
	wrote                      bool  // CloseWrite was called
	shut                       bool  // Close was called
	updating                   bool  // a credit update waits
	in                         buffer
	received                   uint32 // of the guest; these five wrap around
	forwarded, announced       uint32 // to the reader; the same as the guest knows it
	sent, taken                uint32 // to the guest; the same as the guest says that it took
	room                       uint32 // that the guest has
	readDeadline, sendDeadline deadline
	timer                      *time.Timer // of closed
}

var _ net.Conn = (*Conn)(nil)

// packet does what a packet of the guest asks of a connection. d.mu is held.
func (c *Conn) packet(h header, data []byte) {
	c.credit(h)
	c.changed.Broadcast()
	switch {
	case h.op == opReset:
		c.gone(unix.ECONNRESET)
	case c.state == connecting && h.op == opResponse:
		c.state = open
	case c.state == connecting, h.op == opRequest, h.op == opResponse, h.op > opCreditRequest, h.op == 0:
		c.abort(unix.EPROTO)
	case h.op == opData:
		c.receive(data)
	case h.op == opCreditRequest:
		c.update()
	case h.op == opShutdown:
		c.noMore = c.noMore || h.flags&noSend != 0
		c.noneTaken = c.noneTaken || h.flags&noReceive != 0
		if c.noMore && c.noneTaken {
			c.abort(nil) // which is how an orderly end is agreed to
		}
	}
}

func (c *Conn) credit(h header) { c.room, c.taken = h.room, h.forwarded }

// receive keeps data for the reader.
func (c *Conn) receive(data []byte) {
	switch {
	case c.state == closed || len(data) == 0:
		return
	case c.noMore || c.received-c.forwarded+uint32(len(data)) > window:
		c.abort(unix.EPROTO)
		return
	}
	c.in.push(data)
	c.received += uint32(len(data))
}

// update tells the guest what was read.
func (c *Conn) update() {
	if !c.updating && c.state != ended {
		c.updating = true
		c.send(opCreditUpdate, 0)
	}
}

// send lets a packet wait for a buffer of the guest.
func (c *Conn) send(op operation, flags uint32) {
	c.d.waiting = append(c.d.waiting, packet{c.header(op, flags), c})
}

func (c *Conn) header(op operation, flags uint32) header {
	return header{source: c.key.host, destination: c.d.cid, sourcePort: c.key.port, port: c.key.guest,
		kind: typeStream, op: op, flags: flags}
}

// abort ends a connection, and tells the guest.
func (c *Conn) abort(reason error) {
	c.send(opReset, 0)
	c.gone(reason)
}

// gone ends a connection that the guest does not know either.
func (c *Conn) gone(reason error) {
	if c.timer != nil {
		c.timer.Stop()
	}
	c.state, c.reason = ended, reason
	delete(c.d.conns, c.key)
	delete(c.d.starved, c)
	c.changed.Broadcast()
}

// Read reads what the guest sent. At an orderly end it is io.EOF; a connection or a guest that ends otherwise is
// ECONNRESET, after what came in before.
func (c *Conn) Read(p []byte) (int, error) {
	c.d.mu.Lock()
	defer c.d.mu.Unlock()
	for {
		switch err := c.readable(); {
		case err == io.EOF: //nolint:errorlint // ours
			return 0, io.EOF
		case err != nil:
			return 0, c.failed("read", err)
		case c.in.size > 0 || len(p) == 0:
			return c.read(p), nil
		}
		c.changed.Wait()
	}
}

// readable says why nothing can be read, if that is so for good.
func (c *Conn) readable() error {
	switch {
	case c.shut:
		return net.ErrClosed
	case c.readDeadline.passed:
		return os.ErrDeadlineExceeded
	case c.in.size > 0:
		return nil
	case c.noMore:
		return io.EOF
	case c.state == ended:
		return c.reason
	}
	return nil
}

func (c *Conn) read(p []byte) int {
	if len(p) == 0 {
		return 0
	}
	n := c.in.pop(p)
	c.forwarded += uint32(n)
	if c.forwarded-c.announced >= update {
		c.update()
		_ = c.d.flush() // the device ends, and c with it
	}
	return n
}

// Write returns when the guest has everything in its buffers, or with how much of it it has.
func (c *Conn) Write(p []byte) (n int, err error) {
	c.d.mu.Lock()
	defer c.d.mu.Unlock()
	for {
		if err := c.writable(); err != nil {
			return n, c.failed("write", err)
		}
		k, err := c.write(p[n:])
		n += k
		if err != nil || n == len(p) {
			return n, err
		}
		c.changed.Wait()
	}
}

// writable says why nothing can be written, if that is so for good.
func (c *Conn) writable() error {
	switch {
	case c.shut:
		return net.ErrClosed
	case c.sendDeadline.passed:
		return os.ErrDeadlineExceeded
	case c.state == ended && c.reason != nil:
		return c.reason
	case c.wrote, c.noneTaken, c.state == ended:
		return unix.EPIPE
	}
	return nil
}

// write sends as much as the guest has credit and buffers for.
func (c *Conn) write(p []byte) (n int, err error) {
	if err := c.d.flush(); err != nil {
		return 0, err
	}
	for n < len(p) {
		free := int64(c.room) - int64(c.sent-c.taken)
		if free <= 0 {
			break
		}
		if len(c.d.waiting) > 0 {
			c.d.starved[c] = struct{}{} // what waits goes first
			break
		}
		taken, k, err := c.d.write(c.header(opData, 0), c, p[n:min(int64(len(p)), int64(n)+min(free, maxData))])
		if err != nil {
			return n, err
		}
		if !taken {
			c.d.starved[c] = struct{}{}
			break
		}
		n += k
		c.sent += uint32(k)
	}
	if n > 0 {
		c.d.device.Queue(toGuest).Notify()
	}
	return n, nil
}

// CloseWrite tells the guest that nothing more comes. It may still send.
func (c *Conn) CloseWrite() error {
	c.d.mu.Lock()
	defer c.d.mu.Unlock()
	if err := c.writable(); err != nil {
		return c.failed("close", err)
	}
	c.wrote = true
	c.send(opShutdown, noSend)
	_ = c.d.flush() // the device ends, and c with it
	c.changed.Broadcast()
	return nil
}

// Close ends the connection. What was written reaches the guest; what was not read is lost.
func (c *Conn) Close() error {
	c.d.mu.Lock()
	defer c.d.mu.Unlock()
	if c.shut {
		return c.failed("close", net.ErrClosed)
	}
	c.shut, c.in = true, buffer{}
	c.readDeadline.set(c, time.Time{})
	c.sendDeadline.set(c, time.Time{})
	c.changed.Broadcast()
	if c.state == ended {
		return nil
	}
	c.state = closed
	c.send(opShutdown, noneOfThem)
	c.timer = time.AfterFunc(c.d.closing, func() {
		c.d.mu.Lock()
		defer c.d.mu.Unlock()
		if c.state == closed {
			c.abort(nil)
			_ = c.d.flush() // the device ends, and c with it
		}
	})
	_ = c.d.flush() // the same
	return nil
}
