package envelope

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/cloister-run/cloister/core/tree"
	"github.com/cloister-run/cloister/jobspec"
	"github.com/cloister-run/cloister/policies/abi"
)

// Spec says what to seal an asset as. The rules are those of the bundle file.
type Spec struct {
	// Name is required: lower-case kebab.
	Name string
	// Kind is required.
	Kind jobspec.Kind
	// Command is required for an application and forbidden for everything else.
	Command *jobspec.Command
	// Key is required: the full ARN of the KMS key to seal under.
	Key string
	// Config is the policy's configuration in any spelling; absent is null.
	Config json.RawMessage
	// Limits are the policy's; the zero value leaves them to the enclave.
	Limits Limits
	// Codes are those that the module declares. The caller reads them from its manifest.
	Codes []abi.Code
}

// Summary says what was sealed. The digest of the bundle is not part of it: to hash the payload
// as well would cost more than to encrypt it. A caller that needs it hashes what goes through w.
type Summary struct {
	Header Header
	// Bytes is the length of the bundle.
	Bytes int64
}

// Source is what is sealed: a [tree.Source].
type Source interface {
	// Stream writes the content as a tar stream that [tree.Extract] takes.
	Stream(ctx context.Context, w io.Writer) error
	// Size is the content in bytes and the number of files.
	Size() (bytes int64, files int)
	// Entries counts the files and folders.
	Entries() int
	// IsFile reports whether the source is one file, and its name.
	IsFile() (name string, ok bool)
}

var _ Source = (*tree.Source)(nil)

// Seal writes a bundle to w: source, encrypted under a fresh data key, and module, the policy
// that guards it, in the open. It reads source once and keeps a few segments in memory. An
// error leaves w with a prefix that does not open; the caller throws it away.
//
// A source that changes while it is sealed is an error, or makes a bundle that no one can
// unpack. Errors of the spec and the module wrap [ErrHeader] and [ErrPolicy]; those of keys, w
// and source are passed on.
func Seal(ctx context.Context, w io.Writer, spec Spec, source Source, module []byte, dataKeys DataKeys) (Summary, error) {
	h, err := spec.header(source, module)
	if err != nil {
		return Summary{}, wrap(err)
	}
	dataKey, err := h.wrap(ctx, dataKeys)
	defer clear(dataKey)
	if err != nil {
		return Summary{}, wrap(err)
	}
	counted := &counter{w: w}
	if err := seal(ctx, counted, h, source, module, dataKey); err != nil {
		return Summary{}, wrap(err)
	}
	return Summary{Header: *h, Bytes: counted.n}, nil
}

// header makes everything of a header but the wrapped key.
func (s Spec) header(source Source, module []byte) (*Header, error) {
	config, err := jobspec.CanonicalConfig(s.Config)
	if err != nil {
		return nil, fail(ErrPolicy, "", "%v", err)
	}
	h := &Header{
		Version: Version, Asset: Asset{Name: s.Name, Kind: s.Kind}, ID: newID(), Key: s.Key,
		WrappedKey: []byte{0}, // until there is one
		Policy:     Policy{ModuleBytes: int64(len(module)), Config: config, Limits: s.Limits, Codes: codes(s.Codes)},
	}
	if s.Command != nil {
		command := s.Command.Normal()
		h.Command = &command
	}
	h.Asset.claim(source)
	if err := h.check(); err != nil {
		return nil, err
	}
	if h.Policy.Digest, err = h.Policy.digest(module); err != nil {
		return nil, err
	}
	h.EncryptionContext = h.context()
	return h, nil
}

func newID() string {
	var id [idSize]byte
	_, _ = rand.Read(id[:]) // never fails: crypto/rand
	return hex.EncodeToString(id[:])
}

// claim fills in what the source looks like.
func (a *Asset) claim(source Source) {
	a.Form = TreeForm
	if _, ok := source.IsFile(); ok {
		a.Form = FileForm
	}
	a.Bytes, _ = source.Size()
	a.Entries = source.Entries()
}

// wrap asks for the data key and puts its wrapped form into the header.
func (h *Header) wrap(ctx context.Context, dataKeys DataKeys) (dataKey []byte, err error) {
	dataKey, h.WrappedKey, err = dataKeys.Generate(ctx, h.Key, h.context())
	if err != nil {
		return dataKey, fmt.Errorf("generating a data key: %w", err)
	}
	return dataKey, h.check()
}

// seal writes the bundle of a complete header.
func seal(ctx context.Context, w io.Writer, h *Header, source Source, module, dataKey []byte) error {
	header, err := h.encode()
	if err != nil {
		return fail(ErrHeader, "", "%v", err)
	}
	if len(header) > MaxHeader {
		return fail(ErrHeader, "shorten the command", "%d bytes; at most %d are allowed", len(header), MaxHeader)
	}
	opening := newOpening(len(header))
	front := sumFront(opening, header, module)
	k, err := derive(dataKey, front)
	if err != nil {
		return err
	}
	defer k.wipe()
	for _, region := range [][]byte{opening, header, module, k.sum(front)} {
		if _, err := w.Write(region); err != nil {
			return err
		}
	}
	e, err := newEncrypter(w, k.payload, front)
	if err != nil {
		return err
	}
	if err := source.Stream(ctx, e); err != nil {
		return errors.Join(err, e.abandon())
	}
	return e.finish()
}

// counter counts what it passes on.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
