package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/cloister-run/cloister/core/receipt"
	"github.com/cloister-run/cloister/enclave/attest"
	"github.com/cloister-run/cloister/policies/abi"
)

// line is printable text that stays on its line.
func line(s string) string { return strings.ReplaceAll(printable(s), "\n", "�") }

// printVerified prints a receipt of which every rule holds, and what was held against it.
func (a *app) printVerified(r receiptReport, outputs []heldOutput) {
	w := a.stdout
	say(w, "VERIFIED  as of %s, when %s attested it\n", r.Time, line(r.ModuleID))
	if r.Realm != attest.RealmAWS {
		say(w, "SIMULATED this proves nothing to anybody but the owner of the root that was named\n")
	}
	if r.Image {
		say(w, "image     it has the PCRs that were given\n")
	} else {
		say(w, "image     NOT CHECKED: PCR0, PCR1 and PCR2 were not all given, and any enclave can attest any receipt\n")
	}
	sayPCRs(w, r.PCRs)
	printRun(w, &r.Statement.Predicate)
	for _, o := range outputs {
		say(w, "compared  %s: %s is what was released\n", line(string(o.channel)), line(o.path))
	}
}

// printRun prints what a record says, one thing to a line. Every text in it is from outside.
func printRun(w io.Writer, r *receipt.Run) {
	row := func(label, format string, args ...any) {
		say(w, "%-9s %s\n", label, line(fmt.Sprintf(format, args...)))
	}
	row("job", "%s, %s, %s", r.Job.ID, r.Job.Name, r.Job.Digest)
	row("outcome", "%s", r.Outcome)
	row("time", "%s to %s", r.Started, r.Finished)
	row("realm", "%s", r.Enclave.Realm)
	if r.Enclave.Rehearsal {
		say(w, "REHEARSAL the image shows logs that no policy judged; it is for stand-ins\n")
	}
	row("enclave", "%s, version %s, job %d of its boot", r.Enclave.ModuleID, r.Enclave.Version, r.Enclave.Sequence)
	row("executor", "%s %s, %s, %s", r.Executor.Name, r.Executor.Version, r.Executor.Runtime, r.Executor.Digest)
	for _, wall := range r.Executor.Walls {
		row("wall", "%s", wall)
	}
	for _, a := range r.Assets {
		row("asset", "%s: %s", a.Name, describeAsset(a))
	}
	for _, k := range r.Keys {
		row("key", "%s: %s, request %s", k.Asset, k.Key, k.RequestID)
	}
	if len(r.Policies) == 0 {
		row("policies", "none: nothing was judged")
	}
	for i, p := range r.Policies {
		owner := "the operator's own"
		if p.Owner != "" {
			owner = "of " + p.Owner + " for " + p.Asset
		}
		row("policy", "%d %s: module %s, configuration %s", i, owner, p.Module, p.Config)
	}
	for _, c := range r.Consented {
		row("consented", "%s", describeConsent(c))
	}
	for _, d := range r.Decisions {
		row(string(d.Point), "%s", verdict(d, r.Policies))
	}
	for _, a := range r.Released {
		row("released", "%s: %s, %d bytes in %d files, %s", a.Channel, a.Kind, a.Bytes, a.Files, a.Digest)
		for _, r := range a.Recipients {
			row("sealed to", "%s", r)
		}
	}
	if len(r.Released) == 0 {
		row("released", "nothing")
	}
}

func describeConsent(c receipt.Consent) string {
	if c.Cap == nil {
		return string(c.Channel)
	}
	return fmt.Sprintf("%s, at most %d bytes", c.Channel, *c.Cap)
}

func describeAsset(a abi.Asset) string {
	owner, facts := "the operator's own", "claimed only"
	if a.Sealed {
		owner = "sealed by " + a.Owner
	}
	if a.Verified {
		facts = a.Digest
	}
	return fmt.Sprintf("%s, %s, %d bytes, %s, %s", a.Kind, a.Form, a.Bytes, owner, facts)
}

// verdict says how a decision went.
func verdict(d receipt.Decision, policies []abi.PolicyRef) string {
	if d.Policy == nil {
		return "denied: " + unnamed(d.Point, len(policies))
	}
	text := fmt.Sprintf("policy %d", *d.Policy)
	if asset := policies[*d.Policy].Asset; asset != "" {
		text += ", sealed with " + asset + ","
	}
	if d.Allow {
		text += " allowed"
	} else {
		text += " denied"
	}
	if d.Code != "" {
		text += " (" + d.Code + ")"
	}
	return text
}
