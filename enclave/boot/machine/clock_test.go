package machine_test

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/enclave/boot/machine"
)

// clock notes what a machine's clock is set to, or fails.
type clock struct {
	set []time.Time
	err error
}

func (c *clock) settime(ts *unix.Timespec) error {
	c.set = append(c.set, time.Unix(ts.Unix()))
	return c.err
}

func TestTheClockIsSetWhereItIsWrong(t *testing.T) {
	for off, wrong := range map[time.Duration]bool{
		0: false, 499 * time.Millisecond: false, -499 * time.Millisecond: false,
		500 * time.Millisecond: true, -500 * time.Millisecond: true, time.Hour: true, -30 * 365 * 24 * time.Hour: true,
	} {
		synctest.Test(t, func(t *testing.T) { // whose clock stands still
			c, now := &clock{}, time.Now().Add(off)
			if err := machine.SetClockBy(now, c.settime); err != nil {
				t.Error(err)
			}
			if wrong != (len(c.set) == 1) || wrong && !c.set[0].Equal(now) {
				t.Errorf("off by %v: set to %v", off, c.set)
			}
			c.err = errors.New("no")
			if err := machine.SetClockBy(now, c.settime); errors.Is(err, c.err) != wrong {
				t.Errorf("off by %v, and it cannot be set: %v", off, err)
			}
		})
	}
}

func TestTheClockIsSetEveryMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		begun, c := time.Now(), &clock{}
		var want []time.Time
		ask := func(context.Context) (time.Time, error) {
			now := time.Now().Add(time.Hour)
			want = append(want, now)
			if len(want) == 3 {
				cancel()
			}
			return now, nil
		}
		if err := machine.KeepClockBy(ctx, ask, c.settime); err != nil {
			t.Error(err)
		}
		if spent := time.Since(begun); spent != 3*time.Minute || !slices.EqualFunc(c.set, want[:2], time.Time.Equal) {
			t.Errorf("after %v it was set to %v, want %v", spent, c.set, want[:2])
		}
	})
}

// Nobody decides by a clock that nobody vouches for: what keeps it ends, and with it the machine.
func TestI2_AClockThatCannotBeKeptIsGivenUp(t *testing.T) {
	no := errors.New("no")
	for rule, test := range map[string]struct{ asking, setting error }{
		"the module does not say": {no, nil},
		"it cannot be set":        {nil, no},
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			begun, c := time.Now(), &clock{err: test.setting}
			ask := func(context.Context) (time.Time, error) { return time.Now().Add(time.Hour), test.asking }
			if err := machine.KeepClockBy(ctx, ask, c.settime); !errors.Is(err, no) || time.Since(begun) != time.Minute {
				t.Errorf("%s: after %v %v", rule, time.Since(begun), err)
			}
			if test.asking != nil && len(c.set) > 0 {
				t.Errorf("%s: set to %v", rule, c.set)
			}
		})
	}
}

// powerless has the caller's thread, which ends with the test, set no clock of this machine.
func powerless(t *testing.T) {
	t.Helper()
	runtime.LockOSThread()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	for drops := true; ; drops = false {
		var caps [2]unix.CapUserData
		if err := unix.Capget(&header, &caps[0]); err != nil {
			t.Fatal(err)
		}
		if caps[0].Effective&(1<<unix.CAP_SYS_TIME) == 0 {
			return
		}
		if !drops {
			t.Fatal("it can still set the clock")
		}
		caps[0].Effective &^= 1 << unix.CAP_SYS_TIME
		if err := unix.Capset(&header, &caps[0]); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTheClockIsTheMachines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		powerless(t)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		later := func(context.Context) (time.Time, error) { return time.Now().Add(time.Hour), nil }
		now, _ := later(ctx)
		if err := machine.SetClock(now); !errors.Is(err, unix.EPERM) {
			t.Errorf("set: %v", err)
		}
		if err := machine.KeepClock(ctx, later); !errors.Is(err, unix.EPERM) {
			t.Errorf("kept: %v", err)
		}
	})
}
