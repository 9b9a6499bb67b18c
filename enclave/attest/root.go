package attest

import (
	"crypto/sha256"
	"crypto/x509"
	_ "embed"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
)

// rootG1 is the certificate that AWS publishes for its commercial partition
// (https://aws-nitro-enclaves.amazonaws.com/AWS_NitroEnclaves_Root-G1.zip), as DER.
//
//go:embed aws-nitro-root-g1.der
var rootG1 string

// fingerprintG1 is the SHA-256 of rootG1, as AWS prints it (Nitro Enclaves user guide, "Verifying
// the root of trust").
const fingerprintG1 = "641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b"

// Realm says whose enclaves a root speaks for. It follows from the root alone, never from a
// field of a document.
type Realm string

// The realms.
const (
	// RealmAWS: a genuine Nitro Enclave.
	RealmAWS Realm = "aws"
	// RealmLocal: an enclave that somebody simulates, under a development root of their own.
	RealmLocal Realm = "local"
)

// Root is a root certificate that a caller trusts. The zero Root is AWS's, G1.
type Root struct{ certificate *x509.Certificate }

// ParseRoot reads one certificate, PEM, that the caller trusts in place of AWS's. Documents under
// it have the realm "local", unless it is AWS's own.
func ParseRoot(text []byte) (Root, error) {
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" {
		return Root{}, errors.New("attest: root: no certificate in PEM")
	}
	if more, _ := pem.Decode(rest); more != nil {
		return Root{}, errors.New("attest: root: more than one PEM block")
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return Root{}, fmt.Errorf("attest: root: %w", err)
	}
	return NewRoot(certificate)
}

// NewRoot is ParseRoot for a certificate that is parsed already.
func NewRoot(certificate *x509.Certificate) (Root, error) {
	if !certificate.IsCA || !certificate.BasicConstraintsValid {
		return Root{}, errors.New("attest: root: not the certificate of an authority")
	}
	return Root{certificate: certificate}, nil
}

// Realm is "aws" for AWS's root and "local" for every other.
func (r Root) Realm() Realm {
	if r.certificate == nil || fingerprint(r.certificate.Raw) == fingerprintG1 {
		return RealmAWS
	}
	return RealmLocal
}

// trusted is the certificate itself; AWS's is held against its pin every time.
func (r Root) trusted() (*x509.Certificate, error) {
	if r.certificate != nil {
		return r.certificate, nil
	}
	if fingerprint([]byte(rootG1)) != fingerprintG1 {
		return nil, errors.New("root: the embedded certificate is not AWS's root G1")
	}
	return x509.ParseCertificate([]byte(rootG1))
}

func fingerprint(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}
