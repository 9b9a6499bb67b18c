package attest_test

import (
	"context"
	"crypto/rand"
	"sync"
	"testing"

	"github.com/hf/nsm/request"
	"github.com/hf/nsm/response"

	"github.com/cloister-run/cloister/enclave/attest"
	"github.com/cloister-run/cloister/enclave/attest/devca"
)

// fakeNSM is a module in memory, as the NSM API and its implementations describe it.
type fakeNSM struct {
	ca *devca.CA

	mu     sync.Mutex
	pcrs   [32]attest.PCR
	locked [32]bool
}

func newFakeNSM(t testing.TB) *fakeNSM {
	f := &fakeNSM{ca: newCA(t)}
	for i, p := range measured() {
		f.pcrs[i] = p
	}
	for i := range 16 {
		f.locked[i] = true
	}
	return f
}

// Answer implements attest.Handler.
func (f *fakeNSM) Answer(_ context.Context, r request.Request) response.Response {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch r := r.(type) {
	case *request.Attestation:
		return f.attest(r)
	case *request.GetRandom:
		random := make([]byte, 256)
		_, _ = rand.Read(random)
		return response.Response{GetRandom: &response.GetRandom{Random: random}}
	case *request.DescribePCR:
		if r.Index >= 32 {
			return response.Response{Error: "InvalidIndex"}
		}
		return response.Response{DescribePCR: &response.DescribePCR{Lock: f.locked[r.Index], Data: f.pcrs[r.Index][:]}}
	case *request.ExtendPCR:
		return f.extend(r)
	case *request.LockPCRs:
		if r.Range > 32 {
			return response.Response{Error: "InvalidIndex"}
		}
		for i := range r.Range {
			f.locked[i] = true
		}
		return response.Response{LockPCRs: &response.LockPCRs{}}
	case *request.DescribeNSM:
		return response.Response{DescribeNSM: &response.DescribeNSM{ModuleID: module, MaxPCRs: 32, LockedPCRs: []uint16{0}, Digest: "SHA384"}}
	}
	return response.Response{Error: response.ECInvalidOperation}
}

func (f *fakeNSM) extend(r *request.ExtendPCR) response.Response {
	switch {
	case r.Index >= 32:
		return response.Response{Error: "InvalidIndex"}
	case f.locked[r.Index]:
		return response.Response{Error: response.ECReadOnlyIndex}
	}
	f.pcrs[r.Index] = f.pcrs[r.Index].Extend(r.Data)
	p := f.pcrs[r.Index]
	return response.Response{ExtendPCR: &response.ExtendPCR{Data: p[:]}}
}

func (f *fakeNSM) attest(r *request.Attestation) response.Response {
	c := devca.Claims{
		ModuleID: module, Time: moment, PCRs: attest.PCRSet{},
		UserData: r.UserData, Nonce: r.Nonce, PublicKey: r.PublicKey,
	}
	for i, p := range f.pcrs {
		if f.locked[i] {
			c.PCRs[i] = p
		}
	}
	doc, err := f.ca.Sign(c)
	if err != nil {
		return response.Response{Error: response.ECInternalError}
	}
	return response.Response{Attestation: &response.Attestation{Document: doc}}
}
