package client

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"

	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/core/tree"
	"github.com/cloister-run/cloister/enclave/envelope"
	"github.com/cloister-run/cloister/enclave/wire"
	"github.com/cloister-run/cloister/jobspec"
)

// sealed is a sealed bundle that a job names.
type sealed struct {
	file   *os.File
	bundle *envelope.Bundle
	size   int64
}

// Sealed describes a sealed asset of a job, as its bundle claims it.
type Sealed struct {
	// Asset is "application" or "inputs.NAME"; Name is the owner's.
	Asset, Name string
	// Key is the ARN of the owner's KMS key.
	Key string
}

// Sealed lists the sealed assets of the job, sorted by asset.
func (p *Package) Sealed() []Sealed {
	var all []Sealed
	for _, claim := range p.claims {
		if s := p.sealed[claim.Name]; s != nil {
			all = append(all, Sealed{Asset: claim.Name, Name: s.bundle.Header.Asset.Name, Key: s.bundle.Header.Key})
		}
	}
	return all
}

// bundle opens a sealed bundle and reads what stands in the open.
func (n Named) bundle(from string) (s *sealed, message, hint string) {
	file, err := os.OpenFile(n.Resolve(from), os.O_RDONLY|unix.O_NONBLOCK, 0) // a FIFO that nobody writes must not hold this up
	if err != nil {
		message, hint = n.explain(from, err)
		return nil, message, hint
	}
	defer func() {
		if s == nil {
			_ = file.Close() // read-only
		}
	}()
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return nil, fmt.Sprintf("%q is no regular file", from), "name a file that `cloister seal` wrote"
	}
	b, err := envelope.Read(file)
	if wrong, ok := errors.AsType[*envelope.Error](err); ok {
		return nil, fmt.Sprintf("%q: %v", from, wrong), wrong.Hint
	}
	if err != nil {
		message, hint = n.explain(from, err)
		return nil, message, hint
	}
	return &sealed{file: file, bundle: b, size: info.Size()}, "", ""
}

// misused says why a bundle cannot be what a job uses it as.
func (s *sealed) misused(from string, application bool) (message, hint string) {
	switch kind := s.bundle.Header.Asset.Kind; {
	case application && kind != jobspec.ApplicationKind:
		return fmt.Sprintf("%q holds a %s", from, kind), "name it as an input, and an application here"
	case !application && kind == jobspec.ApplicationKind:
		return fmt.Sprintf("%q holds an application", from), "name it as application.from"
	}
	return "", ""
}

// isBundle reports whether a plain source is a sealed bundle under another name: an enclave would hand
// it to the application as it is.
func isBundle(source *tree.Source) bool {
	name, ok := source.IsFile()
	if !ok {
		return false
	}
	file, err := source.FS().Open(name)
	if err != nil {
		return false // packing it says why
	}
	defer file.Close()
	opening := make([]byte, envelope.MagicSize)
	n, _ := io.ReadFull(file, opening)
	return envelope.IsBundle(opening[:n])
}

// putSealed sends a sealed asset, and says what it sent. progress is told of every piece.
func (j *Job) putSealed(ctx context.Context, name string, s *sealed, progress func(int)) (tree.Summary, error) {
	h := sha256.New()
	err := j.put(ctx, name, progress, func(w io.Writer) error {
		n, err := io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(w, h)}, io.NewSectionReader(s.file, 0, s.size), make([]byte, BufferSize))
		if err == nil && n < s.size {
			err = fmt.Errorf("%s: it became shorter", s.file.Name())
		}
		return err
	})
	return tree.Summary{Digest: tree.Hex(h.Sum(nil)), Bytes: s.size}, err
}

// putCredentials sends the credentials for the KMS of a job's sealed assets.
func (j *Job) putCredentials(ctx context.Context, c wire.Credentials) error {
	raw, err := json.Marshal(c) //nolint:gosec // to the enclave that was attested, and cleared below
	if err != nil {
		return fmt.Errorf("client: encoding the credentials: %w", err)
	}
	defer clear(raw)
	return j.call(ctx, call{method: http.MethodPut, path: wire.CredentialsPath, body: bytes.NewReader(raw)})
}
