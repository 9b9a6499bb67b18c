package devkit_test

import (
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/hf/nsm/request"
	"github.com/hf/nsm/response"

	"github.com/cloister-run/cloister/enclave/attest"
	"github.com/cloister-run/cloister/enclave/attest/attesttest"
	"github.com/cloister-run/cloister/enclave/devkit"
)

// TestNSMConforms: by the suite for every device.
func TestNSMConforms(t *testing.T) {
	home := openHome(t)
	moment := time.Now()
	now := func() time.Time { return moment }
	attesttest.Run(t, attesttest.Config{
		Open: func(t *testing.T) attest.Device {
			return attest.OpenSocket(serve(t, devkit.NewNSM(home.CA(), measured(), now)))
		},
		Root: home.CA().Root(), Now: now,
	})
}

// TestNSMCodes: the codes of the NSM API, which the client of an enclave mostly does not let happen.
func TestNSMCodes(t *testing.T) {
	n := devkit.NewNSM(openHome(t).CA(), measured(), time.Now)
	long := make([]byte, attest.MaxPublicKey+1)
	for name, row := range map[string]struct {
		request request.Request
		code    response.ErrorCode
	}{
		"describe 32":        {&request.DescribePCR{Index: 32}, "InvalidIndex"},
		"extend 32":          {&request.ExtendPCR{Index: 32, Data: []byte("x")}, "InvalidIndex"},
		"extend by nothing":  {&request.ExtendPCR{Index: 16}, "InvalidArgument"},
		"extend a locked":    {&request.ExtendPCR{Index: 15, Data: []byte("x")}, "ReadOnlyIndex"},
		"lock 32":            {&request.LockPCR{Index: 32}, "InvalidIndex"},
		"lock a locked":      {&request.LockPCR{Index: 0}, "ReadOnlyIndex"},
		"lock 33":            {&request.LockPCRs{Range: 33}, "InvalidIndex"},
		"lock 32 registers":  {&request.LockPCRs{Range: 16}, ""},
		"much user data":     {&request.Attestation{UserData: long[:attest.MaxUserData+1]}, "InputTooLarge"},
		"a long nonce":       {&request.Attestation{Nonce: long[:attest.MaxNonce+1]}, "InputTooLarge"},
		"a long public key":  {&request.Attestation{PublicKey: long}, "InputTooLarge"},
		"an empty one":       {&request.Attestation{PublicKey: []byte{}}, "InvalidArgument"},
		"an attestation":     {&request.Attestation{}, ""},
		"what is no request": {nil, "InvalidOperation"},
	} {
		if got := n.Answer(t.Context(), row.request); got.Error != row.code {
			t.Errorf("%s: %q", name, got.Error)
		}
	}
}

// TestNSMLocksOne: and tells what is locked.
func TestNSMLocksOne(t *testing.T) {
	n := devkit.NewNSM(openHome(t).CA(), attest.PCRSet{3: register(7), 16: register(9)}, time.Now)
	described := func() *response.DescribeNSM { return n.Answer(t.Context(), &request.DescribeNSM{}).DescribeNSM }
	d := described()
	if d.VersionMajor != 1 || d.MaxPCRs != 32 || d.Digest != "SHA384" || d.ModuleID != n.ModuleID() || len(d.LockedPCRs) != 16 || d.LockedPCRs[15] != 15 {
		t.Errorf("%+v", d)
	}
	if got := n.Answer(t.Context(), &request.LockPCR{Index: 20}); got.LockPCR == nil {
		t.Errorf("%+v", got)
	}
	if d = described(); len(d.LockedPCRs) != 17 || !slices.Contains(d.LockedPCRs, 20) {
		t.Errorf("locked: %v", d.LockedPCRs)
	}
	if got := n.Answer(t.Context(), &request.ExtendPCR{Index: 20, Data: []byte("x")}); got.Error != response.ECReadOnlyIndex {
		t.Errorf("%+v", got)
	}
	// What is given beyond PCR15 is no measurement of the hypervisor's.
	for index, want := range map[uint16]attest.PCR{3: register(7), 4: {}, 16: {}} {
		if got := n.Answer(t.Context(), &request.DescribePCR{Index: index}).DescribePCR; attest.PCR(got.Data) != want {
			t.Errorf("PCR%d is %x", index, got.Data)
		}
	}
}

// TestModuleIDs: of the form of AWS's, another for every boot.
func TestModuleIDs(t *testing.T) {
	home := openHome(t)
	form := regexp.MustCompile(`^i-[0-9a-f]{17}-enc[0-9a-f]{16}$`)
	seen := map[string]bool{}
	for range 8 {
		id := devkit.NewNSM(home.CA(), measured(), time.Now).ModuleID()
		if !form.MatchString(id) || seen[id] {
			t.Error(id)
		}
		seen[id] = true
	}
}
