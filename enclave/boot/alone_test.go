package boot_test

import (
	"context"
	"errors"
	"io"
	"math"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cloister-run/cloister/enclave/boot"
	"github.com/cloister-run/cloister/enclave/boot/machine"
	"github.com/cloister-run/cloister/enclave/image"
)

// parent plays the parent instance at the port of heartbeats.
func parent(t *testing.T, plays func(net.Conn)) net.Conn {
	t.Helper()
	near, far := net.Pipe()
	done := make(chan struct{})
	go func() { defer close(done); defer far.Close(); plays(far) }()
	t.Cleanup(func() { near.Close(); <-done })
	return near
}

func answering(with ...byte) func(net.Conn) {
	return func(c net.Conn) {
		got := make([]byte, 1)
		if _, err := io.ReadFull(c, got); err == nil && got[0] == image.Heartbeat {
			_, _ = c.Write(with)
		}
	}
}

func TestTheClockNeverRunsBackwards(t *testing.T) {
	begun := time.Unix(1800000000, 0)
	now := begun
	clock := boot.Steady(func() time.Time { return now })
	for _, step := range []struct{ set, want time.Duration }{{0, 0}, {time.Minute, time.Minute}, {time.Second, time.Minute}, {time.Hour, time.Hour}} {
		now = begun.Add(step.set)
		if got := clock().Sub(begun); got != step.want {
			t.Errorf("set to %v: %v, want %v", step.set, got, step.want)
		}
	}
}

func TestTheHeartbeatIsTheByteThatNitroWaitsFor(t *testing.T) {
	if err := boot.Beat(t.Context(), parent(t, answering(0xB7))); err != nil {
		t.Error(err)
	}
}

func TestAParentThatAnswersNoHeartbeatProperly(t *testing.T) {
	for rule, plays := range map[string]func(net.Conn){
		"another byte":       answering(0x7B),
		"nothing":            answering(),
		"closes at once":     func(net.Conn) {},
		"floods with others": answering(make([]byte, 1<<20)...),
	} {
		if err := boot.Beat(t.Context(), parent(t, plays)); err == nil || !strings.HasPrefix(err.Error(), "heartbeat: ") {
			t.Errorf("%s: %v", rule, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	stalls := func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }
	if err := boot.Beat(ctx, parent(t, stalls)); err == nil {
		t.Error("a parent that stalls has an enclave come up")
	}
}

// noModule is a module that settle only passes on.
type noModule struct{}

func (noModule) Random(context.Context, []byte) error { return nil }

// The kernel has the module's entropy before anything has a time, and what fails keeps the rest from happening.
func TestI2_TheMachineSettlesInOrder(t *testing.T) {
	steps, no, now := []string{"seed", "time", "clock"}, errors.New("no"), time.Unix(1800000000, 0)
	for _, fails := range append(steps, "") {
		var did []string
		step := func(name string) error {
			did = append(did, name)
			if name == fails {
				return no
			}
			return nil
		}
		err := boot.Settle(t.Context(), noModule{},
			func(context.Context) (time.Time, error) { return now, step("time") },
			func(_ context.Context, from machine.Source) error {
				if from != (noModule{}) {
					t.Errorf("the entropy is %v's", from)
				}
				return step("seed")
			},
			func(set time.Time) error {
				if !set.Equal(now) {
					t.Errorf("the clock is set to %v", set)
				}
				return step("clock")
			})
		want := steps
		if fails != "" {
			want = steps[:slices.Index(steps, fails)+1]
		}
		if !slices.Equal(did, want) || (fails != "") != errors.Is(err, no) {
			t.Errorf("%q fails: %q, %v", fails, did, err)
		}
	}
}

// The CIDs are those of vsock(7): the hypervisor's, this machine's, its host's; an enclave's parent has 3, and
// enclaves of the same parent have others.
func TestTheParentAloneIsAdmitted(t *testing.T) {
	for cid, want := range map[uint32]bool{0: false, 1: false, 2: false, 3: true, 4: false, 16: false, 1<<16 | 3: false, math.MaxUint32: false} {
		if boot.Admit(cid) != want {
			t.Errorf("CID %d: admitted %v", cid, !want)
		}
	}
}
