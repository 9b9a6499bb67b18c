package host

import (
	"context"
	"crypto/tls"
	"net"
)

// Sockets is what a session dials through.
type Sockets struct{ s *sockets }

func OpenSockets(dir string) (Sockets, error) {
	s, err := openSockets(dir)
	return Sockets{s}, err
}

func (s Sockets) Open(network, address string) (string, error) { return s.s.open(network, address) }

func (s Sockets) Dial(ctx context.Context) (net.Conn, error) { return s.s.dial(ctx, "") }

func (s Sockets) Close() { s.s.Close() }

// NewTLS is the host's end of a session's TLS.
func NewTLS() (*tls.Config, string, error) { return newTLS() }

// Seal is how an executable is sealed, and how often it is tried.
var Seal = seal

const SealTries = sealTries
