// Package proxy owns the one door out of an enclave: an HTTP CONNECT proxy on the parent, and what
// dials through it from the inside.
//
// Neither end trusts the other. What goes through is TLS between the enclave and a KMS in
// production; the list of places that the proxy allows is hygiene and no security.
package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Bounds of the proxy.
const (
	maxTunnels  = 64
	maxHeader   = 4 << 10
	opening     = 15 * time.Second // from the first byte of a request to the tunnel
	maxAnswer   = 4 << 10          // of the proxy, before the tunnel
	maxComplain = 120              // of its reason
)

// Config configures [Serve]. Both fields are required.
type Config struct {
	// Dial reaches a place that is allowed.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Allow lists them, "HOST:PORT" each.
	Allow []string
}

// Serve makes tunnels for whoever connects to the listener, which it closes, until ctx ends; then it
// returns nil once every tunnel is shut.
func Serve(ctx context.Context, listener net.Listener, cfg Config) error {
	s := &server{cfg: cfg, ctx: ctx, room: make(chan struct{}, maxTunnels)}
	srv := &http.Server{
		Handler: s, ReadHeaderTimeout: opening, IdleTimeout: opening, MaxHeaderBytes: maxHeader,
		DisableGeneralOptionsHandler: true, BaseContext: func(net.Listener) context.Context { return ctx },
	}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	err := srv.Serve(listener)
	s.tunnels.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("proxy: %w", err)
}

type server struct {
	cfg     Config
	ctx     context.Context //nolint:containedctx // that of Serve, which ends every tunnel
	tunnels sync.WaitGroup
	room    chan struct{} // holds one for each tunnel
}

// ServeHTTP makes one tunnel.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.tunnels.Add(1)
	defer s.tunnels.Done()
	switch {
	case r.Method != http.MethodConnect:
		http.Error(w, "only CONNECT", http.StatusMethodNotAllowed)
		return
	case !slices.Contains(s.cfg.Allow, r.Host):
		http.Error(w, "not on the list", http.StatusForbidden)
		return
	}
	select {
	case s.room <- struct{}{}:
		defer func() { <-s.room }()
	default:
		http.Error(w, "too many tunnels", http.StatusServiceUnavailable)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), opening)
	defer cancel()
	far, err := s.cfg.Dial(ctx, "tcp", r.Host)
	if err != nil {
		http.Error(w, "it cannot be reached", http.StatusBadGateway)
		return
	}
	defer far.Close()
	near, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, "no tunnel", http.StatusInternalServerError)
		return
	}
	defer near.Close()
	if _, err := io.WriteString(near, "HTTP/1.1 200 OK\r\n\r\n"); err != nil {
		return
	}
	if err := near.SetDeadline(time.Time{}); err != nil {
		return
	}
	join(s.ctx, near, buffered.Reader, far)
}

// join carries bytes both ways until both directions ended, or ctx did. first is what near sends, with
// what was read of it already.
func join(ctx context.Context, near net.Conn, first io.Reader, far net.Conn) {
	defer context.AfterFunc(ctx, func() { _, _ = near.Close(), far.Close() })()
	var out sync.WaitGroup
	out.Go(func() { carry(far, first) })
	carry(near, far)
	out.Wait()
}

// carry copies until the end of from, and passes that end on. Where it fails the other direction has no
// use any more.
func carry(to net.Conn, from io.Reader) {
	_, err := io.Copy(to, from)
	half, ok := to.(interface{ CloseWrite() error })
	if err != nil || !ok || half.CloseWrite() != nil {
		_ = to.Close()
	}
}

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
