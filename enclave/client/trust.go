package client

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/cloister-run/cloister/core/receipt"
	"github.com/cloister-run/cloister/enclave/attest"
	"github.com/cloister-run/cloister/enclave/wire"
)

// nonceSize is how many random bytes a client has an enclave sign.
const nonceSize = 32

// maxDocumentAge bounds how old the document over a client's own nonce may be: what clocks may differ by.
const maxDocumentAge = 5 * time.Minute

// Attest says which enclave answers: its document, verified against what the [Config] expects, over
// a nonce of this client's. The enclave is asked once; every receipt must come from that same one.
// Where the document is at fault the error holds an [attest.Violation].
func (c *Client) Attest(ctx context.Context) (*attest.Document, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.enclave != nil {
		return c.enclave, nil
	}
	nonce := make([]byte, nonceSize)
	_, _ = rand.Read(nonce) // never fails
	raw, err := c.document(ctx, nonce)
	if err != nil {
		return nil, err
	}
	doc, err := attest.Verify(raw, attest.Options{
		At: c.cfg.Now(), Root: c.cfg.Root, Realm: c.cfg.Realm, PCRs: c.cfg.PCRs,
		Kind: attest.KindClient, Nonce: nonce, MaxAge: maxDocumentAge,
	})
	if err != nil {
		return nil, fmt.Errorf("the enclave does not prove to be the one expected: %w", err)
	}
	c.enclave = doc
	return doc, nil
}

// Document is an attestation document of the enclave over a nonce of attest.MinNonce to attest.MaxNonce bytes, as it came: whoever wants to rely
// on it verifies it.
func (c *Client) Document(ctx context.Context, nonce []byte) ([]byte, error) {
	raw, err := c.document(ctx, nonce)
	if err == nil && len(raw) > attest.MaxDocument {
		return nil, fmt.Errorf("%w: a document of over %d bytes", ErrUnavailable, attest.MaxDocument)
	}
	return raw, err
}

func (c *Client) document(ctx context.Context, nonce []byte) ([]byte, error) {
	res, err := c.do(ctx, call{method: http.MethodGet, path: wire.AttestPath + hex.EncodeToString(nonce)})
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(res.Body, attest.MaxDocument+1)) // Verify refuses the byte too many
	if err != nil {
		return nil, fmt.Errorf("%w: reading its attestation document: %w", ErrUnavailable, err)
	}
	return raw, nil
}

// verify takes a receipt from the enclave that this client attested, and from no other.
func (c *Client) verify(ctx context.Context, raw []byte) (*receipt.Statement, error) {
	enclave, err := c.Attest(ctx)
	if err != nil {
		return nil, err
	}
	v, err := receipt.Verify(raw, receipt.Expect{Root: c.cfg.Root, Realm: c.cfg.Realm, PCRs: c.cfg.PCRs})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMismatch, err)
	}
	if v.Document.ModuleID != enclave.ModuleID {
		return nil, fmt.Errorf("%w: its receipt is another enclave's", ErrMismatch)
	}
	return v.Statement, nil
}

func (cfg *Config) check() error {
	switch {
	case cfg.Dial == nil:
		return errors.New("client: Dial: required")
	case cfg.Realm == "":
		return errors.New("client: Realm: required")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return nil
}
