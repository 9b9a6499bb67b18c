package host_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"testing"

	"github.com/cloister-run/cloister/plugins/host"
)

// TestCertificate: a plugin on BoringSSL, which is all of gRPC but Go's and Java's, takes the host's
// certificate; and until a plugin named one of its own, the host takes nobody's.
func TestCertificate(t *testing.T) {
	ours, text, err := host.NewTLS()
	if err != nil {
		t.Fatal(err)
	}
	block, rest := pem.Decode([]byte(text))
	if block == nil || len(rest) > 0 {
		t.Fatalf("%q", text)
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	key, ok := certificate.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() || certificate.SignatureAlgorithm != x509.ECDSAWithSHA256 {
		t.Errorf("%T, %v", certificate.PublicKey, certificate.SignatureAlgorithm)
	}
	roots := x509.NewCertPool()
	roots.AddCert(certificate)
	usages := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if _, err := certificate.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: usages, DNSName: "localhost"}); err != nil {
		t.Error(err)
	}
	if ours.RootCAs == nil || !ours.RootCAs.Equal(x509.NewCertPool()) || ours.MinVersion != tls.VersionTLS13 || ours.InsecureSkipVerify {
		t.Errorf("%+v", ours)
	}
	if _, again, err := host.NewTLS(); err != nil || again == text {
		t.Errorf("two sessions have one certificate: %v", err)
	}
}
