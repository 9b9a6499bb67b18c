package vsock_test

import (
	"encoding/binary"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/cloister-run/cloister/enclave/image"
	"github.com/cloister-run/cloister/enclave/launch/vhost/vhosttest"
	"github.com/cloister-run/cloister/enclave/launch/vhost/vsock"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	guestCID = 16
	rx, tx   = 0, 1 // of the driver

	request, response, reset, shutdown, data, creditUpdate, creditRequest = 1, 2, 3, 4, 5, 6, 7

	window = 256 << 10
)

// packet is what goes between the device and the driver.
type packet struct {
	Source, Destination      uint64
	SourcePort, Port, Length uint32
	Kind, Op                 uint16
	Flags, Room, Forwarded   uint32
	data                     []byte
}

func (p packet) encode() []byte {
	p.Length = max(p.Length, uint32(len(p.data)))
	raw, _ := binary.Append(nil, binary.LittleEndian, struct {
		A, B    uint64
		C, D, E uint32
		F, G    uint16
		H, I, J uint32
	}{p.Source, p.Destination, p.SourcePort, p.Port, p.Length, p.Kind, p.Op, p.Flags, p.Room, p.Forwarded})
	return append(raw, p.data...)
}

func decode(raw []byte) packet {
	le := binary.LittleEndian
	return packet{le.Uint64(raw), le.Uint64(raw[8:]), le.Uint32(raw[16:]), le.Uint32(raw[20:]), le.Uint32(raw[24:]),
		le.Uint16(raw[28:]), le.Uint16(raw[30:]), le.Uint32(raw[32:]), le.Uint32(raw[36:]), le.Uint32(raw[40:]), raw[44:]}
}

// guest is a driver that does what a test says.
type guest struct {
	*vhosttest.Guest
	free []int // descriptors of tx
}

// connect makes a device and a driver that has so many buffers for packets.
func connect(t testing.TB, rooms int) (*vsock.Device, *guest) {
	t.Helper()
	d := vsock.New(guestCID)
	g := &guest{Guest: vhosttest.New(t, d.Serve, 2)}
	for i := range vhosttest.Size {
		g.free = append(g.free, i)
	}
	g.room(rooms)
	return d, g
}

// room offers buffers for packets, from the first descriptor on.
func (g *guest) room(n int) {
	for i := range n {
		g.Rings[rx].Room(i, 4<<10)
	}
	g.Rings[rx].Kick()
}

// send sends a packet to the device; it is of a stream, and from the guest, unless it says otherwise.
func (g *guest) send(p packet) {
	g.T.Helper()
	if p.Kind == 0 {
		p.Kind = 1
	}
	if p.Source == 0 {
		p.Source = guestCID
	}
	if p.Destination == 0 {
		p.Destination = image.ParentCID
	}
	g.raw(p.encode())
}

func (g *guest) raw(bytes []byte) {
	g.T.Helper()
	r := g.Rings[tx]
	for {
		head, _, ok := r.Used()
		if !ok {
			break
		}
		g.free = append(g.free, int(head))
	}
	if len(g.free) == 0 {
		head, _ := r.Next()
		g.free = append(g.free, int(head))
	}
	r.Send(g.free[0], bytes)
	g.free = g.free[1:]
	r.Kick()
}

// next is the next packet of the device. Its buffer is given back.
func (g *guest) next() packet {
	g.T.Helper()
	p, head := g.take()
	g.Rings[rx].Room(head, 4<<10)
	g.Rings[rx].Kick()
	return p
}

// take is next without the giving back.
func (g *guest) take() (packet, int) {
	g.T.Helper()
	head, n := g.Rings[rx].Next()
	if n < 44 {
		g.T.Fatalf("a packet of %d bytes", n)
	}
	return decode(append([]byte{}, g.Rings[rx].Buffer(int(head))[:n]...)), int(head)
}

// expect is next, which has to be of some kind.
func (g *guest) expect(op uint16) packet {
	g.T.Helper()
	p := g.next()
	if p.Op != op {
		g.T.Fatalf("operation %d, not %d", p.Op, op)
	}
	return p
}

// dialed is a connection to port 7 of the guest, which has room for so many bytes.
func dialed(t testing.TB, d *vsock.Device, g *guest, room uint32) (net.Conn, packet) {
	t.Helper()
	type result struct {
		conn net.Conn
		err  error
	}
	made := make(chan result, 1)
	go func() {
		conn, err := d.Dial(t.Context(), 7)
		made <- result{conn, err}
	}()
	asked := g.expect(request)
	back := packet{SourcePort: asked.Port, Port: asked.SourcePort, Room: room}
	answer := back
	answer.Op = response
	g.send(answer)
	r := <-made
	if r.err != nil {
		t.Fatal(r.err)
	}
	t.Cleanup(func() { _ = r.conn.Close() })
	if err := r.conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return r.conn, back
}

func with(p packet, op uint16, flags uint32, data string) packet {
	p.Op, p.Flags, p.data = op, flags, []byte(data)
	return p
}

// mirror is a device whose guest sends every packet back with its ends exchanged, ports as they are: who dials
// a port meets who listens there.
func mirror(t testing.TB) *vsock.Device {
	t.Helper()
	d, g := connect(t, vhosttest.Size)
	var running sync.WaitGroup
	stop := make(chan struct{})
	running.Go(func() {
		in := g.Rings[rx]
		for {
			head, n, ok := in.Used()
			if !ok {
				select {
				case <-stop:
					return
				default:
				}
				_ = in.Wait()
				continue
			}
			p := decode(append([]byte{}, in.Buffer(int(head))[:n]...))
			in.Room(int(head), 4<<10)
			in.Kick()
			p.Source, p.Destination = p.Destination, p.Source
			g.raw(p.encode())
		}
	})
	t.Cleanup(func() {
		close(stop)
		g.Interrupt()
		running.Wait()
	})
	return d
}

// across is a connection through a mirror: both ends.
func across(t testing.TB, d *vsock.Device, l net.Listener) (dialed, accepted net.Conn) {
	t.Helper()
	made := make(chan net.Conn, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			c = nil
		}
		made <- c
	}()
	dialed, err := d.Dial(t.Context(), l.Addr().(vsock.Addr).Port)
	if err != nil {
		t.Fatal(err)
	}
	if accepted = <-made; accepted == nil {
		t.Fatal("nothing to accept")
	}
	return dialed, accepted
}

func listen(t testing.TB, d *vsock.Device, port uint32) net.Listener {
	t.Helper()
	l, err := d.Listen(port)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func readAll(t testing.TB, c net.Conn) string {
	t.Helper()
	got, err := io.ReadAll(c)
	if err != nil {
		t.Fatalf("after %d bytes: %v", len(got), err)
	}
	return string(got)
}
