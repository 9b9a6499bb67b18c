package receipt

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/cloister-run/cloister/enclave/attest"
	"github.com/cloister-run/cloister/policies/abi"
)

// PayloadType is what DSSE calls an in-toto statement (in-toto attestation framework, Envelope
// layer v1).
const PayloadType = "application/vnd.in-toto+json"

// MaxReceipt bounds a receipt: the largest statement and document in base64, with what is around them.
const MaxReceipt = (MaxBytes+attest.MaxDocument+5)/3*4 + 256

// ErrMalformed says that bytes are no receipt, whoever made them.
var ErrMalformed = errors.New("not a receipt")

// envelope is DSSE's, with one signature and no key id.
type envelope struct {
	PayloadType string      `json:"payloadType"`
	Payload     string      `json:"payload"`
	Signatures  []signature `json:"signatures"`
}

type signature struct {
	Sig string `json:"sig"`
}

// Message is what a receipt's document commits to: the pre-authentication encoding of a
// statement (DSSE protocol v1). It is the content that attest.ForReceipt takes.
func Message(statement []byte) []byte {
	return fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(PayloadType), PayloadType, len(statement), statement)
}

// Encode makes a receipt of a statement and the document over its [Message]: a DSSE envelope of one
// line. There is one receipt for both, byte for byte. Encode looks into neither.
func Encode(statement, document []byte) ([]byte, error) {
	if len(statement) == 0 || len(statement) > MaxBytes {
		return nil, fmt.Errorf("receipt: a statement of %d bytes, not 1 to %d", len(statement), MaxBytes)
	}
	if len(document) == 0 || len(document) > attest.MaxDocument {
		return nil, fmt.Errorf("receipt: a document of %d bytes, not 1 to %d", len(document), attest.MaxDocument)
	}
	out, err := json.Marshal(envelope{
		PayloadType: PayloadType,
		Payload:     base64.StdEncoding.EncodeToString(statement),
		Signatures:  []signature{{Sig: base64.StdEncoding.EncodeToString(document)}},
	})
	if err != nil {
		return nil, fmt.Errorf("receipt: %w", err)
	}
	return append(out, '\n'), nil
}

// Decode takes apart what Encode made. Whatever Encode would have spelt otherwise is refused, so
// that a receipt has no byte that could be another. An error holds [ErrMalformed]; nobody vouches
// for what is returned.
func Decode(data []byte) (statement, document []byte, err error) {
	if statement, document, err = decode(data); err != nil {
		return nil, nil, fmt.Errorf("receipt: %w: %w", ErrMalformed, err)
	}
	return statement, document, nil
}

func decode(data []byte) (statement, document []byte, err error) {
	var e envelope
	if err := abi.DecodeExact(data, MaxReceipt, &e); err != nil {
		return nil, nil, err
	}
	if e.PayloadType != PayloadType {
		return nil, nil, fmt.Errorf("payloadType: %.80q is not %s", e.PayloadType, PayloadType)
	}
	if len(e.Signatures) != 1 {
		return nil, nil, fmt.Errorf("signatures: %d, not one", len(e.Signatures))
	}
	if statement, err = base64.StdEncoding.DecodeString(e.Payload); err != nil {
		return nil, nil, fmt.Errorf("payload: %w", err)
	}
	if document, err = base64.StdEncoding.DecodeString(e.Signatures[0].Sig); err != nil {
		return nil, nil, fmt.Errorf("signatures[0].sig: %w", err)
	}
	again, err := Encode(statement, document)
	if err != nil {
		return nil, nil, err
	}
	if !bytes.Equal(again, data) {
		return nil, nil, errors.New("not in the one spelling that a receipt has")
	}
	return statement, document, nil
}
