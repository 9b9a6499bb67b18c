package keys

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
)

// contentKeySize is that of AES-256.
const contentKeySize = 32

// The object identifiers that KMS uses, as the content of their encoding.
const (
	oidEnvelopedData = "\x2a\x86\x48\x86\xf7\x0d\x01\x07\x03" // 1.2.840.113549.1.7.3 (RFC 5652, 6.1)
	oidData          = "\x2a\x86\x48\x86\xf7\x0d\x01\x07\x01" // 1.2.840.113549.1.7.1 (RFC 5652, 4)
	oidOAEP          = "\x2a\x86\x48\x86\xf7\x0d\x01\x01\x07" // 1.2.840.113549.1.1.7 (RFC 4055, 4.1)
	oidMGF1          = "\x2a\x86\x48\x86\xf7\x0d\x01\x01\x08" // 1.2.840.113549.1.1.8 (RFC 4055, 2.2)
	oidSHA256        = "\x60\x86\x48\x01\x65\x03\x04\x02\x01" // 2.16.840.1.101.3.4.2.1 (RFC 4055, 2.1)
	oidAES256CBC     = "\x60\x86\x48\x01\x65\x03\x04\x01\x2a" // 2.16.840.1.101.3.4.1.42 (RFC 3565, 4.1)
	envelopeVersion  = "\x02"                                 // of EnvelopedData and its recipient named by key identifier (RFC 5652, 6)
)

// Why an envelope does not open. errDecrypt is the one answer for everything that depends on
// what was encrypted.
var (
	errRecipient = errors.New("the envelope is for another key")
	errDecrypt   = errors.New("the envelope does not decrypt")
)

// envelope is a CMS EnvelopedData of the one form that KMS sends.
type envelope struct {
	// recipient is the subjectKeyIdentifier: KMS takes SHA-256 over the SubjectPublicKeyInfo.
	recipient    []byte
	encryptedKey []byte
	iv           []byte
	ciphertext   []byte
}

// openEnvelope decrypts what KMS encrypted to key: CMS EnvelopedData (RFC 5652, 6) in BER, with
// one recipient, RSAES-OAEP with SHA-256 and AES-256-CBC. The caller owns the plaintext.
func openEnvelope(ber []byte, key *rsa.PrivateKey) ([]byte, error) {
	e, err := parseEnvelope(ber)
	if err != nil {
		return nil, err
	}
	spki, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(spki); !bytes.Equal(sum[:], e.recipient) {
		return nil, errRecipient
	}
	return e.open(key)
}

// misfit names the part of an envelope that is not as KMS makes it.
func misfit(part string) error { return fmt.Errorf("the envelope's %s is not as KMS makes it", part) }

// parseEnvelope reads an envelope, and takes no algorithm and no field but those that KMS uses.
func parseEnvelope(ber []byte) (*envelope, error) {
	root, err := parseBER(ber)
	if err != nil {
		return nil, err
	}
	info, ok := root.fields(tagSequence, tagOID, tagExplicit0)
	if !ok || string(info[0].content) != oidEnvelopedData || len(info[1].parts) != 1 {
		return nil, misfit("content type")
	}
	// No originatorInfo before the recipients, no unprotectedAttrs at the end.
	data, ok := info[1].parts[0].fields(tagSequence, tagInteger, tagSet, tagSequence)
	if !ok || string(data[0].content) != envelopeVersion || len(data[1].parts) != 1 {
		return nil, misfit("version or recipients")
	}
	e := new(envelope)
	if err := e.readRecipient(data[1].parts[0]); err != nil {
		return nil, err
	}
	return e, e.readContent(data[2])
}

// readRecipient reads a KeyTransRecipientInfo (RFC 5652, 6.2.1).
func (e *envelope) readRecipient(info element) error {
	f, ok := info.fields(tagSequence, tagInteger, tagContext0, tagSequence, tagOctets)
	if !ok || string(f[0].content) != envelopeVersion || len(f[1].content) != sha256.Size {
		return misfit("recipient")
	}
	if !f[2].isOAEP() {
		return misfit("key transport")
	}
	e.recipient, e.encryptedKey = f[1].content, f[3].content
	return nil
}

// readContent reads an EncryptedContentInfo (RFC 5652, 6.1). Its encryptedContent is one
// string, or several that follow one another.
func (e *envelope) readContent(info element) error {
	if info.tag != tagSequence || len(info.parts) != 3 {
		return misfit("content")
	}
	kind, content := info.parts[0], info.parts[2]
	if kind.tag != tagOID || string(kind.content) != oidData {
		return misfit("content")
	}
	f, ok := info.parts[1].fields(tagSequence, tagOID, tagOctets)
	if !ok || string(f[0].content) != oidAES256CBC || len(f[1].content) != aes.BlockSize {
		return misfit("cipher")
	}
	e.iv = f[1].content
	switch content.tag {
	case tagContext0:
		e.ciphertext = content.content
	case tagExplicit0:
		for _, part := range content.parts {
			if part.tag != tagOctets {
				return misfit("content")
			}
			e.ciphertext = append(e.ciphertext, part.content...)
		}
	default:
		return misfit("content")
	}
	if len(e.ciphertext) == 0 || len(e.ciphertext)%aes.BlockSize != 0 {
		return misfit("content")
	}
	return nil
}

// fields are the parts of an element that has that tag, if they have those tags.
func (e element) fields(tag byte, tags ...byte) ([]element, bool) {
	has := func(part element, tag byte) bool { return part.tag == tag }
	if e.tag != tag || !slices.EqualFunc(e.parts, tags, has) {
		return nil, false
	}
	return e.parts, true
}

// isOAEP reports whether an AlgorithmIdentifier is RSAES-OAEP with SHA-256, MGF1 with SHA-256
// and no label, which is its default and left out (RFC 4055, 4.1).
func (e element) isOAEP() bool {
	f, ok := e.fields(tagSequence, tagOID, tagSequence)
	if !ok || string(f[0].content) != oidOAEP {
		return false
	}
	f, ok = f[1].fields(tagSequence, tagExplicit0, tagExplicit1)
	if !ok || len(f[0].parts) != 1 || len(f[1].parts) != 1 || !f[0].parts[0].isSHA256() {
		return false
	}
	f, ok = f[1].parts[0].fields(tagSequence, tagOID, tagSequence)
	return ok && string(f[0].content) == oidMGF1 && f[1].isSHA256()
}

// isSHA256: parameters are NULL or left out, which mean the same (RFC 4055, 2.1).
func (e element) isSHA256() bool {
	f, ok := e.fields(tagSequence, tagOID)
	if !ok {
		f, ok = e.fields(tagSequence, tagOID, tagNull)
		ok = ok && len(f[1].content) == 0
	}
	return ok && string(f[0].content) == oidSHA256
}

// open decrypts. A key that does not decrypt is replaced by a random one, so that padding of
// either kind leads to one error on one path. A key decrypts one envelope in its life, so there
// is no oracle to ask twice.
func (e *envelope) open(key *rsa.PrivateKey) ([]byte, error) {
	contentKey := make([]byte, contentKeySize)
	rand.Read(contentKey) // never fails (crypto/rand)
	defer clear(contentKey)
	transported, err := rsa.DecryptOAEP(sha256.New(), nil, key, e.encryptedKey, nil)
	defer clear(transported)
	good := 0
	if err == nil && len(e.encryptedKey) == key.Size() && len(transported) == contentKeySize {
		good = 1
		copy(contentKey, transported)
	}
	block, err := aes.NewCipher(contentKey)
	if err != nil {
		return nil, err
	}
	plaintext := make([]byte, len(e.ciphertext))
	cipher.NewCBCDecrypter(block, e.iv).CryptBlocks(plaintext, e.ciphertext)
	n, padded := unpad(plaintext)
	if good&padded != 1 {
		clear(plaintext)
		return nil, errDecrypt
	}
	return plaintext[:n:n], nil
}

// unpad finds how long a text is before its padding, and whether that is right (1) or not (0),
// in time that depends on the length of the whole alone (RFC 5652, 6.3).
func unpad(text []byte) (n, good int) {
	last := text[len(text)-aes.BlockSize:]
	pad := int(last[aes.BlockSize-1])
	good = subtle.ConstantTimeLessOrEq(1, pad) & subtle.ConstantTimeLessOrEq(pad, aes.BlockSize)
	for i, b := range last {
		inside := subtle.ConstantTimeLessOrEq(aes.BlockSize-i, pad)
		good &= subtle.ConstantTimeSelect(inside, subtle.ConstantTimeByteEq(b, byte(pad)), 1)
	}
	return len(text) - pad, good
}
