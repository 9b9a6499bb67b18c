package vsock_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/nettest"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/enclave/launch/vhost"
	"github.com/cloister-run/cloister/enclave/launch/vhost/vhosttest"
	"github.com/cloister-run/cloister/enclave/launch/vhost/vsock"
)

// A connection is as good as any other of Go's.
func TestConn(t *testing.T) {
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		d := mirror(t)
		c1, c2 = across(t, d, listen(t, d, 5))
		return c1, c2, func() { _, _ = c1.Close(), c2.Close() }, nil
	})
}

// Many connections at once, each with many times what any buffer holds, both ways.
func TestLoad(t *testing.T) {
	const streams, size = 64, 1 << 20
	d := mirror(t)
	l := listen(t, d, 5)
	all, ctx := errgroup.WithContext(t.Context())
	all.Go(func() error {
		for range streams {
			c, err := l.Accept()
			if err != nil {
				return err
			}
			all.Go(func() error {
				defer c.Close()
				if _, err := io.CopyBuffer(struct{ io.Writer }{c}, struct{ io.Reader }{c}, make([]byte, 100<<10)); err != nil {
					return fmt.Errorf("echoing: %w", err)
				}
				return c.(*vsock.Conn).CloseWrite()
			})
		}
		return nil
	})
	for range streams {
		all.Go(func() error { return thereAndBack(ctx, d, size) })
	}
	if err := all.Wait(); err != nil {
		t.Fatal(err)
	}
}

func thereAndBack(ctx context.Context, d *vsock.Device, size int) error {
	c, err := d.Dial(ctx, 5)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	out := make([]byte, size)
	_, _ = rand.Read(out)
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(out)
		sent <- errors.Join(err, c.(*vsock.Conn).CloseWrite())
	}()
	sum := sha256.New()
	n, err := io.Copy(sum, c)
	if err != nil || [32]byte(sum.Sum(nil)) != sha256.Sum256(out) {
		return fmt.Errorf("%d bytes came back, of %d: %w", n, size, err)
	}
	return <-sent
}

func TestDial(t *testing.T) {
	d, g := connect(t, 8)
	c, back := dialed(t, d, g, 100)
	if got, want := fmt.Sprint(c.RemoteAddr(), c.LocalAddr()), fmt.Sprintf("16:7 3:%d", back.Port); got != want {
		t.Errorf("%s, not %s", got, want)
	}
	if _, err := c.Write([]byte("out")); err != nil {
		t.Fatal(err)
	}
	if p := g.expect(data); string(p.data) != "out" || p.Room != window || p.Source != 3 || p.Destination != guestCID {
		t.Errorf("%+v", p)
	}
	g.send(with(back, data, 0, "in"))
	g.send(with(back, shutdown, 2, "")) // it sends no more
	if got := readAll(t, c); got != "in" {
		t.Errorf("%q", got)
	}
	if _, err := c.Write([]byte("still")); err != nil {
		t.Errorf("half of it is closed: %v", err)
	}
	g.expect(data)
	if err := c.(*vsock.Conn).CloseWrite(); err != nil {
		t.Error(err)
	}
	if p := g.expect(shutdown); p.Flags != 2 {
		t.Errorf("flags %d", p.Flags)
	}
	if _, err := c.Write([]byte("more")); !errors.Is(err, unix.EPIPE) {
		t.Errorf("%v", err)
	}
	g.send(with(back, shutdown, 3, ""))
	g.expect(reset) // which is how both agree that it is over
	g.send(with(back, data, 0, "late"))
	g.expect(reset)
}

func TestClose(t *testing.T) {
	d, g := connect(t, 8)
	c, back := dialed(t, d, g, 100)
	g.send(with(back, data, 0, "not read"))
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if p := g.expect(shutdown); p.Flags != 3 {
		t.Errorf("flags %d", p.Flags)
	}
	for name, err := range map[string]error{
		"read":  func() error { _, err := c.Read(make([]byte, 1)); return err }(),
		"write": func() error { _, err := c.Write([]byte("x")); return err }(),
		"close": c.Close(),
	} {
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	g.send(with(back, data, 0, "on its way")) // which nobody answers
	g.send(with(back, reset, 0, ""))
	g.send(with(back, data, 0, "late"))
	g.expect(reset)
}

// A guest that never agrees that a connection is closed does not keep its place: it is reset after a while.
func TestACloseThatIsNotAgreedTo(t *testing.T) {
	d, g := connect(t, 8)
	d.Impatient(50 * time.Millisecond)
	c, back := dialed(t, d, g, 100)
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	g.expect(shutdown)
	g.expect(reset)
	g.send(with(back, data, 0, "late"))
	g.expect(reset) // nobody knows it any more
}

func TestRefused(t *testing.T) {
	d, g := connect(t, 8)
	failed := make(chan error, 1)
	go func() {
		_, err := d.Dial(t.Context(), 7)
		failed <- err
	}()
	p := g.expect(request)
	g.send(packet{SourcePort: p.Port, Port: p.SourcePort, Op: reset})
	if err := <-failed; !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("%v", err)
	}
}

// Who gives up while the guest boots leaves nothing behind that the guest would be asked for later.
func TestDialIsGivenUp(t *testing.T) {
	d, g := connect(t, 0)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 1000 {
		if _, err := d.Dial(ctx, 7); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
	g.room(8)
	g.send(packet{SourcePort: 1, Port: 1, Op: request})
	g.expect(reset)
	late, stop := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() {
		_, err := d.Dial(late, 7)
		failed <- err
	}()
	p := g.expect(request)
	stop()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	g.expect(reset)
	g.send(packet{SourcePort: p.Port, Port: p.SourcePort, Op: response})
	g.expect(reset)
}

func TestListen(t *testing.T) {
	d, g := connect(t, 8)
	l := listen(t, d, 5)
	if _, err := d.Listen(5); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("twice: %v", err)
	}
	for _, host := range []uint64{2, 3} {
		g.send(packet{Destination: host, SourcePort: 9, Port: 5, Op: request, Room: 100})
		if p := g.expect(response); p.Source != host || p.Port != 9 || p.SourcePort != 5 || p.Room != window {
			t.Errorf("%+v", p)
		}
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte("hello")); err != nil {
			t.Error(err)
		}
		if p := g.expect(data); p.Source != host || string(p.data) != "hello" {
			t.Errorf("%+v", p)
		}
		_ = c.Close()
		g.expect(shutdown)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("%v", err)
	}
	g.send(packet{SourcePort: 10, Port: 5, Op: request})
	g.expect(reset)
}

// What belongs to nothing is reset, but for what would be answered for ever.
func TestNobodyThere(t *testing.T) {
	d, g := connect(t, 8)
	listen(t, d, 5)
	for name, p := range map[string]packet{
		"a port on which nobody listens": {Port: 6, Op: request},
		"another machine":                {Destination: 17, Port: 5, Op: request},
		"no stream":                      {Kind: 2, Port: 5, Op: request},
		"data without a connection":      {Port: 5, Op: data, data: []byte("x")},
		"no operation":                   {Port: 5, Op: 99},
	} {
		g.send(packet{SourcePort: 1, Port: 1, Op: reset})
		g.send(packet{Source: 17, SourcePort: 1, Port: 5, Op: request}) // it is not its number
		p.SourcePort = 77
		g.send(p)
		if got := g.expect(reset); got.Port != 77 || got.Source == 0 {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// A stream ends with an error where it was not brought to its end, and gives what came before.
func TestReset(t *testing.T) {
	for name, do := range map[string]func(*guest, packet){
		"it is reset":                    func(g *guest, back packet) { g.send(with(back, reset, 0, "")) },
		"it is asked for again":          func(g *guest, back packet) { g.send(with(back, request, 0, "")) },
		"an operation that nobody knows": func(g *guest, back packet) { g.send(with(back, 99, 0, "")) },
		"data after the end":             func(g *guest, back packet) { g.send(with(back, shutdown, 2, "")); g.send(with(back, data, 0, "x")) },
		"more than there is room for": func(g *guest, back packet) {
			for range window/(32<<10) + 1 {
				g.send(with(back, data, 0, strings.Repeat("x", 32<<10)))
			}
		},
		"the guest stops":       func(g *guest, _ packet) { g.Stop(tx) },
		"the machine ends":      func(g *guest, _ packet) { _ = g.Conn.Close() },
		"what is no packet":     func(g *guest, _ packet) { g.raw(make([]byte, 43)) },
		"a packet that is less": func(g *guest, back packet) { back.Length = 10; g.send(with(back, data, 0, "x")) },
		"a packet that is more": func(g *guest, back packet) { g.send(with(back, data, 0, strings.Repeat("x", 64<<10+1))) },
	} {
		t.Run(name, func(t *testing.T) {
			d, g := connect(t, 8)
			c, back := dialed(t, d, g, 0)
			g.send(with(back, data, 0, "before"))
			g.send(with(back, creditRequest, 0, ""))
			g.expect(creditUpdate) // it is there
			written := make(chan error, 1)
			go func() {
				_, err := c.Write([]byte("for which there is no room"))
				written <- err
			}()
			do(g, back)
			if err := <-written; err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("writing: %v", err)
			}
			got, err := io.ReadAll(c)
			if !strings.HasPrefix(string(got), "before") {
				t.Errorf("read %q", got)
			}
			if ended := name == "data after the end"; (err == nil) != ended || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("reading: %v", err)
			}
		})
	}
}

func TestWhatIsNoPacketEndsTheDevice(t *testing.T) {
	for name, do := range map[string]func(*guest){
		"no header":         func(g *guest) { g.raw(make([]byte, 43)) },
		"less than it says": func(g *guest) { g.send(packet{Length: 1, Op: data}) },
		"nothing":           func(g *guest) { g.raw(nil) },
		"room instead":      func(g *guest) { g.Rings[tx].Room(0, 100); g.Rings[tx].Kick() },
		"room as well":      func(g *guest) { g.Rings[tx].Both(0, packet{Op: data}.encode(), 100); g.Rings[tx].Kick() },
		"a packet in the room": func(g *guest) {
			g.Rings[rx].Both(9, []byte("x"), 100)
			g.Rings[rx].Kick()
			g.send(packet{Port: 1, Op: request})
		},
		"no room for a header": func(g *guest) { g.Rings[rx].Room(9, 44); g.Rings[rx].Kick(); g.send(packet{Port: 1, Op: request}) },
		"a packet in its place": func(g *guest) {
			g.Rings[rx].Send(9, make([]byte, 100))
			g.Rings[rx].Kick()
			g.send(packet{Port: 1, Op: request})
		},
	} {
		t.Run(name, func(t *testing.T) {
			d, g := connect(t, 0)
			l := listen(t, d, 5)
			do(g)
			if err := g.Ended(); !errors.Is(err, vhost.ErrGuest) {
				t.Errorf("%v", err)
			}
			if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
				t.Errorf("accepting: %v", err)
			}
			if _, err := d.Dial(t.Context(), 7); !errors.Is(err, vsock.ErrEnded) {
				t.Errorf("dialing: %v", err)
			}
			if _, err := d.Listen(6); !errors.Is(err, vsock.ErrEnded) {
				t.Errorf("listening: %v", err)
			}
		})
	}
}

// No more is sent than the guest has room for, and the rest once it has.
func TestCreditOfTheGuest(t *testing.T) {
	d, g := connect(t, 8)
	c, back := dialed(t, d, g, 10)
	written := make(chan error, 1)
	go func() {
		_, err := c.Write([]byte("0123456789abcdef"))
		written <- err
	}()
	if p := g.expect(data); string(p.data) != "0123456789" {
		t.Errorf("%q", p.data)
	}
	g.send(with(back, creditRequest, 0, ""))
	g.expect(creditUpdate) // and no data before
	back.Forwarded = 10
	g.send(with(back, creditUpdate, 0, ""))
	if p := g.expect(data); string(p.data) != "abcdef" {
		t.Errorf("%q", p.data)
	}
	if err := <-written; err != nil {
		t.Error(err)
	}
}

// Linux sends no more than 256 KiB ahead, whatever it is told: it must hear of every 64 KiB that were read.
func TestCreditOfTheReader(t *testing.T) {
	d, g := connect(t, 8)
	c, back := dialed(t, d, g, 10)
	for range window / (32 << 10) {
		g.send(with(back, data, 0, strings.Repeat("x", 32<<10)))
	}
	for i := range 4 {
		if _, err := io.ReadFull(c, make([]byte, 64<<10)); err != nil {
			t.Fatal(err)
		}
		if p := g.expect(creditUpdate); p.Forwarded != uint32(i+1)*64<<10 || p.Room != window {
			t.Errorf("%+v", p)
		}
	}
	g.send(with(back, data, 0, strings.Repeat("y", 64<<10)))
	got := make([]byte, 64<<10)
	if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, bytes.Repeat([]byte("y"), 64<<10)) {
		t.Error(err)
	}
}

// A guest that asks and takes no answers costs no more than a bounded number of them.
func TestFlood(t *testing.T) {
	d, g := connect(t, 0)
	l := listen(t, d, 5)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	}()
	for i := range uint32(3000) {
		g.send(packet{SourcePort: i, Port: 5 + i%2, Op: request})
		g.send(packet{SourcePort: i, Port: 5, Op: creditRequest})
		g.send(packet{SourcePort: i, Port: 5, Op: reset})
	}
	g.room(vhosttest.Size)
	answers := 0
	for done := false; !done; answers++ {
		g.send(packet{SourcePort: 99999, Port: 6, Op: request}) // answered once all that waited has gone
		done = g.next().Port == 99999
	}
	if answers > 1000 {
		t.Errorf("%d answers waited", answers)
	}
}

// So do connections: those that nobody accepts, and all.
func TestConnectionsAreBounded(t *testing.T) {
	d, g := connect(t, 8)
	listen(t, d, 5)
	l := listen(t, d, 6)
	made := 0
	ask := func(i, port uint32) bool {
		g.send(packet{SourcePort: i, Port: port, Op: request})
		return g.next().Op == response
	}
	for i := range uint32(100) {
		if ask(i, 5) {
			made++
		}
	}
	if made != 64 {
		t.Errorf("%d wait to be accepted", made)
	}
	for i := range uint32(400) {
		if ask(i, 6) {
			made++
			c, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
		}
	}
	if made != 256 {
		t.Errorf("%d connections", made)
	}
	if _, err := d.Dial(t.Context(), 7); err == nil {
		t.Error("and one more")
	}
}

func FuzzPackets(f *testing.F) {
	f.Add(packet{Source: guestCID, Destination: 3, SourcePort: 1, Port: 5, Kind: 1, Op: request, Room: 9}.encode())
	f.Add(packet{Source: guestCID, Destination: 3, SourcePort: 7, Port: 1 << 30, Kind: 1, Op: data, data: []byte("data")}.encode())
	f.Add(packet{Source: guestCID, Destination: 3, SourcePort: 7, Port: 1 << 30, Kind: 1, Op: shutdown, Flags: 3}.encode())
	f.Add(make([]byte, 43))
	f.Fuzz(func(t *testing.T, raw []byte) {
		d, g := connect(t, 8)
		l := listen(t, d, 5)
		c, _ := dialed(t, d, g, 100)
		go func() { _, _ = io.Copy(io.Discard, c) }()
		g.raw(raw[:min(len(raw), vhosttest.Slot)])
		g.Send(11, 0, vhosttest.State(tx, 0))
		_, _ = l.Close(), c.Close()
		_ = g.Conn.CloseWrite()
		if err := g.Ended(); err != nil && !errors.Is(err, vhost.ErrGuest) {
			t.Error(err)
		}
	})
}
