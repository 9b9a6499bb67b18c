package attest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/veraison/go-cose"
)

// Document is what an attestation document says, once it is verified.
type Document struct {
	// ModuleID is "i-…-enc…": the instance and the enclave.
	ModuleID string
	// Time is when the hypervisor signed, to the millisecond, UTC.
	Time time.Time
	// PCRs holds every register that was locked at that time. Of those, 0 to 2 are never zero.
	PCRs PCRSet
	// PublicKey, UserData and Nonce are what the enclave asked to have signed; nil if null.
	PublicKey, UserData, Nonce []byte
	// Leaf is the certificate that signed; it names the same instance and enclave.
	Leaf *x509.Certificate
	// Realm follows from the root that verified.
	Realm Realm
}

// notDebug: an enclave in debug mode has a genuine document in which PCR0, PCR1 and PCR2 are zero
// (Nitro Enclaves user guide, "Cryptographic attestation"). Its memory can be read by the host.
func (d *Document) notDebug() error {
	for i := range 3 {
		p, ok := d.PCRs[i]
		if !ok {
			return breaks(RulePCR(i), "the document has no PCR%d", i)
		}
		if p.IsZero() {
			return breaks(RuleDebug, "PCR%d is zero: the enclave ran in debug mode", i)
		}
	}
	return nil
}

// The envelope, byte for byte: the tag that may precede it (RFC 9052, 4.2), an array of four.
// Its two headers are encoded as {1: -35} (ES384) in a byte string, and {}.
const (
	tagSign1    = 0xd2
	arrayOfFour = 0x84
	protected   = "\x44\xa1\x01\x38\x22"
	unprotected = "\xa0"
	// signatureSize is r and s of P-384, 48 bytes each (RFC 9053, 2.1).
	signatureSize = 96
)

type envelope struct{ *cose.Sign1Message }

// open decodes the envelope. All that the signature does not cover is fixed here.
func open(doc []byte) (envelope, error) {
	if len(doc) == 0 || len(doc) > MaxDocument {
		return envelope{}, breaks(RuleSize, "%d bytes, not 1 to %d", len(doc), MaxDocument)
	}
	if len(doc) > 1 && doc[0] == tagSign1 && doc[1] == arrayOfFour {
		doc = doc[1:]
	}
	var message cose.UntaggedSign1Message
	if err := message.UnmarshalCBOR(doc); err != nil {
		return envelope{}, breaks(RuleCOSE, "%v", err)
	}
	switch {
	case string(message.Headers.RawProtected) != protected:
		return envelope{}, breaks(RuleAlg, "the protected header is not exactly {alg: ES384}")
	case string(message.Headers.RawUnprotected) != unprotected:
		return envelope{}, breaks(RuleCOSE, "the unprotected header is not empty")
	case len(message.Payload) == 0:
		return envelope{}, breaks(RulePayload, "there is none")
	}
	return envelope{(*cose.Sign1Message)(&message)}, nil
}

// signedBy checks the signature. The key is worth what its certificate is, which is for others to check.
func (e envelope) signedBy(leaf *x509.Certificate) error {
	if len(e.Signature) != signatureSize {
		return breaks(RuleSignature, "%d bytes, not %d", len(e.Signature), signatureSize)
	}
	key, ok := leaf.PublicKey.(*ecdsa.PublicKey)
	if !ok {
		return breaks(RuleChain, "the key of the leaf is not on P-384")
	}
	verifier, err := cose.NewVerifier(cose.AlgorithmES384, key)
	if err != nil {
		return breaks(RuleSignature, "%v", err)
	}
	if err := e.Verify(nil, verifier); err != nil {
		return breaks(RuleSignature, "not by the key of the leaf certificate over this payload")
	}
	return nil
}

// fields is a payload that keeps the rules of its form; nobody vouches for it.
type fields struct {
	moduleID                   string
	time                       time.Time
	pcrs                       PCRSet
	certificate                []byte
	bundle                     [][]byte
	publicKey, userData, nonce []byte
}

func (f *fields) document(leaf *x509.Certificate, realm Realm) *Document {
	return &Document{
		ModuleID: f.moduleID, Time: f.time, PCRs: f.pcrs,
		PublicKey: f.publicKey, UserData: f.userData, Nonce: f.nonce,
		Leaf: leaf, Realm: realm,
	}
}

// decoding takes lengths definite or not, as the NSM has written both, refuses a key that comes
// twice, tags and text that is not UTF-8, and bounds depth and counts.
func decoding() (cbor.DecMode, error) {
	return cbor.DecOptions{
		DupMapKey:       cbor.DupMapKeyEnforcedAPF,
		TagsMd:          cbor.TagsForbidden,
		MaxNestedLevels: 4,
		MaxMapPairs:     64,
		// Certificates of a bundle are counted by its own rule.
		MaxArrayElements: 64,
	}.DecMode()
}

// lastTimestamp is the end of the year 9999, in milliseconds.
const lastTimestamp = 253402300799999

// parse decodes a payload and applies the rules for each field ("Nitro Enclaves attestation
// process", 3.2.2). Unlike that page it lets optional fields be null, as they are in practice.
func parse(payload []byte) (*fields, error) {
	mode, err := decoding()
	if err != nil {
		return nil, err
	}
	var raw map[string]cbor.RawMessage
	if err := mode.Unmarshal(payload, &raw); err != nil || raw == nil {
		return nil, breaks(RulePayload, "not one map with text keys: %v", err)
	}
	if err := known(raw); err != nil {
		return nil, err
	}
	r := reader{mode: mode, raw: raw}
	f := &fields{
		moduleID:    r.text("module_id", RuleModuleID),
		time:        r.time(),
		pcrs:        r.pcrs(),
		certificate: r.bytes("certificate", RuleCertificate, 1, maxCertificate),
		bundle:      r.bundle(),
		publicKey:   r.optional("public_key", RulePublicKey, 1, MaxPublicKey),
		userData:    r.optional("user_data", RuleUserData, 0, MaxUserData),
		nonce:       r.optional("nonce", RuleNonce, 0, MaxNonce),
	}
	if digest := r.text("digest", RuleDigest); r.err == nil && digest != "SHA384" {
		return nil, breaks(RuleDigest, "%.20q is not SHA384", digest)
	}
	if r.err != nil {
		return nil, r.err
	}
	return f, nil
}

// known refuses documents of another kind, and keys that nobody knows the meaning of.
func known(raw map[string]cbor.RawMessage) error {
	if _, ok := raw["nitrotpm_pcrs"]; ok {
		return breaks(RuleNitroTPM, "a document of an instance's NitroTPM, not of an enclave")
	}
	for name := range raw {
		switch name {
		case "module_id", "digest", "timestamp", "pcrs", "certificate", "cabundle", "public_key", "user_data", "nonce":
		default:
			return breaks(RulePayload, "%.40q is unknown", name)
		}
	}
	return nil
}

// reader takes fields out of a payload and keeps the first error.
type reader struct {
	mode cbor.DecMode
	raw  map[string]cbor.RawMessage
	err  error
}

func (r *reader) fail(rule Rule, format string, args ...any) {
	if r.err == nil {
		r.err = breaks(rule, format, args...)
	}
}

// required decodes a field into value; a missing one and null leave it as it is.
func (r *reader) required(name string, rule Rule, value any) bool {
	raw, ok := r.raw[name]
	if !ok {
		r.fail(rule, "missing")
		return false
	}
	if err := r.mode.Unmarshal(raw, value); err != nil {
		r.fail(rule, "%v", err)
		return false
	}
	return true
}

func (r *reader) text(name string, rule Rule) string {
	var text string
	if r.required(name, rule, &text) && text == "" {
		r.fail(rule, "empty")
	}
	return text
}

func (r *reader) time() time.Time {
	var ms uint64
	if r.required("timestamp", RuleTimestamp, &ms) && (ms == 0 || ms > lastTimestamp) {
		r.fail(RuleTimestamp, "%d is no number of milliseconds since 1970", ms)
		return time.Time{}
	}
	return time.UnixMilli(int64(ms)).UTC()
}

// pcrs: AWS allows registers of 32, 48 and 64 bytes; with the one digest that it allows, SHA384,
// they have 48.
func (r *reader) pcrs() PCRSet {
	var raw map[uint64]cbor.RawMessage
	if !r.required("pcrs", RulePCRs, &raw) {
		return nil
	}
	if len(raw) == 0 || len(raw) > MaxPCRs {
		r.fail(RulePCRs, "%d registers, not 1 to %d", len(raw), MaxPCRs)
		return nil
	}
	set := make(PCRSet, len(raw))
	for i, raw := range raw {
		value, ok := r.byteString(raw)
		switch {
		case i >= MaxPCRs:
			r.fail(RulePCRs, "index %d, not 0 to %d", i, MaxPCRs-1)
		case !ok || len(value) != len(PCR{}):
			r.fail(RulePCRs, "PCR%d is not a byte string of %d", i, len(PCR{}))
		default:
			set[int(i)] = PCR(value)
		}
	}
	return set
}

func (r *reader) bundle() [][]byte {
	var raw []cbor.RawMessage
	if !r.required("cabundle", RuleBundle, &raw) {
		return nil
	}
	if len(raw) == 0 || len(raw) > maxBundle {
		r.fail(RuleBundle, "%d certificates, not 1 to %d", len(raw), maxBundle)
		return nil
	}
	bundle := make([][]byte, len(raw))
	for i, raw := range raw {
		value, ok := r.byteString(raw)
		if !ok || len(value) == 0 || len(value) > maxCertificate {
			r.fail(RuleBundle, "certificate %d is not a byte string of 1 to %d", i, maxCertificate)
			return nil
		}
		bundle[i] = value
	}
	return bundle
}

func (r *reader) bytes(name string, rule Rule, least, most int) []byte {
	raw, ok := r.raw[name]
	if !ok {
		r.fail(rule, "missing")
		return nil
	}
	value, ok := r.byteString(raw)
	if !ok || len(value) < least || len(value) > most {
		r.fail(rule, "not a byte string of %d to %d", least, most)
		return nil
	}
	return value
}

// optional is bytes for a field that may be missing or null; then it is nil.
func (r *reader) optional(name string, rule Rule, least, most int) []byte {
	const null = "\xf6"
	if raw, ok := r.raw[name]; !ok || string(raw) == null {
		return nil
	}
	return r.bytes(name, rule, least, most)
}

// byteString decodes a byte string of definite length and nothing else: the library would take an
// array of small integers too, and null.
func (r *reader) byteString(raw cbor.RawMessage) ([]byte, bool) {
	const majorType, bytesOfDefiniteLength, indefinite = 5, 2, 0x5f
	if len(raw) == 0 || raw[0]>>majorType != bytesOfDefiniteLength || raw[0] == indefinite {
		return nil, false
	}
	value := []byte{}
	if err := r.mode.Unmarshal(raw, &value); err != nil {
		return nil, false
	}
	return bytes.Clone(value), true
}
