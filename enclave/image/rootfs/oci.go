package rootfs

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// The bounds of an image's documents.
const (
	maxDocument = 8 << 20 // a configuration lists its history; registries take manifests of 4 MiB
	maxLayers   = 512
	maxNesting  = 3 // of an index in an index
)

// Image is an image whose layers were laid over one another.
type Image struct {
	*Tree
	// Digest is that of its manifest.
	Digest string
}

// store is where the parts of an image are. What it gives is held against the descriptor.
type store interface {
	open(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error)
}

// OCI reads the image for an architecture, of GOARCH, from a folder with an OCI image layout (OCI image
// specification, "Image Layout"). The caller closes it. Errors are an [*Error], or those of the file system.
func OCI(ctx context.Context, dir, arch string) (*Image, error) {
	root, err := OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := openFile(root, "index.json")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, refuse("it holds no index.json: no OCI image layout")
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	index, err := document(f, "index.json")
	if err != nil {
		return nil, err
	}
	p := &puller{ctx: ctx, from: layout{root}, arch: arch}
	d, err := p.choose(index, 0)
	if err != nil {
		return nil, err
	}
	return p.pull(d)
}

// layout is a folder.
type layout struct{ root *os.Root }

func (l layout) open(_ context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	f, err := openFile(l.root, "blobs/"+d.Digest.Algorithm+"/"+d.Digest.Hex)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, refuse("it lacks the blob %s", d.Digest)
	case err != nil:
		return nil, err
	}
	return f, nil
}

// isIndex says what a document is, an index or else a manifest, by what it holds. What others say of its type, a
// registry in a header above all, is under no digest: a document that reads as both would be one image or another
// as they choose (CVE-2021-41190), and is refused as one is that says otherwise of itself.
func isIndex(text []byte) (bool, error) {
	var fields map[string]json.RawMessage
	var said struct {
		MediaType types.MediaType `json:"mediaType"`
	}
	if err := errors.Join(json.Unmarshal(text, &fields), json.Unmarshal(text, &said)); err != nil {
		return false, refuse("its manifest is none: %v", err)
	}
	index, manifest := false, false
	for name := range fields { // package json takes them in any case
		index = index || strings.EqualFold(name, "manifests")
		manifest = manifest || strings.EqualFold(name, "config") || strings.EqualFold(name, "layers")
	}
	switch kind := said.MediaType; {
	case index && manifest:
		return false, refuse("its manifest is an index too: it would be one image or another as it is read")
	case !index && !manifest:
		return false, refuse("its manifest is none: it has no layers, and no manifests as an index has")
	case kind != "" && (index && !kind.IsIndex() || manifest && !kind.IsImage()):
		return false, refuse("its manifest or index says that it is %.100q, and holds something else", kind)
	}
	return index, nil
}

func document(from io.Reader, what string) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(from, maxDocument+1))
	if err == nil && len(data) > maxDocument {
		err = refuse("%s is over %d bytes", what, maxDocument)
	}
	return data, err
}

// puller takes one image from a store.
type puller struct {
	ctx  context.Context
	from store
	arch string
}

// checked hashes what it reads, and at the end holds it against a descriptor.
type checked struct {
	io.Reader
	sum  hash.Hash
	size int64
	want v1.Descriptor
}

func (p *puller) open(d v1.Descriptor) (*checked, io.Closer, error) {
	if d.Digest.Algorithm != "sha256" {
		return nil, nil, refuse("the blob %s: digests are of SHA-256", d.Digest)
	}
	from, err := p.from.open(p.ctx, d)
	if err != nil {
		return nil, nil, err
	}
	c := &checked{sum: sha256.New(), want: d}
	c.Reader = io.TeeReader(io.LimitReader(from, d.Size+1), c)
	return c, from, nil
}

func (c *checked) Write(data []byte) (int, error) {
	c.size += int64(len(data))
	return c.sum.Write(data)
}

// check reads the rest, and says whether all of it was what it should be.
func (c *checked) check() error {
	if _, err := io.Copy(io.Discard, c.Reader); err != nil {
		return err
	}
	if c.size != c.want.Size || hex.EncodeToString(c.sum.Sum(nil)) != c.want.Digest.Hex {
		return refuse("the blob %s is another one: it was damaged or replaced", c.want.Digest)
	}
	return nil
}

// fetch reads a document.
func (p *puller) fetch(d v1.Descriptor, what string) ([]byte, error) {
	if d.Size < 0 || d.Size > maxDocument {
		return nil, refuse("%s is %d bytes long; %d are allowed", what, d.Size, maxDocument)
	}
	c, done, err := p.open(d)
	if err != nil {
		return nil, err
	}
	defer done.Close()
	data, err := document(c, what)
	if err != nil {
		return nil, err
	}
	return data, c.check()
}

// choose finds the one manifest of an index that is for the architecture.
func (p *puller) choose(index []byte, depth int) (v1.Descriptor, error) {
	none := v1.Descriptor{}
	if is, err := isIndex(index); err != nil || !is {
		return none, cmp.Or(err, refuse("its index is no OCI image index, but a manifest"))
	}
	parsed, err := v1.ParseIndexManifest(bytes.NewReader(index))
	if err != nil {
		return none, refuse("its index is no OCI image index: %v", err)
	}
	var found []v1.Descriptor
	for _, d := range parsed.Manifests {
		switch {
		case d.Platform != nil && (d.Platform.OS != "linux" || d.Platform.Architecture != p.arch):
		case d.MediaType.IsIndex() || d.MediaType.IsImage():
			found = append(found, d)
		}
	}
	if len(found) != 1 {
		return none, refuse("it holds %d images for linux/%s; one is needed", len(found), p.arch)
	}
	if found[0].MediaType.IsImage() {
		return found[0], nil
	}
	if depth == maxNesting {
		return none, refuse("its indices are nested more than %d deep", maxNesting)
	}
	below, err := p.fetch(found[0], "an index")
	if err != nil {
		return none, err
	}
	return p.choose(below, depth+1)
}

// pull reads an image: everything that it is made of is held against a digest.
func (p *puller) pull(d v1.Descriptor) (*Image, error) {
	text, err := p.fetch(d, "the manifest")
	if err != nil {
		return nil, err
	}
	return p.image(text, d.Digest)
}

// image reads the image of a manifest, which has that digest.
func (p *puller) image(text []byte, digest v1.Hash) (*Image, error) {
	if index, err := isIndex(text); err != nil || index {
		return nil, cmp.Or(err, refuse("its manifest is none, but an index"))
	}
	manifest, err := v1.ParseManifest(bytes.NewReader(text))
	if err != nil {
		return nil, refuse("its manifest is none: %v", err)
	}
	if text, err = p.fetch(manifest.Config, "the configuration"); err != nil {
		return nil, err
	}
	config, err := v1.ParseConfigFile(bytes.NewReader(text))
	switch {
	case err != nil:
		return nil, refuse("its configuration is none: %v", err)
	case config.OS != "linux" || config.Architecture != p.arch:
		return nil, refuse("it is for %s/%s, and linux/%s is needed", config.OS, config.Architecture, p.arch)
	case len(manifest.Layers) != len(config.RootFS.DiffIDs) || len(manifest.Layers) > maxLayers:
		return nil, refuse("it has %d layers, and its configuration %d; at most %d are allowed", len(manifest.Layers), len(config.RootFS.DiffIDs), maxLayers)
	}
	t, err := spooled(func(t *Tree, s *spool) error {
		for i, d := range manifest.Layers {
			if err := p.layer(t, s, d, config.RootFS.DiffIDs[i]); err != nil {
				return inLayer(i, err)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &Image{Tree: t, Digest: digest.String()}, nil
}

// inLayer says which layer an error is of.
func inLayer(i int, err error) error {
	if wrong, ok := errors.AsType[*Error](err); ok {
		return refuse("layer %d: %s", i, wrong.Reason)
	}
	return fmt.Errorf("layer %d: %w", i, err)
}

// layer lays one layer over the tree. Its digests are known at its end only: a tree is given to nobody before.
func (p *puller) layer(t *Tree, s *spool, d v1.Descriptor, id v1.Hash) error {
	if d.Size < 0 || d.Size > maxBytes {
		return refuse("%d bytes", d.Size)
	}
	packed, done, err := p.open(d)
	if err != nil {
		return err
	}
	defer done.Close()
	from, end, err := decompress(packed)
	if err != nil {
		return err
	}
	defer end()
	sum := sha256.New()
	content := io.TeeReader(&bounded{ctx: p.ctx, from: from, left: 2 * maxBytes}, sum)
	l := &layer{ctx: p.ctx, tree: t, spool: s, over: true}
	if err := l.read(content); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, content); err != nil {
		return l.failed(err)
	}
	if err := packed.check(); err != nil {
		return err
	}
	if got := hex.EncodeToString(sum.Sum(nil)); !strings.EqualFold(got, id.Hex) {
		return refuse("it unpacks to sha256:%s, and the configuration says %s", got, id)
	}
	return nil
}
