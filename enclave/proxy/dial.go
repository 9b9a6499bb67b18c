package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// Dialer reaches the outside through the door.
type Dialer struct {
	// Door connects to the proxy. Required.
	Door func(ctx context.Context) (net.Conn, error)
}

// DialContext connects to an address behind the proxy. The arguments are those of [net.Dialer.DialContext];
// network is "tcp". ctx bounds the opening of the tunnel.
func (d Dialer) DialContext(ctx context.Context, network, address string) (_ net.Conn, err error) {
	if network != "tcp" {
		return nil, fmt.Errorf("proxy: network %.20q: only tcp goes through the door", network)
	}
	conn, err := d.Door(ctx)
	if err != nil {
		return nil, fmt.Errorf("proxy: the door out of the enclave: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	tunnel, err := open(conn, address)
	if !stop() && err == nil {
		err = ctx.Err() // the deadline may be in place by now
	}
	if err != nil {
		_ = conn.Close()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, fmt.Errorf("proxy: reaching %.80q: %w", address, err)
	}
	return tunnel, nil
}

// open asks for the tunnel.
func open(conn net.Conn, address string) (net.Conn, error) {
	if strings.ContainsAny(address, "\r\n \x00") {
		return nil, errors.New("no address")
	}
	if _, err := fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", address, address); err != nil {
		return nil, err
	}
	bounded := &io.LimitedReader{R: conn, N: maxAnswer}
	r := bufio.NewReader(bounded)
	answer, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect})
	if err != nil {
		return nil, errors.New("the door gives no proper answer") // its words may be anything
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the door refuses: %d %.*q", answer.StatusCode, maxComplain, http.StatusText(answer.StatusCode))
	}
	if r.Buffered() == 0 {
		return conn, nil
	}
	first, err := r.Peek(r.Buffered())
	if err != nil {
		return nil, err
	}
	return &ahead{conn, io.MultiReader(strings.NewReader(string(first)), conn)}, nil
}

// ahead is a connection of which something was read already.
type ahead struct {
	net.Conn
	r io.Reader
}

func (a *ahead) Read(p []byte) (int, error) { return a.r.Read(p) }
