// Package proxy owns the one door out of an enclave: an HTTP CONNECT proxy on the parent, and what
// dials through it from the inside.
//
// Neither end trusts the other. What goes through is TLS between the enclave and a KMS in
// production; the list of places that the proxy allows is hygiene and no security.
package proxy

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// Bounds of the proxy.
const (
	maxTunnels  = 64
	maxAsking   = 64 // connections that are no tunnels yet; more wait to be accepted
	maxHeader   = 4 << 10
	opening     = 15 * time.Second // from the first byte of a request to the tunnel
	idle        = 10 * time.Minute
	maxAnswer   = 4 << 10 // of the proxy, before the tunnel
	maxComplain = 120     // of its reason
	maxPlace    = 80      // of what is logged
)

// Config configures [Serve].
type Config struct {
	// Dial reaches a place that is allowed. Required.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Allow lists them, "HOST:PORT" each. Required.
	Allow []string
	// Idle is how long a tunnel stays in which nothing moves; it may stay twice as long. Default: 10 minutes.
	Idle time.Duration
	// Log takes a line for each tunnel, and for each that was not made: where to, how it ended, how long it
	// was open, and how many bytes went out of the enclave and in. Default: nothing is logged.
	Log *slog.Logger
}

// Serve makes tunnels for whoever connects to the listener, which it closes, until ctx ends; then it
// returns nil once every tunnel is shut.
func Serve(ctx context.Context, listener net.Listener, cfg Config) error {
	return serve(ctx, listener, cfg, opening)
}

// serve is Serve with another patience for who asks.
func serve(ctx context.Context, listener net.Listener, cfg Config, patience time.Duration) error {
	if cfg.Idle == 0 {
		cfg.Idle = idle
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &server{cfg: cfg, ctx: ctx, patience: patience, room: make(chan struct{}, maxTunnels)}
	asking := &limited{Listener: listener, slots: make(chan struct{}, maxAsking), closed: ctx.Done()}
	srv := &http.Server{
		Handler: s, ReadHeaderTimeout: patience, WriteTimeout: 2 * patience, MaxHeaderBytes: maxHeader,
		ConnState:                    asking.watch,
		DisableGeneralOptionsHandler: true, BaseContext: func(net.Listener) context.Context { return ctx },
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError), // of who asks in no proper way
	}
	srv.SetKeepAlivesEnabled(false) // who was refused asks no more
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	err := srv.Serve(asking)
	s.tunnels.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("proxy: %w", err)
}

type server struct {
	cfg      Config
	ctx      context.Context //nolint:containedctx // that of Serve, which ends every tunnel
	patience time.Duration
	tunnels  sync.WaitGroup
	room     chan struct{} // holds one for each tunnel
}

// ServeHTTP makes one tunnel.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.tunnels.Add(1)
	defer s.tunnels.Done()
	began := time.Now()
	t := &tunnel{outcome: refused}
	defer func() { s.log(r, t, time.Since(began)) }()
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
		t.outcome = full
		http.Error(w, "too many tunnels", http.StatusServiceUnavailable)
		return
	}
	t.outcome = unreachable
	ctx, cancel := context.WithTimeout(r.Context(), s.patience)
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
	t.near, t.far, t.first = near, far, buffered.Reader
	defer context.AfterFunc(s.ctx, func() { t.cut(stopped) })()
	if !s.answer(near) {
		t.cut(broken)
		return
	}
	t.join(s.cfg.Idle)
}

// answer says that there is a tunnel. Hijacking has taken away the deadlines of the server, and who asked may take nothing.
func (s *server) answer(near net.Conn) bool {
	if err := near.SetDeadline(time.Now().Add(s.patience)); err != nil {
		return false
	}
	if _, err := io.WriteString(near, "HTTP/1.1 200 OK\r\n\r\n"); err != nil {
		return false
	}
	return near.SetDeadline(time.Time{}) == nil
}

// log writes down a tunnel. What was asked for is of the enclave's choosing.
func (s *server) log(r *http.Request, t *tunnel, took time.Duration) {
	place := r.Host
	if len(place) > maxPlace {
		place = place[:maxPlace] + "…"
	}
	s.cfg.Log.LogAttrs(r.Context(), slog.LevelInfo, "tunnel", slog.String("place", place), slog.String("outcome", string(t.outcome)),
		slog.Duration("duration", took), slog.Int64("sent", t.sent.Load()), slog.Int64("received", t.received.Load()))
}
