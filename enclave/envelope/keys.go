package envelope

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"hash"
)

// Domains and labels keep hashes and keys of different purposes apart.
const (
	policyDomain = "cloister policy v1"
	frontDomain  = "cloister bundle front v1"
	macLabel     = "cloister bundle v1 header mac"
	payloadLabel = "cloister bundle v1 payload"
)

// macSize is the length of the header MAC: HMAC-SHA-256.
const macSize = sha256.Size

func sumSHA256(data []byte) [sha256.Size]byte { return sha256.Sum256(data) }

// hashParts writes each part behind its length as eight bytes, big endian.
func hashParts(h hash.Hash, parts ...[]byte) []byte {
	for _, part := range parts {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part))))
		h.Write(part)
	}
	return h.Sum(nil)
}

// sumParts is SHA-256 over a domain and parts, each behind its length.
func sumParts(domain string, parts ...[]byte) []byte {
	return hashParts(sha256.New(), append([][]byte{[]byte(domain)}, parts...)...)
}

// sumFront is the hash of everything before the MAC: SHA-384 over a domain and the regions,
// each behind its length. opening is magic, version and header length.
func sumFront(opening, header, module []byte) []byte {
	return hashParts(sha512.New384(), []byte(frontDomain), opening, header, module)
}

// keys are what one data key is good for in one bundle.
type keys struct{ mac, payload []byte }

// errDataKey says that a KMS gave something else than was asked for.
var errDataKey = errors.New("the data key is not 32 bytes long")

// derive makes the keys of a bundle: HKDF-SHA-384 (RFC 5869) from the data key, with the hash
// of everything before the MAC as the salt.
//
// The MAC commits to the data key, and with it to the payload key: to find a second data key
// with the same MAC is to find a collision of HMAC-SHA-256 under keys of fixed length. AES-GCM
// by itself commits to nothing (Albertini et al., USENIX Security 2022).
func derive(dataKey, front []byte) (keys, error) {
	if len(dataKey) != KeySize {
		return keys{}, errDataKey
	}
	prk, err := hkdf.Extract(sha512.New384, dataKey, front)
	if err != nil {
		return keys{}, err
	}
	defer clear(prk)
	mac, err := hkdf.Expand(sha512.New384, prk, macLabel, sha256.Size)
	if err != nil {
		return keys{}, err
	}
	payload, err := hkdf.Expand(sha512.New384, prk, payloadLabel, KeySize)
	if err != nil {
		return keys{}, err
	}
	return keys{mac: mac, payload: payload}, nil
}

// sum is the header MAC.
func (k keys) sum(front []byte) []byte {
	m := hmac.New(sha256.New, k.mac)
	m.Write(front)
	return m.Sum(nil)
}

// wipe forgets the keys.
func (k keys) wipe() {
	clear(k.mac)
	clear(k.payload)
}
