package keys

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
)

// maxAnswer bounds an answer of the KMS, errors included, and maxAnswerHeader its header. The
// answer to Decrypt has about 1 KiB.
const (
	maxAnswer       = 64 << 10
	maxAnswerHeader = 16 << 10
)

// userAgent replaces what the SDK tells of the machine and the environment.
const userAgent = "cloister"

var errTooLarge = errors.New("more bytes than an answer has")

// transport carries one request. It is used once.
type transport struct {
	http *http.Transport
	// tooLarge says that an answer was cut off, broken that it did not come to its end.
	tooLarge, broken bool
}

// newTransport speaks HTTP/1.1 without proxies, compression, or connections that are kept.
func newTransport(c *Config) *transport {
	return &transport{http: &http.Transport{
		Proxy:                  nil,
		DialContext:            c.Dial,
		TLSClientConfig:        &tls.Config{RootCAs: c.Roots, MinVersion: tls.VersionTLS12},
		TLSNextProto:           map[string]func(string, *tls.Conn) http.RoundTripper{},
		TLSHandshakeTimeout:    c.Attempt,
		ResponseHeaderTimeout:  c.Attempt,
		MaxResponseHeaderBytes: maxAnswerHeader,
		DisableCompression:     true,
		DisableKeepAlives:      true,
	}}
}

// Do makes one request: it is no [http.Client], so it follows no redirect and keeps no cookie.
//
// The request goes out with a copy of its body. The SDK closes its own as soon as an answer
// begins, and its WriteTo then returns io.EOF as an error: a connection that has not yet seen
// where the body ends would be given up for that, and the answer with it.
func (t *transport) Do(r *http.Request) (*http.Response, error) {
	r.Header.Set("User-Agent", userAgent)
	body, err := io.ReadAll(r.Body)
	if err = errors.Join(err, r.Body.Close()); err != nil {
		return nil, err
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	answer, err := t.http.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if answer.ContentLength > maxAnswer {
		t.tooLarge = true
		return nil, errors.Join(errTooLarge, answer.Body.Close())
	}
	answer.Body = &bounded{ReadCloser: answer.Body, left: maxAnswer, transport: t}
	return answer, nil
}

// bounded gives at most left bytes, then an error if there are more.
type bounded struct {
	io.ReadCloser
	left      int
	transport *transport
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left == 0 {
		var one [1]byte
		n, err := b.ReadCloser.Read(one[:])
		if n > 0 {
			b.transport.tooLarge = true
		}
		if b.transport.tooLarge {
			return 0, errTooLarge
		}
		return 0, b.note(err)
	}
	n, err := b.ReadCloser.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, b.note(err)
}

// note keeps in mind that reading failed: the SDK may call what it got so far no JSON.
func (b *bounded) note(err error) error {
	if err != nil && !errors.Is(err, io.EOF) {
		b.transport.broken = true
	}
	return err
}
