package boot

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/cloister-run/cloister/core"
	"github.com/cloister-run/cloister/enclave/attest"
	"github.com/cloister-run/cloister/enclave/image"
	"github.com/cloister-run/cloister/enclave/keys"
	"github.com/cloister-run/cloister/enclave/proxy"
	"github.com/cloister-run/cloister/enclave/wire"
)

// openNSM opens the module that the profile names.
func (p *profile) openNSM() (attest.Device, error) {
	if p.NSM == nsmSocket {
		return attest.OpenSocket(image.NSM), nil
	}
	return attest.OpenDevice()
}

// hypervisorPCRs is how many registers the hypervisor locks before the enclave starts ("Nitro Enclaves
// attestation process", 2.2).
const hypervisorPCRs = 16

// identify asks the module who this enclave is: its name, and the registers that were measured.
func identify(ctx context.Context, nsm attest.Device) (moduleID string, pcrs attest.PCRSet, err error) {
	pcrs = attest.PCRSet{}
	for i := range hypervisorPCRs {
		value, locked, err := nsm.DescribePCR(ctx, i)
		if err != nil {
			return "", nil, err
		}
		if locked && !value.IsZero() {
			pcrs[i] = value
		}
	}
	document, err := nsm.Attest(ctx, attest.Request{Nonce: make([]byte, attest.MinNonce)})
	if err != nil {
		return "", nil, err
	}
	moduleID, err = attest.ClaimedModule(document)
	return moduleID, pcrs, err
}

// maxRoots bounds the file of root certificates.
const maxRoots = 1 << 20

// openKMS makes what asks the KMS that the profile names, through the one door.
func (p *profile) openKMS(nsm attest.Attester) (*keys.KMS, error) {
	cfg := keys.Config{
		Attester: nsm, Dial: proxy.Dialer{Door: p.door}.DialContext,
		Partition: p.KMS.Partition, Endpoint: p.KMS.Endpoint,
	}
	if p.Realm == attest.RealmAWS {
		var err error
		if cfg.Roots, err = readRoots(filepath.Join(image.Dir, image.Roots)); err != nil {
			return nil, err
		}
	}
	return keys.New(cfg)
}

// readRoots reads certificates in PEM, and nothing else.
func readRoots(path string) (*x509.CertPool, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxRoots+1))
	if err != nil {
		return nil, fmt.Errorf("roots: %w", err)
	}
	roots := x509.NewCertPool()
	if len(raw) > maxRoots || len(bytes.TrimSpace(raw)) == 0 || !roots.AppendCertsFromPEM(raw) {
		return nil, fmt.Errorf("roots: %s: no certificates in PEM, or more than %d bytes", path, maxRoots)
	}
	return roots, nil
}

// kms is a KMS as core wants it.
type kms struct{ kms *keys.KMS }

var _ core.Keys = kms{}

// Login takes credentials as package wire has them.
func (k kms) Login(credentials []byte) (core.Unwrapper, error) {
	c, err := wire.DecodeCredentials(credentials)
	if err != nil {
		return nil, err
	}
	client, err := k.kms.Login(keys.Credentials(c))
	if err != nil {
		return nil, err
	}
	return unwrapper{client}, nil
}

type unwrapper struct{ client *keys.Client }

// Unwrap asks the KMS, and tells a refusal from a KMS that cannot be asked.
func (u unwrapper) Unwrap(ctx context.Context, keyARN string, wrapped []byte, encryptionContext map[string]string) ([]byte, string, error) {
	dataKey, requestID, err := u.client.Decrypt(ctx, keyARN, wrapped, encryptionContext)
	if failed, ok := errors.AsType[*keys.Error](err); ok {
		return nil, "", &core.KeyError{Refused: !errors.Is(failed, keys.ErrUnavailable), Reason: failed.Error()}
	}
	if err != nil {
		return nil, "", err
	}
	return dataKey, requestID, nil
}
