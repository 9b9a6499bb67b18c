package proxy_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/cloister-run/cloister/enclave/proxy"
)

// setup is a proxy with a far end over TCP. Config's Dial and Allow are given.
type setup struct {
	cfg      proxy.Config
	network  string        // of the near side: tcp or unix
	patience time.Duration // default: a minute
	far      func(*net.TCPConn)
}

// running is it, served; wait waits until it has ended, and every far end.
type running struct {
	proxy.Dialer
	address string
	log     *lines
	end     func()
}

func (s setup) serve(t *testing.T) *running {
	t.Helper()
	ends, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var far sync.WaitGroup
	far.Go(func() {
		for {
			conn, err := ends.Accept()
			if err != nil {
				return
			}
			far.Go(func() { s.far(conn.(*net.TCPConn)); _ = conn.Close() })
		}
	})
	near, dial := listen(t)
	address := ""
	if s.network == "tcp" {
		_ = near.Close()
		if near, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		address = near.Addr().String()
		dial = func(ctx context.Context) (net.Conn, error) { return new(net.Dialer).DialContext(ctx, "tcp", address) }
	}
	if s.patience == 0 {
		s.patience = time.Minute
	}
	r := &running{Dialer: proxy.Dialer{Door: dial}, address: address, log: newLines()}
	s.cfg.Allow = []string{allowed}
	s.cfg.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, ends.Addr().String())
	}
	s.cfg.Log = slog.New(slog.NewJSONHandler(r.log, nil))
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- proxy.ServeWithin(ctx, near, s.cfg, s.patience) }()
	r.end = sync.OnceFunc(func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
		_ = ends.Close()
		far.Wait()
	})
	t.Cleanup(r.end)
	return r
}

// open opens a tunnel that ends with the test.
func (r *running) open(t *testing.T) net.Conn {
	t.Helper()
	conn, err := r.DialContext(t.Context(), "tcp", allowed)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// lines are what was logged.
type lines struct {
	mu   sync.Mutex
	all  []line
	more *sync.Cond
}

func newLines() *lines {
	l := new(lines)
	l.more = sync.NewCond(&l.mu)
	return l
}

type line struct {
	Place, Outcome string
	Duration       time.Duration
	Sent, Received int64
}

func (l *lines) Write(p []byte) (int, error) {
	var one line
	if err := json.Unmarshal(p, &one); err != nil {
		return 0, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, one)
	l.more.Broadcast()
	return len(p), nil
}

// wait waits until there are n.
func (l *lines) wait(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.all) < n {
		l.more.Wait()
	}
}

// outcomes counts them.
func (l *lines) outcomes() map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := map[string]int{}
	for _, one := range l.all {
		n[one.Outcome]++
	}
	return n
}

func closeWrite(t *testing.T, conn net.Conn) {
	t.Helper()
	if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Error(err)
	}
}
