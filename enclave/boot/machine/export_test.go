package machine

// What the tests look at.
var (
	LoadModules    = loadModules
	ApplySettings  = applySettings
	CheckGenerator = checkGenerator
	SeedBy         = seed
	SetClockBy     = setClock
	KeepClockBy    = keepClock

	CheckCommandLine = checkCommandLine
)

// Sweep is one look at what PID 1 has to reap; next is for the one after.
func Sweep(before map[process]bool) (next map[process]bool, pids []int) {
	next = reap(before)
	for p := range next {
		pids = append(pids, p.pid)
	}
	return next, pids
}
