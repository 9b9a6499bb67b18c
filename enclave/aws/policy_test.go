package aws_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/cloister-run/cloister/enclave/attest"
	"github.com/cloister-run/cloister/enclave/aws"
)

var update = flag.Bool("update", false, "write testdata again")

const owner, operator = "111122223333", "444455556666"

func pcr(b byte) attest.PCR { return attest.PCR(bytes.Repeat([]byte{b}, 48)) }

func spec(edit ...func(*aws.PolicySpec)) aws.PolicySpec {
	s := aws.PolicySpec{Partition: "aws", Account: owner, Users: []string{operator},
		PCRs: attest.PCRSet{0: pcr(0xa0), 1: pcr(0xa1), 2: pcr(0xa2)}}
	for _, e := range edit {
		e(&s)
	}
	return s
}

// TestKeyPolicy compares with golden files, and finds no door open in any of them.
func TestKeyPolicy(t *testing.T) {
	for name, s := range map[string]aws.PolicySpec{
		"plain":       spec(),
		"shared":      spec(func(s *aws.PolicySpec) { s.Shared = true }),
		"development": spec(func(s *aws.PolicySpec) { s.Partition = "cloister-dev" }),
		"full": spec(func(s *aws.PolicySpec) {
			s.Admin = "arn:aws:iam::111122223333:role/key-admin"
			s.Sealers = []string{"arn:aws:iam::111122223333:role/ci", "arn:aws:iam::111122223333:user/a.b@c"}
			s.Users = []string{"arn:aws:iam::444455556666:role/parent", "777788889999", operator, operator}
			s.PCRs[3], s.PCRs[8] = pcr(0xa3), pcr(0xa8)
		}),
	} {
		t.Run(name, func(t *testing.T) {
			got, err := aws.KeyPolicy(s)
			if err != nil {
				t.Fatal(err)
			}
			path := "testdata/" + name + ".json"
			if *update {
				if err := os.WriteFile(path, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if want, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
				t.Errorf("not %s (%v):\n%s", path, err, got)
			}
			found, err := aws.LintKeyPolicy(got, aws.LintOptions{Account: owner, Shared: s.Shared})
			if err != nil || len(found) > 0 {
				t.Errorf("%+v, %v", found, err)
			}
			if s.Shared {
				if got := doors(t, got, aws.LintOptions{Account: owner}); !slices.Equal(got, []aws.Door{aws.DoorUsed}) {
					t.Errorf("without --shared: %v", got)
				}
			}
		})
	}
}

func TestKeyPolicyRefuses(t *testing.T) {
	for want, edit := range map[string]func(*aws.PolicySpec){
		"partition: \"moon\" is not known":                 func(s *aws.PolicySpec) { s.Partition = "moon" },
		"account: \"\" is not 12 digits":                   func(s *aws.PolicySpec) { s.Account = "" },
		"account: \"11112222333\" is not 12 digits":        func(s *aws.PolicySpec) { s.Account = "11112222333" },
		"user: nobody is named":                            func(s *aws.PolicySpec) { s.Users = nil },
		"user: \"*\" is neither":                           func(s *aws.PolicySpec) { s.Users = []string{"*"} },
		"user: \"arn:aws:iam::444455556666:*\" is neither": func(s *aws.PolicySpec) { s.Users = []string{"arn:aws:iam::444455556666:*"} },
		"is of another partition than aws":                 func(s *aws.PolicySpec) { s.Users = []string{"arn:aws-cn:iam::444455556666:root"} },
		"admin: \"444455556666\" is of another account":    func(s *aws.PolicySpec) { s.Admin = operator },
		"sealer: \"nobody\" is neither":                    func(s *aws.PolicySpec) { s.Sealers = []string{"nobody"} },
		"PCR0: missing":                                    func(s *aws.PolicySpec) { delete(s.PCRs, 0) },
		"PCR1: missing":                                    func(s *aws.PolicySpec) { delete(s.PCRs, 1) },
		"PCR2: missing":                                    func(s *aws.PolicySpec) { delete(s.PCRs, 2) },
		"PCR2: zeros":                                      func(s *aws.PolicySpec) { s.PCRs[2] = attest.PCR{} },
		"PCR16: only 0, 1, 2, 3 and 8":                     func(s *aws.PolicySpec) { s.PCRs[16] = pcr(1) },
		"the key policy has": func(s *aws.PolicySpec) {
			for i := range 1000 {
				s.Users = append(s.Users, fmt.Sprintf("%012d", i))
			}
		},
	} {
		s := spec()
		edit(&s)
		if out, err := aws.KeyPolicy(s); out != nil || !errors.Is(err, aws.ErrRequest) || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q: %v", want, err)
		}
	}
	_, err := aws.KeyPolicy(aws.PolicySpec{})
	for _, want := range []string{"partition: ", "account: ", "user: ", "PCR0: ", "PCR1: ", "PCR2: "} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("not all at once, no %q: %v", want, err)
		}
	}
}

func doors(t *testing.T, policy []byte, o aws.LintOptions) []aws.Door {
	t.Helper()
	found, err := aws.LintKeyPolicy(policy, o)
	if err != nil {
		t.Fatalf("%v in\n%s", err, policy)
	}
	var list []aws.Door
	for _, f := range found {
		if f.Message == "" || f.Cure == "" || strings.Contains(f.Message+f.Cure, "\n") || len(f.Statements) == 0 {
			t.Errorf("%+v", f)
		}
		list = append(list, f.Door)
	}
	return list
}
