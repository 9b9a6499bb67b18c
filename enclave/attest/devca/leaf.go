package devca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"time"

	"github.com/veraison/go-cose"
)

// Leaf signs the documents of one module for three hours.
type Leaf struct {
	key *ecdsa.PrivateKey
	// Certificate is the leaf's, Bundle what leads to it: root, region, zone, instance. DER.
	Certificate []byte
	Bundle      [][]byte

	notBefore, notAfter time.Time
}

// Issue makes a leaf for a module as of a time, with authorities of its own, as AWS's instances have.
func (ca *CA) Issue(moduleID string, at time.Time) (*Leaf, error) {
	leaf := &Leaf{Bundle: [][]byte{ca.certificate.Raw}}
	issuer, key := ca.certificate, ca.key
	for _, step := range []struct {
		name  string
		life  time.Duration
		depth int
	}{
		{"development region", regionLife, 2},
		{"development zone", zoneLife, 1},
		{"development instance of " + moduleID, instanceLife, 0},
	} {
		template := authority(name(step.name), at, step.life, step.depth)
		var err error
		if issuer, key, err = sign(template, issuer, key); err != nil {
			return nil, fmt.Errorf("devca: %w", err)
		}
		leaf.Bundle = append(leaf.Bundle, issuer.Raw)
	}
	certificate, key, err := sign(leafTemplate(moduleID, at), issuer, key)
	if err != nil {
		return nil, fmt.Errorf("devca: %w", err)
	}
	leaf.key, leaf.Certificate = key, certificate.Raw
	leaf.notBefore, leaf.notAfter = certificate.NotBefore, certificate.NotAfter
	return leaf, nil
}

func leafTemplate(moduleID string, at time.Time) *x509.Certificate {
	return &x509.Certificate{
		Subject:               name(moduleID),
		SerialNumber:          serial(),
		NotBefore:             at.Add(-backdated),
		NotAfter:              at.Add(leafLife),
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		SignatureAlgorithm:    x509.ECDSAWithSHA384,
	}
}

// sign makes a key and its certificate.
func sign(template, issuer *x509.Certificate, issuerKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, &key.PublicKey, issuerKey)
	if err != nil {
		return nil, nil, err
	}
	certificate, err := x509.ParseCertificate(der)
	return certificate, key, err
}

// validAt leaves a reader of the document some time before the certificate ends.
func (l *Leaf) validAt(at time.Time) bool {
	return !at.Before(l.notBefore) && at.Before(l.notAfter.Add(-leafLife/6))
}

// SignPayload signs any payload, in the envelope that the NSM writes: untagged, {alg: ES384},
// nothing unprotected.
func (l *Leaf) SignPayload(payload []byte) ([]byte, error) {
	signer, err := cose.NewSigner(cose.AlgorithmES384, l.key)
	if err != nil {
		return nil, fmt.Errorf("devca: %w", err)
	}
	headers := cose.Headers{Protected: cose.ProtectedHeader{cose.HeaderLabelAlgorithm: cose.AlgorithmES384}}
	doc, err := cose.Sign1Untagged(rand.Reader, signer, headers, payload, nil)
	if err != nil {
		return nil, fmt.Errorf("devca: %w", err)
	}
	return doc, nil
}
