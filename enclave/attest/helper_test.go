package attest_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cloister-run/cloister/enclave/attest"
	"github.com/cloister-run/cloister/enclave/attest/devca"
)

const module = "i-0123456789abcdef0-enc0123456789abcdef"

// moment is when the documents of these tests are made: some milliseconds past a second.
var moment = time.UnixMilli(1_790_000_000_123).UTC()

func newCA(t testing.TB) *devca.CA {
	t.Helper()
	ca, err := devca.New(moment)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// register is a value that nothing measures to.
func register(b byte) attest.PCR { return attest.PCR(bytes.Repeat([]byte{b}, 48)) }

// measured is what an image measures to; expected is what a caller knows of it.
func measured() attest.PCRSet {
	return attest.PCRSet{0: register(1), 1: register(2), 2: register(3), 3: {}, 4: register(5), 8: register(9)}
}

func expected() attest.PCRSet {
	return attest.PCRSet{0: register(1), 1: register(2), 2: register(3)}
}

func claims() devca.Claims {
	return devca.Claims{
		ModuleID: module, Time: moment, PCRs: measured(),
		UserData: []byte("data"), Nonce: []byte("nonce of sixteen"), PublicKey: []byte("key"),
	}
}

func sign(t testing.TB, ca *devca.CA, c devca.Claims) []byte {
	t.Helper()
	doc, err := ca.Sign(c)
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func options(ca *devca.CA) attest.Options {
	return attest.Options{At: moment, Root: ca.Root(), PCRs: expected()}
}

// breaks fails the test unless the document breaks that very rule, and nothing came with the error.
func breaks(t testing.TB, rule attest.Rule, doc []byte, o attest.Options) {
	t.Helper()
	d, err := attest.Verify(doc, o)
	if d != nil {
		t.Errorf("a document came with %v", err)
	}
	if got := ruleOf(err); got != rule {
		t.Errorf("rule %q, want %q: %v", got, rule, err)
	}
}

// ruleOf is the rule that an error names, "" where it names none.
func ruleOf(err error) attest.Rule {
	var v *attest.Violation
	if !errors.As(err, &v) {
		return ""
	}
	return v.Rule
}

func holds(t testing.TB, doc []byte, o attest.Options) *attest.Document {
	t.Helper()
	d, err := attest.Verify(doc, o)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// shared is the folder that stands beside a checkout; "" where there is none.
func shared(t testing.TB) string {
	t.Helper()
	folder, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(folder, "go.mod")); err == nil {
			break
		}
		if folder == filepath.Dir(folder) {
			t.Fatal("no go.mod above the test")
		}
		folder = filepath.Dir(folder)
	}
	folder = filepath.Join(filepath.Dir(folder), "shared")
	if info, err := os.Stat(folder); err != nil || !info.IsDir() {
		return ""
	}
	return folder
}
