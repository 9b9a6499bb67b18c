// Package aws owns the side of AWS that owners and operators are on: their configuration, data
// keys to seal under, credentials for one job, and key policies.
//
// It trusts its caller, what the caller's AWS configuration says, and the KMS that proves to be
// one. An answer of the KMS has to be what was asked for, in every part, and within bounds; a
// key policy to be judged may hold anything. The package follows no redirect, asks no KMS of
// AWS without TLS, keeps no data key and logs nothing.
//
// It is never part of what is measured: an enclave asks with package keys.
package aws

import (
	"errors"
	"fmt"
	"strings"
)

// Sentinels for the outcomes that a caller branches on. Everything that an [Account] returns is
// an [*Error] that wraps one of them, but for the end of a context.
var (
	// ErrConfiguration: what the AWS configuration says cannot be used, or has no credentials.
	ErrConfiguration = errors.New("the AWS configuration cannot be used")
	// ErrRequest: nothing was asked, since no such request may be made.
	ErrRequest = errors.New("no request to make")
	// ErrRefused: the KMS says no, and will say so again.
	ErrRefused = errors.New("the KMS refuses")
	// ErrUnavailable: there is no answer, for now.
	ErrUnavailable = errors.New("the KMS cannot be reached or has no time")
	// ErrAnswer: there is an answer, but it is not one to what was asked, or not the KMS's.
	ErrAnswer = errors.New("the answer is not what the KMS was asked for")
	// ErrPolicy: a document that is to be a key policy is none.
	ErrPolicy = errors.New("no key policy")
)

// Error is why something was not done. It never holds a data key or credentials.
type Error struct {
	// Kind is one of the sentinels.
	Kind error
	// Code is AWS's name for it, such as "AccessDeniedException", if the KMS gave one.
	Code string
	// RequestID is the KMS's own, if it gave one: CloudTrail has the same.
	RequestID string
	// Detail is a message of the KMS, of the SDK or of this package: one line, at most maxDetail
	// bytes.
	Detail string
}

// maxDetail bounds what an Error tells of a message.
const maxDetail = 400

// Error is one line.
func (e *Error) Error() string {
	text := "aws: " + e.Kind.Error()
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

func fail(kind error, format string, args ...any) *Error {
	return &Error{Kind: kind, Detail: line(fmt.Sprintf(format, args...))}
}

const maxWord = 64

// word is a code that can be shown: letters, digits and few signs, or nothing.
func word(s string) string {
	if len(s) > maxWord || strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("-_.", r)
	}) {
		return ""
	}
	return s
}

// line is a message that can be shown: printable ASCII, cut.
func line(s string) string {
	s = s[:min(len(s), maxDetail)]
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
}
