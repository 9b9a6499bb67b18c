package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var printed = []string{"key-policy", "print", "--account", "111122223333", "--user", "444455556666",
	"--pcr0", strings.Repeat("a0", 48), "--pcr1", strings.Repeat("A1", 48), "--pcr2", strings.Repeat("a2", 48)}

// TestKeyPolicyPrintThenLint: what is printed has no door open, as it stands and with each option.
func TestKeyPolicyPrintThenLint(t *testing.T) {
	file := filepath.Join(t.TempDir(), "policy.json")
	for name, row := range map[string]struct {
		print, lint []string
		says        string
		status      int
	}{
		"plain":      {nil, nil, `"kms:RecipientAttestation:PCR16": "true"`, 0},
		"account":    {nil, []string{"--account", "111122223333"}, "arn:aws:iam::444455556666:root", 0},
		"a stranger": {nil, []string{"--account", "444455556666"}, "Sealing", 4},
		"shared":     {[]string{"--shared"}, []string{"--shared"}, "ReleaseToTheEnclave", 0},
		"only one":   {[]string{"--shared"}, nil, "ReleaseToTheEnclave", 4},
		"dev":        {[]string{"--partition", "cloister-dev"}, nil, "arn:cloister-dev:iam::111122223333:root", 0},
		"more": {[]string{"--user", "arn:aws:iam::777788889999:role/parent", "--sealer", "arn:aws:iam::111122223333:role/ci",
			"--admin", "arn:aws:iam::111122223333:user/me", "--pcr3", strings.Repeat("a3", 48), "--pcr8", strings.Repeat("a8", 48)}, nil, "PCR8", 0},
	} {
		status, out, text := cloister(t, append(append([]string{}, printed...), row.print...)...)
		if status != 0 || text != "" || !strings.Contains(out, row.says) || !json.Valid([]byte(out)) {
			t.Fatalf("%s: status %d: %s%s", name, status, out, text)
		}
		if err := os.WriteFile(file, []byte(out), 0o600); err != nil {
			t.Fatal(err)
		}
		status, out, text = cloister(t, append([]string{"key-policy", "lint", file}, row.lint...)...)
		if status != row.status || status == 0 && out != "closed    every door that a key policy can close\n" {
			t.Errorf("%s: lint: status %d: %s%s", name, status, out, text)
		}
	}
}

func TestKeyPolicyPrintRefuses(t *testing.T) {
	for says, args := range map[string][]string{
		"account: \"x\" is not 12 digits":  {"--account", "x"},
		"PCR0: 2 characters":               {"--pcr0", "00"},
		"PCR1: a PCR of zeros":             {"--pcr1", strings.Repeat("0", 96)},
		"user: \"*\" is neither":           {"--user", "*"},
		"partition: \"moon\" is not known": {"--partition", "moon"},
		"takes no arguments":               {"more"},
	} {
		status, out, text := cloister(t, append(append([]string{}, printed...), args...)...)
		if status != 2 || out != "" || !strings.Contains(text, says) || !strings.Contains(text, "cloister: hint: ") {
			t.Errorf("%v: status %d: %s%s", args, status, out, text)
		}
	}
}

// TestKeyPolicyLint: each open door is one line with its cure, and status 4.
func TestKeyPolicyLint(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"default.json": `{"Statement":{"Sid":"evil \u001b[31m\ncloister: hint: x","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::111122223333:root"},"Action":"kms:*","Resource":"*"}}`,
		"none.json":    `{"Policy":"{}"}`,
		"large.json":   strings.Repeat(" ", 33<<10),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	status, out, text := cloister(t, "key-policy", "lint", filepath.Join(dir, "default.json"))
	if status != 4 || strings.Count(out, "\nopen      ") != 4 || !strings.HasPrefix(out, "open      decrypt-unattested: ") || strings.Count(out, "; cure: ") != 5 {
		t.Errorf("status %d: %s%s", status, out, text)
	}
	if !strings.Contains(text, "default.json: 5 doors are open\n") || strings.Contains(out, "\x1b") || strings.Contains(out, "\ncloister: hint: x") {
		t.Errorf("%q %q", out, text)
	}
	status, out, _ = cloister(t, "--json", "key-policy", "lint", filepath.Join(dir, "default.json"))
	var report lintReport
	if err := json.Unmarshal([]byte(out), &report); err != nil || status != 4 || report.Status != 4 || len(report.Findings) != 5 {
		t.Errorf("status %d, %v: %s", status, err, out)
	}
	for name, says := range map[string]string{"none.json": "no key policy: ", "large.json": "is over 32768 bytes", "absent": "no such file", ".": "is no regular file"} {
		status, out, text := cloister(t, "key-policy", "lint", filepath.Join(dir, name))
		if status != 2 || out != "" || !strings.Contains(text, says) {
			t.Errorf("%s: status %d: %s%s", name, status, out, text)
		}
	}
}
