// Package aws_test holds the files of this folder against what AWS publishes.
package aws_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"os"
	"testing"
	"time"
)

// root is a certificate authority with the SHA-256 of its certificate, and that of its public key, which is what
// Amazon lists it by (https://www.amazontrust.com/repository/, "Root CAs").
type root struct{ name, certificate, key string }

// published are the roots that Amazon tells its customers to trust: all five, because a service may move from
// one to another without notice.
var published = []root{
	{"Amazon Root CA 1", "8ecde6884f3d87b1125ba31ac3fcb13d7016de7f57cc904fe1cb97c6ae98196e",
		"fbe3018031f9586bcbf41727e417b7d1c45c2f47f93be372a17b96b50757d5a2"},
	{"Amazon Root CA 2", "1ba5b2aa8c65401a82960118f80bec4f62304d83cec4713a19c39c011ea46db4",
		"7f4296fc5b6a4e3b35d3c369623e364ab1af381d8fa7121533c9d6c633ea2461"},
	{"Amazon Root CA 3", "18ce6cfe7bf14e60b2e347b8dfe868cb31d02ebb3ada271569f50343b46db3a4",
		"36abc32656acfc645c61b71613c4bf21c787f5cabbee48348d58597803d7abc9"},
	{"Amazon Root CA 4", "e35d28419ed02025cfa69038cd623962458da5c695fbdea3c22b0bfb25897092",
		"f7ecded5c66047d28ed6466b543c40e0743abe81d109254dcf845d4c2c7853c5"},
	{"Starfield Services Root Certificate Authority - G2", "568d6905a2c88708a4b3025190edcfedb1974a606a13c6e5290fcb2ae63edab5",
		"2b071c59a0a0ae76b0eadb2bad23bad4580b69c3601b630c2eaf0613afa83f92"},
}

// An image that trusts one root more would take whoever owns it for the KMS of AWS.
func TestRootsAreThoseThatAmazonPublishesAndNoOthers(t *testing.T) {
	roots := readRoots(t)
	if len(roots) != len(published) {
		t.Fatalf("%d certificates, expected %d", len(roots), len(published))
	}
	for i, want := range published {
		got := roots[i]
		if got.Subject.CommonName != want.name {
			t.Errorf("certificate %d is %q, expected %q", i, got.Subject.CommonName, want.name)
		}
		if sum := digest(got.Raw); sum != want.certificate {
			t.Errorf("%s: SHA-256 %s, expected %s", want.name, sum, want.certificate)
		}
		if sum := digest(got.RawSubjectPublicKeyInfo); sum != want.key {
			t.Errorf("%s: SHA-256 of the key %s, expected %s", want.name, sum, want.key)
		}
	}
}

func TestRootsSignThemselvesAndLastUntil2037(t *testing.T) {
	until := time.Date(2037, time.December, 31, 0, 0, 0, 0, time.UTC)
	for _, c := range readRoots(t) {
		if err := c.CheckSignatureFrom(c); err != nil || !bytes.Equal(c.RawIssuer, c.RawSubject) {
			t.Errorf("%s is not signed by itself: %v", c.Subject.CommonName, err)
		}
		if c.NotAfter.Before(until) {
			t.Errorf("%s expires on %s", c.Subject.CommonName, c.NotAfter)
		}
	}
}

func digest(raw []byte) string {
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}

func readRoots(t *testing.T) []*x509.Certificate {
	t.Helper()
	rest, err := os.ReadFile("roots.pem")
	if err != nil {
		t.Fatal(err)
	}
	var all []*x509.Certificate
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	if len(all) == 0 || bytes.Contains(rest, []byte("BEGIN")) {
		t.Fatal("roots.pem is damaged")
	}
	return all
}
