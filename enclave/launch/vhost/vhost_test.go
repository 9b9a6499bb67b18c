package vhost_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/enclave/launch/vhost"
	"github.com/cloister-run/cloister/enclave/launch/vhost/vhosttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// echo is a device that writes back what it reads, as far as there is room.
func echo(queues int) *vhost.Device {
	var d *vhost.Device
	d = vhost.New(vhost.Config{Queues: queues, Space: []byte("space"), Kicked: func(_ context.Context, i int) error {
		for {
			taken, err := d.Queue(i).Take(func(c *vhost.Chain) (int, error) {
				data := make([]byte, c.Readable())
				c.Read(data)
				return c.Write(data), nil
			})
			if err != nil || !taken {
				return err
			}
			d.Queue(i).Notify()
		}
	}})
	return d
}

// Flags of descriptors.
const (
	next     = 1
	write    = 2
	indirect = 4
)

// pair offers a chain of two: what is read, and as much room.
func pair(r *vhosttest.Ring, first int, text string) {
	r.Both(first, []byte(text), len(text))
	r.Kick()
}

func expect(t *testing.T, r *vhosttest.Ring, first int, text string) {
	t.Helper()
	head, n := r.Next()
	if got := string(r.Buffer(first + 1)[:n]); head != uint32(first) || got != text {
		t.Errorf("chain %d came back with %q, not %d with %q", head, got, first, text)
	}
}

func TestChainsComeBack(t *testing.T) {
	g := vhosttest.New(t, echo(2).Serve, 2)
	for i, r := range g.Rings {
		for n := range 3 * vhosttest.Size { // the rings wrap around
			text := strings.Repeat("word ", n+i)
			pair(r, 2*(n%8), text)
			expect(t, r, 2*(n%8), text)
		}
	}
}

// A queue that stopped says where, and goes on from there, in memory that is another by then.
func TestStopAndGoOn(t *testing.T) {
	g := vhosttest.New(t, echo(1).Serve, 1)
	r := g.Rings[0]
	pair(r, 0, "before")
	expect(t, r, 0, "before")
	if at := g.Stop(0); at != 1 {
		t.Errorf("it stopped at %d", at)
	}
	pair(r, 2, "meanwhile")
	if _, _, ok := r.Used(); ok {
		t.Error("a queue that is stopped is used")
	}
	g.Do(5, vhosttest.Table(vhosttest.Base, uint64(len(g.Memory)), vhosttest.UserBase, 0), g.File)
	g.Start(0)
	expect(t, r, 2, "meanwhile")
	g.Do(5, vhosttest.Table(vhosttest.Base, uint64(len(g.Memory)), vhosttest.UserBase, 0), g.File)
	pair(r, 4, "after")
	expect(t, r, 4, "after")
	g.Do(18, vhosttest.State(0, 0)) // disabled, with all that it has
	pair(r, 6, "disabled")
	if _, _, ok := r.Used(); ok {
		t.Error("a queue that is disabled is used")
	}
	g.Do(18, vhosttest.State(0, 1))
	expect(t, r, 6, "disabled")
}

func TestTheEndOfTheFrontEndIsNoError(t *testing.T) {
	g := vhosttest.New(t, echo(1).Serve, 1)
	_ = g.Conn.Close()
	if err := g.Ended(); err != nil {
		t.Error(err)
	}
}

func TestConfigurationSpace(t *testing.T) {
	g := vhosttest.New(t, echo(1).Serve, 1)
	part := func(offset, size uint32) []byte {
		return append(append(vhosttest.State(offset, size), 0, 0, 0, 0), make([]byte, size)...)
	}
	if got := g.Ask(24, part(1, 3)); string(got[12:]) != "pac" {
		t.Errorf("%q", got)
	}
	for _, p := range [][]byte{part(3, 3), part(6, 0), part(1<<32-1, 2)} {
		if got := g.Ask(24, p); len(got) != 0 {
			t.Errorf("beyond the space is %q", got)
		}
	}
	for _, request := range []uint32{25, 99} { // to write there, and what nobody knows
		g.Send(request, 8, part(0, 1))
		if answer := g.Reply(request); binary.LittleEndian.Uint64(answer) == 0 {
			t.Errorf("request %d was done", request)
		}
	}
}

// A guest that breaks the rules of a ring loses the device, and this process reads and writes nothing else.
func TestGuestBreaksTheRing(t *testing.T) {
	fill := func(r *vhosttest.Ring) { // with chains that would do
		for range vhosttest.Size {
			r.Entry(10)
		}
	}
	end := func(r *vhosttest.Ring) uint64 { return r.Address(vhosttest.Size) } // of the memory
	for name, do := range map[string]func(*vhosttest.Ring){
		"a head beyond the ring":     func(r *vhosttest.Ring) { r.Offer(vhosttest.Size) },
		"a successor beyond it":      func(r *vhosttest.Ring) { r.Describe(0, r.Address(0), 1, next, vhosttest.Size); r.Offer(0) },
		"a chain without an end":     func(r *vhosttest.Ring) { r.Describe(0, r.Address(0), 1, next, 0); r.Offer(0) },
		"an indirect descriptor":     func(r *vhosttest.Ring) { r.Describe(0, r.Address(0), 16, indirect, 0); r.Offer(0) },
		"a flag that nobody knows":   func(r *vhosttest.Ring) { r.Describe(0, r.Address(0), 16, 8, 0); r.Offer(0) },
		"an address below":           func(r *vhosttest.Ring) { r.Describe(0, vhosttest.Base-1, 1, 0, 0); r.Offer(0) },
		"an address behind":          func(r *vhosttest.Ring) { r.Describe(0, end(r), 1, write, 0); r.Offer(0) },
		"an address of this process": func(r *vhosttest.Ring) { r.Describe(0, vhosttest.UserBase, 1, write, 0); r.Offer(0) },
		"a length that goes beyond":  func(r *vhosttest.Ring) { r.Describe(0, end(r)-8, 9, write, 0); r.Offer(0) },
		"a length that wraps around": func(r *vhosttest.Ring) { r.Describe(0, 1<<64-8, 16, 0, 0); r.Offer(0) },
		"more than anybody needs": func(r *vhosttest.Ring) {
			for i := range 16 {
				r.Describe(i, vhosttest.Base, 4<<20, next, uint16(i+1))
			}
			r.Describe(16, vhosttest.Base, 1, 0, 0)
			r.Offer(0)
		},
		"to read behind what to write": func(r *vhosttest.Ring) {
			r.Describe(0, r.Address(0), 1, next|write, 1)
			r.Describe(1, r.Address(1), 1, 0, 0)
			r.Offer(0)
		},
		"more buffers than the ring has": func(r *vhosttest.Ring) { fill(r); r.SetIndex(vhosttest.Size + 2) },
		"buffers taken back":             func(r *vhosttest.Ring) { fill(r); r.SetIndex(0) },
	} {
		t.Run(name, func(t *testing.T) {
			g := vhosttest.New(t, echo(1).Serve, 1)
			r := g.Rings[0]
			pair(r, 10, "well") // the device works
			expect(t, r, 10, "well")
			do(r)
			r.Kick()
			if err := g.Ended(); !errors.Is(err, vhost.ErrGuest) {
				t.Errorf("%v", err)
			}
		})
	}
}

// So does a front-end that breaks those of the protocol.
func TestFrontEndBreaksTheRules(t *testing.T) {
	u64, state, table := vhosttest.U64, vhosttest.State, vhosttest.Table
	const base, user, size = vhosttest.Base, vhosttest.UserBase, 1 << 20
	unsealed := func(g *vhosttest.Guest) *os.File {
		f, err := os.CreateTemp(g.T.(*testing.T).TempDir(), "")
		if err != nil {
			g.T.Fatal(err)
		}
		if err := f.Truncate(size); err != nil {
			g.T.Fatal(err)
		}
		return f
	}
	address := func(descriptors, used, available uint64) []byte {
		return bytes.Join([][]byte{state(0, 0), u64(descriptors), u64(used), u64(available), u64(0)}, nil)
	}
	setUp := func(g *vhosttest.Guest, address []byte) { // anew, and with a kick
		g.Stop(0)
		g.Send(9, 0, address)
		g.Send(12, 0, u64(0), unsealed(g))
	}
	for name, do := range map[string]func(*vhosttest.Guest){
		"another version":              func(g *vhosttest.Guest) { g.Send(1, 2, nil) },
		"a reply":                      func(g *vhosttest.Guest) { g.Send(1, 4, nil) },
		"a message that is too large":  func(g *vhosttest.Guest) { g.Send(1, 0, make([]byte, 4097)) },
		"a message that nobody knows":  func(g *vhosttest.Guest) { g.Send(99, 0, nil) },
		"a number that is too short":   func(g *vhosttest.Guest) { g.Send(2, 0, u64(0)[:7]) },
		"features that nobody offered": func(g *vhosttest.Guest) { g.Send(2, 0, u64(1<<32|1<<29)) },
		"a device of old":              func(g *vhosttest.Guest) { g.Send(2, 0, u64(1<<30)) },
		"protocol features as well":    func(g *vhosttest.Guest) { g.Send(16, 0, u64(1<<5)) },
		"memory without its file":      func(g *vhosttest.Guest) { g.Send(5, 0, table(base, size, user, 0)) },
		"memory with two files":        func(g *vhosttest.Guest) { g.Send(5, 0, table(base, size, user, 0), g.File, g.File) },
		"memory that may be taken":     func(g *vhosttest.Guest) { g.Send(5, 0, table(base, size, user, 0), unsealed(g)) },
		"memory beyond its file":       func(g *vhosttest.Guest) { g.Send(5, 0, table(base, size, user, uint64(len(g.Memory))), g.File) },
		"memory of no size":            func(g *vhosttest.Guest) { g.Send(5, 0, table(base, 0, user, 0), g.File) },
		"memory that wraps around":     func(g *vhosttest.Guest) { g.Send(5, 0, table(1<<64-8, size, user, 0), g.File) },
		"an offset that wraps around":  func(g *vhosttest.Guest) { g.Send(5, 0, table(base, size, user, 1<<64-8), g.File) },
		"no regions":                   func(g *vhosttest.Guest) { g.Send(5, 0, state(0, 0)) },
		"regions that are missing":     func(g *vhosttest.Guest) { g.Send(5, 0, append(state(2, 0), make([]byte, 32)...), g.File) },
		"a queue too many":             func(g *vhosttest.Guest) { g.Send(8, 0, state(1, 64)) },
		"a queue of no entries":        func(g *vhosttest.Guest) { g.Stop(0); g.Send(8, 0, state(0, 0)) },
		"a queue of three entries":     func(g *vhosttest.Guest) { g.Stop(0); g.Send(8, 0, state(0, 3)) },
		"a queue that is too large":    func(g *vhosttest.Guest) { g.Stop(0); g.Send(8, 0, state(0, 1<<16)) },
		"an index that is too large":   func(g *vhosttest.Guest) { g.Stop(0); g.Send(10, 0, state(0, 1<<16)) },
		"a queue that runs":            func(g *vhosttest.Guest) { g.Send(8, 0, state(0, 8)) },
		"a kick without a file":        func(g *vhosttest.Guest) { g.Send(12, 0, u64(0)) },
		"a queue to be polled":         func(g *vhosttest.Guest) { g.Send(12, 0, u64(1<<8)) },
		"a kick with two files":        func(g *vhosttest.Guest) { g.Send(12, 0, u64(0), g.File, g.File) },
		"a kick of no queue":           func(g *vhosttest.Guest) { g.Send(12, 0, u64(7), g.File) },
		"descriptors outside":          func(g *vhosttest.Guest) { setUp(g, address(base, user+0x2000, user+0x1000)) },
		"a used ring outside":          func(g *vhosttest.Guest) { setUp(g, address(user, user+uint64(len(g.Memory))-8, user+0x1000)) },
		"an available ring outside":    func(g *vhosttest.Guest) { setUp(g, address(user, user+0x2000, user-2)) },
		"a ring that is not aligned":   func(g *vhosttest.Guest) { setUp(g, address(user, user+0x2000, user+0x1002)) },
		"files that nobody asked for": func(g *vhosttest.Guest) {
			g.Send(1, 0, nil, g.File, g.File, g.File, g.File, g.File, g.File, g.File, g.File, g.File)
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := vhosttest.New(t, echo(1).Serve, 1)
			do(g)
			if err := g.Ended(); err == nil {
				t.Error("it went on")
			}
		})
	}
}

func TestKickBeforeSetUp(t *testing.T) {
	g := vhosttest.Connect(t, echo(1).Serve, 1)
	g.Send(12, 0, vhosttest.U64(0), g.File)
	if err := g.Ended(); err == nil {
		t.Error("a queue without memory is kicked")
	}
	g = vhosttest.Connect(t, echo(1).Serve, 1)
	g.Negotiate()
	const user = vhosttest.UserBase
	g.Do(9, bytes.Join([][]byte{vhosttest.State(0, 0), vhosttest.U64(user), vhosttest.U64(user + 0x2000), vhosttest.U64(user + 0x1000), vhosttest.U64(0)}, nil))
	g.Do(18, vhosttest.State(0, 1))
	g.Send(12, 0, vhosttest.U64(0), g.File)
	if err := g.Ended(); err == nil {
		t.Error("a queue of no size is kicked")
	}
}

// A driver that asked for it is told nothing.
func TestNoInterrupt(t *testing.T) {
	d := echo(1)
	g := vhosttest.New(t, d.Serve, 1)
	for _, silent := range []bool{true, false} {
		g.Rings[0].Silence(silent)
		d.Queue(0).Notify()
		if told := g.Rings[0].Told(); told == silent {
			t.Errorf("silent: %v, told: %v", silent, told)
		}
	}
}

func FuzzMessages(f *testing.F) {
	f.Add([]byte{1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{5, 0, 0, 0, 9, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{12, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{9, 0, 0, 0, 1, 0, 0, 0, 40, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, raw []byte) {
		g := vhosttest.New(t, echo(1).Serve, 1)
		g.Raw(raw)
		_ = g.Conn.CloseWrite()
		_ = g.Ended() // whatever it says
	})
}

func FuzzRing(f *testing.F) {
	f.Add([]byte{0, 0, 0x12, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0}, uint16(1), uint16(0))
	f.Add([]byte{0, 0, 0x12, 0, 0, 0, 0, 0, 8, 0, 0, 0, 1, 0, 1, 0}, uint16(3), uint16(1))
	f.Fuzz(func(t *testing.T, descriptors []byte, index, head uint16) {
		g := vhosttest.New(t, echo(1).Serve, 1)
		copy(g.Memory[:16*vhosttest.Size], descriptors)
		for i := range vhosttest.Size {
			binary.LittleEndian.PutUint16(g.Memory[0x1004+2*i:], head+uint16(i))
		}
		g.Rings[0].SetIndex(index)
		g.Rings[0].Kick()
		g.Send(11, 0, vhosttest.State(0, 0))
		_ = g.Conn.CloseWrite()
		if err := g.Ended(); err != nil && !errors.Is(err, vhost.ErrGuest) && !errors.Is(err, unix.EPIPE) {
			t.Error(err)
		}
	})
}

// A driver that never takes what it is told holds nobody up: its buffers come back, and the device ends when it is to.
func TestADriverThatListensToNothing(t *testing.T) {
	g := vhosttest.New(t, echo(1).Serve, 1)
	r := g.Rings[0]
	r.Fill()
	for i := range 4 {
		pair(r, 2*i, "word")
	}
	for came, end := 0, time.Now().Add(10*time.Second); came < 4; {
		if _, _, ok := r.Used(); ok {
			came++
		} else if time.Now().After(end) {
			t.Fatalf("%d of 4 came back", came)
		}
	}
	_ = g.Conn.Close()
	if err := g.Ended(); err != nil {
		t.Error(err)
	}
}

// Memory that may lose a page under the device would end this process: every seal but that against shrinking is none.
func TestMemoryThatMayShrinkIsRefused(t *testing.T) {
	for name, row := range map[string]struct {
		seals  int
		sealed bool
	}{
		"no seals":         {0, false},
		"it cannot grow":   {unix.F_SEAL_GROW, false},
		"it cannot shrink": {unix.F_SEAL_SHRINK, true},
		"nor can it grow":  {unix.F_SEAL_SHRINK | unix.F_SEAL_GROW, true},
	} {
		t.Run(name, func(t *testing.T) {
			g := vhosttest.Connect(t, echo(1).Serve, 1)
			fd, err := unix.MemfdCreate("guest", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
			if err != nil {
				t.Fatal(err)
			}
			f := os.NewFile(uintptr(fd), "guest")
			defer f.Close()
			if err := f.Truncate(1 << 20); err != nil {
				t.Fatal(err)
			}
			if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, row.seals); err != nil {
				t.Fatal(err)
			}
			g.Send(5, 0, vhosttest.Table(vhosttest.Base, 1<<20, vhosttest.UserBase, 0), f)
			_ = g.Conn.CloseWrite()
			if err := g.Ended(); (err == nil) != row.sealed || err != nil && !strings.Contains(err.Error(), "its file may shrink") {
				t.Error(err)
			}
		})
	}
}
