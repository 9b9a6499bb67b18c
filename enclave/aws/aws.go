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

	"github.com/cloister-run/cloister/enclave/keys"
)

// Sentinels for the outcomes that a caller branches on. Everything that an [Account] returns is
// an [*Error] that wraps one of them, but for the end of a context. Those about a KMS are the
// enclave's side's.
var (
	// ErrConfiguration: what the AWS configuration says cannot be used, or has no credentials.
	ErrConfiguration = errors.New("the AWS configuration cannot be used")
	// ErrPolicy: a document that is to be a key policy is none.
	ErrPolicy = errors.New("no key policy")

	ErrRequest     = keys.ErrRequest
	ErrRefused     = keys.ErrRefused
	ErrUnavailable = keys.ErrUnavailable
	ErrAnswer      = keys.ErrAnswer
)

// Error is why something was not done; see [keys.Error].
type Error = keys.Error

func fail(kind error, format string, args ...any) *Error {
	return keys.NewError(kind, "", "", fmt.Sprintf(format, args...))
}
