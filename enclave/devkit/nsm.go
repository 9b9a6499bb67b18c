package devkit

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"sync"
	"time"

	"github.com/hf/nsm/request"
	"github.com/hf/nsm/response"

	"github.com/cloister-run/cloister/enclave/attest"
	"github.com/cloister-run/cloister/enclave/attest/devca"
)

// firstFree is the first register that the hypervisor leaves unlocked ("Nitro Enclaves attestation
// process", 2.2).
const firstFree = 16

// errInvalidIndex is one of the NSM API's codes that hf/nsm has no name for
// (aws-nitro-enclaves-nsm-api, src/api/mod.rs).
const errInvalidIndex response.ErrorCode = "InvalidIndex"

// randomSize is what GetRandom gives (QEMU, hw/virtio/virtio-nsm.c, NSM_RND_BUF_SIZE).
const randomSize = 256

// NSM plays the Nitro Security Module of one enclave. It is safe for concurrent use.
type NSM struct {
	ca       *devca.CA
	moduleID string
	now      func() time.Time

	mu     sync.Mutex
	pcrs   [attest.MaxPCRs]attest.PCR
	locked [attest.MaxPCRs]bool
}

var _ attest.Handler = (*NSM)(nil)

// NewNSM is the module of an enclave that boots now. Registers 0 to 15 hold what pcrs has, zero where it
// has nothing, and are locked; 16 to 31 are zero and unlocked. now is the clock of its documents.
func NewNSM(ca *devca.CA, pcrs attest.PCRSet, now func() time.Time) *NSM {
	n := &NSM{ca: ca, moduleID: newModuleID(), now: now}
	for i := range firstFree {
		n.pcrs[i] = pcrs[i]
		n.locked[i] = true
	}
	return n
}

// newModuleID is as AWS has them: the instance's id and the enclave's.
func newModuleID() string {
	var b [17]byte
	_, _ = rand.Read(b[:]) // never fails
	digits := hex.EncodeToString(b[:])
	return "i-" + digits[:17] + "-enc" + digits[17:33]
}

// ModuleID is "i-…-enc…", another one for every NSM.
func (n *NSM) ModuleID() string { return n.moduleID }

// Answer implements [attest.Handler].
func (n *NSM) Answer(_ context.Context, r request.Request) response.Response {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch r := r.(type) {
	case *request.DescribePCR:
		return n.describePCR(r)
	case *request.ExtendPCR:
		return n.extend(r)
	case *request.LockPCR:
		return n.lock(r)
	case *request.LockPCRs:
		return n.lockAll(r)
	case *request.DescribeNSM:
		return n.describe()
	case *request.Attestation:
		return n.attest(r)
	case *request.GetRandom:
		random := make([]byte, randomSize)
		_, _ = rand.Read(random) // never fails
		return response.Response{GetRandom: &response.GetRandom{Random: random}}
	}
	return refuse(response.ECInvalidOperation)
}

func refuse(code response.ErrorCode) response.Response { return response.Response{Error: code} }

func (n *NSM) describePCR(r *request.DescribePCR) response.Response {
	if r.Index >= attest.MaxPCRs {
		return refuse(errInvalidIndex)
	}
	value := n.pcrs[r.Index]
	return response.Response{DescribePCR: &response.DescribePCR{Lock: n.locked[r.Index], Data: value[:]}}
}

func (n *NSM) extend(r *request.ExtendPCR) response.Response {
	switch {
	case r.Index >= attest.MaxPCRs:
		return refuse(errInvalidIndex)
	case n.locked[r.Index]:
		return refuse(response.ECReadOnlyIndex)
	case len(r.Data) == 0:
		return refuse(response.ECInvalidArgument)
	}
	value := n.pcrs[r.Index].Extend(r.Data)
	n.pcrs[r.Index] = value
	return response.Response{ExtendPCR: &response.ExtendPCR{Data: value[:]}}
}

// lock refuses a register that is locked already; LockPCRs does not.
func (n *NSM) lock(r *request.LockPCR) response.Response {
	switch {
	case r.Index >= attest.MaxPCRs:
		return refuse(errInvalidIndex)
	case n.locked[r.Index]:
		return refuse(response.ECReadOnlyIndex)
	}
	n.locked[r.Index] = true
	return response.Response{LockPCR: &response.LockPCR{}}
}

func (n *NSM) lockAll(r *request.LockPCRs) response.Response {
	if r.Range > attest.MaxPCRs {
		return refuse(errInvalidIndex)
	}
	for i := range r.Range {
		n.locked[i] = true
	}
	return response.Response{LockPCRs: &response.LockPCRs{}}
}

func (n *NSM) describe() response.Response {
	d := &response.DescribeNSM{VersionMajor: 1, ModuleID: n.moduleID, MaxPCRs: attest.MaxPCRs,
		LockedPCRs: []uint16{}, Digest: response.DigestSHA384}
	for i, locked := range n.locked {
		if locked {
			d.LockedPCRs = append(d.LockedPCRs, uint16(i))
		}
	}
	return response.Response{DescribeNSM: d}
}

func (n *NSM) attest(r *request.Attestation) response.Response {
	switch {
	case len(r.UserData) > attest.MaxUserData, len(r.Nonce) > attest.MaxNonce, len(r.PublicKey) > attest.MaxPublicKey:
		return refuse(response.ECInputTooLarge)
	case r.PublicKey != nil && len(r.PublicKey) == 0:
		return refuse(response.ECInvalidArgument)
	}
	claims := devca.Claims{ModuleID: n.moduleID, Time: n.now(), PCRs: attest.PCRSet{},
		UserData: r.UserData, Nonce: r.Nonce, PublicKey: r.PublicKey}
	for i, value := range n.pcrs {
		if n.locked[i] {
			claims.PCRs[i] = value
		}
	}
	document, err := n.ca.Sign(claims)
	if err != nil {
		return refuse(response.ECInternalError)
	}
	return response.Response{Attestation: &response.Attestation{Document: document}}
}
