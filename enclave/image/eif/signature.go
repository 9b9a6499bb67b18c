package eif

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha512"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"

	"github.com/fxamacker/cbor/v2"
	"github.com/veraison/go-cose"
)

// Signer says who vouches for an image. A hypervisor checks the signature and measures the certificate as
// PCR8, so that a key policy can name a publisher in place of an image.
type Signer struct {
	// PCR8 is a register of zeros, extended by the digest of the certificate.
	PCR8 PCR
	// Certificate is what it says of itself; nobody has verified it.
	Certificate *x509.Certificate
}

// ints are bytes as AWS's tools write them: an array of small integers (serde_cbor's Vec<u8>).
type ints []uint16

func toInts(b []byte) ints {
	list := make(ints, len(b))
	for i, v := range b {
		list[i] = uint16(v)
	}
	return list
}

func (list ints) bytes() ([]byte, error) {
	b := make([]byte, len(list))
	for i, v := range list {
		if v > 255 {
			return nil, refuse("the signature holds %d in the place of a byte", v)
		}
		b[i] = byte(v)
	}
	return b, nil
}

// signed is one signature of a section; there is one, over PCR0.
type signed struct {
	Certificate ints `cbor:"signing_certificate"`
	Signature   ints `cbor:"signature"`
}

// vouched is what is signed.
type vouched struct {
	Index int32 `cbor:"register_index"`
	Value ints  `cbor:"register_value"`
}

// decode is strict and bounded: a section is a few kilobytes.
func decode(data []byte, into any) error {
	mode, err := cbor.DecOptions{
		DupMapKey: cbor.DupMapKeyEnforcedAPF, MaxNestedLevels: 8, MaxArrayElements: 32 << 10, MaxMapPairs: 16,
		TagsMd: cbor.TagsForbidden, ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
	}.DecMode()
	if err != nil {
		return err
	}
	if err := mode.Unmarshal(data, into); err != nil {
		return refuse("the signature is not as it has to be: %v", err)
	}
	return nil
}

// Signer verifies the signature of an image that was measured as pcr0, and says whose it is. It gives nil
// for an image that nobody signed. Errors are an [*Error], or the reader's.
func (img *Image) Signer(pcr0 PCR) (*Signer, error) {
	for _, s := range img.Sections {
		if s.Kind == Signature {
			data, err := io.ReadAll(img.Data(s)) // bounded by the format
			if err != nil {
				return nil, err
			}
			return verify(data, pcr0)
		}
	}
	return nil, nil //nolint:nilnil // nobody is somebody's absence
}

func verify(data []byte, pcr0 PCR) (*Signer, error) {
	var all []signed
	if err := decode(data, &all); err != nil {
		return nil, err
	}
	if len(all) != 1 {
		return nil, refuse("it has %d signatures; one is allowed", len(all))
	}
	text, err := all[0].Certificate.bytes()
	if err != nil {
		return nil, err
	}
	raw, err := all[0].Signature.bytes()
	if err != nil {
		return nil, err
	}
	certificate, err := parseCertificate(text)
	if err != nil {
		return nil, err
	}
	var message cose.UntaggedSign1Message
	if err := message.UnmarshalCBOR(raw); err != nil {
		return nil, refuse("the signature is no COSE_Sign1: %v", err)
	}
	algorithm, err := algorithmOf(certificate.PublicKey)
	if err != nil {
		return nil, err
	}
	verifier, err := cose.NewVerifier(algorithm, certificate.PublicKey)
	if err != nil {
		return nil, refuse("the signing certificate: %v", err)
	}
	if err := message.Verify(nil, verifier); err != nil {
		return nil, refuse("the signature is not that of its certificate")
	}
	var what vouched
	if err := decode(message.Payload, &what); err != nil {
		return nil, err
	}
	value, err := what.Value.bytes()
	if err != nil {
		return nil, err
	}
	if what.Index != 0 || !bytes.Equal(value, pcr0[:]) {
		return nil, refuse("the signature is over another image")
	}
	return &Signer{PCR8: pcr8(certificate), Certificate: certificate}, nil
}

// PublisherPCR is PCR8 of what is signed under a certificate in PEM. Errors are an [*Error].
func PublisherPCR(certificate []byte) (PCR, error) {
	parsed, err := parseCertificate(certificate)
	if err != nil {
		return PCR{}, err
	}
	return pcr8(parsed), nil
}

func pcr8(certificate *x509.Certificate) PCR {
	sum := sha512.Sum384(certificate.Raw)
	return Extended(sum[:])
}

func parseCertificate(text []byte) (*x509.Certificate, error) {
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, refuse("the signing certificate is not one certificate in PEM")
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, refuse("the signing certificate: %v", err)
	}
	return certificate, nil
}

// algorithmOf is the one that goes with a key, on the curves that AWS's tools take.
func algorithmOf(key crypto.PublicKey) (cose.Algorithm, error) {
	if ec, ok := key.(*ecdsa.PublicKey); ok {
		switch ec.Curve.Params().BitSize {
		case 256:
			return cose.AlgorithmES256, nil
		case 384:
			return cose.AlgorithmES384, nil
		case 521:
			return cose.AlgorithmES512, nil
		}
	}
	return 0, refuse("the signing certificate has no key on P-256, P-384 or P-521")
}

// Sign makes what vouches for an image that is measured as pcr0: the data of its signature section.
// certificate is PEM, and key is the private key that goes with it.
func Sign(pcr0 PCR, certificate []byte, key crypto.Signer) ([]byte, error) {
	parsed, err := parseCertificate(certificate)
	if err != nil {
		return nil, err
	}
	public, ok := parsed.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(key.Public()) {
		return nil, errors.New("eif: the key is not that of the certificate")
	}
	algorithm, err := algorithmOf(parsed.PublicKey)
	if err != nil {
		return nil, err
	}
	signer, err := cose.NewSigner(algorithm, key)
	if err != nil {
		return nil, fmt.Errorf("eif: %w", err)
	}
	payload, err := cbor.Marshal(vouched{Index: 0, Value: toInts(pcr0[:])})
	if err != nil {
		return nil, fmt.Errorf("eif: %w", err)
	}
	message := cose.UntaggedSign1Message{
		Headers: cose.Headers{Protected: cose.ProtectedHeader{cose.HeaderLabelAlgorithm: algorithm}}, Payload: payload,
	}
	if err := message.Sign(rand.Reader, nil, signer); err != nil {
		return nil, fmt.Errorf("eif: signing: %w", err)
	}
	raw, err := message.MarshalCBOR()
	if err != nil {
		return nil, fmt.Errorf("eif: %w", err)
	}
	return cbor.Marshal([]signed{{Certificate: toInts(certificate), Signature: toInts(raw)}})
}
