package proxy_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cloister-run/cloister/enclave/proxy"
)

// much is more than what sockets hold by themselves.
const much = 16 << 20

// Whichever side ends first, the other one hears it, and goes on for as long as it likes.
func TestHalfClosedTunnelsGoOn(t *testing.T) {
	for _, network := range []string{"unix", "tcp"} {
		t.Run(network, func(t *testing.T) {
			var got atomic.Int64
			r := setup{network: network, far: func(conn *net.TCPConn) {
				first := make([]byte, 1)
				if _, err := io.ReadFull(conn, first); err != nil {
					t.Error(err)
				}
				if first[0] == 'f' { // the far end ends first
					closeWrite(t, conn)
					n, err := io.Copy(io.Discard, conn)
					if got.Store(n); err != nil {
						t.Error(err)
					}
					return
				}
				if n, err := io.Copy(io.Discard, conn); n != 0 || err != nil {
					t.Error(n, err)
				}
				if _, err := conn.Write(make([]byte, much)); err != nil {
					t.Error(err)
				}
			}}.serve(t)

			near := r.open(t)
			_, _ = io.WriteString(near, "n")
			closeWrite(t, near)
			if n, err := io.Copy(io.Discard, near); n != much || err != nil {
				t.Errorf("after the near end: %d, %v", n, err)
			}
			far := r.open(t)
			_, _ = io.WriteString(far, "f")
			if n, err := io.Copy(io.Discard, far); n != 0 || err != nil {
				t.Errorf("the far end: %d, %v", n, err)
			}
			if _, err := far.Write(make([]byte, much)); err != nil {
				t.Error(err)
			}
			_ = far.Close()
			r.log.wait(2)
			r.end()
			if got.Load() != much {
				t.Errorf("after the far end: %d", got.Load())
			}
			if said := r.log.outcomes(); said["ended"] != 2 || len(said) != 1 {
				t.Errorf("%v", said)
			}
		})
	}
}

// A side that breaks off is not taken for one that has said all, whatever else goes on.
func TestAResetIsNoEnd(t *testing.T) {
	const tunnels = 32
	r := setup{network: "tcp", far: func(conn *net.TCPConn) {
		what := make([]byte, 1)
		if _, err := io.ReadFull(conn, what); err != nil {
			t.Error(err)
			return
		}
		switch what[0] {
		case 'r': // the far end resets
			_, _ = conn.Write(make([]byte, 1<<20))
			_ = conn.SetLinger(0)
		case 'n': // the near end does
			_, _ = conn.Write([]byte{1})
			if _, err := io.Copy(io.Discard, conn); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the far end saw %v", err)
			}
		case 'e':
			if _, err := io.Copy(conn, conn); err != nil {
				t.Error(err)
			}
		}
	}}.serve(t)
	var running sync.WaitGroup
	for i := range tunnels {
		running.Go(func() {
			conn, err := r.DialContext(t.Context(), "tcp", allowed)
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			switch i % 4 {
			case 0:
				_, _ = io.WriteString(conn, "r")
				if _, err := io.Copy(io.Discard, conn); !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("the near end saw %v", err)
				}
			case 1:
				_, _ = io.WriteString(conn, "n")
				_, _ = conn.Read(make([]byte, 1))
				_ = conn.(*net.TCPConn).SetLinger(0)
			default:
				running.Go(func() {
					_, _ = io.WriteString(conn, "e")
					_, _ = conn.Write(make([]byte, much))
					closeWrite(t, conn)
				})
				if n, err := io.Copy(io.Discard, conn); n != much || err != nil {
					t.Errorf("%d, %v", n, err)
				}
			}
		})
	}
	running.Wait()
	r.log.wait(tunnels)
	r.end()
	if said := r.log.outcomes(); said["broken"] != tunnels/2 || said["ended"] != tunnels/2 {
		t.Errorf("%v", said)
	}
}

// Where sockets cannot say that something was cut short, HTTP's lengths do.
func TestACutAnswerIsNotComplete(t *testing.T) {
	r := setup{network: "unix", far: func(conn *net.TCPConn) {
		_, _ = conn.Read(make([]byte, 1<<10))
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf an answer")
		_ = conn.SetLinger(0)
	}}.serve(t)
	transport := &http.Transport{DialContext: r.DialContext, DisableKeepAlives: true}
	answer, err := (&http.Client{Transport: transport}).Get("http://" + allowed)
	if err != nil {
		return // nothing of it came
	}
	defer answer.Body.Close()
	if said, err := io.ReadAll(answer.Body); err == nil {
		t.Errorf("complete: %q", said)
	}
}

// Nobody holds a tunnel for ever by doing nothing, nor by not taking what is sent.
func TestTunnelsThatStallEnd(t *testing.T) {
	r := setup{network: "tcp", cfg: proxy.Config{Idle: 20 * time.Millisecond}, far: func(conn *net.TCPConn) {
		what := make([]byte, 1)
		_, _ = conn.Read(what)
		if what[0] == 'w' {
			n, err := conn.Write(make([]byte, 16*much)) // which nobody reads
			if err == nil || n == 16*much {
				t.Errorf("%d bytes are held for who reads nothing", n)
			}
		}
		_, _ = io.Copy(io.Discard, conn)
	}}.serve(t)
	for _, what := range []string{"s", "w"} {
		conn := r.open(t)
		_, _ = io.WriteString(conn, what)
		if what == "w" {
			r.log.wait(2)
		}
		if _, err := io.Copy(io.Discard, conn); err == nil {
			t.Errorf("%s: a stalled tunnel looks complete", what)
		}
	}
	r.end()
	if said := r.log.outcomes(); said["stalled"] != 2 || len(said) != 1 {
		t.Errorf("%v", said)
	}
}

// Who asks for nothing, or for no end of things, is cut off, and keeps nobody else out.
func TestHostileAskers(t *testing.T) {
	r := setup{network: "tcp", patience: 200 * time.Millisecond, far: func(conn *net.TCPConn) { _, _ = io.Copy(conn, conn) }}.serve(t)
	for name, says := range map[string]string{
		"silence":   "",
		"half":      "CONNECT kms.exa",
		"garbage":   "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
		"a body":    "CONNECT kms.example:80 HTTP/1.1\r\nHost: kms.example:80\r\nContent-Length: 99999999\r\n\r\n",
		"a flood":   strings.Repeat("x", 1<<20),
		"headers":   "CONNECT kms.example:443 HTTP/1.1\r\n" + strings.Repeat("X: y\r\n", 1<<18),
		"pipelined": strings.Repeat("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 1<<16),
	} {
		var asking sync.WaitGroup
		for range 100 { // more than there are places for
			asking.Go(func() {
				conn, err := net.Dial("tcp", r.address)
				if err != nil {
					t.Error(err)
					return
				}
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(time.Minute))
				asking.Go(func() { _, _ = io.WriteString(conn, says) })
				if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("%s: it is not cut off", name)
				}
			})
		}
		asking.Wait()
		conn := r.open(t)
		_, _ = io.WriteString(conn, "still here")
		closeWrite(t, conn)
		if got, err := io.ReadAll(conn); string(got) != "still here" || err != nil {
			t.Errorf("after %s: %q, %v", name, got, err)
		}
	}
}

// A thousand at once are 64 tunnels, and refusals.
func TestAThousandTunnels(t *testing.T) {
	var open, most atomic.Int64
	r := setup{network: "unix", far: func(conn *net.TCPConn) {
		for n := open.Add(1); ; {
			if old := most.Load(); n <= old || most.CompareAndSwap(old, n) {
				break
			}
		}
		_, _ = io.Copy(conn, conn)
		open.Add(-1)
	}}.serve(t)
	var asking sync.WaitGroup
	var made, refused atomic.Int64
	for range 1000 {
		asking.Go(func() {
			conn, err := r.DialContext(t.Context(), "tcp", allowed)
			if err != nil {
				refused.Add(1)
				if !strings.Contains(err.Error(), "503") && !errors.Is(err, syscall.EAGAIN) { // the kernel's own queue is full
					t.Error(err)
				}
				return
			}
			defer conn.Close()
			made.Add(1)
			_, _ = conn.Write([]byte{1})
			_, _ = conn.Read(make([]byte, 1))
		})
	}
	asking.Wait()
	r.end()
	if most.Load() > 64 || made.Load() == 0 || made.Load()+refused.Load() != 1000 {
		t.Errorf("%d at once, %d made, %d refused", most.Load(), made.Load(), refused.Load())
	}
}

// The log says of each tunnel where it went, how it ended and what went through; a place that the enclave made up
// is short.
func TestTunnelsAreWrittenDown(t *testing.T) {
	r := setup{network: "unix", far: func(conn *net.TCPConn) {
		n, _ := io.Copy(io.Discard, conn)
		_, _ = conn.Write(make([]byte, 2*n))
	}}.serve(t)
	conn := r.open(t)
	_, _ = conn.Write(make([]byte, 100))
	closeWrite(t, conn)
	_, _ = io.Copy(io.Discard, conn)
	r.log.wait(1)
	if _, err := r.DialContext(t.Context(), "tcp", strings.Repeat("x", 1000)+":443"); err == nil {
		t.Error("not refused")
	}
	stopped := r.open(t)
	_, _ = stopped.Write([]byte{1})
	r.end()
	want := map[string]line{
		"ended":   {Place: allowed, Sent: 100, Received: 200},
		"refused": {Place: strings.Repeat("x", 80) + "…"},
		"stopped": {Place: allowed, Sent: 1},
	}
	if len(r.log.all) != len(want) {
		t.Errorf("%v", r.log.all)
	}
	for _, got := range r.log.all {
		if w := want[got.Outcome]; got.Place != w.Place || got.Received != w.Received || got.Sent > w.Sent || got.Duration <= 0 {
			t.Errorf("%+v, want %+v", got, w)
		}
	}
}

// An unreachable place and a full proxy are told apart in the log.
func TestRefusalsAreWrittenDown(t *testing.T) {
	l, dial := listen(t)
	ctx, stop := context.WithCancel(t.Context())
	var log bytes.Buffer
	served := make(chan error, 1)
	go func() {
		served <- proxy.Serve(ctx, l, proxy.Config{
			Allow: []string{allowed}, Log: slog.New(slog.NewJSONHandler(&log, nil)),
			Dial: func(context.Context, string, string) (net.Conn, error) { return nil, fmt.Errorf("no route") },
		})
	}()
	_, _ = proxy.Dialer{Door: dial}.DialContext(t.Context(), "tcp", allowed)
	stop()
	<-served
	if !strings.Contains(log.String(), `"outcome":"unreachable"`) {
		t.Errorf("%s", log.String())
	}
}
