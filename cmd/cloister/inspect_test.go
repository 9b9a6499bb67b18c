package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/cloister-run/cloister/core/tree"
	"github.com/cloister-run/cloister/enclave/envelope"
	"github.com/cloister-run/cloister/jobspec"
	"github.com/cloister-run/cloister/policies/abi"
)

// sealed is a folder with a sealed application in it, made by the command.
func sealed(t *testing.T) *vendor {
	t.Helper()
	v := newVendor(t)
	if status, _, text := cloister(t, "seal", v.path("bundle.yaml"), "-o", v.path("app.sealed")); status != 0 {
		t.Fatal(text)
	}
	t.Setenv("AWS_ENDPOINT_URL_KMS", "nonsense") // no KMS is needed from here on
	return v
}

func TestInspect(t *testing.T) {
	v := sealed(t)
	status, out, text := cloister(t, "inspect", v.path("app.sealed"), "--module", v.path("out.wasm"))
	if status != 0 || text != "" {
		t.Fatalf("status %d: %s", status, text)
	}
	b, _ := v.open(t, "app.sealed")
	for _, want := range []string{
		"CLAIMED   by the file", "asset     application digits-app, 3 MiB in 5 files and folders", "bundle    " + b.Header.ID + ", format 1",
		"key       " + sealKey, "context   cloister:kind = application", "context   cloister:policy = " + b.Header.Policy.Digest,
		`runs      "main.py" with python`, `argument  "${inputs.scans}"`, `argument  "two\nlines"`, `output    result, at "result.csv"`,
		`parameter threshold, "0.5" by default, matches "0?\.[0-9]+"`, "policy    " + b.Header.Policy.Digest, "module    probe, ",
		"config    null", "limits    memory as the enclave has it, decision as the enclave has it", "denies    no: the probe says no",
		"front     " + b.FrontDigest(), "payload   ",
	} {
		if !strings.Contains(out, "\n"+want) && !strings.HasPrefix(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if strings.Contains(out, "WRONG") {
		t.Error(out)
	}
	wrote, err := os.ReadFile(v.path("out.wasm"))
	if want, _ := os.ReadFile(v.path("probe.wasm")); err != nil || !bytes.Equal(wrote, want) {
		t.Errorf("the module is %d bytes, %v", len(wrote), err)
	}
	status, out, _ = cloister(t, "inspect", "--json", v.path("app.sealed"))
	var report inspectReport
	if err := json.Unmarshal([]byte(out), &report); err != nil || status != 0 || report.Verified || report.Front != b.FrontDigest() ||
		report.Header.ID != b.Header.ID || report.Module.Name != "probe" || !strings.Contains(out, `"verified": false`) {
		t.Errorf("%d, %v: %s", status, err, out)
	}
	for _, to := range []string{"app.sealed", "tmp"} {
		if status, _, text := cloister(t, "inspect", v.path("app.sealed"), "--module", v.path(to)); status != 2 || !strings.Contains(text, "--module") {
			t.Errorf("--module %s: %d, %s", to, status, text)
		}
	}
}

// TestInspectReadsTheFrontAlone: a payload that would take hours to read is no matter.
func TestInspectReadsTheFrontAlone(t *testing.T) {
	v := sealed(t)
	if err := os.Truncate(v.path("app.sealed"), 1<<40); err != nil {
		t.Skip("SKIPPED: no sparse file of 1 TiB: ", err)
	}
	if status, out, text := cloister(t, "inspect", v.path("app.sealed")); status != 0 || !strings.Contains(out, "payload   109951") {
		t.Errorf("status %d: %s%s", status, out, text)
	}
}

// TestInspectRefuses: what is no bundle, or none that anybody can open.
func TestInspectRefuses(t *testing.T) {
	v := sealed(t)
	whole, err := os.ReadFile(v.path("app.sealed"))
	if err != nil {
		t.Fatal(err)
	}
	b, _ := v.open(t, "app.sealed")
	front := len(b.Front())
	edited := func(at int, c byte) []byte {
		data := bytes.Clone(whole)
		data[at] = c
		return data
	}
	for name, row := range map[string]struct {
		data []byte
		says string
		hint string
	}{
		"nothing":         {nil, "not a sealed bundle", "get it again, whole"},
		"something else":  {[]byte(strings.Repeat("text ", 100)), "not a sealed bundle", "name a file that `cloister seal` wrote"},
		"another version": {edited(19, 9), "sealed bundle of an unknown version: 9", "use a cloister that knows it"},
		"a huge header":   {edited(20, 9), "header of the bundle refused", "get the bundle from its owner again"},
		"a cut opening":   {whole[:20], "not a sealed bundle", "get it again, whole"},
		"a cut header":    {whole[:100], "bundle is cut short", "get it again, whole"},
		"a cut module":    {whole[:front-1], "bundle is cut short", "get it again, whole"},
		"no payload":      {whole[:front], "bundle is cut short", "get it again, whole"},
		"a cut payload":   {whole[:front+87], "bundle is cut short", "get it again, whole"},
		"another module":  {edited(front-1, whole[front-1]^1), "policy of the bundle refused", "get the bundle from its owner again"},
	} {
		v.write(t, "bad.sealed", string(row.data))
		status, out, text := cloister(t, "inspect", v.path("bad.sealed"))
		if status != 2 || out != "" || !strings.Contains(text, row.says) || !strings.Contains(text, "cloister: hint: "+row.hint) {
			t.Errorf("%s: status %d: %s%s", name, status, out, text)
		}
	}
	v.write(t, "bad.sealed", string(whole[:front+88]))
	if status, _, text := cloister(t, "inspect", v.path("bad.sealed")); status != 0 {
		t.Errorf("the shortest: %s", text)
	}
	if status, _, text := cloister(t, "inspect", v.dir); status != 2 || !strings.Contains(text, "is no regular file") {
		t.Errorf("a folder: %d, %s", status, text)
	}
}

// someKeys gives a data key and keeps nothing.
type someKeys struct{}

func (someKeys) Generate(context.Context, string, map[string]string) (plaintext, wrapped []byte, err error) {
	return make([]byte, 32), []byte("wrapped"), nil
}

// TestInspectTellsOfLies: a header that shows other codes than the module has, and a module that is none.
// What the file says steers no terminal.
func TestInspectTellsOfLies(t *testing.T) {
	v := newVendor(t)
	probe, err := os.ReadFile(v.path("probe.wasm"))
	if err != nil {
		t.Fatal(err)
	}
	for says, row := range map[string]struct {
		module []byte
		codes  []abi.Code
	}{
		"the header shows other codes than the module declares": {probe, []abi.Code{{Code: "other", Hint: "h"}}},
		"not a valid policy": {[]byte("\x1b[31m"), nil},
	} {
		source, err := tree.Open(v.path("app"), tree.Limits{Bytes: 1 << 30, Entries: 100})
		if err != nil {
			t.Fatal(err)
		}
		defer source.Close()
		var out bytes.Buffer
		_, err = envelope.Seal(t.Context(), &out, envelope.Spec{
			Name: "lie", Kind: jobspec.ApplicationKind, Key: sealKey, Codes: row.codes,
			Command: &jobspec.Command{Executor: "python", Entrypoint: "main.py", Args: []string{"one\nkey       arn:other"}},
			Config:  json.RawMessage(`{"text":"two\nlines"}`),
		}, source, row.module, someKeys{})
		if err != nil {
			t.Fatal(err)
		}
		v.write(t, "lie.sealed", out.String())
		status, text, _ := cloister(t, "inspect", v.path("lie.sealed"))
		if status != 0 || !strings.Contains(text, "\nWRONG     no enclave takes it: ") || !strings.Contains(text, says) {
			t.Errorf("status %d: %s", status, text)
		}
		if strings.Contains(text, "\x1b") || strings.Contains(text, "\nkey       arn:other") {
			t.Errorf("%q", text)
		}
		if _, text, _ := cloister(t, "--json", "inspect", v.path("lie.sealed")); !strings.Contains(text, says) {
			t.Errorf("%s", text)
		}
	}
}
