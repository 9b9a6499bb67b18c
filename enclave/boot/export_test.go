package boot

// What the tests look at.
var (
	ReadProfile  = readProfile
	ParseProfile = parseProfile
	ParseMemory  = parseMemory
	EveryUser    = everyUser
)

// The rest of it.
type Profile = profile

const MaxProfile, ListenUnix = maxProfile, listenUnix

func ForJobs(memory int64) int64 { return machine{memory: memory}.forJobs() }

func ThisMachine() (memory int64, err error) {
	m, err := readMachine()
	return m.memory, err
}

// Together says whether executors need a memory cgroup under the profile at path.
func Together(path string) (bool, error) {
	p, err := readProfile(path)
	return p.executors().Together, err
}
