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
func SetClock(now time.Time) error {
	if off := time.Since(now.Round(0)); off.Abs() < clockOff {
		return nil
	}
	ts, err := unix.TimeToTimespec(now)
	if err != nil {
		return fmt.Errorf("machine: clock: %w", err)
	}
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &ts); err != nil {
		return fmt.Errorf("machine: clock: %w", err)
	}
	return nil
}

// KeepClock sets the clock again every minute until ctx ends, and gives up with the first error: an enclave
// that does not know the time decides nothing.
func KeepClock(ctx context.Context, ask func(context.Context) (time.Time, error)) error {
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
			err = SetClock(now)
		}
		if err != nil {
			return err
		}
	}
}
