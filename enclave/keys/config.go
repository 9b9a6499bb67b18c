package keys

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"time"

	"github.com/cloister-run/cloister/enclave/attest"
)

// Config is what the measured trust profile fixes, and the two ways out of the enclave.
type Config struct {
	// Attester makes the attestation documents. Required.
	Attester attest.Attester
	// Dial reaches an endpoint; what it reaches need not be trusted. Required: there is no way
	// out by default. The arguments are those of [net.Dialer.DialContext].
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Partition is the one whose keys are asked for: "aws", "aws-cn", "aws-us-gov" or
	// [PartitionDev]. Required. The endpoint follows from it and the key's region.
	Partition string
	// Endpoint is the URL of the KMS of PartitionDev, http or https, without a path. Required
	// there and refused elsewhere.
	Endpoint string
	// Roots are the certificates under which an endpoint proves to be the KMS. Required for
	// https; the system's are never used.
	Roots *x509.CertPool
	// Attempt bounds one request, 10 s by default; Timeout all of them, 30 s by default.
	Attempt, Timeout time.Duration
	// Attempts bounds how often the KMS is asked where it has no time, 3 by default. Pause is
	// the wait before the second, doubled for each that follows; 200 ms by default.
	Attempts int
	Pause    time.Duration
}

// maxAttempts bounds Config.Attempts.
const maxAttempts = 10

// check applies every rule and reports every problem.
func (c *Config) check() error {
	var problems []error
	problem := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if c.Attester == nil {
		problem("Attester: missing")
	}
	if c.Dial == nil {
		problem("Dial: missing")
	}
	_, real := suffix(c.Partition)
	encrypted := real
	switch {
	case real && c.Endpoint != "":
		problem("Endpoint: only for the partition %s", PartitionDev)
	case !real && c.Partition != PartitionDev:
		problem("Partition: %q is not known", c.Partition)
	case !real:
		u, err := url.Parse(c.Endpoint)
		if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") ||
			*u != (url.URL{Scheme: u.Scheme, Host: u.Host}) {
			problem("Endpoint: no URL of http or https, a host and nothing else")
			break
		}
		encrypted = u.Scheme == "https"
	}
	if encrypted && c.Roots == nil {
		problem("Roots: missing")
	}
	if c.Attempt < 0 || c.Timeout < 0 || c.Pause < 0 || c.Attempts < 0 || c.Attempts > maxAttempts {
		problem("Attempt, Timeout, Pause or Attempts: out of bounds")
	}
	return errors.Join(problems...)
}

// withDefaults fills in what may be left out.
func (c Config) withDefaults() Config {
	set := func(d *time.Duration, by time.Duration) {
		if *d == 0 {
			*d = by
		}
	}
	set(&c.Attempt, 10*time.Second)
	set(&c.Timeout, 30*time.Second)
	set(&c.Pause, 200*time.Millisecond)
	if c.Attempts == 0 {
		c.Attempts = 3
	}
	return c
}

// endpoint is where a key of this partition and of that region is asked for.
func (c *Config) endpoint(region string) string {
	if end, ok := suffix(c.Partition); ok {
		return "https://kms." + region + end
	}
	return c.Endpoint
}

// Credentials are AWS's, of whoever runs the job. They print as nothing.
type Credentials struct{ AccessKeyID, SecretAccessKey, SessionToken string }

const hidden = "credentials"

// Format hides the values from package fmt, whatever the verb.
func (Credentials) Format(s fmt.State, _ rune) { _, _ = s.Write([]byte(hidden)) }

// LogValue hides the values from package slog.
func (Credentials) LogValue() slog.Value { return slog.StringValue(hidden) }

// MarshalText hides the values from encoders.
func (Credentials) MarshalText() ([]byte, error) { return []byte(hidden), nil }

// maxCredential bounds each value: a session token can have some thousand bytes.
const maxCredential = 16 << 10

func (c Credentials) check() error {
	for _, s := range []string{c.AccessKeyID, c.SecretAccessKey, c.SessionToken} {
		if len(s) > maxCredential {
			return errors.New("credentials: too long")
		}
		for _, b := range []byte(s) {
			if b <= ' ' || b > '~' {
				return errors.New("credentials: a byte that cannot be in them")
			}
		}
	}
	if c.AccessKeyID == "" || c.SecretAccessKey == "" {
		return errors.New("credentials: missing")
	}
	return nil
}
