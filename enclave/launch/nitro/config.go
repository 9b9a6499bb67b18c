package nitro

import (
	"errors"
	"fmt"
	"math"
	"regexp"
)

// regionPattern is what AWS's regions look like. Nothing of one can end the name of a host.
const regionPattern = `^[a-z]{2}(-[a-z]+)+-[0-9]{1,2}$`

// minCID is the first that is nobody's: 0 to 2 are those of vsock(7), 3 is the parent.
const minCID = 4

// check applies every rule and reports every problem.
func (c Config) check() error {
	var problems []error
	problem := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if c.Image == "" {
		problem("Image: missing")
	}
	if c.CPUs < 1 {
		problem("CPUs: %d, at least one", c.CPUs)
	}
	if c.Memory < 64 { // the least that the driver takes (nitro_enclaves.h, NE_ERR_ENCLAVE_MEM_MIN_SIZE)
		problem("Memory: %d MiB, at least 64", c.Memory)
	}
	if c.CID != 0 && (c.CID < minCID || c.CID == math.MaxUint32) {
		problem("CID: %d is no enclave's, which are 4 and more", c.CID)
	}
	if len(c.Regions) == 0 {
		problem("Regions: missing: without one the enclave reaches no KMS")
	}
	for i, region := range c.Regions {
		if !regexp.MustCompile(regionPattern).MatchString(region) {
			problem("Regions[%d]: %.40q is no region of AWS, as eu-central-1 is one", i, region)
		}
	}
	if len(problems) > 0 {
		return fmt.Errorf("%w: %w", ErrConfig, errors.Join(problems...))
	}
	return nil
}
