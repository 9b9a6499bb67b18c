package devkit

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// The parts of a signature of version 4 (IAM user guide, "Elements of an AWS API request signature").
const (
	algorithm      = "AWS4-HMAC-SHA256"
	service        = "kms"
	terminator     = "aws4_request"
	dateHeader     = "X-Amz-Date"
	tokenHeader    = "X-Amz-Security-Token" // #nosec G101 -- the name of a header
	targetHeader   = "X-Amz-Target"
	dateFormat     = "20060102T150405Z"
	maxSkew        = 5 * time.Minute
	signatureBytes = sha256.Size
)

// authorization is what an Authorization header says; nothing of it is verified.
type authorization struct {
	accessKeyID, date, region string
	// headers are the names of the signed ones, in lower case, sorted.
	headers   []string
	signature []byte
}

// parseAuthorization reads the header.
func parseAuthorization(header string) (*authorization, error) {
	if header == "" {
		return nil, refused(codeNoToken, "Missing Authentication Token")
	}
	rest, ok := strings.CutPrefix(header, algorithm+" ")
	if !ok {
		return nil, refused(codeIncomplete, "Unsupported AWS 'algorithm': the Authorization header does not begin with %s.", algorithm)
	}
	values := map[string]string{}
	for part := range strings.SplitSeq(rest, ",") {
		name, value, ok := strings.Cut(strings.TrimSpace(part), "=")
		if !ok {
			return nil, refused(codeIncomplete, "A part of the Authorization header is not a valid key=value pair (missing equal-sign).")
		}
		values[name] = value
	}
	for _, name := range []string{"Credential", "SignedHeaders", "Signature"} {
		if values[name] == "" {
			return nil, refused(codeIncomplete, "Authorization header requires '%s' parameter.", name)
		}
	}
	scope := strings.Split(values["Credential"], "/")
	if len(scope) != 5 {
		return nil, refused(codeIncomplete, "Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term.")
	}
	a := &authorization{accessKeyID: scope[0], date: scope[1], region: scope[2], headers: strings.Split(values["SignedHeaders"], ";")}
	switch {
	case !regionRE.MatchString(a.region):
		return nil, refused(codeSignature, "Credential should be scoped to a valid region.")
	case scope[3] != service:
		return nil, refused(codeSignature, "Credential should be scoped to correct service: '%s'.", service)
	case scope[4] != terminator:
		return nil, refused(codeSignature, "Credential should be scoped with a valid terminator: '%s'.", terminator)
	}
	var err error
	if a.signature, err = hex.DecodeString(values["Signature"]); err != nil || len(a.signature) != signatureBytes {
		return nil, refused(codeIncomplete, "The signature is not %d hexadecimal digits.", 2*signatureBytes)
	}
	return a, nil
}

// authenticate verifies the signature over a request and its body, and finds whose it is.
func (k *KMS) authenticate(r *http.Request, body []byte) (Account, string, error) {
	a, err := parseAuthorization(r.Header.Get("Authorization"))
	if err != nil {
		return Account{}, "", err
	}
	at, err := a.when(r.Header.Get(dateHeader), k.now())
	if err != nil {
		return Account{}, "", err
	}
	if err := a.covers(r.Header); err != nil {
		return Account{}, "", err
	}
	account, err := k.home.byAccessKey(a.accessKeyID)
	switch {
	case errors.Is(err, errNoAccount), err == nil && r.Header.Get(tokenHeader) != "": // an account's own keys have no token
		return Account{}, "", refused(codeUnknownClient, "The security token included in the request is invalid.")
	case err != nil:
		return Account{}, "", internal(err)
	}
	want, err := a.compute(r, body, account, at)
	if err != nil {
		return Account{}, "", internal(err)
	}
	if !hmac.Equal(want, a.signature) {
		return Account{}, "", refused(codeSignature, "The request signature we calculated does not match the signature you provided. "+
			"Check your AWS Secret Access Key and signing method. Consult the service documentation for details.")
	}
	return account, a.region, nil
}

// when is the time of the signature, if that is about now.
func (a *authorization) when(header string, now time.Time) (time.Time, error) {
	if header == "" {
		return time.Time{}, refused(codeIncomplete, "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header.")
	}
	at, err := time.Parse(dateFormat, header)
	if err != nil {
		return time.Time{}, refused(codeIncomplete, "Date must be in ISO-8601 'basic format'.")
	}
	now = now.UTC()
	switch stamp := now.Format(dateFormat); {
	case at.Format("20060102") != a.date:
		return time.Time{}, refused(codeSignature, "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP.")
	case now.Sub(at) > maxSkew:
		return time.Time{}, refused(codeSignature, "Signature expired: %s is now earlier than %s (%s - 5 min.)",
			header, now.Add(-maxSkew).Format(dateFormat), stamp)
	case at.Sub(now) > maxSkew:
		return time.Time{}, refused(codeSignature, "Signature not yet current: %s is still later than %s (%s + 5 min.)",
			header, now.Add(maxSkew).Format(dateFormat), stamp)
	}
	return at, nil
}

// covers says that everything that is acted upon is signed: the host and every header of AWS's.
func (a *authorization) covers(header http.Header) error {
	if !slices.Contains(a.headers, "host") {
		return refused(codeSignature, "'Host' or ':authority' must be a 'SignedHeader' in the AWS Authorization.")
	}
	for name := range header {
		lower := strings.ToLower(name)
		if (strings.HasPrefix(lower, "x-amz-") || lower == "content-type") && !slices.Contains(a.headers, lower) {
			return refused(codeSignature, "'%s' must be a 'SignedHeader' in the AWS Authorization.", name)
		}
	}
	return nil
}

// compute signs a request that has the signed headers alone, with the SDK's own signer.
func (a *authorization) compute(r *http.Request, body []byte, account Account, at time.Time) ([]byte, error) {
	again := &http.Request{Method: r.Method, URL: &url.URL{Scheme: "http", Host: r.Host, Path: r.URL.Path, RawQuery: r.URL.RawQuery},
		Host: r.Host, Header: http.Header{}}
	for _, name := range a.headers {
		switch name {
		case "host", "authorization":
		case "content-length":
			again.ContentLength = int64(len(body))
		default:
			name = http.CanonicalHeaderKey(name)
			again.Header[name] = slices.Clone(r.Header[name])
		}
	}
	sum := sha256.Sum256(body)
	credentials := aws.Credentials{AccessKeyID: account.AccessKeyID, SecretAccessKey: account.SecretAccessKey}
	if err := v4.NewSigner().SignHTTP(context.Background(), credentials, again, hex.EncodeToString(sum[:]), service, a.region, at); err != nil {
		return nil, err
	}
	signed, err := parseAuthorization(again.Header.Get("Authorization"))
	if err != nil {
		return nil, err
	}
	return signed.signature, nil
}
