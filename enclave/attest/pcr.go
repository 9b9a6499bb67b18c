package attest

import (
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// MaxPCRs is the number of PCRs of a Nitro Security Module ("Nitro Enclaves attestation process", 2.2).
const MaxPCRs = 32

// PCR is the value of one platform configuration register. Where the digest is SHA384, which is
// all that AWS allows, that is 48 bytes.
type PCR [sha512.Size384]byte

// ParsePCR reads 96 hexadecimal digits. The zero value is an error: nothing may expect it.
func ParsePCR(text string) (PCR, error) {
	var p PCR
	if len(text) != 2*len(p) {
		return PCR{}, fmt.Errorf("%d characters, a PCR has %d hexadecimal digits", len(text), 2*len(p))
	}
	if _, err := hex.Decode(p[:], []byte(text)); err != nil {
		return PCR{}, errors.New("a PCR is written in hexadecimal digits")
	}
	if p.IsZero() {
		return PCR{}, errors.New("a PCR of zeros says nothing: enclaves in debug mode have it")
	}
	return p, nil
}

// IsZero reports whether nothing was ever measured into the register.
func (p PCR) IsZero() bool { return p == PCR{} }

// Extend is the value after extending by data: SHA-384(p ‖ data), as the NSM computes it.
func (p PCR) Extend(data []byte) PCR {
	h := sha512.New384()
	h.Write(p[:])
	h.Write(data)
	return PCR(h.Sum(nil))
}

// String is lower-case hexadecimal.
func (p PCR) String() string { return hex.EncodeToString(p[:]) }

// MarshalText is String.
func (p PCR) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// PCRSet maps indices to values: those that a document holds, or those that are expected of one.
type PCRSet map[int]PCR

// ParsePCRSet reads expected values by their index in decimal: "0", "1", … It reports every
// problem. A set without entries, and a value of zeros, are problems.
func ParsePCRSet(text map[string]string) (PCRSet, error) {
	var problems []error
	set := PCRSet{}
	for name, value := range text {
		i, err := strconv.Atoi(name)
		if err != nil || i < 0 || i >= MaxPCRs || strconv.Itoa(i) != name {
			problems = append(problems, fmt.Errorf("%.20q is no index of a PCR, 0 to %d", name, MaxPCRs-1))
			continue
		}
		p, err := ParsePCR(value)
		if err != nil {
			problems = append(problems, fmt.Errorf("PCR%d: %w", i, err))
			continue
		}
		set[i] = p
	}
	if len(text) == 0 {
		problems = append(problems, errors.New("no PCR given"))
	}
	if len(problems) > 0 {
		slices.SortFunc(problems, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
		return nil, fmt.Errorf("attest: %w", errors.Join(problems...))
	}
	return set, nil
}

// Hex is the set as policies and key policies spell it: decimal index, lower-case hexadecimal.
func (s PCRSet) Hex() map[string]string {
	text := make(map[string]string, len(s))
	for i, p := range s {
		text[strconv.Itoa(i)] = p.String()
	}
	return text
}

// Match reports whether a verified document has what is expected. PCR0, PCR1 and PCR2 must be
// among it. What is empty, missing or zero, on either side, never matches: CVE-2025-64186 was a verifier in
// which it did. The error is a [Violation].
func (s PCRSet) Match(doc *Document) error {
	for i := range 3 {
		if _, ok := s[i]; !ok && len(s) > 0 {
			return breaks(RulePCR(i), "no value is expected; PCR0, PCR1 and PCR2 must all be matched")
		}
	}
	return s.matchGiven(doc)
}

// matchGiven is Match for a set that may leave out PCR0, PCR1 or PCR2.
func (s PCRSet) matchGiven(doc *Document) error {
	if len(s) == 0 {
		return breaks(RuleWantPCRs, "no value is expected of any PCR")
	}
	if doc == nil {
		return breaks(RuleWantPCRs, "there is no document")
	}
	for i := range MaxPCRs {
		want, expected := s[i]
		if !expected {
			continue
		}
		got, ok := doc.PCRs[i]
		switch {
		case !ok:
			return breaks(RulePCR(i), "the document has no PCR%d; %s is expected", i, want)
		case want.IsZero() || got.IsZero():
			return breaks(RulePCR(i), "zeros never match")
		case got != want:
			return breaks(RulePCR(i), "the document has %s; %s is expected", got, want)
		}
	}
	for i := range s {
		if i < 0 || i >= MaxPCRs {
			return breaks(RuleWantPCRs, "there is no PCR%d", i)
		}
	}
	return nil
}
