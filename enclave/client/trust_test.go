package client_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cloister-run/cloister/core/coretest"
	"github.com/cloister-run/cloister/core/receipt"
	"github.com/cloister-run/cloister/enclave/attest"
	"github.com/cloister-run/cloister/enclave/attest/devca"
	"github.com/cloister-run/cloister/enclave/client"
	"github.com/cloister-run/cloister/policies/abi"
)

// claims signs a document under the root of tests, of an enclave that is none.
func sign(t *testing.T, ca *devca.CA, c devca.Claims) ([]byte, error) {
	t.Helper()
	c.ModuleID = "i-00000000000000000-enc0000000000000000"
	if c.Time.IsZero() {
		c.Time = time.Now()
	}
	return ca.Sign(c)
}

// An enclave that does not prove to be the one that is meant is sent nothing of a job.
func TestI5_NothingIsSentToAnEnclaveThatIsNotTheOneMeant(t *testing.T) {
	other, err := devca.New(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	own := coretest.Authority(t)
	good := func(nonce []byte) devca.Claims {
		return devca.Claims{PCRs: coretest.PCRs(), Nonce: nonce, UserData: attest.UserData(attest.KindClient, nil)}
	}
	for name, row := range map[string]struct {
		ca     *devca.CA
		change func(*devca.Claims)
		rule   attest.Rule
	}{
		"another root":     {other, func(*devca.Claims) {}, attest.RuleRoot},
		"another nonce":    {own, func(c *devca.Claims) { c.Nonce = bytes.Repeat([]byte{1}, 32) }, attest.RuleWantNonce},
		"no nonce":         {own, func(c *devca.Claims) { c.Nonce = nil }, attest.RuleWantNonce},
		"another image":    {own, func(c *devca.Claims) { c.PCRs = attest.PCRSet{0: {9}, 1: {2}, 2: {3}} }, attest.RulePCR(0)},
		"a missing PCR":    {own, func(c *devca.Claims) { c.PCRs = attest.PCRSet{0: {1}, 1: {2}} }, attest.RulePCR(2)},
		"debug mode":       {own, func(c *devca.Claims) { c.PCRs = attest.PCRSet{0: {}, 1: {}, 2: {}} }, attest.RuleDebug},
		"of another kind":  {own, func(c *devca.Claims) { c.UserData = attest.UserData(attest.KindReceipt, nil) }, attest.RuleWantData},
		"with a key":       {own, func(c *devca.Claims) { c.PublicKey = []byte{1} }, attest.RuleWantKey},
		"from the past":    {own, func(c *devca.Claims) { c.Time = time.Now().Add(-time.Hour) }, attest.RuleTime},
		"from the future":  {own, func(c *devca.Claims) { c.Time = time.Now().Add(time.Hour) }, attest.RuleTime},
		"from last summer": {own, func(c *devca.Claims) { c.Time = time.Now().Add(-200 * 24 * time.Hour) }, attest.RuleTime},
	} {
		t.Run(name, func(t *testing.T) {
			l := liar{attest: func(nonce []byte) ([]byte, error) {
				c := good(nonce)
				row.change(&c)
				return sign(t, row.ca, c)
			}}
			dir := newJob(t)
			_, err := l.meet(t.Context(), t, dir, nil)
			if v, ok := errors.AsType[*attest.Violation](err); !ok || v.Rule != row.rule {
				t.Errorf("%v, want %s", err, row.rule)
			}
			if len(l.calls) != 1 || l.submitted.Job != "" {
				t.Errorf("it was asked %q", l.calls)
			}
		})
	}
	t.Run("garbage", func(t *testing.T) {
		l := liar{attest: func([]byte) ([]byte, error) { return make([]byte, 1<<20), nil }}
		if _, err := l.meet(t.Context(), t, newJob(t), nil); err == nil || len(l.calls) != 1 {
			t.Errorf("%v, %q", err, l.calls)
		}
	})
	t.Run("a clock that is far off", func(t *testing.T) {
		l := liar{now: func() time.Time { return time.Now().Add(24 * time.Hour) }}
		_, err := l.meet(t.Context(), t, newJob(t), nil)
		if v, ok := errors.AsType[*attest.Violation](err); !ok || v.Rule != attest.RuleTime || len(l.calls) != 1 {
			t.Errorf("%v, %q", err, l.calls)
		}
	})
}

// forge makes a receipt's document that of a module with these PCRs, under the root of tests.
func forge(t *testing.T, raw []byte, id string, pcrs attest.PCRSet) []byte {
	t.Helper()
	statement, _, err := receipt.Decode(raw)
	if err != nil {
		t.Fatal(err)
	}
	document, err := coretest.Authority(t).Sign(devca.Claims{
		ModuleID: id, Time: time.Now(), PCRs: pcrs, UserData: attest.UserData(attest.KindReceipt, receipt.Message(statement)),
	})
	if err != nil {
		t.Fatal(err)
	}
	again, err := receipt.Encode(statement, document)
	if err != nil {
		t.Fatal(err)
	}
	return again
}

// A receipt that is not of the enclave that was attested, byte for byte, lands nothing.
func TestAReceiptThatIsNotTheEnclavesLandsNothing(t *testing.T) {
	const other = "i-00000000000000000-enc0000000000000000"
	for name, row := range map[string]liar{
		"a byte of its payload": {seal: func(raw []byte) []byte {
			i := bytes.Index(raw, []byte(`"payload":"`)) + 200
			changed := bytes.Clone(raw)
			if changed[i] = 'A'; raw[i] == 'A' {
				changed[i] = 'B'
			}
			return changed
		}},
		"the statement alone": {seal: func(raw []byte) []byte {
			statement, _, _ := receipt.Decode(raw)
			return statement
		}},
		"no document": {seal: func(raw []byte) []byte {
			_, document, _ := receipt.Decode(raw)
			return bytes.Replace(raw, []byte(base64.StdEncoding.EncodeToString(document)), nil, 1)
		}},
		"another enclave, by its document": {seal: func(raw []byte) []byte { return forge(t, raw, other, coretest.PCRs()) }},
		"another enclave of the same image": {record: func(r *receipt.Run) { r.Enclave.ModuleID = other },
			seal: func(raw []byte) []byte { return forge(t, raw, other, coretest.PCRs()) }},
		"another image": {seal: func(raw []byte) []byte {
			s, _, _ := receipt.Decode(raw)
			stated, err := receipt.Read(s)
			if err != nil {
				t.Fatal(err)
			}
			return forge(t, raw, stated.Predicate.Enclave.ModuleID, attest.PCRSet{0: {9}, 1: {2}, 2: {3}})
		}},
		"another realm": {record: func(r *receipt.Run) { r.Enclave.Realm = string(attest.RealmAWS) }},
	} {
		t.Run(name, func(t *testing.T) {
			dir := newJob(t)
			report, err := row.meet(t.Context(), t, dir, nil)
			if !errors.Is(err, client.ErrMismatch) || report != nil && len(report.Landed) > 0 {
				t.Errorf("%+v, %v", report, err)
			}
			if names := below(t, dir); len(names) != 2 {
				t.Errorf("left behind: %v", names)
			}
		})
	}
}

const sealedText = `version: 1
name: sealed
application: {from: app, command: {entrypoint: main.py, args: ["${inputs.data}", "${outputs.file}"], outputs: {file: file, tree: tree/}}}
inputs: {data: {from: data.sealed}}
outputs: {file: {save_to: out/deep/file}, tree: {save_to: out/tree}}
`

// newSealedJob is newJob with a sealed input.
func newSealedJob(t *testing.T) (dir string) {
	t.Helper()
	dir = newJob(t)
	e := coretest.New(t)
	e.Policies.Known["allow"] = &coretest.Policy{}
	j := coretest.Simple("job")
	e.Seal(t, &j, "inputs.data", "b", "allow")
	if err := os.WriteFile(filepath.Join(dir, "data.sealed"), j.Sealed["inputs.data"], 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Fronts go before admission, credentials after it and before what they open; they are asked for once.
func TestASealedJobIsSentInItsOrder(t *testing.T) {
	l := liar{job: sealedText}
	report, err := l.meet(t.Context(), t, newSealedJob(t), nil)
	if err != nil || len(report.Landed) != 2 {
		t.Fatalf("%+v, %v", report, err)
	}
	var order []string
	for _, call := range l.calls {
		if slices.Contains([]string{"POST jobs", "PUT fronts", "GET admission", "PUT credentials", "PUT assets"}, call) {
			order = append(order, call)
		}
	}
	if want := []string{"POST jobs", "PUT fronts", "GET admission", "PUT credentials", "PUT assets", "PUT assets"}; !slices.Equal(order, want) {
		t.Errorf("%q", order)
	}
	if len(l.secrets) != 1 || !strings.Contains(l.secrets[0], "wJalrXUtnFEMI") || strings.Contains(l.submitted.Job, "wJalrXUtnFEMI") {
		t.Errorf("%q", l.secrets)
	}
	plain := liar{}
	if _, err := plain.meet(t.Context(), t, newJob(t), nil); err != nil || len(plain.secrets) > 0 {
		t.Errorf("a plain job sent %q: %v", plain.secrets, err)
	}
}

// What an enclave says of sealed assets is held against the bundle that was sent.
func TestAReceiptThatTellsOtherwiseOfSealedAssetsLandsNothing(t *testing.T) {
	const asset = 1
	for name, change := range map[string]func(*receipt.Run){
		"no policy of the owner": func(r *receipt.Run) { r.Policies, r.Decisions, r.Released = nil, nil, nil },
		"another module":         func(r *receipt.Run) { r.Policies[0].Module = "sha256:" + strings.Repeat("0", 64) },
		"another configuration":  func(r *receipt.Run) { r.Policies[0].Config = "sha256:" + strings.Repeat("0", 64) },
		"another bundle":         func(r *receipt.Run) { r.Assets[asset].Digest = "sha256:" + strings.Repeat("0", 64) },
		"another owner": func(r *receipt.Run) {
			key := coretest.OwnerKey("c")
			r.Assets[asset].Owner, r.Keys[0].Key, r.Policies[0].Owner = key, key, key
		},
		"a plain asset": func(r *receipt.Run) {
			r.Assets[asset].Sealed, r.Assets[asset].Owner, r.Keys, r.Policies, r.Decisions, r.Released = false, "", nil, nil, nil, nil
		},
		"a policy more": func(r *receipt.Run) {
			second := 1
			r.Policies = append(r.Policies, abi.PolicyRef{Module: r.Policies[0].Module, Config: r.Policies[0].Config})
			r.Decisions = append(r.Decisions, receipt.Decision{Point: abi.Admit, Policy: &second, Allow: true})
			r.Released = nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := liar{job: sealedText, record: change}
			dir := newSealedJob(t)
			report, err := l.meet(t.Context(), t, dir, nil)
			if !errors.Is(err, client.ErrMismatch) || report != nil && len(report.Landed) > 0 {
				t.Errorf("%+v, %v", report, err)
			}
			if names := below(t, dir); len(names) != 3 {
				t.Errorf("left behind: %v", names)
			}
		})
	}
}

// A bundle that becomes shorter while it is sent is the sender's fault, and is told as such.
func TestABundleThatIsCutWhileItIsSent(t *testing.T) {
	dir := newSealedJob(t)
	l := liar{job: sealedText}
	cut := func() {
		if err := os.Truncate(filepath.Join(dir, "data.sealed"), 100); err != nil {
			t.Error(err)
		}
	}
	l.attest = func(nonce []byte) ([]byte, error) {
		cut() // it was looked at by then
		return attest.ForClient(context.Background(), l.nsm, nonce)
	}
	if _, err := l.meet(t.Context(), t, dir, nil); !errors.Is(err, client.ErrSource) {
		t.Errorf("%v", err)
	}
}
