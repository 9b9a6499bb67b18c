package eif_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/veraison/go-cose"

	"github.com/cloister-run/cloister/enclave/image/eif"
)

// publisher is a certificate in PEM, and its key.
func publisher(t testing.TB, key crypto.Signer) []byte {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "a publisher"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func ec(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

var parts = []eif.Part{eif.Bytes(eif.Kernel, []byte("kernel")), eif.Bytes(eif.CommandLine, nil), eif.Bytes(eif.Ramdisk, []byte("disk"))}

func TestASignatureNamesItsPublisher(t *testing.T) {
	for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()} {
		key := ec(t, curve)
		certificate := publisher(t, key)
		raw, pcrs := build(t, eif.Spec{Sign: func(pcr0 eif.PCR) ([]byte, error) { return eif.Sign(pcr0, certificate, key) }}, parts...)
		img, err := read(raw)
		if err != nil {
			t.Fatal(err)
		}
		if measured, err := img.Measure(t.Context()); err != nil || measured != pcrs {
			t.Errorf("%v, %v: a signature is measured", measured, err)
		}
		who, err := img.Signer(pcrs.PCR0)
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(certificate)
		if who.PCR8 != x(block.Bytes) || who.Certificate.Subject.CommonName != "a publisher" {
			t.Errorf("%v of %v", who.PCR8, who.Certificate.Subject)
		}
		if _, err := img.Signer(eif.PCR{1}); err == nil || !strings.Contains(err.Error(), "another image") {
			t.Errorf("it vouches for another image: %v", err)
		}
	}
	img, err := read(small(t))
	if err != nil {
		t.Fatal(err)
	}
	if who, err := img.Signer(eif.PCR{}); who != nil || err != nil {
		t.Errorf("nobody signed it: %v, %v", who, err)
	}
}

func TestSignRefuses(t *testing.T) {
	key, other := ec(t, elliptic.P384()), ec(t, elliptic.P384())
	if _, err := eif.Sign(eif.PCR{}, publisher(t, key), other); err == nil {
		t.Error("with a key that is not the certificate's")
	}
	strange, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := eif.Sign(eif.PCR{}, publisher(t, strange), strange); err == nil {
		t.Error("with an RSA key")
	}
	if _, err := eif.Sign(eif.PCR{}, []byte("no PEM"), key); err == nil {
		t.Error("without a certificate")
	}
}

// I5: whatever of a signature is changed, it vouches for nothing.
func TestI5_ASignatureThatIsNone(t *testing.T) {
	key := ec(t, elliptic.P384())
	certificate := publisher(t, key)
	good, err := eif.Sign(eif.PCR{7}, certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	theirs := ec(t, elliptic.P384())
	foreign, err := eif.Sign(eif.PCR{7}, publisher(t, theirs), theirs)
	if err != nil {
		t.Fatal(err)
	}
	type one struct {
		Certificate []uint16 `cbor:"signing_certificate"`
		Signature   []uint16 `cbor:"signature"`
	}
	var mine, their []one
	if err := errors.Join(cbor.Unmarshal(good, &mine), cbor.Unmarshal(foreign, &their)); err != nil {
		t.Fatal(err)
	}
	encode := func(v any) []byte {
		raw, err := cbor.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	type vouched struct {
		Index int32    `cbor:"register_index"`
		Value []uint16 `cbor:"register_value"`
	}
	value := make([]uint16, 48)
	value[0] = 7
	signer, err := cose.NewSigner(cose.AlgorithmES384, key)
	if err != nil {
		t.Fatal(err)
	}
	over := func(payload []byte) []byte {
		message := cose.UntaggedSign1Message{Headers: cose.Headers{Protected: cose.ProtectedHeader{cose.HeaderLabelAlgorithm: cose.AlgorithmES384}}, Payload: payload}
		raw, err := []byte(nil), message.Sign(rand.Reader, nil, signer)
		if err == nil {
			raw, err = message.MarshalCBOR()
		}
		if err != nil {
			t.Fatal(err)
		}
		ints := make([]uint16, len(raw))
		for i, b := range raw {
			ints[i] = uint16(b)
		}
		return encode([]one{{mine[0].Certificate, ints}})
	}
	twice := slices.Concat([]byte{0xa3}, encode("register_index"), encode(0), encode("register_value"), encode(value), encode("register_index"), encode(0))
	// What is signed so counts, so that the rows below fail for what they are named for.
	raw, _ := build(t, eif.Spec{Sign: func(eif.PCR) ([]byte, error) { return over(encode(vouched{0, value})), nil }}, parts...)
	img, err := read(raw)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := img.Signer(eif.PCR{7}); err != nil {
		t.Fatal(err)
	}
	for rule, data := range map[string][]byte{
		"another register":        over(encode(vouched{1, value})),
		"a register named twice":  over(twice),
		"nothing":                 nil,
		"no CBOR":                 []byte("signed"),
		"no signature":            encode([]one{}),
		"two":                     encode([]one{mine[0], mine[0]}),
		"another's certificate":   encode([]one{{their[0].Certificate, mine[0].Signature}}),
		"no certificate":          encode([]one{{nil, mine[0].Signature}}),
		"what is no byte":         encode([]one{{[]uint16{256}, mine[0].Signature}}),
		"no COSE":                 encode([]one{{mine[0].Certificate, []uint16{1, 2}}}),
		"more fields":             encode([]map[string]any{{"signing_certificate": mine[0].Certificate, "signature": mine[0].Signature, "more": 1}}),
		"a certificate and more":  encode([]one{{append(append([]uint16{}, mine[0].Certificate...), mine[0].Certificate...), mine[0].Signature}}),
		"something behind":        append(bytes.Clone(good), 0),
		"arrays within arrays":    bytes.Repeat([]byte{0x81}, 1000),
		"an array without an end": {0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
	} {
		raw, _ := build(t, eif.Spec{Sign: func(eif.PCR) ([]byte, error) { return data, nil }}, parts...)
		img, err := read(raw)
		if err != nil {
			t.Fatal(err)
		}
		if _, isOurs := errors.AsType[*eif.Error](func() error { _, err := img.Signer(eif.PCR{7}); return err }()); !isOurs {
			t.Errorf("%s: it vouches, or breaks", rule)
		}
	}
	for at := range mine[0].Signature {
		changed := slices.Clone(mine[0].Signature)
		changed[at] ^= 1
		raw, _ := build(t, eif.Spec{Sign: func(eif.PCR) ([]byte, error) { return encode([]one{{mine[0].Certificate, changed}}), nil }}, parts...)
		img, err := read(raw)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := img.Signer(eif.PCR{7}); err == nil {
			t.Errorf("byte %d of the signature: it vouches", at)
		}
	}
}
