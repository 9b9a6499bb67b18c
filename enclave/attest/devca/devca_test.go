package devca_test

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cloister-run/cloister/enclave/attest"
	"github.com/cloister-run/cloister/enclave/attest/devca"
)

var moment = time.UnixMilli(1_790_000_000_123).UTC()

func pcrs() attest.PCRSet {
	set := attest.PCRSet{}
	for i := range 3 {
		set[i] = attest.PCR(bytes.Repeat([]byte{byte(i + 1)}, 48))
	}
	return set
}

func claims() devca.Claims { return devca.Claims{ModuleID: "i-1-enc1", Time: moment, PCRs: pcrs()} }

func open(t testing.TB, folder string) *devca.CA {
	t.Helper()
	ca, err := devca.Open(folder, moment)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// TestI5_ADevelopmentDocumentIsGoodUnderItsRootAlone: not under AWS's, not under another user's.
func TestI5_ADevelopmentDocumentIsGoodUnderItsRootAlone(t *testing.T) {
	ca, other := open(t, t.TempDir()), open(t, t.TempDir())
	doc, err := ca.Sign(claims())
	if err != nil {
		t.Fatal(err)
	}
	verified, err := attest.Verify(doc, attest.Options{At: moment, Root: ca.Root(), PCRs: pcrs()})
	if err != nil || verified.Realm != attest.RealmLocal {
		t.Fatalf("%v: %v", verified, err)
	}
	for _, root := range []attest.Root{{}, other.Root()} {
		d, err := attest.Verify(doc, attest.Options{At: moment, Root: root, PCRs: pcrs()})
		var v *attest.Violation
		if d != nil || !errors.As(err, &v) || v.Rule != attest.RuleRoot {
			t.Errorf("%v: %v", d, err)
		}
	}
}

// TestARootIsUnmistakable: by every name that anybody may come to see.
func TestARootIsUnmistakable(t *testing.T) {
	ca := open(t, t.TempDir())
	root := ca.Certificate()
	if !strings.HasPrefix(root.Subject.CommonName, "Cloister development root ") || root.NotAfter.Before(moment.AddDate(10, 0, 0)) {
		t.Errorf("%s until %s", root.Subject, root.NotAfter)
	}
	leaf, err := ca.Issue("i-1-enc1", moment)
	if err != nil {
		t.Fatal(err)
	}
	if len(leaf.Bundle) != 4 || !bytes.Equal(leaf.Bundle[0], root.Raw) {
		t.Errorf("%d certificates", len(leaf.Bundle))
	}
	lives := []time.Duration{0, 20 * 24 * time.Hour, 6 * 24 * time.Hour, 24 * time.Hour, 3 * time.Hour}
	for i, der := range append(leaf.Bundle, leaf.Certificate) {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.Subject.OrganizationalUnit; len(got) != 1 || got[0] != "Development, not AWS" {
			t.Errorf("%s", c.Subject)
		}
		if i > 0 && !c.NotAfter.Equal(moment.Truncate(time.Second).Add(lives[i])) {
			t.Errorf("%s until %s", c.Subject, c.NotAfter)
		}
	}
}

// TestALeafIsRenewed: before it is over, and never used before it begins.
func TestALeafIsRenewed(t *testing.T) {
	ca := open(t, t.TempDir())
	seen := map[string]bool{}
	for _, after := range []time.Duration{0, time.Hour, 2 * time.Hour, 2*time.Hour + 45*time.Minute, 30 * time.Hour, 0} {
		c := claims()
		c.Time = moment.Add(after)
		doc, err := ca.Sign(c)
		if err != nil {
			t.Fatal(err)
		}
		for _, later := range []time.Duration{0, 29 * time.Minute} {
			verified, err := attest.Verify(doc, attest.Options{At: c.Time.Add(later), Root: ca.Root(), PCRs: pcrs()})
			if err != nil {
				t.Fatalf("%s, %s later: %v", after, later, err)
			}
			seen[string(verified.Leaf.Raw)] = true
		}
	}
	if len(seen) != 4 {
		t.Errorf("%d leaves", len(seen))
	}
}

func TestClaimsAreComplete(t *testing.T) {
	ca := open(t, t.TempDir())
	for name, spoil := range map[string]func(*devca.Claims){
		"no module": func(c *devca.Claims) { c.ModuleID = "" },
		"no time":   func(c *devca.Claims) { c.Time = time.Time{} },
		"no PCRs":   func(c *devca.Claims) { c.PCRs = nil },
	} {
		c := claims()
		spoil(&c)
		if doc, err := ca.Sign(c); err == nil || doc != nil {
			t.Errorf("%s: a document", name)
		}
	}
}

// TestARootIsKept: in one file, for its owner alone, in a folder that is made.
func TestARootIsKept(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "a", "b")
	first, second := open(t, folder), open(t, folder)
	if !first.Certificate().Equal(second.Certificate()) {
		t.Error("another root")
	}
	entries, err := os.ReadDir(folder)
	if err != nil || len(entries) != 1 || entries[0].Name() != devca.FileName {
		t.Fatalf("%v: %v", entries, err)
	}
	for path, want := range map[string]fs.FileMode{folder: 0o700, filepath.Join(folder, devca.FileName): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s has mode %s: %v", path, info.Mode(), err)
		}
	}
	doc, err := first.Sign(claims())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := attest.Verify(doc, attest.Options{At: moment, Root: second.Root(), PCRs: pcrs()}); err != nil {
		t.Error(err)
	}
	if root, err := attest.ParseRoot(first.PEM()); err != nil || root.Realm() != attest.RealmLocal {
		t.Errorf("%v", err)
	}
}

// TestOneRootForManyProcesses: whoever comes first makes it.
func TestOneRootForManyProcesses(t *testing.T) {
	folder := t.TempDir()
	var group sync.WaitGroup
	roots := make([]string, 8)
	for i := range roots {
		group.Go(func() {
			ca, err := devca.Open(folder, moment)
			if err != nil {
				t.Error(err)
				return
			}
			roots[i] = string(ca.PEM())
		})
	}
	group.Wait()
	for _, root := range roots {
		if root != roots[0] {
			t.Error("two roots")
		}
	}
	if entries, err := os.ReadDir(folder); err != nil || len(entries) != 1 {
		t.Errorf("%v: %v", entries, err)
	}
}

// TestAFileThatIsNoRootIsRefused: and left as it is.
func TestAFileThatIsNoRootIsRefused(t *testing.T) {
	folder := t.TempDir()
	open(t, folder)
	path := filepath.Join(folder, devca.FileName)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := t.TempDir()
	open(t, elsewhere)
	other, err := os.ReadFile(filepath.Join(elsewhere, devca.FileName))
	if err != nil {
		t.Fatal(err)
	}
	_, otherKey := pem.Decode(other)
	certificate, key := pem.Decode(good)
	for name, data := range map[string][]byte{
		"empty":              {},
		"no key":             pem.EncodeToMemory(certificate),
		"no certificate":     key,
		"another's key":      append(pem.EncodeToMemory(certificate), otherKey...),
		"a second key":       append(bytes.Clone(good), otherKey...),
		"a broken key":       append(pem.EncodeToMemory(certificate), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")})...),
		"not as it was made": good[:len(good)-40],
	} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		ca, err := devca.Open(folder, moment)
		if err == nil || ca != nil || strings.Contains(err.Error(), "PRIVATE") {
			t.Errorf("%s: %v", name, err)
		}
		if now, _ := os.ReadFile(path); !bytes.Equal(now, data) {
			t.Errorf("%s: the file was changed", name)
		}
	}
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []fs.FileMode{0o640, 0o604, 0o660} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if ca, err := devca.Open(folder, moment); err == nil || ca != nil {
			t.Errorf("mode %s", mode)
		}
	}
	link := filepath.Join(t.TempDir(), devca.FileName)
	if err := errors.Join(os.Chmod(path, 0o600), os.Symlink(path, link)); err != nil {
		t.Fatal(err)
	}
	if _, err := devca.Open(filepath.Dir(link), moment); err == nil {
		t.Error("a link")
	}
}

func BenchmarkSign(b *testing.B) {
	ca := open(b, b.TempDir())
	for b.Loop() {
		if _, err := ca.Sign(claims()); err != nil {
			b.Fatal(err)
		}
	}
}
