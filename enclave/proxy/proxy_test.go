package proxy_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/cloister-run/cloister/enclave/proxy"
)

func TestMain(m *testing.M) {
	// net/http lingers for half a second where it closes a connection with something unread.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}

const allowed = "kms.example:443"

// listen listens on a Unix socket and gives how to dial it.
func listen(t *testing.T) (net.Listener, func(context.Context) (net.Conn, error)) {
	t.Helper()
	dir, err := os.MkdirTemp("", "proxy") // a short name: a socket's is limited
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	return l, func(ctx context.Context) (net.Conn, error) { return new(net.Dialer).DialContext(ctx, "unix", path) }
}

// door serves a proxy to a far end, and gives a dialer through it and what ends it.
func door(t *testing.T, far func(net.Conn)) (proxy.Dialer, func()) {
	t.Helper()
	l, dial := listen(t)
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	ends, reach := listen(t)
	accepted := make(chan struct{})
	go func() {
		defer close(accepted)
		for {
			conn, err := ends.Accept()
			if err != nil {
				return
			}
			go far(conn)
		}
	}()
	cfg := proxy.Config{Allow: []string{allowed}, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		if network != "tcp" || address != allowed {
			t.Errorf("dialled %s %s", network, address)
		}
		return reach(ctx)
	}}
	go func() { served <- proxy.Serve(ctx, l, cfg) }()
	end := func() {
		stop()
		_ = ends.Close()
		<-accepted
		if err := <-served; err != nil {
			t.Error(err)
		}
		served <- nil
	}
	t.Cleanup(end)
	return proxy.Dialer{Door: dial}, end
}

// What one side has said when it ends reaches the other whole, and the answer comes back after that.
func TestATunnelCarriesBothWaysAndEveryEnd(t *testing.T) {
	d, _ := door(t, func(conn net.Conn) {
		defer conn.Close()
		said, err := io.ReadAll(conn) // until the other side ended
		if err != nil {
			t.Error(err)
		}
		_, _ = conn.Write(bytes.ToUpper(said))
	})
	conn, err := d.DialContext(t.Context(), "tcp", allowed)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	question := strings.Repeat("question ", 1<<17)
	if _, err := io.WriteString(conn, question); err != nil {
		t.Fatal(err)
	}
	if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil || string(answer) != strings.ToUpper(question) {
		t.Errorf("%d bytes, %v", len(answer), err)
	}
}

// A far end that speaks first is heard from its first byte on.
func TestNothingOfTheFarEndIsLost(t *testing.T) {
	l, dial := listen(t)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = conn.Read(make([]byte, 1<<10))
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\nhello") // in one piece with the answer
	}()
	conn, err := proxy.Dialer{Door: dial}.DialContext(t.Context(), "tcp", allowed)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got, err := io.ReadAll(conn); err != nil || string(got) != "hello" {
		t.Errorf("%q, %v", got, err)
	}
	_ = l.Close()
}

func TestWhatIsRefused(t *testing.T) {
	d, _ := door(t, func(conn net.Conn) { _ = conn.Close() })
	for _, test := range []struct{ network, address, says string }{
		{"tcp", "elsewhere.example:443", "refuses: 403"},
		{"tcp", "kms.example:80", "refuses: 403"},
		{"tcp", "KMS.example:443", "refuses: 403"},
		{"tcp", "kms.example:443\r\nX: y", "no address"},
		{"udp", allowed, "only tcp"},
	} {
		conn, err := d.DialContext(t.Context(), test.network, test.address)
		if err == nil || conn != nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s %q: %v", test.network, test.address, err)
		}
	}
	// Nothing but CONNECT is a request.
	conn, err := d.Door(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "GET http://kms.example/ HTTP/1.1\r\nHost: kms.example\r\nConnection: close\r\n\r\n")
	if got, _ := io.ReadAll(conn); !strings.HasPrefix(string(got), "HTTP/1.1 405") {
		t.Errorf("%q", got)
	}
}

func TestAPlaceThatCannotBeReached(t *testing.T) {
	l, dial := listen(t)
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() {
		served <- proxy.Serve(ctx, l, proxy.Config{Allow: []string{allowed}, Dial: func(context.Context, string, string) (net.Conn, error) {
			return nil, errors.New("no route: a secret of the parent")
		}})
	}()
	_, err := proxy.Dialer{Door: dial}.DialContext(t.Context(), "tcp", allowed)
	if err == nil || !strings.Contains(err.Error(), "502") || strings.Contains(err.Error(), "secret") {
		t.Errorf("%v", err)
	}
	stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
	if _, err := (proxy.Dialer{Door: dial}).DialContext(t.Context(), "tcp", allowed); err == nil {
		t.Error("a door that is shut let through")
	}
}

// endless stands for headers without an end.
const endless = "\x00endless"

// Whatever a parent answers, the enclave reads little of it, and repeats none of its words.
func TestADoorThatLies(t *testing.T) {
	for name, says := range map[string]string{
		"nothing":          "",
		"garbage":          "garbage\n",
		"a long status":    "HTTP/1.1 502 " + strings.Repeat("secret ", 1<<10) + "\r\n\r\n",
		"headers, no end":  "HTTP/1.1 200 OK\r\n" + endless,
		"a refusal":        "HTTP/1.1 403 secret\r\n\r\n",
		"another protocol": "SSH-2.0-secret\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			l, dial := listen(t)
			done := make(chan struct{})
			go func() {
				defer close(done)
				conn, err := l.Accept()
				if err != nil {
					return
				}
				defer conn.Close()
				_, _ = conn.Read(make([]byte, 1<<10))
				says, more := strings.CutSuffix(says, endless)
				_, err = io.WriteString(conn, says)
				for more && err == nil { // until the enclave has had enough
					_, err = io.WriteString(conn, "X: secret\r\n")
				}
			}()
			conn, err := proxy.Dialer{Door: dial}.DialContext(t.Context(), "tcp", allowed)
			if err == nil || conn != nil || strings.Contains(err.Error(), "secret") || len(err.Error()) > 300 {
				t.Errorf("%v", err)
			}
			_ = l.Close()
			<-done
		})
	}
}

func TestADoorThatSaysNothingIsNotWaitedFor(t *testing.T) {
	l, dial := listen(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = conn.Read(make([]byte, 1<<10))
		cancel()
		_, _ = io.Copy(io.Discard, conn) // until the enclave lets go
	}()
	_, err := proxy.Dialer{Door: dial}.DialContext(ctx, "tcp", allowed)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	<-done
	_ = l.Close()
}

// The end of the proxy ends every tunnel.
func TestTheEndOfTheProxyEndsTunnels(t *testing.T) {
	held := make(chan struct{})
	d, end := door(t, func(conn net.Conn) {
		defer close(held)
		_, _ = io.Copy(io.Discard, conn)
		_ = conn.Close()
	})
	conn, err := d.DialContext(t.Context(), "tcp", allowed)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	end()
	<-held
	if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Read(make([]byte, 1)); n != 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%d, %v", n, err)
	}
}

func TestTunnelsAreCounted(t *testing.T) {
	d, _ := door(t, func(conn net.Conn) {
		_, _ = io.Copy(io.Discard, conn)
		_ = conn.Close()
	})
	var open []net.Conn
	defer func() {
		for _, conn := range open {
			_ = conn.Close()
		}
	}()
	for {
		conn, err := d.DialContext(t.Context(), "tcp", allowed)
		if err != nil {
			if len(open) != 64 || !strings.Contains(err.Error(), "503") {
				t.Errorf("after %d: %v", len(open), err)
			}
			return
		}
		if open = append(open, conn); len(open) > 64 {
			t.Fatal("there is no end of tunnels")
		}
	}
}
