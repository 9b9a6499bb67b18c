package proxy

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// outcome is how a tunnel ended, or why there was none. Those of one that was made are the last four.
type outcome string

const (
	refused     outcome = "refused"     // no CONNECT, or not on the list
	full        outcome = "full"        // too many tunnels
	unreachable outcome = "unreachable" // nobody answers there
	ended       outcome = "ended"       // by both ends
	broken      outcome = "broken"      // one end broke off, or did not take what was sent
	stalled     outcome = "stalled"     // nothing moved
	stopped     outcome = "stopped"     // by the end of the proxy
)

// tunnel is two connections and what went through them. near is that of the enclave; first is what it
// sends, with what was read of it already.
type tunnel struct {
	near, far net.Conn
	first     io.Reader

	sent, received atomic.Int64

	cutting sync.Once
	outcome outcome
}

// join carries bytes both ways until both directions ended, one end broke off, nothing moved for a while, or
// somebody cut it.
func (t *tunnel) join(idle time.Duration) {
	quiet := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() { t.watch(quiet, idle) })
	var out sync.WaitGroup
	out.Go(func() { t.carry(t.far, t.first, &t.sent) })
	t.carry(t.near, t.far, &t.received)
	out.Wait()
	close(quiet)
	running.Wait()
	t.cutting.Do(func() { t.outcome = ended }) // whoever cuts it now is too late to say how it ended
}

// carry copies until the end of from, and passes that end on, while the other direction goes on.
func (t *tunnel) carry(to net.Conn, from io.Reader, count *atomic.Int64) {
	if _, err := io.Copy(to, &counted{from, count}); err != nil {
		t.cut(broken)
		return
	}
	half, ok := to.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil { // it has no halves, or is gone
		_ = to.Close()
	}
}

// watch cuts a tunnel in which nothing moves, until it is done.
func (t *tunnel) watch(done <-chan struct{}, idle time.Duration) {
	tick := time.NewTicker(idle)
	defer tick.Stop()
	for last := int64(-1); ; {
		select {
		case <-done:
			return
		case <-tick.C:
		}
		now := t.sent.Load() + t.received.Load()
		if now == last {
			t.cut(stalled)
			return
		}
		last = now
	}
}

// cut breaks both ends off. Over TCP what was cut short does not look complete to who is still there: it is
// reset. Unix sockets and AF_VSOCK have no way to say so, and crypto/tls takes an end between two records for one:
// there it is HTTP that sees by its lengths that something is missing.
func (t *tunnel) cut(why outcome) {
	t.cutting.Do(func() {
		t.outcome = why
		for _, conn := range []net.Conn{t.near, t.far} {
			if tcp, ok := conn.(interface{ SetLinger(sec int) error }); ok {
				_ = tcp.SetLinger(0) // Close resets (socket(7), SO_LINGER)
			}
			_ = conn.Close()
		}
	})
}

// counted counts what is read.
type counted struct {
	from  io.Reader
	count *atomic.Int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.from.Read(p)
	c.count.Add(int64(n))
	return n, err
}
