package proxy

import (
	"context"
	"net"
	"net/http"
	"time"
)

// ServeWithin is [Serve] with another patience for who asks.
func ServeWithin(ctx context.Context, listener net.Listener, cfg Config, patience time.Duration) error {
	return serve(ctx, listener, cfg, patience)
}

// Limited is how connections that ask are limited: a listener, and what is told their states.
func Limited(l net.Listener, most int, closed <-chan struct{}) (net.Listener, func(net.Conn, http.ConnState)) {
	asking := &limited{Listener: l, slots: make(chan struct{}, most), closed: closed}
	return asking, asking.watch
}
