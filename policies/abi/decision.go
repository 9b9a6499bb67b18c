package abi

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"unicode"
	"unicode/utf8"
)

// Bounds of a decision.
const (
	// MaxDecisionBytes bounds a decision's JSON.
	MaxDecisionBytes = 64 << 10
	// MaxRecipients bounds a decision's recipients, maxRecipientBytes each of them.
	MaxRecipients     = 64
	maxRecipientBytes = 2048
)

// DecodeDecision decodes what a policy wrote on standard output, strictly (see
// [DecodeExact]); "allow" must be there. It returns the zero Decision with every error.
func DecodeDecision(data []byte) (Decision, error) {
	// The same fields, of which "allow" also tells whether it was there.
	var stated struct {
		Allow      *bool             `json:"allow"`
		Code       string            `json:"code"`
		Channels   []Channel         `json:"channels"`
		Caps       map[Channel]int64 `json:"caps"`
		Recipients []string          `json:"recipients"`
		Redacted   []Channel         `json:"redacted"`
	}
	if err := DecodeExact(data, MaxDecisionBytes, &stated); err != nil {
		return Decision{}, fmt.Errorf("abi: decision: %w", err)
	}
	if stated.Allow == nil {
		return Decision{}, errors.New(`abi: decision.allow: neither true nor false`)
	}
	return Decision{
		Allow: *stated.Allow, Code: stated.Code, Channels: stated.Channels,
		Caps: stated.Caps, Recipients: stated.Recipients, Redacted: stated.Redacted,
	}, nil
}

// Check reports every way in which d is no answer to req by a policy with manifest m. A
// decision that fails it counts as a denial, whatever it says.
func (d Decision) Check(req Request, m Manifest) error {
	var problems []error
	report := func(format string, args ...any) {
		problems = append(problems, fmt.Errorf("abi: decision."+format, args...))
	}
	if d.Allow && d.Code != "" {
		report("code: given with allow")
	}
	if !d.Allow && d.Code != "" && !m.declares(d.Code) {
		report("code: %.40q is not declared by the policy's manifest", d.Code)
	}
	if len(d.Redacted) > 0 {
		d.checkRedacted(req, m, report)
	}
	if !d.Allow || req.Point != Admit {
		if len(d.Channels) > 0 {
			report("channels: given outside of an admission")
		}
		if len(d.Caps) > 0 {
			report("caps: given outside of an admission")
		}
		if d.Recipients != nil {
			report("recipients: given outside of an admission")
		}
		return errors.Join(problems...)
	}
	d.checkConsent(req, report)
	return errors.Join(problems...)
}

// checkRedacted checks which artifacts an answer replaces.
func (d Decision) checkRedacted(req Request, m Manifest, report func(format string, args ...any)) {
	if !d.Allow || req.Point != Redact {
		report("redacted: given outside of a redaction that allows")
		return
	}
	for i, channel := range d.Redacted {
		if !m.RedactsChannel(channel) {
			report("redacted[%d]: the policy's manifest does not declare %.80q", i, channel)
		} else if !slices.ContainsFunc(req.Artifacts, func(a Artifact) bool { return a.Channel == channel }) {
			report("redacted[%d]: %.80q has no artifact", i, channel)
		}
		if slices.Contains(d.Redacted[:i], channel) {
			report("redacted[%d]: %.80q is named twice", i, channel)
		}
	}
}

// checkConsent checks what an admission says beside "allow".
func (d Decision) checkConsent(req Request, report func(format string, args ...any)) {
	for i, channel := range d.Channels {
		if !slices.Contains(req.Channels, channel) {
			report("channels[%d]: %.80q is not among the request's", i, channel)
		}
		if slices.Contains(d.Channels[:i], channel) {
			report("channels[%d]: %.80q is named twice", i, channel)
		}
	}
	for _, channel := range slices.Sorted(maps.Keys(d.Caps)) {
		if !slices.Contains(d.Channels, channel) {
			report("caps[%.80q]: the channel is not consented to", channel)
		}
		if d.Caps[channel] < 0 {
			report("caps[%.80q]: %d is negative", channel, d.Caps[channel])
		}
	}
	if len(d.Recipients) > MaxRecipients {
		report("recipients: more than %d", MaxRecipients)
		return
	}
	for i, recipient := range d.Recipients {
		if recipient == "" || len(recipient) > maxRecipientBytes || !printable(recipient) {
			report("recipients[%d]: not 1 to %d bytes of printable text", i, maxRecipientBytes)
		}
		if slices.Contains(d.Recipients[:i], recipient) {
			report("recipients[%d]: named twice", i)
		}
	}
}

// printable reports whether s is one line of valid text without control characters or
// characters that reorder a terminal's line.
func printable(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if !unicode.IsPrint(r) { // knows no control or format characters, and U+0020 as the only space
			return false
		}
	}
	return true
}
