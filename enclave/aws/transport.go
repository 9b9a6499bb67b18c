package aws

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/middleware"

	"github.com/cloister-run/cloister/enclave/keys"
)

// maxAnswer bounds an answer of the KMS, errors included. The largest that is asked for has
// about 7 KiB.
const maxAnswer = 64 << 10

// attemptTimeout bounds one request.
const attemptTimeout = 10 * time.Second

var (
	errTooLarge = fmt.Errorf("it has more than %d bytes", maxAnswer)
	errNoTLS    = errors.New("the configuration names an endpoint without TLS: a data key would cross in plain")
)

// call asks the KMS of a region, with bounds, and sorts the errors.
func (a *Account) call(ctx context.Context, region string, ask func(context.Context, *kms.Client) error) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if _, err := a.credentials(ctx); err != nil {
		return err
	}
	client := kms.NewFromConfig(a.config, func(o *kms.Options) {
		o.Region = region
		o.HTTPClient = a.newCarrier()
		if a.endpoint != "" {
			o.BaseEndpoint = aws.String(a.endpoint)
		}
		if a.tune != nil {
			a.tune(o)
		}
	})
	err := ask(ctx, client)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ended(ctx)
	}
	return classify(err)
}

// ended is the end of a context: the caller's own, or the time that a call has.
func ended(ctx context.Context) error {
	if cause := context.Cause(ctx); !errors.Is(cause, context.DeadlineExceeded) {
		return fmt.Errorf("aws: %w", cause)
	}
	return fail(ErrUnavailable, "there was no answer in time")
}

// classify makes an [*Error] of one of the SDK's.
func classify(err error) *Error {
	if errors.Is(err, errNoTLS) {
		return fail(ErrRequest, "%v", errNoTLS)
	}
	if errors.Is(err, errTooLarge) {
		return fail(ErrAnswer, "%v", errTooLarge)
	}
	status, id := 0, ""
	if response, ok := errors.AsType[*awshttp.ResponseError](err); ok && response.Response != nil {
		status, id = response.HTTPStatusCode(), response.ServiceRequestID()
	}
	var api smithy.APIError
	isAPI := errors.As(err, &api)
	busy := status >= http.StatusInternalServerError || retry.IsErrorRetryables(retry.DefaultRetryables).IsErrorRetryable(err) == aws.TrueTernary
	switch {
	case isAPI && busy:
		return keys.NewError(ErrUnavailable, api.ErrorCode(), id, api.ErrorMessage())
	case isAPI && api.ErrorCode() != "" && api.ErrorCode() != "UnknownError" && status >= http.StatusBadRequest:
		return keys.NewError(ErrRefused, api.ErrorCode(), id, api.ErrorMessage())
	case isCertificate(err):
		return keys.NewError(ErrAnswer, "", id, "who answers is not the KMS: "+err.Error())
	case status == 0 && !isAPI:
		return keys.NewError(ErrUnavailable, "", id, err.Error())
	case !busy:
		return keys.NewError(ErrAnswer, "", id, "it is no answer of a KMS")
	}
	return keys.NewError(ErrUnavailable, "", id, "")
}

func isCertificate(err error) bool {
	_, ok := errors.AsType[*tls.CertificateVerificationError](err)
	return ok
}

// requestID is what the KMS calls a request that it answered, or nothing.
func requestID(m middleware.Metadata) string {
	id, _ := awsmiddleware.GetRequestIDMetadata(m)
	return id
}

// carrier carries requests to the KMS over what the configuration says of connections: proxies
// and a bundle of certificates.
type carrier struct {
	http http.RoundTripper
	// encrypted says that nothing may go without TLS.
	encrypted bool
	// attempt bounds a request with its answer.
	attempt time.Duration
}

func (a *Account) newCarrier() *carrier {
	client, ok := a.config.HTTPClient.(*awshttp.BuildableClient)
	if !ok {
		client = awshttp.NewBuildableClient()
	}
	t := client.GetTransport() // a copy
	t.DisableKeepAlives, t.DisableCompression = true, true
	t.MaxResponseHeaderBytes = maxAnswer
	return &carrier{http: t, encrypted: a.endpoint == "", attempt: a.attempt}
}

// Do makes one request: it is no [http.Client], so it follows no redirect and keeps no cookie.
// The answer is whole, and within its bound.
func (c *carrier) Do(r *http.Request) (*http.Response, error) {
	if c.encrypted && r.URL.Scheme != "https" {
		return nil, errNoTLS
	}
	ctx, cancel := context.WithTimeout(r.Context(), c.attempt)
	defer cancel()
	answer, err := c.http.RoundTrip(r.WithContext(ctx))
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer+1))
	if err != nil {
		return nil, fmt.Errorf("the answer broke off: %w", err)
	}
	if len(body) > maxAnswer {
		clear(body)
		return nil, errTooLarge
	}
	answer.Body = &wiped{Reader: bytes.NewReader(body), body: body}
	return answer, nil
}

// wiped is a body that may hold a data key.
type wiped struct {
	*bytes.Reader
	body []byte
}

func (w *wiped) Close() error {
	clear(w.body)
	return nil
}
