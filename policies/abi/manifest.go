package abi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Bounds of a manifest.
const (
	// MaxManifestBytes bounds a manifest's JSON.
	MaxManifestBytes = 64 << 10
	// MaxConfigBytes bounds the JSON of a configuration.
	MaxConfigBytes = 64 << 10
	maxNameBytes   = 63
	maxCodeBytes   = 32
	maxHintBytes   = 200
	maxRedacts     = 64
	maxEntrypoint  = 200
)

// DecodeManifest decodes the content of the custom section [SectionName], strictly (see
// [DecodeExact]), and validates it. It returns the zero Manifest with every error.
func DecodeManifest(data []byte) (Manifest, error) {
	// The version is read first: what follows may be unknown to this package.
	var version struct {
		ABI int `json:"abi"`
	}
	if len(data) <= MaxManifestBytes && json.Unmarshal(data, &version) == nil && version.ABI > Version {
		return Manifest{}, fmt.Errorf("abi: manifest.abi: written for version %d; version %d is the newest known here", version.ABI, Version)
	}
	var m Manifest
	if err := DecodeExact(data, MaxManifestBytes, &m); err != nil {
		return Manifest{}, fmt.Errorf("abi: manifest: %w", err)
	}
	if err := m.Validate(); err != nil {
		return Manifest{}, err
	}
	return m, nil
}

// Validate reports every problem of m at once. Whether ConfigSchema is a JSON Schema is not
// seen here but where a policy is loaded: this package has the standard library only.
func (m Manifest) Validate() error {
	var problems []error
	report := func(format string, args ...any) {
		problems = append(problems, fmt.Errorf("abi: manifest."+format, args...))
	}
	if m.ABI < 1 || m.ABI > Version {
		report("abi: %d is not a version known here (1 to %d)", m.ABI, Version)
	}
	if !kebab(m.Name, maxNameBytes) {
		report("name: %.80q is not lower-case kebab of at most %d bytes", m.Name, maxNameBytes)
	}
	if len(m.Codes) > MaxCodes {
		report("codes: %d of them, at most %d may be declared", len(m.Codes), MaxCodes)
	}
	seen := map[string]bool{}
	for i, code := range m.Codes {
		switch {
		case !kebab(code.Code, maxCodeBytes):
			report("codes[%d].code: %.80q is not lower-case kebab of at most %d bytes", i, code.Code, maxCodeBytes)
		case code.Code == "denied" || code.Code == "allowed":
			report("codes[%d].code: %q is taken", i, code.Code)
		case seen[code.Code]:
			report("codes[%d].code: %q is declared twice", i, code.Code)
		}
		seen[code.Code] = true
		if code.Hint == "" || len(code.Hint) > maxHintBytes || !printable(code.Hint) {
			report("codes[%d].hint: not one line of 1 to %d bytes of printable text", i, maxHintBytes)
		}
	}
	if len(m.Redacts) > maxRedacts {
		report("redacts: %d channels, at most %d may be declared", len(m.Redacts), maxRedacts)
		return errors.Join(problems...)
	}
	for i, channel := range m.Redacts {
		if !channel.redactable() || !printable(string(channel)) || slices.Contains(m.Redacts[:i], channel) {
			report("redacts[%d]: %.80q is no channel that can be redacted (outputs.NAME, outputs.*, logs.stdout, logs.stderr), or named twice", i, channel)
		}
	}
	if schema := bytes.TrimSpace(m.ConfigSchema); len(schema) > 0 && schema[0] != '{' {
		report("config_schema: not a JSON object")
	}
	if m.Rego != nil && (len(m.Rego.Entrypoint) > maxEntrypoint || !printable(m.Rego.Entrypoint)) {
		report("rego.entrypoint: not at most %d bytes of printable text", maxEntrypoint)
	}
	return errors.Join(problems...)
}

// declares reports whether code is one of the manifest's.
func (m Manifest) declares(code string) bool {
	for _, known := range m.Codes {
		if known.Code == code {
			return true
		}
	}
	return false
}

// kebab reports whether s is a word or several, of lower-case ASCII letters and digits,
// joined by single hyphens and starting with a letter.
func kebab(s string, limit int) bool {
	if s == "" || len(s) > limit || s[0] < 'a' || s[0] > 'z' {
		return false
	}
	for word := range strings.SplitSeq(s, "-") {
		if word == "" || strings.ContainsFunc(word, func(r rune) bool {
			return (r < 'a' || r > 'z') && (r < '0' || r > '9')
		}) {
			return false
		}
	}
	return true
}
