package core

import (
	"context"
	"fmt"
	"sync"
)

// UsedPCR tells an enclave that ran an application from a fresh one. While it is unlocked it is in
// no attestation document, and the key policies of owners ask for its absence (docs/rationale.md,
// "Why is PCR16 not clean at boot?").
const UsedPCR = 16

const (
	usedMark   = "used"
	lockedPCRs = 32
)

// boot keeps the promise that a fresh enclave makes when it asks for a data key: no application ran
// before, and none but the job's own runs while the job holds what it unsealed, or anything that its application
// made of it and that not every policy let out. So an application
// that breaks out of its walls finds nobody's assets but those of its own job. It is safe for
// concurrent use.
type boot struct {
	nsm NSM

	mu   sync.Mutex
	used bool
	// holder is the one job that unsealed in a fresh enclave and is not over, freed is closed when it is.
	holder *Job
	freed  chan struct{}
}

// unseal comes before a job asks for a data key. The first job to ask relies on the promise; if
// another one asks meanwhile the enclave is used from then on, since their applications cannot both
// be the only one.
func (b *boot) unseal(ctx context.Context, j *Job) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.used, b.holder == j:
		return nil
	case b.holder == nil:
		b.holder, b.freed = j, make(chan struct{})
		return nil
	}
	return b.use(ctx)
}

// begin comes before a job's application runs. It waits while another job relies on the promise.
func (b *boot) begin(ctx context.Context, j *Job) error {
	for {
		b.mu.Lock()
		if b.holder == nil || b.holder == j {
			err := b.use(ctx)
			b.mu.Unlock()
			return err
		}
		freed := b.freed
		b.mu.Unlock()
		if err := wait(ctx, freed); err != nil {
			return err
		}
	}
}

// over comes when nothing that a job unsealed is left. It may be called again.
func (b *boot) over(j *Job) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.holder == j {
		b.holder = nil
		close(b.freed)
	}
}

// use marks the enclave for good. Where it fails nothing may run, and nobody may be given a key for
// what is to run later: the caller's job ends.
func (b *boot) use(ctx context.Context) error {
	if b.used {
		return nil
	}
	if _, err := b.nsm.ExtendPCR(ctx, UsedPCR, []byte(usedMark)); err != nil {
		return fmt.Errorf("marking the enclave as used: %w", err)
	}
	if err := b.nsm.LockPCRs(ctx, lockedPCRs); err != nil {
		return fmt.Errorf("marking the enclave as used: %w", err)
	}
	b.used = true
	return nil
}
