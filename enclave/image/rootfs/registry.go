package rootfs

import (
	"bytes"
	"context"
	"errors"
	"io"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// ErrUnavailable: a registry does not answer, or not with what was asked for.
var ErrUnavailable = errors.New("registry unavailable")

// Pull reads the image for an architecture, of GOARCH, from a registry, with the credentials of `docker login`.
// reference names it by a digest, which is that of a manifest or of an index: the registry is believed nothing.
// The caller closes it. Errors are an [*Error], [ErrUnavailable], or those of the file system.
func Pull(ctx context.Context, reference, arch string) (*Image, error) {
	ref, err := name.NewDigest(reference)
	if err != nil {
		return nil, refuse("%v", err)
	}
	from := registry{repository: ref.Context(), options: []remote.Option{
		remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain),
	}}
	found, err := remote.Get(ref, from.options...)
	if err != nil {
		return nil, unavailable(ctx, err)
	}
	// Of some old types package remote takes the registry's word for the digest.
	digest, _, err := v1.SHA256(bytes.NewReader(found.Manifest))
	if err != nil || digest.String() != ref.DigestStr() {
		return nil, refuse("the registry gave %s for %s: it was damaged or replaced", digest, ref.DigestStr())
	}
	p := &puller{ctx: ctx, from: from, arch: arch}
	index, err := isIndex(found.Manifest)
	if err != nil {
		return nil, err
	}
	if !index {
		return p.image(found.Manifest, digest)
	}
	d, err := p.choose(found.Manifest, 0)
	if err != nil {
		return nil, err
	}
	return p.pull(d)
}

func unavailable(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return errors.Join(ErrUnavailable, err)
}

// registry is a repository of one.
type registry struct {
	repository name.Repository
	options    []remote.Option
}

func (r registry) open(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	ref := r.repository.Digest(d.Digest.String())
	if d.MediaType.IsImage() || d.MediaType.IsIndex() {
		found, err := remote.Get(ref, r.options...)
		if err != nil {
			return nil, unavailable(ctx, err)
		}
		return io.NopCloser(bytes.NewReader(found.Manifest)), nil
	}
	blob, err := remote.Layer(ref, r.options...)
	if err != nil {
		return nil, unavailable(ctx, err)
	}
	from, err := blob.Compressed()
	if err != nil {
		return nil, unavailable(ctx, err)
	}
	return from, nil
}
