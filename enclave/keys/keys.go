// Package keys owns the enclave's side of a KMS: it asks for the data key of a sealed bundle and
// gets it encrypted to a key of its own, which an attestation document vouches for.
//
// It trusts its [Config], which comes from the measured trust profile, and who proves to be the
// KMS under the roots that are given there. It trusts neither the bundle that names a key, nor
// what carries the bytes to the KMS, nor an answer: that has to be what was asked for, in every
// part, and within bounds.
//
// It reads no environment, no file and no metadata service, follows no redirect, keeps no data
// key and no private key, and logs nothing.
package keys

import (
	"errors"
	"fmt"
)

// Size is how long a data key is: AES-256.
const Size = 32

// Sentinels for the outcomes that a caller branches on. Everything that Decrypt returns about
// the request or the KMS is an [*Error] that wraps one of them. A device that makes no
// attestation document is another matter.
var (
	// ErrRequest: nothing was asked, since no such request may be made.
	ErrRequest = errors.New("no request to make")
	// ErrRefused: the KMS says no, and will say so again.
	ErrRefused = errors.New("the KMS refuses")
	// ErrUnavailable: there is no answer, for now.
	ErrUnavailable = errors.New("the KMS cannot be reached or has no time")
	// ErrAnswer: there is an answer, but it is not one to what was asked, or not the KMS's.
	ErrAnswer = errors.New("the answer is not what the KMS was asked for")
)

// Error is why a KMS did not do what it was to do, or was not asked. It never holds a data key,
// nor credentials. The owner's side, package aws, has the same.
type Error struct {
	// Kind is one of the sentinels.
	Kind error
	// Code is AWS's name for it, such as "AccessDeniedException", if the KMS gave one.
	Code string
	// RequestID is the KMS's own, if it gave one: CloudTrail has the same.
	RequestID string
	// Detail is the KMS's message or this package's, one line, at most maxDetail bytes.
	Detail string
}

// maxDetail bounds what an Error tells of a message.
const maxDetail = 400

// Error is one line.
func (e *Error) Error() string {
	text := e.Kind.Error()
	for _, more := range []string{e.Code, e.Detail} {
		if more != "" {
			text += ": " + more
		}
	}
	if e.RequestID != "" {
		text += " (request " + e.RequestID + ")"
	}
	return text
}

// Unwrap gives the sentinel.
func (e *Error) Unwrap() error { return e.Kind }

// NewError makes an Error of what a KMS, or whoever answered in its place, says of itself: a code
// or a request id that is none is left out, and the detail becomes one printable line.
func NewError(kind error, code, requestID, detail string) *Error {
	return &Error{Kind: kind, Code: word(code), RequestID: word(requestID), Detail: line(detail)}
}

func fail(kind error, format string, args ...any) *Error {
	return NewError(kind, "", "", fmt.Sprintf(format, args...))
}
