// Package receipt owns the record of a run: an in-toto statement that says what ran, what
// every policy decided, and what left by which channel; and the receipt, which is that
// statement with an attestation document over it.
//
// It trusts a receipt for nothing before [Verify] has held it against a root that the caller
// trusts. It never holds the size or digest of anything that was not released, nor text that a
// policy or an application wrote at run time. A record that contradicts itself can be neither
// made nor read. A record is built by one goroutine.
//
// docs/receipt.md states the same for other implementations.
package receipt

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/cloister-run/cloister/policies/abi"
)

// StatementType is fixed by the in-toto attestation framework, Statement layer v1.
const StatementType = "https://in-toto.io/Statement/v1"

// PredicateType names the predicate that this package defines.
const PredicateType = "https://cloister.run/receipt/v1"

// Statement is the record as it is written: the Statement layer of in-toto with a [Run].
type Statement struct {
	Type          string    `json:"_type"`
	Subject       []Subject `json:"subject"`
	PredicateType string    `json:"predicateType"`
	Predicate     Run       `json:"predicate"`
}

// Subject is what the statement is about: the job, then every artifact that was released.
type Subject struct {
	Name   string            `json:"name"`
	Digest map[string]string `json:"digest"`
}

// Run is what happened.
type Run struct {
	Job      Job         `json:"job"`
	Enclave  Enclave     `json:"enclave"`
	Executor Executor    `json:"executor"`
	Assets   []abi.Asset `json:"assets"`
	// Keys has one entry for each sealed asset that was unsealed, sorted by asset.
	Keys []Key `json:"keys"`
	// Policies are in the order in which they were asked; empty says that nothing was judged.
	Policies []abi.PolicyRef `json:"policies"`
	// Consented lists the channels that every policy agreed to at admit.
	Consented []Consent `json:"consented"`
	// Decisions are in the order in which they were recorded. Where none is at egress, there
	// was nothing to judge, and nothing was released unless Policies is empty.
	Decisions []Decision `json:"decisions"`
	Outcome   Outcome    `json:"outcome"`
	// Released says what may leave, with its bytes by channel; empty unless the outcome lets something leave.
	Released []abi.Artifact `json:"released"`
	// Started and Finished are RFC 3339, UTC, whole seconds.
	Started  string `json:"started"`
	Finished string `json:"finished"`
}

// Job names what was asked for.
type Job struct {
	ID     string `json:"id"`
	Name   string `json:"name"`
	Digest string `json:"digest"`
}

// Enclave is where it ran.
type Enclave struct {
	// Realm is the [attest.Realm] of the root that vouches for the enclave: "aws" for AWS's own,
	// and so for Nitro Enclaves alone, "local" for a development root. The enclave's measured
	// profile states it; a receipt is good only under a root that stands for the same realm.
	// A statement with any other name can never become a good receipt.
	Realm string `json:"realm"`
	// ModuleID is the NSM's, "i-…-enc…": the instance and the enclave. Empty where there is no NSM;
	// such a statement can never become a good receipt.
	ModuleID string `json:"module_id"`
	Version  string `json:"version"`
	// Sequence counts the jobs of this boot, from 1.
	Sequence int `json:"sequence"`
	// Rehearsal: the image shows logs that no policy judged; it is for stand-ins.
	Rehearsal bool `json:"rehearsal,omitempty"`
}

// Executor is what ran the application, and inside which walls.
type Executor struct {
	abi.Executor
	// Runtime is what the plugin says that it found, such as "CPython 3.11.2".
	Runtime string `json:"runtime"`
	// Walls says what enforces each limit: "memory: cgroup" or "memory: per-process".
	Walls []string `json:"walls"`
}

// Key says which data key opened a sealed asset.
type Key struct {
	// Asset is "application" or "inputs.NAME".
	Asset string `json:"asset"`
	// Key is the ARN of the KMS key that unwrapped the data key, as KMS answered it: the owner.
	Key string `json:"key"`
	// RequestID is KMS's own name for that call, by which the owner finds it in CloudTrail.
	RequestID string `json:"request_id"`
}

// Consent is a channel by which something may leave.
type Consent struct {
	Channel abi.Channel `json:"channel"`
	// Cap is the most bytes of content and names that may leave by it, before they are sealed; nil
	// where no policy set one.
	Cap *int64 `json:"cap,omitempty"`
}

// Decision is what one policy said at one point. A denial without a policy stands for the
// whole point: several policies denied, and the record does not tell who, or the border
// itself did, for want of a consented channel at admit or over a cap at egress.
type Decision struct {
	Point abi.Point `json:"point"`
	// Policy is an index into Policies; nil only for a denial.
	Policy *int   `json:"policy"`
	Allow  bool   `json:"allow"`
	Code   string `json:"code,omitempty"`
}

// Outcome is how a run ended.
type Outcome string

// The outcomes. Only Succeeded and Failed release anything.
const (
	Succeeded Outcome = "succeeded"
	// Failed: the application ended with another status than 0; consented logs may leave.
	Failed Outcome = "failed"
	Denied Outcome = "denied"
	// KeyRefused: a KMS did not give the data key of a sealed asset.
	KeyRefused Outcome = "key-refused"
	// Broken: the executor could not start the application or died.
	Broken Outcome = "executor-failed"
	// Refused: the outputs are not what the job declared.
	Refused   Outcome = "outputs-refused"
	TimedOut  Outcome = "timed-out"
	Cancelled Outcome = "cancelled"
)

// maxDecisions bounds the record: 3 points by the 64 policies that a job can have at most.
const maxDecisions = 3 * 64

// ErrFull says that the record cannot take another decision; what it was about must not happen.
var ErrFull = errors.New("record is full")

// Decide adds a decision.
func (r *Run) Decide(d Decision) error {
	if len(r.Decisions) >= maxDecisions {
		return ErrFull
	}
	r.Decisions = append(r.Decisions, d)
	return nil
}

// Statement makes the final bytes of the record, which Read takes. It fails if the record
// contradicts itself; nothing may be released then.
func (r *Run) Statement() ([]byte, error) {
	run := r.normal()
	s := Statement{Type: StatementType, PredicateType: PredicateType, Subject: run.subjects(), Predicate: run}
	if err := run.check(); err != nil {
		return nil, fmt.Errorf("receipt: %w", err)
	}
	out, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("receipt: %w", err)
	}
	if len(out) > MaxBytes {
		return nil, fmt.Errorf("receipt: %d bytes, more than %d", len(out), MaxBytes)
	}
	return out, nil
}

// normal is a copy in which empty lists are written as such.
func (r *Run) normal() Run {
	n := *r
	n.Executor.Walls = filled(r.Executor.Walls)
	n.Assets = filled(r.Assets)
	n.Keys = filled(r.Keys)
	n.Policies = filled(r.Policies)
	n.Consented = filled(r.Consented)
	n.Decisions = filled(r.Decisions)
	n.Released = filled(r.Released)
	return n
}

func filled[T any](list []T) []T { return append([]T{}, list...) }

// subjects are the job, then every artifact that was released.
func (r *Run) subjects() []Subject {
	subject := func(name, digest string) Subject {
		return Subject{Name: name, Digest: map[string]string{"sha256": strings.TrimPrefix(digest, "sha256:")}}
	}
	subjects := []Subject{subject("job", r.Job.Digest)}
	for _, a := range r.Released {
		subjects = append(subjects, subject(string(a.Channel), a.Digest))
	}
	return subjects
}

// Time spells a time as receipts and requests do.
func Time(t time.Time) string { return t.UTC().Truncate(time.Second).Format(time.RFC3339) }
