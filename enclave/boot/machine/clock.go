package machine

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// How long the clock goes by itself, and by how much it may be off before it is set.
const (
	clockEvery = time.Minute
	clockOff   = 500 * time.Millisecond
)

// SetClock sets the machine's clock by the module's, which the hypervisor vouches for. An enclave has no other
// clock that its parent cannot choose.
func SetClock(now time.Time) error { return setClock(now, settime) }

// KeepClock sets the clock again every minute until ctx ends, and gives up with the first error: an enclave
// that does not know the time decides nothing.
func KeepClock(ctx context.Context, ask func(context.Context) (time.Time, error)) error {
	return keepClock(ctx, ask, settime)
}

// settime is the machine's clock.
func settime(ts *unix.Timespec) error { return unix.ClockSettime(unix.CLOCK_REALTIME, ts) }

// setClock is SetClock, by what sets the clock.
func setClock(now time.Time, set func(*unix.Timespec) error) error {
	if off := time.Since(now.Round(0)); off.Abs() < clockOff {
		return nil
	}
	ts, err := unix.TimeToTimespec(now)
	if err == nil {
		err = set(&ts)
	}
	if err != nil {
		return fmt.Errorf("machine: clock: %w", err)
	}
	return nil
}

// keepClock is KeepClock, by what sets the clock.
func keepClock(ctx context.Context, ask func(context.Context) (time.Time, error), set func(*unix.Timespec) error) error {
	tick := time.NewTicker(clockEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now, err := ask(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err == nil {
			err = setClock(now, set)
		}
		if err != nil {
			return err
		}
	}
}
