// Package envelope owns the sealed bundle: one file that holds an asset, encrypted, and the
// policy that guards it, in the open, so that nobody can part them.
//
//	magic, version · header length, header · policy module · header MAC · payload
//
// docs/bundle-format.md says it byte by byte. [Seal] writes a bundle and [Read] reads what
// stands in the open, without any key; [Bundle.Open] decrypts. All of them stream in one pass
// with memory that does not depend on the size of the asset.
//
// Everything derives from one data key, which a KMS made and wrapped under the owner's key.
// Key derivation covers every byte before the payload, so a bundle in which any of them was
// changed, swapped or re-encoded yields other keys and does not open (invariant I3).
//
// The package trusts its caller and the data key. It trusts no bundle: lengths are bounded
// before memory is taken, and what a header says of itself is recomputed and compared. It does
// not talk to a KMS ([DataKeys] does), interprets no archive (package tree does), runs no
// policy, and never writes plaintext anywhere but to its caller.
package envelope

import (
	"context"
	"errors"
	"fmt"

	"github.com/cloister-run/cloister/policies/abi"
)

// Version is the version of the format that this package writes and reads.
const Version = 1

// Bounds on a bundle; all are part of the format.
const (
	// MaxHeader bounds the header's JSON in bytes.
	MaxHeader = 1 << 20
	// MaxModule bounds the policy module in bytes.
	MaxModule = 16 << 20
	// MaxWrappedKey is the longest CiphertextBlob of the KMS API ("Decrypt", request syntax).
	MaxWrappedKey = 6144
	// KeySize is the length of a data key in bytes: AES_256 in the KMS API.
	KeySize = 32
)

// Sentinels for the outcomes that a caller branches on. Every error about a bundle is an
// [*Error] that wraps one of them; errors of the reader or writer underneath are not.
var (
	// ErrNotBundle: the bytes do not begin as a bundle does.
	ErrNotBundle = errors.New("not a sealed bundle")
	// ErrVersion: a bundle of another version of the format.
	ErrVersion = errors.New("sealed bundle of an unknown version")
	// ErrHeader: the header is malformed, out of bounds or contradicts itself.
	ErrHeader = errors.New("header of the bundle refused")
	// ErrPolicy: module, configuration, limits and codes are not those that the header names.
	ErrPolicy = errors.New("policy of the bundle refused")
	// ErrKey: the data key does not fit this header and policy, byte for byte.
	ErrKey = errors.New("data key does not open this bundle")
	// ErrTruncated: the bundle ends too early.
	ErrTruncated = errors.New("bundle is cut short")
	// ErrTampered: the payload is not what was sealed: changed, reordered, cut or continued.
	ErrTampered = errors.New("payload of the bundle was changed")
)

// Error is what is wrong with a bundle, or with what was to become one.
type Error struct {
	// Kind is one of the sentinels.
	Kind error
	// Detail says what exactly; it may be empty. It never holds plaintext.
	Detail string
	// Hint says how to cure it; empty where nobody at a terminal can.
	Hint string
}

// Error is one line, without the hint.
func (e *Error) Error() string {
	if e.Detail == "" {
		return e.Kind.Error()
	}
	return e.Kind.Error() + ": " + e.Detail
}

// Unwrap gives the sentinel.
func (e *Error) Unwrap() error { return e.Kind }

func fail(kind error, hint, format string, args ...any) *Error {
	return &Error{Kind: kind, Detail: fmt.Sprintf(format, args...), Hint: hint}
}

// wrap adds the package's prefix, once.
func wrap(err error) error { return fmt.Errorf("envelope: %w", err) }

// DataKeys makes data keys: the owner's side of a KMS.
type DataKeys interface {
	// Generate makes a data key of [KeySize] bytes under the key keyARN, bound to the
	// encryption context, and returns it in plain and wrapped (KMS API "GenerateDataKey").
	// The caller owns both slices and zeroes the plaintext.
	Generate(ctx context.Context, keyARN string, encryptionContext map[string]string) (plaintext, wrapped []byte, err error)
}

// Limits are those that the owner wants the policy to run under: a time-out or too little
// memory is a denial, so they are part of what the policy is. Zero leaves it to the enclave.
type Limits struct {
	// MemoryBytes bounds the policy's linear memory: a multiple of 64 KiB, at most 2 GiB.
	MemoryBytes int64 `json:"memory_bytes"`
	// DecideMillis bounds one decision: at most ten minutes.
	DecideMillis int64 `json:"decide_ms"`
}

// codes are as a header holds them: none is an empty list.
func codes(c []abi.Code) []abi.Code { return append([]abi.Code{}, c...) }
