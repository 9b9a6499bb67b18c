// Package border decides what crosses the enclave's border and is the sole holder of what
// reads an artifact.
//
// A [Border] belongs to one job. It asks every policy at admit, ingress and egress, in that
// order and once each, records each decision before it counts, and hands out a [Clearance]
// only if every policy allowed exactly the bytes that the Clearance can release. Policies that
// redact do so before egress, and are then asked about what is left like everybody. Errors deny.
// It trusts no policy's answer, no file of the application's and no executor.
package border

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"

	"github.com/cloister-run/cloister/core/receipt"
	"github.com/cloister-run/cloister/policies/abi"
)

// ErrDenied is the cause of every denial; see [Denial].
var ErrDenied = errors.New("denied")

// ErrOrder says that a point was asked out of turn, twice, or after one that was not passed.
var ErrOrder = errors.New("the border is not at this point")

// Judge is a loaded policy. Any error or panic is a denial. Decide ends soon after its context,
// and uses no file once it has returned.
type Judge interface {
	Decide(ctx context.Context, request abi.Request, files abi.Files) (abi.Decision, error)
}

// Party is one policy of a job.
type Party struct {
	Ref    abi.PolicyRef
	Config json.RawMessage
	// Manifest says what the policy may answer; codes beyond [abi.MaxCodes] are not declared.
	Manifest abi.Manifest
	Judge    Judge
}

// own reports whether the policy is the operator's.
func (p Party) own() bool { return p.Ref.Owner == "" }

// Recorder takes a decision before it counts. If it cannot, the decision is a denial.
type Recorder interface {
	Decide(receipt.Decision) error
}

// Denial is what the operator may know of a denied job.
type Denial struct {
	Point abi.Point `json:"point"`
	// Code and its Hint are set only if exactly one policy denied and gave a code. At admit a
	// Hint without a code is the border's own.
	Code string `json:"code,omitempty"`
	Hint string `json:"hint,omitempty"`
	// Policy is the index of that policy; nil where several denied, or the border itself.
	Policy *int `json:"policy,omitempty"`
	// Detail says why the operator's own policy gave no valid answer. Owners' policies have none.
	Detail string `json:"detail,omitempty"`
}

func (d *Denial) Error() string {
	if d.Code != "" {
		return fmt.Sprintf("denied at %s: %s", d.Point, d.Code)
	}
	return fmt.Sprintf("denied at %s", d.Point)
}

// Unwrap makes every Denial an ErrDenied.
func (d *Denial) Unwrap() error { return ErrDenied }

// Border decides for one job. It is not safe for concurrent use.
type Border struct {
	parties  []Party
	recorder Recorder
	// sealTo maps a channel to the age recipients of its artifact, as jobspec.Canonical has them.
	sealTo map[abi.Channel][]string
	// consent maps each consented channel to the most bytes that it may carry, -1 for no cap.
	consent map[abi.Channel]int64
	// next is the one point that may be asked now; empty when there is none any more.
	next abi.Point
}

// New makes the border of one job. Policies are asked in the order of [abi.CompareRefs];
// [Border.Policies] gives it. sealTo maps channels to the age recipients to whom what leaves by them is
// sealed; what leaves by others is plain.
func New(parties []Party, recorder Recorder, sealTo map[abi.Channel][]string) *Border {
	ordered := slices.Clone(parties)
	for i := range ordered {
		m := &ordered[i].Manifest
		m.Codes = m.Codes[:min(len(m.Codes), abi.MaxCodes)]
	}
	slices.SortStableFunc(ordered, func(a, b Party) int { return abi.CompareRefs(a.Ref, b.Ref) })
	return &Border{parties: ordered, recorder: recorder, sealTo: sealTo, next: abi.Admit}
}

// ranks yields the parties as they are asked together: the owners', then the operator's own.
func (b *Border) ranks() iter.Seq2[int, int] {
	owners := len(b.parties)
	for owners > 0 && b.parties[owners-1].own() {
		owners--
	}
	return func(yield func(start, end int) bool) {
		if owners == 0 || yield(0, owners) {
			yield(owners, len(b.parties))
		}
	}
}

// Policies names the parties in the order in which they are asked.
func (b *Border) Policies() []abi.PolicyRef {
	refs := make([]abi.PolicyRef, len(b.parties))
	for i, p := range b.parties {
		refs[i] = p.Ref
	}
	return refs
}

// Consented lists the channels that every policy agreed to, sorted.
func (b *Border) Consented() []abi.Channel { return slices.Sorted(maps.Keys(b.consent)) }

// Consent is Consented with the lowest cap on each.
func (b *Border) Consent() []receipt.Consent {
	channels := b.Consented()
	consent := make([]receipt.Consent, len(channels))
	for i, ch := range channels {
		consent[i].Channel = ch
		if limit := b.consent[ch]; limit >= 0 {
			consent[i].Cap = &limit
		}
	}
	return consent
}

// enter begins a point, which can be passed only once. Only a point that was passed opens
// the following one.
func (b *Border) enter(point abi.Point) error {
	if b.next != point {
		return fmt.Errorf("border: %s: %w", point, ErrOrder)
	}
	b.next = ""
	return nil
}

// Admit asks every policy about the job and agrees the channels: those that all consent to.
// A job that asks for channels and is granted none is denied, as nothing could come of it.
func (b *Border) Admit(ctx context.Context, request abi.Request) error {
	if err := b.enter(abi.Admit); err != nil {
		return err
	}
	request.Point = abi.Admit
	answers, err := b.ask(ctx, request, nobodysFiles)
	if err != nil {
		return err
	}
	consent := map[abi.Channel]int64{}
	for _, ch := range request.Channels {
		consent[ch] = -1
	}
	for _, a := range answers {
		for ch, limit := range consent {
			if !grants(a, ch, b.sealTo[ch]) {
				delete(consent, ch)
			} else if own, ok := a.Caps[ch]; ok && (limit < 0 || own < limit) {
				consent[ch] = own
			}
		}
	}
	if len(consent) == 0 && len(request.Channels) > 0 {
		return b.deny(Denial{Point: abi.Admit, Hint: "no channel that the job asks for has the consent of all policies"})
	}
	b.consent, b.next = consent, abi.Ingress
	return nil
}

// grants reports whether an admission consents to a channel that is sealed to recipients. A policy
// that restricts them consents to an output only if it is sealed, and to nobody else.
func grants(a abi.Decision, ch abi.Channel, recipients []string) bool {
	if !slices.Contains(a.Channels, ch) {
		return false
	}
	if _, isOutput := ch.OutputName(); !isOutput || a.Recipients == nil {
		return true
	}
	stranger := func(r string) bool { return !slices.Contains(a.Recipients, r) }
	return len(recipients) > 0 && !slices.ContainsFunc(recipients, stranger)
}

// Ingress asks every policy again, on verified facts.
func (b *Border) Ingress(ctx context.Context, request abi.Request) error {
	if err := b.enter(abi.Ingress); err != nil {
		return err
	}
	request.Point, request.Channels = abi.Ingress, b.Consented()
	if _, err := b.ask(ctx, request, nobodysFiles); err != nil {
		return err
	}
	b.next = abi.Egress
	return nil
}
