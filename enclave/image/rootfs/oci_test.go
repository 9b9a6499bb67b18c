package rootfs_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/klauspost/compress/gzip"
	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/enclave/image/rootfs"
)

// blobs are parts of images by their digest.
type blobs map[string][]byte

type descriptor struct {
	MediaType string            `json:"mediaType"`
	Digest    string            `json:"digest"`
	Size      int               `json:"size"`
	Platform  map[string]string `json:"platform,omitempty"`
}

const (
	manifestType = "application/vnd.oci.image.manifest.v1+json"
	indexType    = "application/vnd.oci.image.index.v1+json"
	configType   = "application/vnd.oci.image.config.v1+json"
	layerType    = "application/vnd.oci.image.layer.v1.tar+gzip"
)

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func (b blobs) add(kind string, data []byte) descriptor {
	b[digest(data)] = data
	return descriptor{MediaType: kind, Digest: digest(data), Size: len(data)}
}

func (b blobs) json(t *testing.T, kind string, v any) descriptor {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b.add(kind, data)
}

// image adds one for an architecture; every second layer is compressed.
func (b blobs) image(t *testing.T, arch string, layers ...[]byte) descriptor {
	t.Helper()
	var ids []string
	var described []descriptor
	for i, layer := range layers {
		ids = append(ids, digest(layer))
		if i%2 == 0 {
			var z bytes.Buffer
			w := gzip.NewWriter(&z)
			_, _ = w.Write(layer)
			_ = w.Close()
			layer = z.Bytes()
		}
		described = append(described, b.add(layerType, layer))
	}
	config := b.json(t, configType, map[string]any{"os": "linux", "architecture": arch, "rootfs": map[string]any{"type": "layers", "diff_ids": ids}})
	d := b.json(t, manifestType, map[string]any{"schemaVersion": 2, "mediaType": manifestType, "config": config, "layers": described})
	d.Platform = map[string]string{"os": "linux", "architecture": arch}
	return d
}

func index(manifests ...descriptor) map[string]any {
	return map[string]any{"schemaVersion": 2, "mediaType": indexType, "manifests": manifests}
}

// layout writes a folder of an OCI image layout.
func (b blobs) layout(t *testing.T, index map[string]any) string {
	t.Helper()
	dir := t.TempDir()
	text, err := json.Marshal(index)
	if err == nil {
		err = errors.Join(os.WriteFile(dir+"/index.json", text, 0o600), os.MkdirAll(dir+"/blobs/sha256", 0o700))
	}
	for name, data := range b {
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, "blobs/sha256", name[len("sha256:"):]), data, 0o600))
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// layers are what whiteouts and links across layers do.
func layers(t *testing.T) [][]byte {
	return [][]byte{
		packed(t, dir("a"), item{name: "a/one", content: "1"}, item{name: "a/two", content: "2"}, item{name: "b/old", content: "old"}, item{name: "b/sub/old", content: "old"},
			item{name: "gone/x", content: "x"}, sym("lib", "usr/lib"), item{name: "usr/lib/l", content: "l"}, item{name: "file", content: "f"}, dir("folder"), item{name: "folder/x", content: "x"}),
		packed(t, item{name: "a/.wh.one"}, item{name: ".wh.gone"}, item{name: "b/new", content: "new"}, item{name: "b/.wh..wh..opq"}, item{name: "b/sub/new", content: "new"},
			hard("two", "a/two"), item{name: "lib/through", content: "t"}, hard("lib/again", "lib/l"), item{name: ".wh..wh.plnk"}, item{name: ".wh.nothing"}),
		packed(t, item{name: "a/two", content: "another"}, item{name: "lib/.wh.through"}, dir("file"), item{name: "file/in", content: "in"}, item{name: "folder", content: "now a file"},
			item{name: "new/x", content: "kept"}, item{name: "new/.wh.x"}, item{name: "new/.wh..wh..opq"}),
	}
}

func layered() []string {
	return []string{
		"folder 755 a", `file 644 a/two = "another"`, "folder 755 b", `file 644 b/new = "new"`, "folder 755 b/sub", `file 644 b/sub/new = "new"`,
		"folder 755 file", `file 644 file/in = "in"`, `file 644 folder = "now a file"`, "symbolic link 777 lib -> usr/lib", "folder 755 new", `file 644 new/x = "kept"`,
		`file 644 two = "2"`, "folder 755 usr", "folder 755 usr/lib", `file 644 usr/lib/again = "l" #0`, `file 644 usr/lib/l = "l" #0`,
	}
}

func TestOCI(t *testing.T) {
	b := blobs{}
	amd := b.image(t, "amd64", layers(t)...)
	arm := b.image(t, "arm64", packed(t, item{name: "arm", content: "a"}))
	unknown := descriptor{MediaType: manifestType, Digest: digest(nil), Platform: map[string]string{"os": "unknown", "architecture": "unknown"}}
	nested := b.json(t, indexType, index(arm, unknown, amd))
	for name, top := range map[string]map[string]any{"an index": index(amd, unknown, arm), "an index in an index": index(nested)} {
		img, err := rootfs.OCI(t.Context(), b.layout(t, top), "amd64")
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if same(t, img.Tree, layered()...); img.Digest != amd.Digest {
			t.Errorf("%s: %s", name, img.Digest)
		}
		_ = img.Close()
	}
	img, err := rootfs.OCI(t.Context(), b.layout(t, index(amd, arm)), "arm64")
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	same(t, img.Tree, `file 644 arm = "a"`)
}

// TestRepeatedWhiteouts: they do no more than the first, whatever is put between them, and take no longer.
func TestRepeatedWhiteouts(t *testing.T) {
	const many = 30_000
	lower := []item{{name: "d/old"}, {name: "d/sub/old"}, {name: "d/sub/deep/old"}, {name: "e/old"}, {name: "e/sub/old"}}
	upper := []item{
		{name: "d/.wh..wh..opq"}, {name: "d/sub/new"}, {name: "d/.wh..wh..opq"}, {name: "d/old"}, {name: "d/.wh.old"}, {name: ".wh.d"},
		{name: "e/sub/new"}, {name: ".wh.e"}, {name: "e/.wh..wh..opq"}, dir("e"), {name: "e/.wh.sub"}, {name: ".wh..wh..opq"},
	}
	next := []item{{name: "f/new"}, {name: ".wh.e"}, {name: "d/sub/.wh..wh..opq"}}
	for i := range many {
		upper = append(upper, item{name: fmt.Sprint("f/", i)})
	}
	for range many {
		upper = append(upper, item{name: "f/.wh..wh..opq"}, item{name: ".wh.f"})
	}
	for i := range many {
		next = append(next, item{name: ".wh.f"}, item{name: fmt.Sprint("f/.wh.", i)})
	}
	b := blobs{}
	dir := b.layout(t, index(b.image(t, "amd64", packed(t, lower...), packed(t, upper...), packed(t, next...))))
	start := time.Now()
	img, err := rootfs.OCI(t.Context(), dir, "amd64")
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	if took := time.Since(start); took > 60*time.Second { // about a second on a machine with nothing else to do
		t.Errorf("%v", took)
	}
	same(t, img.Tree, "folder 755 d", `file 644 d/old = ""`, "folder 755 d/sub", "folder 755 f", `file 644 f/new = ""`)
}

// both is an index of what is a manifest and an index, as it says itself of that type.
func both(t *testing.T, b blobs, d descriptor, kind string) map[string]any {
	t.Helper()
	var fields map[string]any
	if err := json.Unmarshal(b[d.Digest], &fields); err != nil {
		t.Fatal(err)
	}
	fields["mediaType"], fields["manifests"] = kind, []descriptor{d}
	return index(b.json(t, kind, fields))
}

func TestOCIRefuses(t *testing.T) {
	one := packed(t, item{name: "a", content: "a"})
	for rule, test := range map[string]struct {
		make func(b blobs) map[string]any
		want string
	}{
		"no image":          {func(blobs) map[string]any { return index() }, "0 images for linux/amd64"},
		"two images":        {func(b blobs) map[string]any { d := b.image(t, "amd64", one); return index(d, d) }, "2 images for linux/amd64"},
		"another machine":   {func(b blobs) map[string]any { return index(b.image(t, "arm64", one)) }, "0 images for linux/amd64"},
		"one that hides it": {func(b blobs) map[string]any { d := b.image(t, "arm64", one); d.Platform = nil; return index(d) }, "it is for linux/arm64"},
		"a missing blob":    {func(b blobs) map[string]any { d := b.image(t, "amd64", one); delete(b, d.Digest); return index(d) }, "lacks the blob"},
		"another manifest": {func(b blobs) map[string]any {
			d := b.image(t, "amd64", one)
			b[d.Digest] = append([]byte(" "), b[d.Digest][1:]...)
			return index(d)
		}, "is another one"},
		"a longer blob": {func(b blobs) map[string]any {
			d := b.image(t, "amd64", one)
			b[d.Digest] = append(b[d.Digest], ' ')
			return index(d)
		}, "is another one"},
		"a shorter blob":   {func(b blobs) map[string]any { d := b.image(t, "amd64", one); d.Size++; return index(d) }, "is another one"},
		"a large manifest": {func(b blobs) map[string]any { d := b.image(t, "amd64", one); d.Size = 1 << 30; return index(d) }, "the manifest is 1073741824 bytes"},
		"a digest of SHA-512": {func(b blobs) map[string]any {
			d := b.image(t, "amd64", one)
			d.Digest = "sha512:" + strings.Repeat("0", 128)
			return index(d)
		}, "SHA-256"},
		"a layer that is another": {func(b blobs) map[string]any {
			d := b.image(t, "amd64", one)
			for name, data := range b {
				if bytes.HasPrefix(data, []byte{0x1f, 0x8b}) {
					b[name] = append(bytes.Clone(data[:4]), append([]byte{1}, data[5:]...)...) // its time
				}
			}
			return index(d)
		}, "layer 0: the blob"},
		"a layer that unpacks to another": {func(b blobs) map[string]any {
			layer := b.add(layerType, one)
			config := b.json(t, configType, map[string]any{"os": "linux", "architecture": "amd64", "rootfs": map[string]any{"diff_ids": []string{digest(nil)}}})
			return index(b.json(t, manifestType, map[string]any{"schemaVersion": 2, "config": config, "layers": []descriptor{layer}}))
		}, "layer 0: it unpacks to"},
		"fewer layers than it says": {func(b blobs) map[string]any {
			config := b.json(t, configType, map[string]any{"os": "linux", "architecture": "amd64", "rootfs": map[string]any{"diff_ids": []string{digest(one)}}})
			return index(b.json(t, manifestType, map[string]any{"schemaVersion": 2, "config": config, "layers": []descriptor{}}))
		}, "0 layers, and its configuration 1"},
		"a whiteout of everything": {func(b blobs) map[string]any {
			return index(b.image(t, "amd64", one, packed(t, item{name: "x/y"}, item{name: "x/.wh..."}, item{name: ".wh..."})))
		}, "takes away no name"},
		"a manifest of another kind": {func(b blobs) map[string]any { return index(b.json(t, manifestType, "hello")) }, "its manifest is none"},
		"a manifest that is an index too": {func(b blobs) map[string]any {
			return both(t, b, b.image(t, "amd64", one), manifestType)
		}, "is an index too"},
		"an index that is a manifest too": {func(b blobs) map[string]any {
			return both(t, b, b.image(t, "amd64", one), indexType)
		}, "is an index too"},
		"one in the file itself": {func(b blobs) map[string]any {
			top := index(b.image(t, "amd64", one))
			top["Layers"] = []string{} // a name in another case is the same to those who read it
			return top
		}, "is an index too"},
		"a manifest where an index should be": {func(b blobs) map[string]any {
			d := b.image(t, "amd64", one)
			d.MediaType = indexType
			return index(d)
		}, "no OCI image index, but a manifest"},
		"an index where a manifest should be": {func(b blobs) map[string]any {
			d := b.json(t, indexType, index(b.image(t, "amd64", one)))
			d.MediaType = manifestType
			return index(d)
		}, "its manifest is none, but an index"},
		"a manifest that says it is an index": {func(b blobs) map[string]any {
			config := b.json(t, configType, map[string]any{})
			return index(b.json(t, manifestType, map[string]any{"mediaType": indexType, "config": config, "layers": []descriptor{}}))
		}, "and holds something else"},
		"an index that says it is a manifest": {func(b blobs) map[string]any {
			top := index(b.image(t, "amd64", one))
			top["mediaType"] = manifestType
			return top
		}, "and holds something else"},
		"neither": {func(b blobs) map[string]any {
			return index(b.json(t, manifestType, map[string]any{"schemaVersion": 2}))
		}, "no layers, and no manifests"},
		"many layers": {func(b blobs) map[string]any {
			ids, layers := slices.Repeat([]string{digest(one)}, 513), slices.Repeat([]descriptor{b.add(layerType, one)}, 513)
			config := b.json(t, configType, map[string]any{"os": "linux", "architecture": "amd64", "rootfs": map[string]any{"diff_ids": ids}})
			return index(b.json(t, manifestType, map[string]any{"schemaVersion": 2, "config": config, "layers": layers}))
		}, "513 layers, and its configuration 513; at most 512"},
		"a layer of 64 GiB and a byte": {func(b blobs) map[string]any {
			layer := b.add(layerType, one)
			layer.Size = 64<<30 + 1
			config := b.json(t, configType, map[string]any{"os": "linux", "architecture": "amd64", "rootfs": map[string]any{"diff_ids": []string{digest(one)}}})
			return index(b.json(t, manifestType, map[string]any{"schemaVersion": 2, "config": config, "layers": []descriptor{layer}}))
		}, "layer 0: 68719476737 bytes"},
		"indices without end": {func(b blobs) map[string]any {
			d := b.image(t, "amd64", one)
			for range 5 {
				d = b.json(t, indexType, index(d))
			}
			return index(d)
		}, "nested more than 3 deep"},
	} {
		t.Run(rule, func(t *testing.T) {
			b := blobs{}
			_, err := rootfs.OCI(t.Context(), b.layout(t, test.make(b)), "amd64")
			if wrong, ok := errors.AsType[*rootfs.Error](err); !ok || !strings.Contains(wrong.Reason, test.want) {
				t.Errorf("%v, want %q", err, test.want)
			}
		})
	}
	if _, err := rootfs.OCI(t.Context(), t.TempDir(), "amd64"); err == nil || !strings.Contains(err.Error(), "no OCI image layout") {
		t.Error(err)
	}
}

// TestAFIFOHoldsNothingUp: what nobody writes is refused, and not waited for.
func TestAFIFOHoldsNothingUp(t *testing.T) {
	b := blobs{}
	d := b.image(t, "amd64", packed(t, item{name: "a", content: "a"}))
	names := []string{"index.json"}
	for name := range b { // a manifest, a configuration and a layer
		names = append(names, "blobs/sha256/"+name[len("sha256:"):])
	}
	for _, name := range names {
		dir := b.layout(t, index(d))
		path := filepath.Join(dir, name)
		if err := errors.Join(os.Remove(path), unix.Mkfifo(path, 0o600)); err != nil {
			t.Fatal(err)
		}
		_, err := rootfs.OCI(t.Context(), dir, "amd64")
		if wrong, ok := errors.AsType[*rootfs.Error](err); !ok || !strings.Contains(wrong.Reason, name+" is no regular file") {
			t.Errorf("%s: %v", name, err)
		}
	}
	path := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	for what, read := range map[string]func() error{
		"layout": func() error { _, err := rootfs.OCI(t.Context(), path, "amd64"); return err },
		"folder": func() error { _, err := rootfs.Folder(t.Context(), path); return err },
		"tar":    func() error { _, err := rootfs.Tar(t.Context(), path); return err },
	} {
		if err := read(); err == nil || what != "tar" && !errors.Is(err, unix.ENOTDIR) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// typed answers with a type of its own.
type typed struct {
	http.ResponseWriter
	kind string
}

func (a typed) WriteHeader(status int) {
	a.Header().Set("Content-Type", a.kind)
	a.ResponseWriter.WriteHeader(status)
}

// TestAManifestIsTheOneThatWasNamed, whatever a registry says of types and digests.
func TestAManifestIsTheOneThatWasNamed(t *testing.T) {
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	b := blobs{}
	amd := b.image(t, "amd64", packed(t, item{name: "a"}))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, name, found := strings.Cut(r.URL.Path, "/manifests/")
		if found { // for whatever is asked
			w.Header().Set("Content-Type", "application/vnd.docker.distribution.manifest.v1+prettyjws")
			w.Header().Set("Docker-Content-Digest", name)
			name = amd.Digest
		} else if _, name, found = strings.Cut(r.URL.Path, "/blobs/"); !found {
			return
		}
		_, _ = w.Write(b[name])
	}))
	defer server.Close()
	_, err := rootfs.Pull(t.Context(), strings.TrimPrefix(server.URL, "http://")+"/app@"+digest([]byte("another")), "amd64")
	if wrong, ok := errors.AsType[*rootfs.Error](err); !ok || !strings.Contains(wrong.Reason, "damaged or replaced") {
		t.Error(err)
	}
}

func TestPull(t *testing.T) {
	said := "" // by the registry, of the type of a manifest
	images := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/manifests/") && said != "" {
			w = typed{w, said}
		}
		images.ServeHTTP(w, r)
	}))
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	b := blobs{}
	amd, arm := b.image(t, "amd64", layers(t)...), b.image(t, "arm64", packed(t, item{name: "arm"}))
	top := b.json(t, indexType, index(arm, amd))
	put := func(path, kind string, data []byte) {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPut, server.URL+"/v2/app/"+path, bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Content-Type", kind)
		answer, err := http.DefaultClient.Do(request)
		if err != nil || answer.StatusCode != http.StatusCreated {
			t.Fatal(path, answer, err)
		}
		_ = answer.Body.Close()
	}
	for name, data := range b {
		if name != amd.Digest && name != arm.Digest && name != top.Digest {
			put(fmt.Sprintf("blobs/uploads/1?digest=%s", name), "application/octet-stream", data)
		}
	}
	put("manifests/amd", manifestType, b[amd.Digest])
	put("manifests/arm", manifestType, b[arm.Digest])
	put("manifests/top", indexType, b[top.Digest])
	// What the registry says of the type of either is not believed.
	for _, said = range []string{"", indexType, manifestType, "application/vnd.docker.distribution.manifest.v1+prettyjws", "text/plain"} {
		for _, d := range []descriptor{amd, top} {
			img, err := rootfs.Pull(t.Context(), host+"/app@"+d.Digest, "amd64")
			if err != nil {
				t.Fatalf("%s: %v", said, err)
			}
			if same(t, img.Tree, layered()...); img.Digest != amd.Digest {
				t.Error(img.Digest)
			}
			_ = img.Close()
		}
	}
	said = ""
	if _, err := rootfs.Pull(t.Context(), host+"/app@"+arm.Digest, "amd64"); err == nil || !strings.Contains(err.Error(), "linux/arm64") {
		t.Error(err)
	}
	if _, err := rootfs.Pull(t.Context(), host+"/app@"+digest(nil), "amd64"); !errors.Is(err, rootfs.ErrUnavailable) {
		t.Error(err)
	}
	if _, err := rootfs.Pull(t.Context(), host+"/app:top", "amd64"); err == nil {
		t.Error("a tag is no digest")
	}
}
