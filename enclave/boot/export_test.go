package boot

import (
	"context"
	"time"

	"github.com/cloister-run/cloister/enclave/boot/machine"
)

// Steady is the clock that never runs backwards.
func Steady(now func() time.Time) func() time.Time { return (&steady{now: now}).time }

// What the tests look at.
var (
	ReadProfile  = readProfile
	ParseProfile = parseProfile
	ParseMemory  = parseMemory
	Beat         = beat
	EveryUser    = everyUser
	Admit        = admit
)

// Settle is settle, with what settles.
func Settle(ctx context.Context, nsm machine.Source, ask func(context.Context) (time.Time, error), seed func(context.Context, machine.Source) error, setClock func(time.Time) error) error {
	return settle(ctx, nsm, ask, beneath{seed, setClock})
}

// The rest of it.
type Profile = profile

const MaxProfile = maxProfile

func ForJobs(memory int64) int64 { return surroundings{memory: memory}.forJobs() }

func ThisMachine() (memory int64, err error) {
	m, err := (&profile{Listen: listenUnix}).readMachine()
	return m.memory, err
}

// Together says whether executors need a memory cgroup under the profile at path.
func Together(path string) (bool, error) {
	p, err := readProfile(path)
	return p.executors().Together, err
}
