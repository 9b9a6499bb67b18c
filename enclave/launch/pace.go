package launch

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hf/nsm/request"
	"github.com/hf/nsm/response"
	"github.com/prometheus/procfs"

	"github.com/cloister-run/cloister/enclave/attest"
)

// pace is how fast time goes for a machine.
type pace int

const (
	// native: the processor itself runs it, by KVM.
	native pace = iota
	// emulated: as fast as this machine emulates. While it boots the kernel finds out how fast its clock is by a timer, and
	// where others keep this machine busy it finds that it cannot; it has no second clock, and waits for ever.
	emulated
	// counted: time is counted in instructions. The kernel always finds out, and everything takes three times as long.
	counted
)

// accelerator are QEMU's arguments for a pace.
func (p pace) accelerator() []string {
	switch p {
	case native:
		return []string{"-accel", "kvm", "-cpu", "host"}
	case counted:
		return []string{"-accel", "tcg", "-cpu", "max", "-icount", "shift=auto"}
	case emulated:
	}
	return []string{"-accel", "tcg,thread=multi", "-cpu", "max"}
}

// paces are those to try, in their order.
func (cfg *VMConfig) paces() []pace {
	if !cfg.Emulate && hasKVM() {
		return []pace{native}
	}
	return []pace{emulated, counted}
}

// How much of a processor a machine takes until its kernel has asked its module for something, four times what was
// measured, and how often that is looked at.
const (
	clockTime  = 20 * time.Second
	clockEvery = 100 * time.Millisecond
)

// errClock: the kernel of the machine waits for a clock.
var errClock = errors.New("the kernel waits for its clock")

// watchClock returns errClock if the machine has had more than enough of a processor to come up, and asked for nothing; nil
// once it did, or ended, or ctx did.
func (v *VM) watchClock(ctx context.Context, enough time.Duration) error {
	if enough == 0 {
		enough = clockTime
	}
	tick := time.NewTicker(clockEvery)
	defer tick.Stop()
	for {
		select {
		case <-v.asked.done:
			return nil
		case <-v.ended:
			return nil
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if spent, err := processorTime(v.PID()); err == nil && spent > enough {
			return errClock
		}
	}
}

// processorTime is what a process has had of processors.
func processorTime(pid int) (time.Duration, error) {
	process, err := procfs.NewProc(pid)
	if err != nil {
		return 0, err
	}
	stat, err := process.Stat()
	return time.Duration(stat.CPUTime() * float64(time.Second)), err
}

// firstAsked is a module that says when it was first asked.
type firstAsked struct {
	attest.Handler
	once sync.Once
	done chan struct{}
}

func newFirstAsked(h attest.Handler) *firstAsked {
	return &firstAsked{Handler: h, done: make(chan struct{})}
}

// Answer implements [attest.Handler].
func (f *firstAsked) Answer(ctx context.Context, r request.Request) response.Response {
	f.once.Do(func() { close(f.done) })
	return f.Handler.Answer(ctx, r)
}
