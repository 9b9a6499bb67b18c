package boot

import (
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/cloister-run/cloister/policies/worker"
)

// surroundings are what the enclave finds around it.
type surroundings struct {
	// memory is what it has, in bytes.
	memory int64
	// distinct says that it can become any user.
	distinct bool
}

// What the enclave keeps of the memory: for itself and its kernel a quarter, at most 512 MiB, and for
// policy workers an eighth.
const (
	keptShare = 4
	keptMost  = 512 << 20

	workersShare            = 8
	fewWorkers, manyWorkers = 2, 16
)

// workers is how many policy workers there may be.
func (m surroundings) workers() int {
	return int(min(max(m.memory/workersShare/worker.Memory, fewWorkers), manyWorkers))
}

// forJobs is what jobs may use together.
func (m surroundings) forJobs() int64 {
	return max(0, m.memory-min(m.memory/keptShare, keptMost)-int64(m.workers())*worker.Memory)
}

// readMachine looks around. Of a machine of its own an enclave has what is left beside its image, which is in
// memory as well; on somebody's machine others come and go, and the total stands for it.
func (p *profile) readMachine() (surroundings, error) {
	users, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return surroundings{}, err
	}
	meminfo, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return surroundings{}, err
	}
	field := "MemTotal"
	if p.alone() {
		field = "MemAvailable"
	}
	memory, err := parseMemory(string(meminfo), field)
	if err != nil {
		return surroundings{}, err
	}
	return surroundings{memory: memory, distinct: everyUser(string(users))}, nil
}

// everyUser reports whether a uid_map maps every user to itself: the initial namespace's is one
// line of 0, 0 and 2³²-1 (user_namespaces(7)).
func everyUser(uidMap string) bool {
	return slices.Equal(strings.Fields(uidMap), []string{"0", "0", "4294967295"})
}

// parseMemory finds a field of a meminfo, in bytes (proc_meminfo(5)).
func parseMemory(meminfo, field string) (int64, error) {
	for line := range strings.Lines(meminfo) {
		value, ok := strings.CutPrefix(line, field+":")
		if !ok {
			continue
		}
		fields := strings.Fields(value)
		if len(fields) != 2 || fields[1] != "kB" {
			return 0, fmt.Errorf("meminfo: %s: %.80q is no number of kB", field, value)
		}
		n, err := strconv.ParseInt(fields[0], 10, 64)
		if err != nil || n < 0 || n > math.MaxInt64>>10 {
			return 0, fmt.Errorf("meminfo: %s: %.80q is no number of kB", field, value)
		}
		return n << 10, nil
	}
	return 0, fmt.Errorf("meminfo: no %s", field)
}
