package devca

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/cloister-run/cloister/enclave/attest"
)

// Claims is what a document will say.
type Claims struct {
	// ModuleID is required: "i-…-enc…".
	ModuleID string
	// Time is required; the document has it to the millisecond.
	Time time.Time
	// PCRs are the registers that are locked. At least one.
	PCRs attest.PCRSet
	// UserData, Nonce and PublicKey are what was asked for; nil is null.
	UserData, Nonce, PublicKey []byte
}

// Sign makes a document. The leaf of a module serves all its documents until it is nearly over.
func (ca *CA) Sign(c Claims) ([]byte, error) {
	if c.ModuleID == "" || c.Time.UnixMilli() <= 0 || len(c.PCRs) == 0 {
		return nil, errors.New("devca: a document has a module id, a time and PCRs")
	}
	leaf, err := ca.leafOf(c.ModuleID, c.Time)
	if err != nil {
		return nil, err
	}
	payload, err := leaf.Payload(c)
	if err != nil {
		return nil, err
	}
	return leaf.SignPayload(payload)
}

func (ca *CA) leafOf(moduleID string, at time.Time) (*Leaf, error) {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	if leaf := ca.leaves[moduleID]; leaf != nil && leaf.validAt(at) {
		return leaf, nil
	}
	leaf, err := ca.Issue(moduleID, at)
	if err == nil {
		ca.leaves[moduleID] = leaf
	}
	return leaf, err
}

// Payload encodes claims as the NSM has since August 2025: a map of indefinite length, in its
// order, with null for what was not asked for.
func (l *Leaf) Payload(c Claims) ([]byte, error) {
	mode, err := cbor.EncOptions{Sort: cbor.SortCoreDeterministic}.EncMode()
	if err != nil {
		return nil, fmt.Errorf("devca: %w", err)
	}
	pcrs := make(map[int][]byte, len(c.PCRs))
	for i, p := range c.PCRs {
		pcrs[i] = bytes.Clone(p[:])
	}
	var out bytes.Buffer
	encoder := mode.NewEncoder(&out)
	err = encoder.StartIndefiniteMap()
	for _, field := range []struct {
		name  string
		value any
	}{
		{"module_id", c.ModuleID},
		{"digest", "SHA384"},
		{"timestamp", uint64(c.Time.UnixMilli())},
		{"pcrs", pcrs},
		{"certificate", l.Certificate},
		{"cabundle", l.Bundle},
		{"public_key", c.PublicKey},
		{"user_data", c.UserData},
		{"nonce", c.Nonce},
	} {
		err = errors.Join(err, encoder.Encode(field.name), encoder.Encode(field.value))
	}
	if err = errors.Join(err, encoder.EndIndefinite()); err != nil {
		return nil, fmt.Errorf("devca: %w", err)
	}
	return out.Bytes(), nil
}
