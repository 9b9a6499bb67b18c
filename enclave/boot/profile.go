package boot

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/cloister-run/cloister/enclave/attest"
	"github.com/cloister-run/cloister/enclave/keys"
	"github.com/cloister-run/cloister/policies/abi"
	"github.com/cloister-run/cloister/policies/worker"
)

// maxProfile bounds the profile in bytes.
const maxProfile = 16 << 10

// listenUnix makes the enclave listen on image.Socket.
const listenUnix = "unix"

// nsmSocket takes the NSM at image.NSM, nsmDevice that of /dev/nsm.
const (
	nsmSocket = "socket"
	nsmDevice = "device"
)

// profile is the one measured file that fixes what an enclave trusts and where it listens. An image that
// trusts anything simulated has another profile than one that does not, and so other PCRs.
type profile struct {
	// Realm is whose word receipts are: "aws" for Nitro Enclaves, "local" for simulated ones.
	Realm attest.Realm `json:"realm"`
	// Listen is "unix".
	Listen string `json:"listen"`
	// NSM is "device", or "socket" in the realm "local".
	NSM string     `json:"nsm"`
	KMS kmsProfile `json:"kms"`
	// Rehearsal, in the realm "local" alone, shows whoever runs a job the application's logs, whatever
	// policies say. It is measured like the rest: a key that is released to other images is not
	// released to this one.
	Rehearsal bool `json:"rehearsal,omitempty"`
}

// kmsProfile says which KMS is asked for data keys.
type kmsProfile struct {
	// Partition is "cloister-dev" in the realm "local", and only there; else one of AWS's.
	Partition string `json:"partition"`
	// Endpoint is the URL of the KMS of cloister-dev. AWS's follow from the partition and the key.
	Endpoint string `json:"endpoint,omitempty"`
}

// readProfile reads the profile at path.
func readProfile(path string) (profile, error) {
	f, err := os.Open(path)
	if err != nil {
		return profile{}, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxProfile+1))
	if err != nil {
		return profile{}, fmt.Errorf("profile: %w", err)
	}
	return parseProfile(raw)
}

// parseProfile reads a profile strictly: it is measured, so what is not understood is no mistake
// of the enclave's to be lenient about.
func parseProfile(raw []byte) (profile, error) {
	var p profile
	if err := abi.DecodeExact(raw, maxProfile, &p); err != nil {
		return profile{}, fmt.Errorf("profile: %w", err)
	}
	if err := p.check(); err != nil {
		return profile{}, fmt.Errorf("profile.%w", err)
	}
	return p, nil
}

// check keeps what is simulated and what is not apart. What else is wrong with the KMS is for package
// keys to say.
func (p *profile) check() error {
	local := p.Realm == attest.RealmLocal
	switch {
	case !local && p.Realm != attest.RealmAWS:
		return fmt.Errorf("realm: %.80q is neither %q nor %q", p.Realm, attest.RealmAWS, attest.RealmLocal)
	case p.Listen != listenUnix:
		return fmt.Errorf("listen: %.80q is not known", p.Listen)
	case p.NSM != nsmDevice && p.NSM != nsmSocket:
		return fmt.Errorf("nsm: %.80q is neither %q nor %q", p.NSM, nsmDevice, nsmSocket)
	case p.NSM == nsmSocket && !local:
		return fmt.Errorf("nsm: %q is for the realm %q alone", nsmSocket, attest.RealmLocal)
	case p.KMS.Partition == "", local != (p.KMS.Partition == keys.PartitionDev):
		return fmt.Errorf("kms.partition: %.80q does not belong to the realm %q", p.KMS.Partition, p.Realm)
	case p.Rehearsal && !local:
		return fmt.Errorf("rehearsal: it is for the realm %q alone", attest.RealmLocal)
	case local != (p.KMS.Endpoint != ""):
		return fmt.Errorf("kms.endpoint: required in the realm %q, and refused elsewhere", attest.RealmLocal)
	}
	return nil
}

// machine is what the enclave finds around it.
type machine struct {
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
func (m machine) workers() int {
	return int(min(max(m.memory/workersShare/worker.Memory, fewWorkers), manyWorkers))
}

// forJobs is what jobs may use together.
func (m machine) forJobs() int64 {
	return max(0, m.memory-min(m.memory/keptShare, keptMost)-int64(m.workers())*worker.Memory)
}

func readMachine() (machine, error) {
	users, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return machine{}, err
	}
	memory, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return machine{}, err
	}
	total, err := parseMemory(string(memory))
	if err != nil {
		return machine{}, err
	}
	return machine{memory: total, distinct: everyUser(string(users))}, nil
}

// everyUser reports whether a uid_map maps every user to itself: the initial namespace's is one
// line of 0, 0 and 2³²-1 (user_namespaces(7)).
func everyUser(uidMap string) bool {
	return slices.Equal(strings.Fields(uidMap), []string{"0", "0", "4294967295"})
}

// parseMemory finds the total in a meminfo, in bytes (proc_meminfo(5)).
func parseMemory(meminfo string) (int64, error) {
	for line := range strings.Lines(meminfo) {
		value, ok := strings.CutPrefix(line, "MemTotal:")
		if !ok {
			continue
		}
		fields := strings.Fields(value)
		if len(fields) != 2 || fields[1] != "kB" {
			return 0, fmt.Errorf("meminfo: MemTotal: %.80q is no number of kB", value)
		}
		n, err := strconv.ParseInt(fields[0], 10, 64)
		if err != nil || n < 0 || n > math.MaxInt64>>10 {
			return 0, fmt.Errorf("meminfo: MemTotal: %.80q is no number of kB", value)
		}
		return n << 10, nil
	}
	return 0, errors.New("meminfo: no MemTotal")
}
