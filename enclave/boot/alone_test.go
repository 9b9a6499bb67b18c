package boot_test

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/cloister-run/cloister/enclave/boot"
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
