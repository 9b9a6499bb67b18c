package proxy

import (
	"net"
	"net/http"
)

// limited accepts as many connections at once as there are slots. netutil.LimitListener does as well, but
// what it gives has no halves to close.
type limited struct {
	net.Listener
	slots  chan struct{}
	closed <-chan struct{}
}

// Accept waits for a slot, and then for who takes it.
func (l *limited) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	conn, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
	}
	return conn, err
}

// watch gives a slot back once its connection is a tunnel, or closed.
func (l *limited) watch(_ net.Conn, state http.ConnState) {
	if state == http.StateHijacked || state == http.StateClosed {
		<-l.slots
	}
}
