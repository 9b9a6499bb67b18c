package nitro_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"github.com/cloister-run/cloister/enclave/attest"
	"github.com/cloister-run/cloister/enclave/launch/nitro"
)

// vectors are all files of testdata/says.
func vectors(t testing.TB) map[string]vector {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(says, "*.txt"))
	if err != nil || len(files) < 20 {
		t.Fatal(len(files), err)
	}
	all := map[string]vector{}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".txt")
		if all[name], err = readVector(name); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// Whatever AWS's tool says is wrong, the person at the terminal is told what to do; and nothing is left running.
func TestWhatNitroCLISaysHasACure(t *testing.T) {
	for name, v := range vectors(t) {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			m.want(t, fails+v.verb, name)
			e, err := m.start(t.Context())
			if v.verb == "terminate-enclave" {
				if err != nil {
					t.Fatal(err)
				}
				err = e.Stop()
				_ = os.Remove(filepath.Join(m.dir, e.ID()+".enclave"))
				e = nil
			}
			said, ok := errors.AsType[*nitro.Error](err)
			if e != nil || !ok {
				t.Fatalf("%v, %v", e, err)
			}
			code := said.Code
			if code == "" {
				code = "none"
			}
			if said.Verb != v.verb || code != v.expect || !strings.Contains(said.Cure, v.cure) {
				t.Errorf("%+v", said)
			}
			if len([]rune(said.Message)) > 301 || said.Message == "" || strings.ContainsFunc(said.Message, func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Errorf("%q", said.Message)
			}
			if v.verb == "run-enclave" && len(m.enclaves()) != 0 {
				t.Errorf("left: %+v", m.enclaves())
			}
		})
	}
}

// The cause is in the message where nitro-cli gives it.
func TestTheCauseIsSaid(t *testing.T) {
	v, err := readVector("half-cores")
	if err != nil {
		t.Fatal(err)
	}
	if got := nitro.Complaint(v.verb, v.says).Error(); !strings.Contains(got, "(The enclave cannot start because full CPU cores have not been set)") {
		t.Error(got)
	}
}

func FuzzComplaint(f *testing.F) {
	for _, v := range vectors(f) {
		f.Add(v.says)
	}
	f.Fuzz(func(t *testing.T, text string) {
		e := nitro.Complaint("run-enclave", text)
		if e.Message == "" || e.Cure == "" || len([]rune(e.Message)) > 301 || strings.ContainsFunc(e.Message, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("%+v", e)
		}
	})
}

// The examples of AWS's user guide and of its repository.
const (
	guideRun = `{
  "EnclaveName": "my_enclave",
  "EnclaveID": "i-abc12345def67890a-enc9876abcd543210ef12",
  "ProcessID": 12345,
  "EnclaveCID": 16,
  "NumberOfCPUs": 4,
  "CPUIDs": [1, 5, 2, 6],
  "MemoryMiB": 2048
}`
	guideDescribe = `[
  {
    "EnclaveName": "my_enclave",
    "EnclaveID": "i-abc12345def67890a-enc9876abcd543210ef12",
    "ProcessID": 12345,
    "EnclaveCID": 10,
    "NumberOfCPUs": 2,
    "CPUIDs": [1, 3],
    "MemoryMiB": 1600,
    "State": "RUNNING",
    "Flags": "NONE",
    "Measurements": {
      "HashAlgorithm": "Sha384 { ... }",
      "PCR0": "297caf40f22a444b7ac98e8ee68768b5c86480559bedab11ebfda0feebe8453ec7cc966d862920fb553857e0b1b554ff",
      "PCR1": "bcdf05fefccaa8e55bf2c8d6dee9e79bbff31e34bf28a99aa19e6b29c37ee80b214a414b7607236edf26fcb78654e63f",
      "PCR2": "5a10913645be73e780072fe38b25b386b0f6e1bbfc35ec076e5e10d21f14d8a5fc409316b0eebd6bb8d3c7c0b1abed15"
    }
  }
]`
)

// guidePCRs are those of guideDescribe.
func guidePCRs(t testing.TB) attest.PCRSet {
	t.Helper()
	set, err := attest.ParsePCRSet(map[string]string{
		"0": "297caf40f22a444b7ac98e8ee68768b5c86480559bedab11ebfda0feebe8453ec7cc966d862920fb553857e0b1b554ff",
		"1": "bcdf05fefccaa8e55bf2c8d6dee9e79bbff31e34bf28a99aa19e6b29c37ee80b214a414b7607236edf26fcb78654e63f",
		"2": "5a10913645be73e780072fe38b25b386b0f6e1bbfc35ec076e5e10d21f14d8a5fc409316b0eebd6bb8d3c7c0b1abed15",
	})
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func TestOutputsOfTheGuide(t *testing.T) {
	if err := errors.Join(nitro.CheckRun([]byte(guideRun)), nitro.CheckDescribe([]byte(guideDescribe), guidePCRs(t), false)); err != nil {
		t.Error(err)
	}
	signed := guidePCRs(t)
	signed[8] = attest.PCR{1}
	if err := nitro.CheckDescribe([]byte(guideDescribe), signed, false); !errors.Is(err, nitro.ErrMismatch) {
		t.Errorf("a signature that is not there: %v", err)
	}
	with := strings.Replace(guideDescribe, `"PCR0"`, `"PCR8": "`+signed[8].String()+`", "PCR0"`, 1)
	if err := nitro.CheckDescribe([]byte(with), guidePCRs(t), false); !errors.Is(err, nitro.ErrMismatch) {
		t.Errorf("a signature that nobody made: %v", err)
	}
	if err := nitro.CheckDescribe([]byte(with), signed, false); err != nil {
		t.Error(err)
	}
	for _, says := range []string{
		``, `[]`, `{}`, guideRun + guideRun, strings.Replace(guideRun, "i-abc", "--all", 1), strings.Replace(guideRun, "16", "3", 1),
		strings.Replace(guideRun, "16", "4294967295", 1), strings.Replace(guideRun, "16", "4294967312", 1), strings.Replace(guideRun, "12345,", "1,", 1),
		strings.Replace(guideRun, "12345,", "-1,", 1), strings.Replace(guideRun, "12345,", `"12345",`, 1),
	} {
		if nitro.CheckRun([]byte(says)) == nil {
			t.Errorf("run-enclave: %s", says)
		}
	}
}

func FuzzOutput(f *testing.F) {
	for _, seed := range []string{guideRun, guideDescribe, `[]`, `[{}]`, `{"EnclaveID":"i-0-enc0","EnclaveCID":4,"ProcessID":2}`} {
		f.Add([]byte(seed))
	}
	pcrs := guidePCRs(f)
	f.Fuzz(func(t *testing.T, out []byte) {
		_ = nitro.CheckRun(out)
		if err := nitro.CheckDescribe(out, pcrs, false); err == nil && strings.Contains(string(out), `"DEBUG_MODE"`) && !strings.Contains(string(out), `"NONE"`) {
			t.Errorf("%s", out)
		}
	})
}
