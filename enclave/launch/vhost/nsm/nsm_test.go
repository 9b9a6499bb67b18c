package nsm_test

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/hf/nsm/request"
	"github.com/hf/nsm/response"
	"go.uber.org/goleak"

	"github.com/cloister-run/cloister/enclave/launch/vhost"
	"github.com/cloister-run/cloister/enclave/launch/vhost/nsm"
	"github.com/cloister-run/cloister/enclave/launch/vhost/vhosttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// entropy answers with what GetRandom gives.
type entropy string

func (e entropy) Answer(context.Context, request.Request) response.Response {
	return response.Response{GetRandom: &response.GetRandom{Random: []byte(e)}}
}

// getRandom is the request as the kernel's driver has it (linux/drivers/misc/nsm.c, fill_req_get_random).
const getRandom = "\x69GetRandom"

// ask does as the driver does: a request and room for an answer are two buffers, and one kick.
func ask(r *vhosttest.Ring, text string, room int) {
	r.Send(0, []byte(text))
	r.Room(1, room)
	r.Kick()
}

// The driver is told once both of its buffers are back: it looks once.
func TestAnswer(t *testing.T) {
	g := vhosttest.New(t, nsm.New(entropy("random")).Serve, 1)
	r := g.Rings[0]
	for range 100 {
		ask(r, getRandom, 0x3000)
		if !r.Wait() {
			t.Fatal("no answer")
		}
		head, n, ok := r.Used()
		if !ok || head != 0 || n != 0 {
			t.Fatalf("chain %d with %d bytes, %v", head, n, ok)
		}
		head, n, ok = r.Used()
		if want := []byte("\xa1\x69GetRandom\xa1\x66random\x46random"); !ok || head != 1 || !bytes.Equal(r.Buffer(1)[:n], want) {
			t.Fatalf("chain %d with %q, %v", head, r.Buffer(1)[:n], ok)
		}
	}
}

func TestARequestAloneWaits(t *testing.T) {
	g := vhosttest.New(t, nsm.New(entropy("random")).Serve, 1)
	r := g.Rings[0]
	r.Send(0, []byte(getRandom))
	r.Kick()
	if at := g.Stop(0); at != 0 {
		t.Errorf("%d buffers were taken", at)
	}
	g.Start(0)
	r.Room(1, 0x3000)
	r.Kick()
	if head, _ := r.Next(); head != 0 {
		t.Errorf("chain %d", head)
	}
}

func TestGuestBreaksTheRules(t *testing.T) {
	for name, do := range map[string]func(*vhosttest.Ring){
		"a request that is too large": func(r *vhosttest.Ring) { ask(r, string(make([]byte, 0x1001)), 0x3000) },
		"an empty request":            func(r *vhosttest.Ring) { ask(r, "", 0x3000) },
		"no room for the answer":      func(r *vhosttest.Ring) { ask(r, getRandom, 10) },
		"room first":                  func(r *vhosttest.Ring) { r.Room(1, 0x3000); r.Send(0, []byte(getRandom)); r.Kick() },
		"room with a request":         func(r *vhosttest.Ring) { r.Both(2, []byte(getRandom), 9); r.Room(1, 0x3000); r.Kick() },
		"a request with room":         func(r *vhosttest.Ring) { r.Send(0, []byte(getRandom)); r.Both(2, []byte("x"), 0x3000); r.Kick() },
		"two requests":                func(r *vhosttest.Ring) { r.Send(1, []byte(getRandom)); r.Send(0, []byte(getRandom)); r.Kick() },
	} {
		t.Run(name, func(t *testing.T) {
			g := vhosttest.New(t, nsm.New(entropy("random")).Serve, 1)
			do(g.Rings[0])
			if err := g.Ended(); !errors.Is(err, vhost.ErrGuest) {
				t.Errorf("%v", err)
			}
		})
	}
}

func FuzzRequest(f *testing.F) {
	f.Add([]byte(getRandom), 0x3000)
	f.Add([]byte("\xa1\x6bDescribePCR\xa1\x65index\x00"), 0x3000)
	f.Add([]byte{}, 0)
	f.Fuzz(func(t *testing.T, text []byte, room int) {
		g := vhosttest.New(t, nsm.New(entropy("random")).Serve, 1)
		r := g.Rings[0]
		ask(r, string(text), max(0, min(room, vhosttest.Slot)))
		g.Send(11, 0, vhosttest.State(0, 0))
		_ = g.Conn.CloseWrite()
		if err := g.Ended(); err != nil && !errors.Is(err, vhost.ErrGuest) {
			t.Error(err)
		}
	})
}
