package launch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hf/nsm/request"
	"github.com/hf/nsm/response"

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
func (v *VM) watchClock(ctx context.Context) error {
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
		if spent, err := processorTime(v.PID()); err == nil && spent > clockTime {
			return errClock
		}
	}
}

// userHZ is the unit of times in /proc, USER_HZ, on every architecture that Go knows (proc(5)).
const userHZ = 100

// processorTime is what a process has had of processors.
func processorTime(pid int) (time.Duration, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// "PID (NAME) STATE …"; a name may contain brackets. The times are the 14th and 15th field.
	fields := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:]))
	if len(fields) < 13 {
		return 0, errors.New("no times")
	}
	user, err := strconv.ParseInt(fields[11], 10, 64)
	if err != nil {
		return 0, err
	}
	system, err := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * time.Second / userHZ, err
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
