package vsock

import (
	"net"
	"sync"
	"time"

	"github.com/cloister-run/cloister/enclave/image"
)

// listener hands out the connections that the guest makes to one port.
type listener struct {
	d       *Device
	port    uint32
	changed *sync.Cond // on d.mu
	queue   []*Conn
	closed  bool
}

// Accept implements [net.Listener].
func (l *listener) Accept() (net.Conn, error) {
	l.d.mu.Lock()
	defer l.d.mu.Unlock()
	for len(l.queue) == 0 && !l.closed {
		l.changed.Wait()
	}
	if l.closed {
		return nil, &net.OpError{Op: "accept", Net: network, Addr: l.Addr(), Err: net.ErrClosed}
	}
	c := l.queue[0]
	l.queue = l.queue[1:]
	return c, nil
}

// Close implements [net.Listener]. What was not accepted is reset.
func (l *listener) Close() error {
	l.d.mu.Lock()
	defer l.d.mu.Unlock()
	if l.closed {
		return &net.OpError{Op: "close", Net: network, Addr: l.Addr(), Err: net.ErrClosed}
	}
	l.end()
	_ = l.d.flush() // the device ends, and this with it
	return nil
}

// end ends a listener. d.mu is held.
func (l *listener) end() {
	l.closed = true
	delete(l.d.listeners, l.port)
	for _, c := range l.queue {
		if c.state != ended {
			c.abort(net.ErrClosed)
		}
	}
	l.queue = nil
	l.changed.Broadcast()
}

// Addr implements [net.Listener].
func (l *listener) Addr() net.Addr { return Addr{image.ParentCID, l.port} }

// LocalAddr is this process's end.
func (c *Conn) LocalAddr() net.Addr { return Addr{uint32(c.key.host), c.key.port} }

// RemoteAddr is the guest's end.
func (c *Conn) RemoteAddr() net.Addr { return Addr{uint32(c.d.cid), c.key.guest} }

func (c *Conn) failed(op string, err error) error {
	return &net.OpError{Op: op, Net: network, Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

// deadline is when a read or a write ends with [os.ErrDeadlineExceeded].
type deadline struct {
	timer  *time.Timer
	passed bool
}

// set moves it; the zero time is never. d.mu is held.
func (l *deadline) set(c *Conn, t time.Time) {
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
	in := time.Until(t)
	l.passed = !t.IsZero() && in <= 0
	if !t.IsZero() && in > 0 {
		var timer *time.Timer
		timer = time.AfterFunc(in, func() {
			c.d.mu.Lock()
			defer c.d.mu.Unlock()
			if l.timer == timer {
				l.passed = true
				c.changed.Broadcast()
			}
		})
		l.timer = timer
	}
	c.changed.Broadcast()
}

// SetDeadline implements [net.Conn].
func (c *Conn) SetDeadline(t time.Time) error {
	return c.setDeadlines(t, &c.readDeadline, &c.sendDeadline)
}

// SetReadDeadline implements [net.Conn].
func (c *Conn) SetReadDeadline(t time.Time) error { return c.setDeadlines(t, &c.readDeadline) }

// SetWriteDeadline implements [net.Conn].
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.setDeadlines(t, &c.sendDeadline) }

func (c *Conn) setDeadlines(t time.Time, which ...*deadline) error {
	c.d.mu.Lock()
	defer c.d.mu.Unlock()
	if c.shut {
		return c.failed("set", net.ErrClosed)
	}
	for _, l := range which {
		l.set(c, t)
	}
	return nil
}
