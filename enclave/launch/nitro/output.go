package nitro

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"regexp"

	"github.com/cloister-run/cloister/enclave/attest"
)

// running is an enclave as nitro-cli prints it (src/common/json_output.rs). What else it prints is of no concern:
// it is another project's, and may grow.
type running struct {
	Name string `json:"EnclaveName"`
	ID   string `json:"EnclaveID"`
	// PID is the process that holds the enclave, and ends with it.
	PID int    `json:"ProcessID"`
	CID uint32 `json:"EnclaveCID"`
	// The rest is of describe-enclaves alone.
	State        string            `json:"State"`
	Flags        string            `json:"Flags"`
	Measurements map[string]string `json:"Measurements"`
}

// idPattern is what the names of enclaves look like ("i-…-enc…"); above all it is no option.
const idPattern = `^i-[0-9a-zA-Z]{1,32}-enc[0-9a-f]{1,32}$`

// parseRun reads what run-enclave prints.
func parseRun(out []byte) (running, error) {
	var r running
	if err := json.Unmarshal(out, &r); err != nil {
		return running{}, err
	}
	return r, r.valid()
}

// parseDescribe reads what describe-enclaves prints.
func parseDescribe(out []byte) ([]running, error) {
	var all []running
	if err := json.Unmarshal(out, &all); err != nil {
		return nil, err
	}
	for i, r := range all {
		if err := r.valid(); err != nil {
			return nil, fmt.Errorf("[%d]: %w", i, err)
		}
	}
	return all, nil
}

func (r running) valid() error {
	switch {
	case !regexp.MustCompile(idPattern).MatchString(r.ID):
		return fmt.Errorf("EnclaveID: %.60q is none", r.ID)
	case r.CID < minCID || r.CID == math.MaxUint32:
		return fmt.Errorf("EnclaveCID: %d is no enclave's", r.CID)
	case r.PID <= 1 || r.PID > math.MaxInt32:
		return fmt.Errorf("ProcessID: %d is none", r.PID)
	}
	return nil
}

// The flags of an enclave (src/enclave_proc/utils.rs, flags_to_string).
const (
	flagsNone  = "NONE"
	flagsDebug = "DEBUG_MODE"
)

// check holds what describe-enclaves prints against what was measured and asked for.
func (r running) check(pcrs attest.PCRSet, debug bool) error {
	switch {
	case r.Flags == flagsDebug && !debug:
		return fmt.Errorf("%w: the enclave %s runs in debug mode: whoever attaches to its console reads what it writes, "+
			"its registers are zeros, and no key is released to it", ErrDebug, r.ID)
	case r.Flags != flagsNone && r.Flags != flagsDebug:
		return fmt.Errorf("%w: the flags of the enclave %s are %.40q, which nobody knows", ErrDebug, r.ID, r.Flags)
	case r.Measurements == nil:
		return fmt.Errorf("%w: nitro-cli does not print those of the enclave %s: update it", ErrMismatch, r.ID)
	}
	var problems []error
	for i, want := range pcrs {
		said := r.Measurements[fmt.Sprintf("PCR%d", i)]
		if got, err := attest.ParsePCR(said); err != nil || got != want {
			problems = append(problems, fmt.Errorf("PCR%d of the image is %s, and that of the enclave %.96q", i, want, said))
		}
	}
	if _, signed := pcrs[8]; !signed && r.Measurements["PCR8"] != "" {
		problems = append(problems, errors.New("the image is not signed, and the enclave's is"))
	}
	if len(problems) > 0 {
		return fmt.Errorf("%w: the enclave %s is not the image that was measured; was the file replaced? %w", ErrMismatch, r.ID, errors.Join(problems...))
	}
	return nil
}
