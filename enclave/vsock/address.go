package vsock

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
)

// Address names where an enclave of this machine listens: "unix:PATH", or "vsock:CID:PORT".
type Address string

// UnixAddress is that of a Unix socket.
func UnixAddress(path string) Address { return Address("unix:" + path) }

// PortAddress is that of a port of AF_VSOCK.
func PortAddress(cid, port uint32) Address { return Address(fmt.Sprintf("vsock:%d:%d", cid, port)) }

// ErrAddress: it is no address.
var ErrAddress = errors.New(`no address: neither "unix:PATH" nor "vsock:CID:PORT"`)

// Dial connects to it. A socket's path may be as long as [ListenUnix] takes it. Who answers must prove to be the enclave that is meant.
func (a Address) Dial(ctx context.Context) (net.Conn, error) {
	if path, ok := strings.CutPrefix(string(a), "unix:"); ok && path != "" {
		conn, err := dialUnix(ctx, path)
		if err != nil {
			return nil, fmt.Errorf("vsock: connecting to %s: %w", path, err)
		}
		return conn, nil
	}
	cid, port, ok := a.port()
	if !ok {
		return nil, fmt.Errorf("vsock: %.80q: %w", string(a), ErrAddress)
	}
	return DialPort(ctx, cid, port)
}

func (a Address) port() (cid, port uint32, ok bool) {
	rest, vsock := strings.CutPrefix(string(a), "vsock:")
	first, second, two := strings.Cut(rest, ":")
	c, err := strconv.ParseUint(first, 10, 32)
	p, err2 := strconv.ParseUint(second, 10, 32)
	return uint32(c), uint32(p), vsock && two && err == nil && err2 == nil
}
