package receipt

import (
	"errors"
	"fmt"
	"regexp"
	"slices"

	"github.com/cloister-run/cloister/policies/abi"
)

var digest = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// check reports the first way in which a record contradicts itself.
func (r *Run) check() error {
	if !digest.MatchString(r.Job.Digest) {
		return fmt.Errorf("job.digest: %.80q is no SHA-256 digest", r.Job.Digest)
	}
	if len(r.Decisions) > maxDecisions {
		return fmt.Errorf("decisions: %w", ErrFull)
	}
	for i, d := range r.Decisions {
		if err := d.check(len(r.Policies)); err != nil {
			return fmt.Errorf("decisions[%d]: %w", i, err)
		}
	}
	for i, c := range r.Consented {
		if r.Consent(c.Channel) != &r.Consented[i] {
			return fmt.Errorf("consented[%d]: %.80q comes twice", i, c.Channel)
		}
	}
	if err := r.checkSealed(); err != nil {
		return err
	}
	if !slices.Contains([]Outcome{Succeeded, Failed, Denied, KeyRefused, Broken, Refused, TimedOut, Cancelled}, r.Outcome) {
		return fmt.Errorf("outcome: %.40q is unknown", r.Outcome)
	}
	return r.checkReleased()
}

func (d Decision) check(policies int) error {
	switch {
	case d.Point != abi.Admit && d.Point != abi.Ingress && d.Point != abi.Egress:
		return fmt.Errorf("point: %.40q is unknown", d.Point)
	case d.Policy == nil && d.Allow:
		return errors.New("policy: nobody allowed")
	case d.Policy != nil && (*d.Policy < 0 || *d.Policy >= policies):
		return fmt.Errorf("policy: there is no %d among %d policies", *d.Policy, policies)
	case d.Code != "" && (d.Allow || d.Policy == nil):
		return errors.New("code: given without a denial by one policy")
	}
	return nil
}

// checkReleased holds what was released against the outcome, the consent and the decisions.
func (r *Run) checkReleased() error {
	if len(r.Released) == 0 {
		return nil
	}
	if r.Outcome != Succeeded && r.Outcome != Failed {
		return fmt.Errorf("released: nothing leaves a run that is %s", r.Outcome)
	}
	seen := map[abi.Channel]bool{}
	for i, a := range r.Released {
		_, output := a.Channel.OutputName()
		consent := r.Consent(a.Channel)
		switch {
		case !digest.MatchString(a.Digest):
			return fmt.Errorf("released[%d].digest: %.80q is no SHA-256 digest", i, a.Digest)
		case consent == nil:
			return fmt.Errorf("released[%d]: %.80q was not consented to", i, a.Channel)
		case a.Recipients == nil && consent.Cap != nil && a.Bytes > *consent.Cap:
			return fmt.Errorf("released[%d]: %d bytes by %.80q, over its cap of %d", i, a.Bytes, a.Channel, *consent.Cap)
		case a.Recipients != nil && (!output || a.Kind != "file"):
			return fmt.Errorf("released[%d]: %.80q is sealed and no output that is a file", i, a.Channel)
		case seen[a.Channel]:
			return fmt.Errorf("released[%d]: %.80q comes twice", i, a.Channel)
		case output && r.Outcome == Failed:
			return fmt.Errorf("released[%d]: %.80q is an output of a run that failed", i, a.Channel)
		}
		seen[a.Channel] = true
	}
	for _, point := range []abi.Point{abi.Admit, abi.Ingress, abi.Egress} {
		if err := r.checkAllowed(point); err != nil {
			return fmt.Errorf("released: %w", err)
		}
	}
	return r.checkUnsealed()
}

// Consent finds the consent to a channel; nil where there is none.
func (r *Run) Consent(ch abi.Channel) *Consent {
	i := slices.IndexFunc(r.Consented, func(c Consent) bool { return c.Channel == ch })
	if i < 0 {
		return nil
	}
	return &r.Consented[i]
}

// checkAllowed makes sure that every policy allowed at a point, and none denied.
func (r *Run) checkAllowed(point abi.Point) error {
	allowed := map[int]bool{}
	for _, d := range r.Decisions {
		if d.Point == point && !d.Allow {
			return fmt.Errorf("in spite of a denial at %s", point)
		}
		if d.Point == point {
			allowed[*d.Policy] = true
		}
	}
	if len(allowed) != len(r.Policies) {
		return fmt.Errorf("%d of %d policies allowed at %s", len(allowed), len(r.Policies), point)
	}
	return nil
}
