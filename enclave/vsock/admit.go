package vsock

import "net"

// admitting is a listener that admits some.
type admitting struct {
	net.Listener
	admit func(net.Conn) bool
}

// Accept waits for the next peer that is admitted.
func (a *admitting) Accept() (net.Conn, error) {
	for {
		conn, err := a.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if a.admit(conn) {
			return conn, nil
		}
		_ = conn.Close() // it is told nothing
	}
}
