package devkit

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/binary"
)

// Tags (X.690, 8.1.2) and whole elements of what KMS sends.
const (
	tagInteger      = 0x02
	tagOctets       = 0x04
	tagNull         = 0x05
	tagOID          = 0x06
	tagSequence     = 0x30
	tagSet          = 0x31
	tagContext0     = 0x80
	tagConstructed0 = 0xa0
	tagConstructed1 = 0xa1

	oidEnvelopedData = "\x2a\x86\x48\x86\xf7\x0d\x01\x07\x03" // 1.2.840.113549.1.7.3 (RFC 5652, 6.1)
	oidData          = "\x2a\x86\x48\x86\xf7\x0d\x01\x07\x01" // 1.2.840.113549.1.7.1 (RFC 5652, 4)
	oidOAEP          = "\x2a\x86\x48\x86\xf7\x0d\x01\x01\x07" // 1.2.840.113549.1.1.7 (RFC 4055, 4.1)
	oidMGF1          = "\x2a\x86\x48\x86\xf7\x0d\x01\x01\x08" // 1.2.840.113549.1.1.8 (RFC 4055, 2.2)
	oidSHA256        = "\x60\x86\x48\x01\x65\x03\x04\x02\x01" // 2.16.840.1.101.3.4.2.1 (RFC 4055, 2.1)
	oidAES256CBC     = "\x60\x86\x48\x01\x65\x03\x04\x01\x2a" // 2.16.840.1.101.3.4.1.42 (RFC 3565, 4.1)
	envelopeVersion  = "\x02"                                 // RFC 5652, 6.1
)

// tlv is an element of definite length.
func tlv(tag byte, contents ...[]byte) []byte {
	content := bytes.Join(contents, nil)
	out := []byte{tag}
	switch n := len(content); {
	case n < 0x80:
		out = append(out, byte(n))
	case n < 1<<8:
		out = append(out, 0x81, byte(n))
	default: // nothing here comes near 64 KiB
		out = binary.BigEndian.AppendUint16(append(out, 0x82), uint16(n))
	}
	return append(out, content...)
}

// endless is an element of indefinite length (X.690, 8.1.3.6).
func endless(tag byte, contents ...[]byte) []byte {
	return append(append([]byte{tag, 0x80}, bytes.Join(contents, nil)...), 0, 0)
}

func sha256Algorithm() []byte {
	return tlv(tagSequence, tlv(tagOID, []byte(oidSHA256)), tlv(tagNull))
}

// sealTo encrypts a plaintext to a recipient as KMS does: CMS EnvelopedData (RFC 5652, 6) whose
// outer elements have indefinite lengths, the recipient named by SHA-256 of its
// SubjectPublicKeyInfo, RSAES-OAEP with SHA-256, AES-256-CBC. KMS has been seen to send the encrypted
// content as one string and as a string inside a constructed element: constructed says which.
func sealTo(public *rsa.PublicKey, spki, plaintext []byte, constructed bool) ([]byte, error) {
	contentKey, iv := make([]byte, 32), make([]byte, aes.BlockSize)
	_, _ = rand.Read(contentKey) // never fails
	_, _ = rand.Read(iv)
	defer clear(contentKey)
	transported, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, public, contentKey, nil)
	if err != nil {
		return nil, err
	}
	ciphertext, err := encryptCBC(contentKey, iv, plaintext)
	if err != nil {
		return nil, err
	}
	id := sha256.Sum256(spki)
	oaep := tlv(tagSequence, tlv(tagOID, []byte(oidOAEP)), tlv(tagSequence,
		tlv(tagConstructed0, sha256Algorithm()),
		tlv(tagConstructed1, tlv(tagSequence, tlv(tagOID, []byte(oidMGF1)), sha256Algorithm()))))
	recipient := tlv(tagSequence, tlv(tagInteger, []byte(envelopeVersion)), tlv(tagContext0, id[:]), oaep, tlv(tagOctets, transported))
	content := tlv(tagContext0, ciphertext)
	if constructed {
		content = endless(tagConstructed0, tlv(tagOctets, ciphertext))
	}
	return endless(tagSequence, tlv(tagOID, []byte(oidEnvelopedData)), endless(tagConstructed0, endless(tagSequence,
		tlv(tagInteger, []byte(envelopeVersion)),
		tlv(tagSet, recipient),
		endless(tagSequence,
			tlv(tagOID, []byte(oidData)),
			tlv(tagSequence, tlv(tagOID, []byte(oidAES256CBC)), tlv(tagOctets, iv)),
			content)))), nil
}

// encryptCBC pads (RFC 5652, 6.3) and encrypts.
func encryptCBC(contentKey, iv, plaintext []byte) ([]byte, error) {
	block, err := aes.NewCipher(contentKey)
	if err != nil {
		return nil, err
	}
	pad := aes.BlockSize - len(plaintext)%aes.BlockSize
	out := append(bytes.Clone(plaintext), bytes.Repeat([]byte{byte(pad)}, pad)...)
	cipher.NewCBCEncrypter(block, iv).CryptBlocks(out, out)
	return out, nil
}
