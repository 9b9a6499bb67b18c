package attest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"errors"
	"slices"
	"time"
)

// chain is the certificates of a document: root, those between, leaf.
type chain struct {
	root *x509.Certificate
	// between is in the bundle's order, issuers first.
	between []*x509.Certificate
	leaf    *x509.Certificate
}

// chain parses the certificates. The bundle's first must be the root that the caller trusts, byte
// for byte, and is not looked at again: what verifies is the caller's copy.
func (f *fields) chain(root *x509.Certificate) (*chain, error) {
	if !bytes.Equal(f.bundle[0], root.Raw) {
		return nil, breaks(RuleRoot, "cabundle[0] has the fingerprint %s; %s is trusted", fingerprint(f.bundle[0]), fingerprint(root.Raw))
	}
	c := &chain{root: root}
	for i, der := range f.bundle[1:] {
		certificate, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, breaks(RuleBundle, "certificate %d: %v", i+1, err)
		}
		c.between = append(c.between, certificate)
	}
	var err error
	if c.leaf, err = x509.ParseCertificate(f.certificate); err != nil {
		return nil, breaks(RuleCertificate, "%v", err)
	}
	return c, nil
}

// upwards is the one path that counts: leaf first, root last.
func (c *chain) upwards() []*x509.Certificate {
	path := []*x509.Certificate{c.leaf}
	for _, certificate := range slices.Backward(c.between) {
		path = append(path, certificate)
	}
	return append(path, c.root)
}

// validAt holds the life of every certificate, the root's included, against the time of validation.
func (c *chain) validAt(at time.Time) error {
	for _, certificate := range c.upwards() {
		if at.Before(certificate.NotBefore) || at.After(certificate.NotAfter) {
			return breaks(RuleTime, "%s is outside the life of the certificate of %.80q, %s to %s",
				stamp(at), certificate.Subject.CommonName, stamp(certificate.NotBefore), stamp(certificate.NotAfter))
		}
	}
	return nil
}

// verify requires every certificate of the bundle to be on the way from leaf to root, in its
// place. crypto/x509 checks signatures, names, basic constraints, path lengths, the key usage of
// issuers and unknown critical extensions.
func (c *chain) verify(at time.Time) error {
	if err := c.checkKeys(); err != nil {
		return err
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(c.root)
	for _, certificate := range c.between {
		between.AddCert(certificate)
	}
	paths, err := c.leaf.Verify(x509.VerifyOptions{
		Roots:         roots,
		Intermediates: between,
		CurrentTime:   at,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageAny}, // the certificates of AWS name none
	})
	if err != nil {
		var invalid x509.CertificateInvalidError
		if errors.As(err, &invalid) && invalid.Reason == x509.Expired {
			return breaks(RuleTime, "%v", err)
		}
		return breaks(RuleChain, "%v", err)
	}
	for _, path := range paths {
		if slices.EqualFunc(path, c.upwards(), (*x509.Certificate).Equal) {
			return nil
		}
	}
	return breaks(RuleChain, "the bundle is not the way from the leaf to the root, in order")
}

// checkKeys: P-384 with SHA-384 throughout, as the whole of AWS's hierarchy is; the leaf signs
// documents and is no authority.
func (c *chain) checkKeys() error {
	for _, certificate := range c.upwards() {
		key, ok := certificate.PublicKey.(*ecdsa.PublicKey)
		if !ok || key.Curve != elliptic.P384() {
			return breaks(RuleChain, "the key of %.80q is not on P-384", certificate.Subject.CommonName)
		}
		if certificate.SignatureAlgorithm != x509.ECDSAWithSHA384 {
			return breaks(RuleChain, "the certificate of %.80q is not signed with SHA-384", certificate.Subject.CommonName)
		}
	}
	for _, issuer := range c.upwards()[1:] {
		if issuer.KeyUsage&x509.KeyUsageCertSign == 0 {
			return breaks(RuleChain, "the key of %.80q is not for signing certificates", issuer.Subject.CommonName)
		}
	}
	switch {
	case c.leaf.IsCA:
		return breaks(RuleChain, "the leaf is an authority")
	case c.leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return breaks(RuleChain, "the key of the leaf is not for signatures")
	}
	return nil
}
