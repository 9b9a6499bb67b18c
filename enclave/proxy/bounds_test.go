package proxy_test

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cloister-run/cloister/enclave/proxy"
)

// patience is that of the proxies here. Time is that of a test.
const patience = time.Minute

const connect = "CONNECT " + allowed + " HTTP/1.1\r\nHost: " + allowed + "\r\n\r\n"

// pipes are a listener at which both ends are without any buffer: what nobody reads is not written.
type pipes struct {
	queue    chan net.Conn
	closed   context.Context //nolint:containedctx // how a listener of a test is closed
	end      context.CancelFunc
	accepted atomic.Int64
}

func newPipes() *pipes {
	closed, end := context.WithCancel(context.Background())
	return &pipes{queue: make(chan net.Conn), closed: closed, end: end}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.queue:
		p.accepted.Add(1)
		return conn, nil
	case <-p.closed.Done():
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.end(); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{} }

// dial gives what connects once it is accepted, and says what is given.
func (p *pipes) dial(says string) net.Conn {
	near, far := net.Pipe()
	go func() {
		select {
		case p.queue <- far:
			_, _ = io.WriteString(near, says) // whoever is cut off says no more
		case <-p.closed.Done():
		}
	}()
	return near
}

// stands says whether a connection is still there: nothing is to come over it.
func stands(conn net.Conn) bool {
	_ = conn.SetReadDeadline(time.Now().Add(-1))
	_, err := conn.Read(make([]byte, 1))
	return err != io.EOF
}

// bounded runs a test of a proxy that dials by a pipe, in time of its own.
func bounded(t *testing.T, dial func(context.Context) (net.Conn, error), test func(t *testing.T, p *pipes, log *lines)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p, log := newPipes(), newLines()
		ctx, stop := context.WithCancel(t.Context())
		served := make(chan error, 1)
		go func() {
			served <- proxy.ServeWithin(ctx, p, proxy.Config{
				Allow: []string{allowed}, Log: slog.New(slog.NewJSONHandler(log, nil)),
				Dial: func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
			}, patience)
		}()
		test(t, p, log)
		stop()
		time.Sleep(time.Second) // net/http lingers half of that
		synctest.Wait()
		select {
		case err := <-served:
			if err != nil {
				t.Error(err)
			}
		default:
			t.Error("the proxy goes on")
		}
	})
}

// somewhere is a far end that is silent until it is shut.
func somewhere(context.Context) (net.Conn, error) {
	near, far := net.Pipe()
	go func() { _, _ = io.Copy(io.Discard, far) }()
	return near, nil
}

func TestWhoTakesNoBytesHasNoTunnel(t *testing.T) {
	bounded(t, somewhere, func(t *testing.T, p *pipes, log *lines) {
		for range 64 {
			defer p.dial(connect).Close()
		}
		synctest.Wait()
		time.Sleep(patience + 1)
		synctest.Wait()
		if got := log.outcomes(); got["broken"] != 64 {
			t.Errorf("%v", got)
		}
		conn := p.dial(connect)
		defer conn.Close()
		answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || answer.StatusCode != http.StatusOK {
			t.Fatalf("%v, %v", answer, err)
		}
		_ = answer.Body.Close()
		time.Sleep(3 * patience) // a tunnel has other deadlines
		if !stands(conn) {
			t.Error("a tunnel ends with the patience for who asks")
		}
	})
}

func TestTheProxyEndsThoughSomebodyTakesNoBytes(t *testing.T) {
	bounded(t, somewhere, func(t *testing.T, p *pipes, _ *lines) {
		conn := p.dial(connect)
		t.Cleanup(func() { _ = conn.Close() }) // after the proxy
		synctest.Wait()
	})
}

func TestWhoDoesNotTakeARefusalIsCutOff(t *testing.T) {
	bounded(t, somewhere, func(t *testing.T, p *pipes, _ *lines) {
		conn := p.dial("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		defer conn.Close()
		time.Sleep(2*patience + 1)
		synctest.Wait()
		if stands(conn) {
			t.Error("it holds its place")
		}
	})
}

func TestTheHeaderOfWhoAsksIsBounded(t *testing.T) {
	for size, want := range map[int]int{1 << 10: http.StatusOK, 16 << 10: http.StatusRequestHeaderFieldsTooLarge} {
		bounded(t, somewhere, func(t *testing.T, p *pipes, _ *lines) {
			conn := p.dial(strings.Replace(connect, "\r\n\r\n", "\r\nX: "+strings.Repeat("x", size)+"\r\n\r\n", 1))
			defer conn.Close()
			answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil || answer.StatusCode != want {
				t.Fatalf("%d bytes: %v, %v", size, answer, err)
			}
			_ = answer.Body.Close()
		})
	}
}

func TestThoseWhoAskAreCounted(t *testing.T) {
	bounded(t, somewhere, func(t *testing.T, p *pipes, _ *lines) {
		for range 100 {
			defer p.dial("").Close()
		}
		synctest.Wait()
		if n := p.accepted.Load(); n != 64 {
			t.Errorf("%d ask at once", n)
		}
		time.Sleep(patience + time.Second)
		synctest.Wait()
		if n := p.accepted.Load(); n != 100 {
			t.Errorf("%d were let in after those who asked for nothing", n)
		}
	})
}

func TestAPlaceThatDoesNotAnswerIsNotWaitedFor(t *testing.T) {
	bounded(t, func(ctx context.Context) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() }, func(t *testing.T, p *pipes, log *lines) {
		conn := p.dial(connect)
		defer conn.Close()
		began := time.Now()
		answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || answer.StatusCode != http.StatusBadGateway || time.Since(began) != patience {
			t.Fatalf("after %v: %v, %v", time.Since(began), answer, err)
		}
		_ = answer.Body.Close()
		log.wait(1)
	})
}

func TestRelaysAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipes()
		ctx, stop := context.WithCancel(t.Context())
		var dialled atomic.Int64
		ended := make(chan error, 1)
		go func() {
			ended <- proxy.Relay(ctx, p, func(ctx context.Context) (net.Conn, error) { dialled.Add(1); return somewhere(ctx) })
		}()
		var conns []net.Conn
		for range 100 {
			conns = append(conns, p.dial(""))
		}
		synctest.Wait()
		if n := dialled.Load(); n != 64 {
			t.Errorf("%d at once", n)
		}
		for _, conn := range conns {
			_ = conn.Close()
		}
		synctest.Wait()
		if n := dialled.Load(); n != 100 {
			t.Errorf("%d in all", n)
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
