package jobspec

import (
	"errors"
	"fmt"
	"strings"

	"filippo.io/age"
)

// The native recipients of age: X25519 (C2SP age, "The X25519 recipient type"), and the hybrid of
// ML-KEM-768 and X25519, which a quantum computer does not open.
const (
	classicPrefix = "age1"
	hybridPrefix  = "age1pq1"
)

// ParseRecipients reads what a job seals an output to, for [age.Encrypt]. All are of one kind: what is
// sealed to a recipient of each would be as weak as the weaker.
func ParseRecipients(texts []string) ([]age.Recipient, error) {
	recipients := make([]age.Recipient, len(texts))
	for i, text := range texts {
		r, err := parseRecipient(text)
		if err != nil {
			return nil, err
		}
		if isHybrid(text) != isHybrid(texts[0]) {
			return nil, errors.New("some are post-quantum (age1pq1…) and some are not, which age does not mix")
		}
		recipients[i] = r
	}
	return recipients, nil
}

func isHybrid(text string) bool { return strings.HasPrefix(text, hybridPrefix) }

// parseRecipient reads a recipient. It has one spelling, for age takes lower case alone: policies
// compare text.
func parseRecipient(text string) (r age.Recipient, err error) {
	if isHybrid(text) {
		r, err = age.ParseHybridRecipient(text)
	} else {
		r, err = age.ParseX25519Recipient(text)
	}
	if err != nil {
		return nil, fmt.Errorf("%s is no recipient", quote(text))
	}
	return r, nil
}

// sealTo checks whom outputs are sealed to.
func (r *rules) sealTo() {
	outputs := map[string]bool{}
	for _, name := range r.job.Outputs {
		outputs[name] = true
	}
	for _, name := range sorted(r.job.SealTo) {
		p := path("outputs").key(name).field("seal_to")
		recipients := r.job.SealTo[name]
		switch {
		case !outputs[name]:
			r.report(p, "there is no such output", "")
		case len(recipients) == 0:
			r.report(p, "names nobody", "name a recipient, age1…, or remove it")
		case len(recipients) > maxRecipients:
			r.report(p, fmt.Sprintf("holds %d entries; at most %d are allowed", len(recipients), maxRecipients), "remove some")
		default:
			r.recipients(p, recipients)
		}
	}
}

func (r *rules) recipients(p path, recipients []string) {
	seen := map[string]bool{}
	valid := true
	for i, text := range recipients {
		if _, err := parseRecipient(text); err != nil {
			valid = false
			hint := "age-keygen prints one: " + classicPrefix + "…, or with -pq " + hybridPrefix + "…"
			if strings.HasPrefix(text, "AGE-SECRET-KEY-") {
				hint = "this is the secret key itself: keep it to yourself; age-keygen -y prints its recipient"
				err = errors.New("is no recipient")
			}
			r.report(p.index(i), err.Error(), hint)
		}
		if seen[text] {
			r.report(p.index(i), "stands there twice", "")
		}
		seen[text] = true
	}
	if !valid {
		return
	}
	if _, err := ParseRecipients(recipients); err != nil {
		r.report(p, err.Error(), "have every recipient of an output be of one kind")
	}
}
