package keys

import (
	"crypto/tls"
	"errors"
	"net/http"
	"strings"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"
)

// classify makes an [*Error] of one of the SDK's.
func classify(err error, t *transport) *Error {
	if t.tooLarge {
		return fail(ErrAnswer, "it has more than %d bytes", maxAnswer)
	}
	if t.broken {
		return fail(ErrUnavailable, "the answer broke off")
	}
	status, id := 0, ""
	if response, ok := errors.AsType[*awshttp.ResponseError](err); ok {
		status, id = response.HTTPStatusCode(), response.ServiceRequestID()
	}
	var api smithy.APIError
	if errors.As(err, &api) {
		return NewError(verdict(api.ErrorCode(), status), api.ErrorCode(), id, api.ErrorMessage())
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return fail(ErrAnswer, "who answers is not the KMS: %s", err.Error())
	}
	if status >= http.StatusInternalServerError || status == http.StatusTooManyRequests {
		return NewError(ErrUnavailable, "", id, "")
	}
	if status != 0 {
		return NewError(ErrAnswer, "", id, "it is no answer of a KMS")
	}
	return NewError(ErrUnavailable, "", id, err.Error())
}

// verdict sorts the errors of KMS ("Decrypt", "Common error types"). What is no error of KMS's
// but came with a status of refusal is one.
func verdict(code string, status int) error {
	switch code {
	case "ThrottlingException", "Throttling", "RequestThrottled", "RequestLimitExceeded", "TooManyRequestsException",
		"LimitExceededException", "DependencyTimeoutException", "KMSInternalException", "KeyUnavailableException",
		"ServiceUnavailable", "ServiceUnavailableException", "InternalFailure", "InternalServerError", "RequestTimeout":
		return ErrUnavailable
	}
	switch {
	case status >= http.StatusInternalServerError || status == http.StatusTooManyRequests:
		return ErrUnavailable
	case code == "" || code == "UnknownError" || status < http.StatusBadRequest:
		return ErrAnswer
	}
	return ErrRefused
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
