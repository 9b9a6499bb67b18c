package receipt

import (
	"errors"
	"fmt"
	"time"

	"github.com/cloister-run/cloister/enclave/attest"
)

// The rules that Verify has beside those of attestation documents, in the order in which they are checked.
const (
	RuleStatement attest.Rule = "statement"           // what is attested is a statement that Read takes
	RuleRealm     attest.Rule = "statement:realm"     // the realm that the root stands for
	RuleModuleID  attest.Rule = "statement:module_id" // the document's
	RuleTime      attest.Rule = "statement:time"      // started, then finished, then attested within maxDelay
)

// Rules lists every rule that a violation from [Verify] can name.
func Rules() []attest.Rule {
	return append(attest.Rules(), RuleStatement, RuleRealm, RuleModuleID, RuleTime)
}

const (
	// maxSkew is how far an enclave's clock, which states the times of the statement, may be ahead of
	// the hypervisor's, which states the document's.
	maxSkew = time.Minute
	// maxDelay is how long before the document a run may have finished.
	maxDelay = time.Hour
)

// Expect says what is expected of a receipt.
type Expect struct {
	// Root is the root certificate that is trusted. Default: AWS Nitro Enclaves root G1.
	Root attest.Root
	// Realm is the realm that the root must stand for. Required.
	Realm attest.Realm
	// PCRs must all match; PCR0, PCR1 and PCR2 must be among them. Required, unless Inspect is set.
	PCRs attest.PCRSet
	// Inspect lets PCRs be incomplete or empty: whose image it was is not checked then, and anybody's
	// enclave can have attested anything. Default: false.
	Inspect bool
}

// Verified is a receipt of which every rule holds.
type Verified struct {
	Statement *Statement
	// Document is whose word the statement is.
	Document *attest.Document
}

// Verify checks a receipt against every rule of docs/receipt.md and against what is expected of it. It
// asks no clock and no network: a receipt is good for ever, as of the time at which it was attested.
//
// With an error there is no Verified. It holds [ErrMalformed] where the bytes are no receipt, and
// an [*attest.Violation] that names one of [Rules] where the receipt breaks it.
func Verify(data []byte, e Expect) (*Verified, error) {
	if e.Realm == "" {
		return nil, errors.New("receipt: Realm: required")
	}
	statement, document, err := Decode(data)
	if err != nil {
		return nil, err
	}
	v, err := e.verify(statement, document)
	if err != nil {
		return nil, fmt.Errorf("receipt: %w", err)
	}
	return v, nil
}

func (e Expect) verify(statement, document []byte) (*Verified, error) {
	at, err := attest.ClaimedTime(document)
	if err != nil {
		return nil, err
	}
	doc, err := attest.Verify(document, attest.Options{
		At: at, Root: e.Root, Realm: e.Realm, PCRs: e.PCRs, Inspect: e.Inspect,
		Kind: attest.KindReceipt, Content: Message(statement),
	})
	if err != nil {
		return nil, err
	}
	s, err := Read(statement)
	if err != nil {
		return nil, breaks(RuleStatement, "%v", err)
	}
	if err := s.Predicate.attestedBy(doc); err != nil {
		return nil, err
	}
	return &Verified{Statement: s, Document: doc}, nil
}

// attestedBy holds what a run says of its enclave against the document of that enclave.
func (r *Run) attestedBy(doc *attest.Document) error {
	if r.Enclave.Realm != string(doc.Realm) {
		return breaks(RuleRealm, "%.40q, and the document is of the realm %q", r.Enclave.Realm, doc.Realm)
	}
	if r.Enclave.ModuleID != doc.ModuleID {
		return breaks(RuleModuleID, "%.80q, and the document is of %.80q", r.Enclave.ModuleID, doc.ModuleID)
	}
	started, ok := parseTime(r.Started)
	if !ok {
		return breaks(RuleTime, "started: %.40q is no time", r.Started)
	}
	finished, ok := parseTime(r.Finished)
	if !ok {
		return breaks(RuleTime, "finished: %.40q is no time", r.Finished)
	}
	switch after := doc.Time.Sub(finished); {
	case finished.Before(started):
		return breaks(RuleTime, "finished at %s, before it started at %s", r.Finished, r.Started)
	case after < -maxSkew:
		return breaks(RuleTime, "finished at %s, after it was attested at %s", r.Finished, Time(doc.Time))
	case after > maxDelay:
		return breaks(RuleTime, "finished at %s and attested at %s, more than %s later", r.Finished, Time(doc.Time), maxDelay)
	}
	return nil
}

// parseTime takes what Time spells.
func parseTime(text string) (time.Time, bool) {
	t, err := time.Parse(time.RFC3339, text)
	return t, err == nil && Time(t) == text
}

// breaks makes a violation of bounded length.
func breaks(rule attest.Rule, format string, args ...any) error {
	return &attest.Violation{Rule: rule, Reason: fmt.Sprintf("%.320s", fmt.Sprintf(format, args...))}
}
