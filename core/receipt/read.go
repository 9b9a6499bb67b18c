package receipt

import (
	"fmt"
	"reflect"

	"github.com/cloister-run/cloister/policies/abi"
)

// MaxBytes bounds a record: 32 outputs, 33 assets, 64 policies and their decisions fit many times over.
const MaxBytes = 1 << 20

// Read parses a record from outside. Unknown, repeated and differently spelt fields, other
// types, trailing data, and records that contradict themselves are errors. It says nothing of
// who signed the record.
func Read(data []byte) (*Statement, error) {
	var s Statement
	if err := abi.DecodeExact(data, MaxBytes, &s); err != nil {
		return nil, fmt.Errorf("receipt: %w", err)
	}
	if s.Type != StatementType || s.PredicateType != PredicateType {
		return nil, fmt.Errorf("receipt: a statement of type %.80q about %.80q is no receipt", s.Type, s.PredicateType)
	}
	if err := s.Predicate.check(); err != nil {
		return nil, fmt.Errorf("receipt: %w", err)
	}
	if !reflect.DeepEqual(s.Subject, s.Predicate.subjects()) {
		return nil, fmt.Errorf("receipt: subject: is not the job and what was released")
	}
	return &s, nil
}
