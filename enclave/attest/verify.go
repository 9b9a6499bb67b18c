package attest

import (
	"bytes"
	"errors"
	"fmt"
	"time"
)

// maxSkew is how far a document may be ahead of the verifier's clock.
const maxSkew = 5 * time.Minute

// Options say what is expected of a document.
type Options struct {
	// At is the time of validation. Required: Verify never asks a clock.
	At time.Time
	// Root is the root certificate that is trusted. Default: AWS Nitro Enclaves root G1.
	Root Root
	// Realm is the realm that the root must stand for. Default: any.
	Realm Realm
	// PCRs must all match; PCR0, PCR1 and PCR2 must be among them. Required, unless Inspect is set.
	PCRs PCRSet
	// Inspect lets PCRs be incomplete or empty. It is for a person who looks at a document, and for
	// an enclave that reads its own; nothing may be released on such a verification. Default: false.
	Inspect bool
	// Kind, with Content, sets the user_data and the rules of that kind. A client must give its
	// Nonce too. Default: any kind.
	Kind    Kind
	Content []byte
	// UserData is the exact user_data. Default: any. Not together with Kind.
	UserData []byte
	// Nonce is the exact nonce, of at least one byte, at least MinNonce for KindClient. Default: any.
	Nonce []byte
	// MaxAge bounds the age of the document at At. Default: the certificates' life, about three hours.
	MaxAge time.Duration
}

// check reports every problem of the options.
func (o *Options) check() error {
	var problems []error
	refuse := func(broken bool, text string) {
		if broken {
			problems = append(problems, errors.New(text))
		}
	}
	refuse(o.At.IsZero(), "At: required")
	refuse(o.MaxAge < 0, "MaxAge: negative")
	refuse(o.Kind != "" && !o.Kind.known(), "Kind: unknown")
	refuse(o.Kind != "" && o.UserData != nil, "UserData: not together with Kind")
	refuse(o.Kind == "" && o.Content != nil, "Content: only together with Kind")
	refuse(o.Nonce != nil && len(o.Nonce) == 0, "Nonce: empty")
	refuse(o.Kind == KindClient && len(o.Nonce) < MinNonce, fmt.Sprintf("Nonce: a client's has at least %d bytes", MinNonce))
	if len(problems) > 0 {
		return fmt.Errorf("options: %w", errors.Join(problems...))
	}
	return nil
}

// Verify checks a document against every rule of docs/attestation.md and against what is expected
// of it. With an error there is no Document. Where the document is at fault the error holds a
// [*Violation]; otherwise the options are.
//
// Revocation lists are not consulted: the certificates live for three hours to three weeks. A
// document's hash identifies nothing: (r, n−s) is as good a signature as (r, s).
func Verify(doc []byte, options Options) (*Document, error) {
	if err := options.check(); err != nil {
		return nil, fmt.Errorf("attest: %w", err)
	}
	verified, err := options.verify(doc)
	if err != nil {
		return nil, fmt.Errorf("attest: %w", err)
	}
	return verified, nil
}

// ClaimedTime is the time that a document claims to be from, before anything is verified: for a
// document that is kept, and verified at its own time.
func ClaimedTime(doc []byte) (time.Time, error) {
	f, err := claims(doc)
	if err != nil {
		return time.Time{}, err
	}
	return f.time, nil
}

// ClaimedModule is the module id that a document claims, before anything is verified: for an enclave
// that asks its own module for its name.
func ClaimedModule(doc []byte) (string, error) {
	f, err := claims(doc)
	if err != nil {
		return "", err
	}
	return f.moduleID, nil
}

func claims(doc []byte) (*fields, error) {
	message, err := open(doc)
	if err == nil {
		var f *fields
		if f, err = parse(message.Payload); err == nil {
			return f, nil
		}
	}
	return nil, fmt.Errorf("attest: %w", err)
}

// verify takes the cheap rules first. Nothing of the document is believed before the last of
// them holds, so their order decides only which rule is named where several are broken.
func (o *Options) verify(doc []byte) (*Document, error) {
	root, err := o.Root.trusted()
	if err != nil {
		return nil, err
	}
	message, err := open(doc)
	if err != nil {
		return nil, err
	}
	f, err := parse(message.Payload)
	if err != nil {
		return nil, err
	}
	certificates, err := f.chain(root)
	if err != nil {
		return nil, err
	}
	if err := message.signedBy(certificates.leaf); err != nil {
		return nil, err
	}
	if err := certificates.validAt(o.At); err != nil {
		return nil, err
	}
	if err := certificates.verify(o.At); err != nil {
		return nil, err
	}
	verified := f.document(certificates.leaf, o.Root.Realm())
	if err := o.expect(verified); err != nil {
		return nil, err
	}
	return verified, nil
}

// expect holds a document whose signature and chain are good against what the caller expects.
func (o *Options) expect(doc *Document) error {
	if err := o.fresh(doc); err != nil {
		return err
	}
	if o.Realm != "" && doc.Realm != o.Realm {
		return breaks(RuleRealm, "%q, not %q", doc.Realm, o.Realm)
	}
	if err := doc.notDebug(); err != nil {
		return err
	}
	if o.Nonce != nil && !bytes.Equal(doc.Nonce, o.Nonce) {
		return breaks(RuleWantNonce, "%d bytes, not the %d that are expected", len(doc.Nonce), len(o.Nonce))
	}
	want := o.UserData
	if o.Kind != "" {
		want = UserData(o.Kind, o.Content)
	}
	if want != nil && !bytes.Equal(doc.UserData, want) {
		return breaks(RuleWantData, "%d bytes, not what is expected%s", len(doc.UserData), ofKind(o.Kind))
	}
	if o.Kind != "" {
		if err := o.Kind.fits(doc); err != nil {
			return err
		}
	}
	switch {
	case !o.Inspect:
		return o.PCRs.Match(doc)
	case o.PCRs != nil:
		return o.PCRs.matchGiven(doc)
	}
	return nil
}

func ofKind(k Kind) string {
	if k == "" {
		return ""
	}
	return " of a document of the kind " + string(k)
}

// fresh holds the time that the document states against At.
func (o *Options) fresh(doc *Document) error {
	age := o.At.Sub(doc.Time)
	switch {
	case age < -maxSkew:
		return breaks(RuleTime, "made at %s, %s after the time of validation", stamp(doc.Time), -age)
	case o.MaxAge > 0 && age > o.MaxAge:
		return breaks(RuleTime, "made at %s, %s old; at most %s", stamp(doc.Time), age, o.MaxAge)
	}
	return nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
