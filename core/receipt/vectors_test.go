package receipt_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cloister-run/cloister/core/receipt"
	"github.com/cloister-run/cloister/enclave/attest"
	"github.com/cloister-run/cloister/enclave/attest/devca"
)

// newVectors is not called update: keys and signatures are random, so that what it writes is new every time.
var newVectors = flag.Bool("new-vectors", false, "make testdata/root.pem and testdata/attested anew, under another root")

const (
	success   = "success"
	malformed = "malformed"
)

// vector is a receipt in testdata/attested, with what becomes of it under testdata/root.pem, in
// the realm "local", where pcrs() are expected.
type vector struct {
	File    string `json:"file"`
	Expect  string `json:"expect"`
	Comment string `json:"comment"`
	data    []byte
}

// vectors reads them all.
func vectors(t testing.TB) (receipt.Expect, []vector) {
	t.Helper()
	read := func(name string) []byte {
		data, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	root, err := attest.ParseRoot(read("root.pem"))
	if err != nil {
		t.Fatal(err)
	}
	var list []vector
	if err := json.Unmarshal(read("attested.json"), &list); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("testdata/attested/*.json")
	if err != nil || len(files) == 0 || len(files) != len(list) {
		t.Fatalf("%d files, %d in the list: %v", len(files), len(list), err)
	}
	for i := range list {
		list[i].data = read(filepath.Join("attested", list[i].File))
	}
	return receipt.Expect{Root: root, Realm: attest.RealmLocal, PCRs: pcrs()}, list
}

// TestVectors: what another verifier can be held against, with nothing but files.
func TestVectors(t *testing.T) {
	e, list := vectors(t)
	for _, v := range list {
		t.Run(v.File, func(t *testing.T) {
			switch v.Expect {
			case success:
				if _, err := receipt.Verify(v.data, e); err != nil {
					t.Error(err)
				}
			case malformed:
				fails(t, v.data, e, "")
			default:
				fails(t, v.data, e, attest.Rule(v.Expect))
			}
		})
	}
}

// TestNewVectors writes them, if it is told to.
func TestNewVectors(t *testing.T) {
	if !*newVectors {
		t.Skip("only with -new-vectors")
	}
	ca := newCA(t)
	good := made(t, ca, run())
	s, document, err := receipt.Decode(good)
	if err != nil {
		t.Fatal(err)
	}
	with := func(change func(*devca.Claims)) []byte {
		c := claims(s)
		change(&c)
		return encode(t, s, sign(t, ca, c))
	}
	wrong := []byte(strings.Replace(string(s), `"outcome":"succeeded"`, `"outcome":"denied"`, 1))
	refused := run()
	refused.Outcome, refused.Released, refused.Keys, refused.Decisions = receipt.KeyRefused, nil, nil, refused.Decisions[:2]
	refused.Assets[0].Verified = false
	list := []vector{
		{"good.json", success, "two policies, a sealed application, one output", good},
		{"key-refused.json", success, "a KMS gave no key, nothing was released", made(t, ca, refused)},
		{"no-newline.json", malformed, "another spelling", bytes.TrimSpace(good)},
		{"edited.json", string(attest.RuleWantData), "one value of the statement is another", encode(t, wrong, document)},
		{"contradiction.json", string(receipt.RuleStatement), "attested, and released in spite of a denial", encode(t, wrong, sign(t, ca, claims(wrong)))},
		{"other-root.json", string(attest.RuleRoot), "under another root", made(t, newCA(t), run())},
		{"other-image.json", string(attest.RulePCR(0)), "of another image", with(func(c *devca.Claims) { c.PCRs[0] = c.PCRs[1] })},
		{"debug.json", string(attest.RuleDebug), "of an enclave in debug mode", with(func(c *devca.Claims) { c.PCRs[0] = attest.PCR{} })},
		{"client-document.json", string(attest.RuleWantData), "a document for a client", with(func(c *devca.Claims) {
			c.UserData, c.Nonce = attest.UserData(attest.KindClient, nil), []byte("0123456789abcdef")
		})},
		{"bare-statement.json", string(attest.RuleWantData), "the statement is attested without its encoding", with(func(c *devca.Claims) {
			c.UserData = attest.UserData(attest.KindReceipt, s)
		})},
		{"says-aws.json", string(receipt.RuleRealm), "a local enclave that says aws", resigned(t, ca, func(r *receipt.Run, _ *devca.Claims) {
			r.Enclave.Realm = "aws"
		})},
		{"other-module.json", string(receipt.RuleModuleID), "attested by another module", with(func(c *devca.Claims) { c.ModuleID = "i-2-enc2" })},
		{"late.json", string(receipt.RuleTime), "attested two hours later", with(func(c *devca.Claims) { c.Time = c.Time.Add(2 * time.Hour) })},
	}
	index, err := json.MarshalIndent(list, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{"root.pem": ca.PEM(), "attested.json": append(index, '\n')}
	for _, v := range list {
		files["attested/"+v.File] = v.data
	}
	if err := errors.Join(os.RemoveAll("testdata/attested"), os.Mkdir("testdata/attested", 0o755)); err != nil {
		t.Fatal(err)
	}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join("testdata", name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// FuzzDecode: an error comes with nothing else, and what is taken is what Encode makes.
func FuzzDecode(f *testing.F) {
	_, list := vectors(f)
	for _, v := range list {
		f.Add(v.data)
	}
	f.Add(encode(f, []byte("{}"), []byte("document")))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, document, err := receipt.Decode(data)
		if err != nil {
			if s != nil || document != nil || !errors.Is(err, receipt.ErrMalformed) {
				t.Fatalf("%v came with %q and %q", err, s, document)
			}
			return
		}
		if again := encode(t, s, document); !bytes.Equal(again, data) {
			t.Fatalf("%q became %q", data, again)
		}
	})
}

// FuzzVerify: nothing is verified but what the keys of the vectors signed. The halves of a receipt
// are given apart, for no fuzzer finds its way through base64.
func FuzzVerify(f *testing.F) {
	e, list := vectors(f)
	signed := map[string]bool{}
	for _, v := range list {
		s, document, err := receipt.Decode(v.data)
		if err != nil {
			continue
		}
		f.Add(s, document)
		signed[string(s)] = signed[string(s)] || v.Expect == success
	}
	f.Fuzz(func(t *testing.T, s, document []byte) {
		data, err := receipt.Encode(s, document)
		if err != nil {
			return
		}
		v, err := receipt.Verify(data, e)
		if (err == nil) != (v != nil) {
			t.Fatalf("%v came with %+v", err, v)
		}
		if err == nil && !signed[string(s)] {
			t.Fatalf("verified: %q", s)
		}
		if violation, ok := errors.AsType[*attest.Violation](err); err != nil && (!ok || len(violation.Error()) > 400) {
			t.Fatalf("%v", err)
		}
	})
}
