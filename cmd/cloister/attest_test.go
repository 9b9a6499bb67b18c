package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cloister-run/cloister/enclave/attest"
	"github.com/cloister-run/cloister/enclave/attest/devca"
)

// verifies runs `cloister attest verify` and gives its status and what it printed.
func verifies(t *testing.T, args ...string) (int, string, string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	status := run(context.Background(), append([]string{"attest", "verify"}, args...), &stdout, &stderr)
	return status, stdout.String(), stderr.String()
}

// vectors is the folder of genuine documents; the test is skipped only where shared is absent.
func vectors(t *testing.T) string {
	t.Helper()
	shared, err := filepath.Abs("../../../shared")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(shared); err != nil {
		t.Skip("SKIPPED: no folder `shared` beside the checkout; the genuine documents are not verified")
	}
	return filepath.Join(shared, "vectors", "attestation")
}

// TestAttestVerifyVectors: every genuine and every tampered document, as its manifest says.
func TestAttestVerifyVectors(t *testing.T) {
	folder := vectors(t)
	raw, err := os.ReadFile(filepath.Join(folder, "manifest.json"))
	if err != nil {
		t.Fatal(err)
	}
	var manifest struct {
		Documents []struct {
			File, Expect string
			AtMs         int64             `json:"at_ms"`
			PCRs         map[string]string `json:"pcrs"`
		}
	}
	if err := json.Unmarshal(raw, &manifest); err != nil || len(manifest.Documents) == 0 {
		t.Fatal("no vectors", err)
	}
	for _, v := range manifest.Documents {
		t.Run(v.File, func(t *testing.T) {
			file := filepath.Join(folder, v.File)
			at := time.UnixMilli(v.AtMs).UTC().Format(time.RFC3339Nano)
			status, out, text := verifies(t, file, "--at", at)
			if v.Expect == "success" {
				if status != 0 || !strings.Contains(out, "realm     aws") {
					t.Fatalf("status %d: %s%s", status, out, text)
				}
				given := []string{file, "--at", at, "--pcr0", v.PCRs["0"], "--pcr1", v.PCRs["1"], "--pcr2", v.PCRs["2"]}
				if status, out, text := verifies(t, given...); status != 0 || !strings.Contains(out, "matched   the PCRs") {
					t.Errorf("its own PCRs: status %d: %s%s", status, out, text)
				}
				given[4] = strings.Repeat("ab", 48)
				if status, _, text := verifies(t, given...); status != 4 || !strings.Contains(text, "error: pcr0: ") {
					t.Errorf("another PCR0: status %d: %s", status, text)
				}
				return
			}
			rule := ""
			if v.Expect == "debug-pcrs" {
				rule = "debug: "
			}
			if status != 4 || !strings.Contains(text, "cloister: error: "+rule) || out != "" {
				t.Errorf("status %d: %s%s", status, out, text)
			}
		})
	}
}

// TestAttestVerifyLocal: a development document is of no use where AWS's is asked for, and says
// what it is where it is asked for.
func TestAttestVerifyLocal(t *testing.T) {
	at := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	ca, err := devca.New(at)
	if err != nil {
		t.Fatal(err)
	}
	pcr := attest.PCR{}.Extend([]byte("image"))
	doc, err := ca.Sign(devca.Claims{ModuleID: "i-0123456789abcdef0-enc0123456789abcdef", Time: at,
		PCRs: attest.PCRSet{0: pcr, 1: pcr, 2: pcr}, Nonce: []byte("0123456789abcdef")})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file, root := filepath.Join(dir, "doc.cbor"), filepath.Join(dir, "root.pem")
	for path, data := range map[string][]byte{file: doc, root: ca.PEM(), filepath.Join(dir, "none"): nil} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	local := []string{file, "--at", "2026-11-25T12:00:01Z", "--realm", "local", "--root", root}
	for rule, row := range map[string]struct {
		status int
		args   []string
		says   string
	}{
		"asked for":               {0, local, "realm     local"},
		"json":                    {0, append([]string{"--json"}, local...), `"matched": false`},
		"nonce":                   {0, append([]string{"--nonce", "30313233343536373839616263646566"}, local...), "realm     local"},
		"another nonce":           {4, append([]string{"--nonce", "00"}, local...), "error: nonce: "},
		"AWS's root":              {4, local[:3], "error: root: "},
		"the realm not asked":     {4, append([]string{"--root", root}, local[:3]...), "error: realm: "},
		"expired":                 {4, append(append([]string{}, local...), "--at", "2026-11-26T12:00:00Z"), "error: time: "},
		"from the future":         {4, append(append([]string{}, local...), "--at", "2026-11-25T11:00:00Z"), "error: time: "},
		"json of a broken rule":   {4, append([]string{"--json"}, local[:3]...), `"rule": "root"`},
		"no document":             {2, []string{filepath.Join(dir, "absent")}, "no such file"},
		"an empty document":       {4, []string{filepath.Join(dir, "none")}, "error: size: "},
		"a folder":                {2, []string{dir}, "no regular file"},
		"no time":                 {2, []string{file, "--at", "noon"}, "is no time"},
		"a PCR that is too short": {2, []string{file, "--pcr0", "00"}, "96 hexadecimal digits"},
		"a PCR of zeros":          {2, []string{file, "--pcr0", strings.Repeat("0", 96)}, "--pcr"},
		"a root that is none":     {2, []string{file, "--root", file}, "one certificate in PEM"},
		"two documents":           {2, []string{file, file}, "2 documents"},
	} {
		t.Run(rule, func(t *testing.T) {
			status, out, text := verifies(t, row.args...)
			if status != row.status || !strings.Contains(out+text, row.says) {
				t.Errorf("status %d, want %d: %s%s", status, row.status, out, text)
			}
		})
	}
}
