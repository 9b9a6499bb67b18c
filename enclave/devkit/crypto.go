package devkit

import (
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"time"

	"github.com/cloister-run/cloister/enclave/attest"
)

// Bounds of the cryptographic actions (KMS API, each action's parameters; KMS developer guide,
// "Encryption context").
const (
	maxPlaintext  = 4096
	maxCiphertext = 6144
	maxContext    = 8192
	maxRandom     = 1024
	// minKeyBits is the least that a recipient's RSA key has (KMS API, "RecipientInfo").
	minKeyBits = 2048
	// maxAge is how old an attestation document may be ("Cryptographic attestation": five minutes).
	maxAge = 5 * time.Minute

	oaep = "RSAES_OAEP_SHA_256"
)

// cryptographic are the parameters that these actions share.
type cryptographic struct {
	KeyID             string `json:"KeyId"`
	EncryptionContext map[string]string
	Recipient         *struct {
		AttestationDocument    []byte
		KeyEncryptionAlgorithm string
	}
	EncryptionAlgorithm string
	GrantTokens         []string
	DryRun              bool
}

// recipient is whom an answer is encrypted to.
type recipient struct {
	document *attest.Document
	public   *rsa.PublicKey
}

// prepare applies the rules of the shared parameters, and verifies the recipient, if there is one.
func (c *call) prepare(in *cryptographic) (*recipient, error) {
	size := 0
	for name, value := range in.EncryptionContext {
		size += len(name) + len(value)
	}
	switch {
	case size > maxContext:
		return nil, invalid("EncryptionContext: over %d bytes", maxContext)
	case !addContext(map[string][]string{}, in.EncryptionContext):
		return nil, unsupported("names in an EncryptionContext that differ in case alone")
	case in.EncryptionAlgorithm != "" && in.EncryptionAlgorithm != symmetric:
		return nil, invalid("EncryptionAlgorithm: not %s", symmetric)
	case len(in.GrantTokens) > 0:
		return nil, unsupported("GrantTokens")
	}
	c.encryptionContext = in.EncryptionContext
	if in.Recipient == nil {
		return nil, nil
	}
	if in.Recipient.KeyEncryptionAlgorithm != oaep {
		return nil, invalid("Recipient.KeyEncryptionAlgorithm: not %s", oaep)
	}
	document, err := attest.Verify(in.Recipient.AttestationDocument,
		attest.Options{At: c.at, Root: c.kms.home.ca.Root(), Inspect: true, MaxAge: maxAge})
	if err != nil {
		return nil, invalid("Recipient.AttestationDocument: %v", err)
	}
	c.module, c.image = document.ModuleID, document.PCRs[0].String()
	parsed, err := x509.ParsePKIXPublicKey(document.PublicKey)
	public, ok := parsed.(*rsa.PublicKey)
	if err != nil || !ok || public.N.BitLen() < minKeyBits {
		return nil, invalid("Recipient.AttestationDocument: it has no public key of RSA with at least %d bits", minKeyBits)
	}
	return &recipient{document, public}, nil
}

// permit asks the policy of a key and looks whether the key is enabled.
func (c *call) permit(k *key, in *cryptographic, to *recipient) error {
	a := c.access(c.action, k.arn())
	addContext(a.facts, in.EncryptionContext)
	if to != nil {
		addRecipient(a.facts, to.document)
	}
	if err := c.authorize(k, a); err != nil {
		return err
	}
	if k.Disabled {
		return refused(codeDisabled, "%s is disabled.", k.arn())
	}
	return nil
}

// dryRun ends a request that was only to be checked.
func (in *cryptographic) dryRun() error {
	if in.DryRun {
		return &fault{status: 412, code: codeDryRun, message: "The request would have succeeded, but the DryRun option is set."}
	}
	return nil
}

// deliver adds a plaintext to an answer: as it is, or encrypted to the recipient.
func deliver(answer map[string]any, plaintext []byte, to *recipient) (any, error) {
	if to == nil {
		answer["Plaintext"] = plaintext
		return answer, nil
	}
	// KMS sends either form.
	envelope, err := sealTo(to.public, to.document.PublicKey, plaintext, randomBytes(1)[0]&1 == 0)
	if err != nil {
		return nil, internal(err)
	}
	answer["CiphertextForRecipient"] = envelope
	return answer, nil
}

func (c *call) generateDataKey() (any, error) {
	var in struct {
		cryptographic
		KeySpec       string
		NumberOfBytes *int
	}
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	size, err := dataKeySize(in.KeySpec, in.NumberOfBytes)
	if err != nil {
		return nil, err
	}
	to, err := c.prepare(&in.cryptographic)
	if err != nil {
		return nil, err
	}
	k, err := c.find(in.KeyID)
	if err != nil {
		return nil, err
	}
	if err := c.permit(k, &in.cryptographic, to); err != nil {
		return nil, err
	}
	if err := in.dryRun(); err != nil {
		return nil, err
	}
	plaintext := randomBytes(size)
	blob, err := k.seal(plaintext, in.EncryptionContext)
	if err != nil {
		return nil, internal(err)
	}
	return deliver(map[string]any{"KeyId": k.arn(), "CiphertextBlob": blob}, plaintext, to)
}

// dataKeySize is how long a data key is asked for, in bytes.
func dataKeySize(spec string, bytes *int) (int, error) {
	switch {
	case (spec == "") == (bytes == nil):
		return 0, invalid("Please specify either number of bytes or key spec.")
	case spec == "AES_256":
		return 32, nil
	case spec == "AES_128":
		return 16, nil
	case spec != "":
		return 0, invalid("KeySpec: not AES_256 or AES_128")
	case *bytes < 1 || *bytes > maxRandom:
		return 0, invalid("NumberOfBytes: %d is not 1 to %d", *bytes, maxRandom)
	}
	return *bytes, nil
}

func (c *call) encrypt() (any, error) {
	var in struct {
		cryptographic
		Plaintext []byte
	}
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	switch {
	case len(in.Plaintext) == 0 || len(in.Plaintext) > maxPlaintext:
		return nil, invalid("Plaintext: %d bytes, not 1 to %d", len(in.Plaintext), maxPlaintext)
	case in.Recipient != nil:
		return nil, unsupported("Recipient of Encrypt") // it is no parameter of it
	}
	if _, err := c.prepare(&in.cryptographic); err != nil {
		return nil, err
	}
	k, err := c.find(in.KeyID)
	if err != nil {
		return nil, err
	}
	if err := c.permit(k, &in.cryptographic, nil); err != nil {
		return nil, err
	}
	if err := in.dryRun(); err != nil {
		return nil, err
	}
	blob, err := k.seal(in.Plaintext, in.EncryptionContext)
	if err != nil {
		return nil, internal(err)
	}
	return map[string]any{"KeyId": k.arn(), "CiphertextBlob": blob, "EncryptionAlgorithm": symmetric}, nil
}

func (c *call) decrypt() (any, error) {
	var in struct {
		cryptographic
		CiphertextBlob []byte
	}
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	if len(in.CiphertextBlob) == 0 || len(in.CiphertextBlob) > maxCiphertext {
		return nil, invalid("CiphertextBlob: %d bytes, not 1 to %d", len(in.CiphertextBlob), maxCiphertext)
	}
	to, err := c.prepare(&in.cryptographic)
	if err != nil {
		return nil, err
	}
	k, err := c.decryptingKey(in.KeyID, in.CiphertextBlob)
	if err != nil {
		return nil, err
	}
	if err := c.permit(k, &in.cryptographic, to); err != nil {
		if f, ok := errors.AsType[*fault](err); ok && in.KeyID == "" && f.code == codeAccessDenied {
			return nil, notAllowedHere(f.message)
		}
		return nil, err
	}
	if id, err := blobKey(in.CiphertextBlob); err != nil {
		return nil, refused(codeBadCiphertext, "")
	} else if id != k.ID {
		return nil, refused(codeIncorrectKey, "The key ID in the request does not identify a CMK that can perform this operation.")
	}
	plaintext, err := k.open(in.CiphertextBlob, in.EncryptionContext)
	switch {
	case errors.Is(err, errBlob):
		return nil, refused(codeBadCiphertext, "")
	case err != nil:
		return nil, internal(err)
	}
	if err := in.dryRun(); err != nil {
		return nil, err
	}
	return deliver(map[string]any{"KeyId": k.arn(), "EncryptionAlgorithm": symmetric}, plaintext, to)
}

// decryptingKey is the key that is named, or else the one that the ciphertext names.
func (c *call) decryptingKey(name string, blob []byte) (*key, error) {
	if name != "" {
		return c.find(name)
	}
	id, err := blobKey(blob)
	if err != nil {
		return nil, refused(codeBadCiphertext, "")
	}
	k, err := c.kms.home.loadKey(id)
	switch {
	case errors.Is(err, errNoKey), err == nil && k.Region != c.region:
		return nil, notAllowedHere("no such key in this region")
	case err != nil:
		return nil, internal(err)
	}
	c.key = k.arn()
	return k, nil
}

// notAllowedHere is what KMS says where a ciphertext alone names the key, whatever the reason.
func notAllowedHere(detail string) *fault {
	f := refused(codeAccessDenied, "The ciphertext refers to a customer master key that does not exist, "+
		"does not exist in this region, or you are not allowed to access.")
	f.detail = detail
	return f
}
