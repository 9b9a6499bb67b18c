package keys_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"hash"
	"slices"
	"testing"
)

// A small writer of BER, for messages that KMS would send and others that it would not.

func tlv(tag byte, parts ...[]byte) []byte {
	body := bytes.Join(parts, nil)
	switch n := len(body); {
	case n < 0x80:
		return append([]byte{tag, byte(n)}, body...)
	case n < 0x10000:
		return append([]byte{tag, 0x82, byte(n >> 8), byte(n)}, body...)
	default:
		return append([]byte{tag, 0x83, byte(n >> 16), byte(n >> 8), byte(n)}, body...)
	}
}

func endless(tag byte, parts ...[]byte) []byte {
	return slices.Concat([]byte{tag, 0x80}, bytes.Join(parts, nil), []byte{0, 0})
}

func oid(content string) []byte { return tlv(0x06, []byte(content)) }

const (
	envelopedOID = "\x2a\x86\x48\x86\xf7\x0d\x01\x07\x03"
	dataOID      = "\x2a\x86\x48\x86\xf7\x0d\x01\x07\x01"
	oaepOID      = "\x2a\x86\x48\x86\xf7\x0d\x01\x01\x07"
	pkcs1OID     = "\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01"
	mgf1OID      = "\x2a\x86\x48\x86\xf7\x0d\x01\x01\x08"
	sha256OID    = "\x60\x86\x48\x01\x65\x03\x04\x02\x01"
	sha512OID    = "\x60\x86\x48\x01\x65\x03\x04\x02\x03"
	cbc256OID    = "\x60\x86\x48\x01\x65\x03\x04\x01\x2a"
	cbc128OID    = "\x60\x86\x48\x01\x65\x03\x04\x01\x02"
)

// message is what an envelope is made of; newMessage fills it in as KMS does.
type message struct {
	contentType, version, recipientVersion, rid         []byte
	transport, encryptedKey, innerType, cipher, content []byte
	moreRecipients, beforeRecipients, afterContent      []byte
	wrap                                                func(tag byte, parts ...[]byte) []byte
}

func (m *message) ber() []byte {
	recipient := tlv(0x30, m.recipientVersion, m.rid, m.transport, m.encryptedKey)
	return m.wrap(0x30, m.contentType, m.wrap(0xa0, m.wrap(0x30,
		m.version, m.beforeRecipients, tlv(0x31, recipient, m.moreRecipients),
		m.wrap(0x30, m.innerType, m.cipher, m.content), m.afterContent)))
}

func keyID(pub *rsa.PublicKey) []byte {
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		panic(err)
	}
	sum := sha256.Sum256(spki)
	return sum[:]
}

func hashAlgorithm(id string) []byte { return tlv(0x30, oid(id), tlv(0x05)) }

func oaep(hash, mgf, mgfHash string) []byte {
	return tlv(0x30, oid(oaepOID), tlv(0x30,
		tlv(0xa0, hashAlgorithm(hash)), tlv(0xa1, tlv(0x30, oid(mgf), hashAlgorithm(mgfHash)))))
}

func padded(plaintext []byte) []byte {
	n := aes.BlockSize - len(plaintext)%aes.BlockSize
	return append(bytes.Clone(plaintext), bytes.Repeat([]byte{byte(n)}, n)...)
}

// encryption is what may go wrong inside.
type encryption struct {
	contentKey []byte // 32 random bytes by default
	hash       func() hash.Hash
	label      []byte
	blocks     []byte // the text with its padding
}

func (e encryption) of(pub *rsa.PublicKey) (encryptedKey, iv, ciphertext []byte) {
	if e.contentKey == nil {
		e.contentKey = random(32)
	}
	if e.hash == nil {
		e.hash = sha256.New
	}
	encryptedKey, err := rsa.EncryptOAEP(e.hash(), rand.Reader, pub, e.contentKey, e.label)
	if err != nil {
		panic(err)
	}
	block, err := aes.NewCipher(e.contentKey[:min(len(e.contentKey), 32)])
	if err != nil {
		panic(err)
	}
	iv, ciphertext = random(aes.BlockSize), make([]byte, len(e.blocks))
	cipher.NewCBCEncrypter(block, iv).CryptBlocks(ciphertext, e.blocks)
	return encryptedKey, iv, ciphertext
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

func newMessage(pub *rsa.PublicKey, e encryption) *message {
	encryptedKey, iv, ciphertext := e.of(pub)
	two := tlv(0x02, []byte{2})
	return &message{
		contentType: oid(envelopedOID), version: two, recipientVersion: two, rid: tlv(0x80, keyID(pub)),
		transport: oaep(sha256OID, mgf1OID, sha256OID), encryptedKey: tlv(0x04, encryptedKey),
		innerType: oid(dataOID), cipher: tlv(0x30, oid(cbc256OID), tlv(0x04, iv)),
		content: endless(0xa0, tlv(0x04, ciphertext)), wrap: endless,
	}
}

// seal is what KMS does.
func seal(pub *rsa.PublicKey, plaintext []byte) []byte {
	return newMessage(pub, encryption{blocks: padded(plaintext)}).ber()
}

func newKey(t testing.TB) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return key
}
