package attest_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"slices"
	"testing"
	"time"

	"github.com/veraison/go-cose"

	"github.com/cloister-run/cloister/enclave/attest"
)

// link is one certificate of a made-up hierarchy; a test spoils the template before it is signed.
type link struct {
	template *x509.Certificate
	curve    elliptic.Curve
	key      *ecdsa.PrivateKey
	der      []byte
}

// hierarchy is root, region, zone, instance, leaf, as AWS's.
type hierarchy []*link

const (
	root, region, zone, instance, leaf = 0, 1, 2, 3, 4
	issuerUsage                        = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
)

func newHierarchy() hierarchy {
	h := make(hierarchy, 5)
	for i := range h {
		h[i] = &link{curve: elliptic.P384(), template: &x509.Certificate{
			Subject:               pkix.Name{CommonName: []string{"root", "region", "zone", "instance", "leaf"}[i]},
			SerialNumber:          big.NewInt(int64(i + 1)),
			NotBefore:             moment.Add(-time.Hour),
			NotAfter:              moment.Add(time.Hour),
			BasicConstraintsValid: true,
			IsCA:                  i != leaf,
			MaxPathLen:            instance - i,
			MaxPathLenZero:        i == instance,
			KeyUsage:              issuerUsage,
			SignatureAlgorithm:    x509.ECDSAWithSHA384,
		}}
	}
	h[root].template.MaxPathLen = -1
	h[leaf].template.KeyUsage, h[leaf].template.MaxPathLen = x509.KeyUsageDigitalSignature, 0
	return h
}

// make signs every certificate with the one above it.
func (h hierarchy) make(t testing.TB) {
	t.Helper()
	for i, l := range h {
		if l.key == nil {
			key, err := ecdsa.GenerateKey(l.curve, rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			l.key = key
		}
		parent := h[max(i-1, 0)]
		h.certify(t, l, parent.template, parent.key)
	}
}

func (h hierarchy) certify(t testing.TB, l *link, parent *x509.Certificate, key crypto.Signer) {
	t.Helper()
	template := *l.template
	if _, ok := key.(*ecdsa.PrivateKey); !ok {
		template.SignatureAlgorithm = x509.PureEd25519
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, parent, &l.key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	l.der = der
}

func (h hierarchy) trusted(t testing.TB) attest.Root {
	t.Helper()
	certificate, err := x509.ParseCertificate(h[root].der)
	if err != nil {
		t.Fatal(err)
	}
	r, err := attest.NewRoot(certificate)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (h hierarchy) bundle() [][]byte {
	return [][]byte{h[root].der, h[region].der, h[zone].der, h[instance].der}
}

// sign makes a document of a bundle and a leaf.
func (h hierarchy) sign(t testing.TB, bundle [][]byte, l *link) []byte {
	t.Helper()
	registers := map[int][]byte{}
	for i, r := range measured() {
		registers[i] = r[:]
	}
	payload := encode(t, map[string]any{
		"module_id": module, "digest": "SHA384", "timestamp": uint64(moment.UnixMilli()), "pcrs": registers,
		"certificate": l.der, "cabundle": bundle,
	})
	signer, err := cose.NewSigner(cose.AlgorithmES384, l.key)
	if err != nil {
		t.Fatal(err)
	}
	headers := cose.Headers{Protected: cose.ProtectedHeader{cose.HeaderLabelAlgorithm: cose.AlgorithmES384}}
	doc, err := cose.Sign1Untagged(rand.Reader, signer, headers, payload, nil)
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func (h hierarchy) options(t testing.TB) attest.Options {
	return attest.Options{At: moment, Root: h.trusted(t), PCRs: expected()}
}

// TestI5_ChainRules: hierarchies of which one property is wrong, spoilt before they are signed.
func TestI5_ChainRules(t *testing.T) {
	long := []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Value: make([]byte, 1000)}}
	for name, row := range map[string]struct {
		rule  attest.Rule
		spoil func(hierarchy)
	}{
		"as AWS's":                {"", func(hierarchy) {}},
		"an issuer that is none":  {attest.RuleChain, func(h hierarchy) { h[zone].template.IsCA = false; h[zone].template.MaxPathLen = 0 }},
		"no basic constraints":    {attest.RuleChain, func(h hierarchy) { h[zone].template.BasicConstraintsValid = false }},
		"a path that is too long": {attest.RuleChain, func(h hierarchy) { h[region].template.MaxPathLen, h[region].template.MaxPathLenZero = 0, true }},
		"an issuer not for that":  {attest.RuleChain, func(h hierarchy) { h[instance].template.KeyUsage = x509.KeyUsageDigitalSignature }},
		"an issuer without usage": {attest.RuleChain, func(h hierarchy) { h[instance].template.KeyUsage = 0 }},
		"a root not for that":     {attest.RuleChain, func(h hierarchy) { h[root].template.KeyUsage = x509.KeyUsageCRLSign }},
		"a leaf that is an authority": {attest.RuleChain, func(h hierarchy) {
			h[leaf].template.IsCA, h[leaf].template.KeyUsage = true, issuerUsage|x509.KeyUsageDigitalSignature
			h[instance].template.MaxPathLen = 1
			h[instance].template.MaxPathLenZero = false
			h[zone].template.MaxPathLen = 2
			h[region].template.MaxPathLen = 3
		}},
		"a leaf not for signatures": {attest.RuleChain, func(h hierarchy) { h[leaf].template.KeyUsage = x509.KeyUsageKeyAgreement }},
		"an issuer on P-256":        {attest.RuleChain, func(h hierarchy) { h[zone].curve = elliptic.P256() }},
		"signed with SHA-256":       {attest.RuleChain, func(h hierarchy) { h[leaf].template.SignatureAlgorithm = x509.ECDSAWithSHA256 }},
		"an unknown critical extension": {attest.RuleChain, func(h hierarchy) {
			h[leaf].template.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}}}
		}},
		"an issuer of over 1024 bytes": {attest.RuleBundle, func(h hierarchy) { h[zone].template.ExtraExtensions = long }},
		"a leaf of over 1024 bytes":    {attest.RuleCertificate, func(h hierarchy) { h[leaf].template.ExtraExtensions = long }},
		"a root that is over":          {attest.RuleTime, func(h hierarchy) { h[root].template.NotAfter = moment.Add(-time.Second) }},
		"an issuer that is over":       {attest.RuleTime, func(h hierarchy) { h[zone].template.NotAfter = moment.Add(-time.Second) }},
		"an issuer that is yet to be":  {attest.RuleTime, func(h hierarchy) { h[region].template.NotBefore = moment.Add(time.Second) }},
		"a leaf that is over":          {attest.RuleTime, func(h hierarchy) { h[leaf].template.NotAfter = moment.Add(-time.Second) }},
		"a leaf that is yet to be":     {attest.RuleTime, func(h hierarchy) { h[leaf].template.NotBefore = moment.Add(time.Second) }},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHierarchy()
			row.spoil(h)
			h.make(t)
			doc := h.sign(t, h.bundle(), h[leaf])
			if row.rule == "" {
				holds(t, doc, h.options(t))
				return
			}
			breaks(t, row.rule, doc, h.options(t))
		})
	}
}

// TestI5_BundleRules: what an attacker puts into the bundle of a document that they sign.
func TestI5_BundleRules(t *testing.T) {
	good, forged := newHierarchy(), newHierarchy() // the same names
	good.make(t)
	forged.make(t)
	trusted := good.options(t)
	holds(t, good.sign(t, good.bundle(), good[leaf]), trusted)
	edit := func(f func([][]byte) [][]byte) [][]byte { return f(good.bundle()) }
	for name, row := range map[string]struct {
		rule   attest.Rule
		bundle [][]byte
		leaf   *link
	}{
		"their own root, of the same name":  {attest.RuleRoot, forged.bundle(), forged[leaf]},
		"the true root above their own":     {attest.RuleChain, append([][]byte{good[root].der}, forged.bundle()[1:]...), forged[leaf]},
		"the true bundle above their leaf":  {attest.RuleChain, good.bundle(), forged[leaf]},
		"their root beside the true one":    {attest.RuleChain, append([][]byte{good[root].der}, forged.bundle()...), forged[leaf]},
		"the true root last":                {attest.RuleRoot, edit(func(b [][]byte) [][]byte { slices.Reverse(b); return b }), good[leaf]},
		"issuers out of order":              {attest.RuleChain, edit(func(b [][]byte) [][]byte { b[1], b[2] = b[2], b[1]; return b }), good[leaf]},
		"an issuer missing":                 {attest.RuleChain, edit(func(b [][]byte) [][]byte { return slices.Delete(b, 2, 3) }), good[leaf]},
		"the root alone":                    {attest.RuleChain, edit(func(b [][]byte) [][]byte { return b[:1] }), good[leaf]},
		"an issuer twice":                   {attest.RuleChain, edit(func(b [][]byte) [][]byte { return append(b, b[3]) }), good[leaf]},
		"the root twice":                    {attest.RuleChain, edit(func(b [][]byte) [][]byte { return slices.Insert(b, 1, b[0]) }), good[leaf]},
		"one that belongs to nothing":       {attest.RuleChain, edit(func(b [][]byte) [][]byte { return append(b, forged[zone].der) }), good[leaf]},
		"an instance as the leaf":           {attest.RuleChain, edit(func(b [][]byte) [][]byte { return b[:3] }), good[instance]},
		"the true leaf, signed by somebody": {attest.RuleSignature, good.bundle(), &link{der: good[leaf].der, key: forged[leaf].key}},
	} {
		t.Run(name, func(t *testing.T) { breaks(t, row.rule, good.sign(t, row.bundle, row.leaf), trusted) })
	}
}

// TestI5_AKeyOfAnotherKindSignsNothing: ES384 with a key that is not on P-384.
func TestI5_AKeyOfAnotherKindSignsNothing(t *testing.T) {
	h := newHierarchy()
	h[leaf].curve = elliptic.P256()
	h.make(t)
	breaks(t, attest.RuleSignature, h.sign(t, h.bundle(), &link{der: h[leaf].der, key: h[instance].key}), h.options(t))

	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, h[leaf].template, h[instance].template, public, h[instance].key)
	if err != nil {
		t.Fatal(err)
	}
	breaks(t, attest.RuleChain, h.sign(t, h.bundle(), &link{der: der, key: h[instance].key}), h.options(t))
}
