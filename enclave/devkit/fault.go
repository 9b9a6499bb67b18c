package devkit

import (
	"fmt"
	"net/http"
)

// fault is an error as KMS answers it (KMS API, "Common error types" and each action's errors).
type fault struct {
	status        int
	code, message string
	// detail is for the audit line alone: what KMS does not tell who asks.
	detail string
}

func (f *fault) Error() string { return f.code + ": " + f.message }

func refused(code, format string, args ...any) *fault {
	return &fault{status: http.StatusBadRequest, code: code, message: fmt.Sprintf(format, args...)}
}

// The codes.
const (
	codeAccessDenied    = "AccessDeniedException"
	codeBadCiphertext   = "InvalidCiphertextException"
	codeDisabled        = "DisabledException"
	codeDryRun          = "DryRunOperationException"
	codeIncomplete      = "IncompleteSignatureException"
	codeIncorrectKey    = "IncorrectKeyException"
	codeInternal        = "KMSInternalException"
	codeInvalidMarker   = "InvalidMarkerException"
	codeMalformedPolicy = "MalformedPolicyDocumentException"
	codeNoToken         = "MissingAuthenticationTokenException"
	codeNotFound        = "NotFoundException"
	codeSerialization   = "SerializationException"
	codeSignature       = "InvalidSignatureException"
	codeThrottled       = "ThrottlingException"
	codeTooLarge        = "RequestEntityTooLargeException"
	codeUnknownAction   = "UnknownOperationException"
	codeUnknownClient   = "UnrecognizedClientException"
	codeUnsupported     = "UnsupportedOperationException"
	codeValidation      = "ValidationException"
)

// internal is for what is the simulation's own fault. The cause goes to the audit line.
func internal(err error) *fault {
	return &fault{status: http.StatusInternalServerError, code: codeInternal,
		message: "the simulated KMS has a fault of its own; its log says which", detail: err.Error()}
}

// invalid is a parameter that breaks a rule.
func invalid(format string, args ...any) *fault { return refused(codeValidation, format, args...) }

func unsupported(format string, args ...any) *fault {
	return refused(codeUnsupported, "not supported by the simulated KMS: "+format, args...)
}
