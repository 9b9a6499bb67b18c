package attest

import (
	"context"
	"crypto/sha512"
	"encoding/binary"
	"fmt"
)

// Kind is what a document was made for. A document of one kind is of no use for another: each has
// a user_data of its own (see [UserData]).
type Kind string

// The kinds.
const (
	// KindClient: for somebody who asks whom they talk to. It has their nonce and no public key.
	KindClient Kind = "client"
	// KindKMS: for one request to KMS, sent only inside TLS. It has a single-use public key.
	KindKMS Kind = "kms"
	// KindReceipt: for the record of a run, which is its content. It has no public key.
	KindReceipt Kind = "receipt"
)

// MinNonce is the least that a client's nonce may have.
const MinNonce = 16

// userDataDomain and userDataVersion separate these hashes from all others.
const (
	userDataDomain  = "cloister-attestation"
	userDataVersion = "1"
)

// UserData is the user_data of a document of that kind: SHA-384 over the domain, the kind, the
// version and the content, each preceded by its length as 8 bytes, big-endian.
func UserData(kind Kind, content []byte) []byte {
	h := sha512.New384()
	for _, part := range [][]byte{[]byte(userDataDomain), []byte(kind), []byte(userDataVersion), content} {
		var length [8]byte
		binary.BigEndian.PutUint64(length[:], uint64(len(part)))
		h.Write(length[:])
		h.Write(part)
	}
	return h.Sum(nil)
}

// ForClient asks for a document that answers a client's nonce of MinNonce to MaxNonce bytes.
func ForClient(ctx context.Context, nsm Attester, nonce []byte) ([]byte, error) {
	if len(nonce) < MinNonce {
		return nil, fmt.Errorf("attest: nonce: %d bytes, at least %d", len(nonce), MinNonce)
	}
	return nsm.Attest(ctx, Request{UserData: UserData(KindClient, nil), Nonce: nonce})
}

// ForKMS asks for a document that lets KMS answer to publicKey, a SubjectPublicKeyInfo in DER.
func ForKMS(ctx context.Context, nsm Attester, publicKey []byte) ([]byte, error) {
	if len(publicKey) == 0 {
		return nil, fmt.Errorf("attest: public key: missing")
	}
	return nsm.Attest(ctx, Request{UserData: UserData(KindKMS, nil), PublicKey: publicKey})
}

// ForReceipt asks for a document over the final bytes of a record, as receipt.Message encodes them.
func ForReceipt(ctx context.Context, nsm Attester, record []byte) ([]byte, error) {
	return nsm.Attest(ctx, Request{UserData: UserData(KindReceipt, record)})
}

// fits holds the fields of a document against the rules of a kind; its user_data is checked elsewhere.
func (k Kind) fits(doc *Document) error {
	has := doc.PublicKey != nil
	if wants := k == KindKMS; has != wants {
		return breaks(RuleWantKey, "there is a public key: %t; in a document of the kind %s: %t", has, k, wants)
	}
	return nil
}

func (k Kind) known() bool { return k == KindClient || k == KindKMS || k == KindReceipt }
