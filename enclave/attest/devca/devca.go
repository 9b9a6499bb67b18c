// Package devca owns a development certification authority: a root key that belongs to one user
// of one machine, and documents signed under it that differ from AWS's in their root alone.
//
// Its documents prove nothing to anybody but that user. It is never linked into cloisterd, whose
// measured profile says which root its realm has.
package devca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"sync"
	"time"

	"github.com/cloister-run/cloister/enclave/attest"
)

// RootName begins the common name of every development root; a part of its key's hash follows.
const RootName = "Cloister development root"

// How long certificates live: as measured on AWS's, the root apart.
const (
	rootLife     = 20 * 365 * 24 * time.Hour
	regionLife   = 20 * 24 * time.Hour
	zoneLife     = 6 * 24 * time.Hour
	instanceLife = 24 * time.Hour
	leafLife     = 3 * time.Hour
	// backdated lets a clock that is a little behind verify.
	backdated = 5 * time.Minute
)

// CA is a development root. It is safe for concurrent use.
type CA struct {
	key         *ecdsa.PrivateKey
	certificate *x509.Certificate
	root        attest.Root

	mu sync.Mutex
	// leaves holds the certificate of each module while it is valid.
	leaves map[string]*Leaf
}

// New makes a root that nobody keeps, as of a time.
func New(at time.Time) (*CA, error) {
	key, certificate, err := newRoot(at)
	if err != nil {
		return nil, fmt.Errorf("devca: %w", err)
	}
	return newCA(key, certificate)
}

func newCA(key *ecdsa.PrivateKey, certificate *x509.Certificate) (*CA, error) {
	root, err := attest.NewRoot(certificate)
	if err != nil {
		return nil, fmt.Errorf("devca: %w", err)
	}
	return &CA{key: key, certificate: certificate, root: root, leaves: map[string]*Leaf{}}, nil
}

// Certificate is the root certificate.
func (ca *CA) Certificate() *x509.Certificate { return ca.certificate }

// Root is what attest.Verify takes.
func (ca *CA) Root() attest.Root { return ca.root }

// PEM is the root certificate for files and for `--root`.
func (ca *CA) PEM() []byte { return pemOf(ca.certificate.Raw) }

func pemOf(der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}) }

func newRoot(at time.Time) (*ecdsa.PrivateKey, *x509.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return nil, nil, err
	}
	sum := sha256.Sum256(public)
	subject := name(RootName + " " + hex.EncodeToString(sum[:4]))
	template := authority(subject, at, rootLife, -1)
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, nil, err
	}
	certificate, err := x509.ParseCertificate(der)
	return key, certificate, err
}

// name marks every certificate as what it is, whoever shows it.
func name(common string) pkix.Name {
	return pkix.Name{Organization: []string{"Cloister"}, OrganizationalUnit: []string{"Development, not AWS"}, CommonName: common}
}

// authority is the template of an issuer; depth is how many may follow it before the leaf, -1 for any number.
func authority(subject pkix.Name, at time.Time, life time.Duration, depth int) *x509.Certificate {
	return &x509.Certificate{
		Subject:               subject,
		SerialNumber:          serial(),
		NotBefore:             at.Add(-backdated),
		NotAfter:              at.Add(life),
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLen:            depth,
		MaxPathLenZero:        depth == 0,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
		SignatureAlgorithm:    x509.ECDSAWithSHA384,
	}
}

// serial is a random positive number of up to 127 bits.
func serial() *big.Int {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[0] &= 0x7f
	b[15] |= 1
	return new(big.Int).SetBytes(b[:])
}
