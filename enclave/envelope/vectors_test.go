package envelope_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/cryptotest"

	"github.com/cloister-run/cloister/core/tree"
	"github.com/cloister-run/cloister/enclave/envelope"
)

var update = flag.Bool("update", false, "write testdata/vectors again")

// vector is a bundle for other implementations: docs/bundle-format.md, "Vectors".
type vector struct {
	File string `json:"file"`
	// Expect is "success" or the reason why it must not open.
	Expect string `json:"expect"`
	// Key is the data key, in hexadecimal, as a KMS would unwrap it.
	Key string `json:"key"`
	// Of a success only: the hash that keys derive from, the encryption context, the digest of
	// the bundle and the SHA-256 of the payload.
	Front   string            `json:"front,omitempty"`
	Context map[string]string `json:"context,omitempty"`
	Digest  string            `json:"digest,omitempty"`
	Content string            `json:"content,omitempty"`
}

const vectorsFile = "testdata/vectors/vectors.json"

var expectations = map[string]error{
	"not-a-bundle": envelope.ErrNotBundle, "unknown-version": envelope.ErrVersion, "bad-header": envelope.ErrHeader,
	"bad-policy": envelope.ErrPolicy, "bad-key": envelope.ErrKey, "truncated": envelope.ErrTruncated, "tampered": envelope.ErrTampered,
}

// makeVectors is deterministic: whatever reads crypto/rand gets the same in every run.
func makeVectors(t *testing.T) (list []vector, files map[string][]byte) {
	t.Helper()
	cryptotest.SetGlobalRandom(t, 1)
	k := &kms{fixed: 0x42, made: map[string]made{}}
	files = map[string][]byte{}
	add := func(name, expect string, data []byte) {
		v := vector{File: name + ".sealed", Expect: expect, Key: hex.EncodeToString(bytes.Repeat([]byte{k.fixed}, 32))}
		if expect == "success" {
			b := read(t, data)
			_, front, err := b.PayloadKey(bytes.Repeat([]byte{k.fixed}, 32))
			if err != nil {
				t.Fatal(err)
			}
			content, digest, err := open(k, bytes.NewReader(data))
			if err != nil {
				t.Fatal(err)
			}
			sum := sha256.Sum256(content)
			v.Front, v.Context, v.Digest, v.Content = hex.EncodeToString(front), b.Context(), digest, tree.Hex(sum[:])
		}
		list, files[v.File] = append(list, v), data
	}
	app, _ := seal(t, k, application(), folder(t, map[string]string{"infer.py": "print(1)\n", "lib/empty/": ""}), []byte("\x00asm\x01\x00\x00\x00"))
	empty, _ := seal(t, k, dataset(), folder(t, nil), []byte("m"))
	file, _ := seal(t, k, dataset(), filepath.Join(folder(t, map[string]string{"scan.csv": "id,digit\n1,7\n"}), "scan.csv"), []byte("\x00asm\x01\x00\x00\x00"))
	add("application", "success", app)
	add("empty-tree", "success", empty)
	add("file", "success", file)
	parts, foreign := split(t, app), split(t, file)
	header, module := parts.parts[parts.index(t, "header")], parts.parts[parts.index(t, "module")]
	add("other-magic", "not-a-bundle", parts.with(0, []byte("cloister_bundle\n")).join())
	add("version-2", "unknown-version", parts.with(1, []byte{0, 0, 0, 2}).join())
	add("header-key-twice", "bad-header", edited(t, parts, slices.Concat([]byte(`{"version":1,`), header[1:]), module))
	add("header-with-a-space", "bad-key", edited(t, parts, append(bytes.Clone(header), ' '), module))
	add("config-edited", "bad-policy", edited(t, parts, bytes.Replace(header, []byte(`"min_group":5`), []byte(`"min_group":1`), 1), module))
	add("module-edited", "bad-policy", parts.with(parts.index(t, "module"), []byte("\x00asm\x02\x00\x00\x00")).join())
	h := read(t, app).Header
	h.Policy.Config = []byte(`{}`)
	rebound, err := h.Rebind(module)
	if err != nil {
		t.Fatal(err)
	}
	add("config-edited-and-rebound", "bad-key", edited(t, parts, rebound, module))
	add("mac-of-another", "bad-key", parts.with(parts.index(t, "mac"), foreign.parts[foreign.index(t, "mac")]).join())
	add("payload-of-another", "tampered", slices.Concat(bytes.Join(parts.parts[:6], nil), bytes.Join(foreign.parts[6:], nil)))
	add("a-byte-too-many", "tampered", append(bytes.Clone(app), 0))
	add("a-byte-too-few", "tampered", app[:len(app)-1])
	add("no-payload", "truncated", bytes.Join(parts.parts[:6], nil))
	add("no-mac", "truncated", bytes.Join(parts.parts[:5], nil))
	return list, files
}

// TestVectors: the stored bundles are those that Seal makes today, byte for byte.
func TestVectors(t *testing.T) {
	list, files := makeVectors(t)
	text, err := json.MarshalIndent(list, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	files["vectors.json"] = append(text, '\n')
	dir := filepath.Dir(vectorsFile)
	if *update {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for name, data := range files {
			if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	stored, err := os.ReadDir(dir)
	if err != nil || len(stored) != len(files) {
		t.Fatalf("%d files in %s, want %d (%v)", len(stored), dir, len(files), err)
	}
	for name, data := range files {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s is not what is sealed today (%v); if the format was meant to change, its version must", name, err)
		}
	}
}

func vectors(t testing.TB) (list []vector) {
	t.Helper()
	text, err := os.ReadFile(vectorsFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &list); err != nil || len(list) == 0 {
		t.Fatalf("%d vectors: %v", len(list), err)
	}
	return list
}

func (v vector) read(t testing.TB) (data, key []byte) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(filepath.Dir(vectorsFile), v.File))
	if err != nil {
		t.Fatal(err)
	}
	key, err = hex.DecodeString(v.Key)
	if err != nil {
		t.Fatal(err)
	}
	return data, key
}

func TestVectorsOpenAsExpected(t *testing.T) {
	for _, v := range vectors(t) {
		data, key := v.read(t)
		content, err := func() ([]byte, error) {
			b, err := envelope.Read(bytes.NewReader(data))
			if err != nil {
				return nil, err
			}
			p, err := b.Open(t.Context(), key)
			if err != nil {
				return nil, err
			}
			defer p.Close()
			return io.ReadAll(p)
		}()
		sum := sha256.Sum256(content)
		if want, known := expectations[v.Expect]; known != (v.Expect != "success") || !errors.Is(err, want) {
			t.Errorf("%s: %v; expected: %s", v.File, err, v.Expect)
		} else if err == nil && tree.Hex(sum[:]) != v.Content {
			t.Errorf("%s: another content", v.File)
		}
	}
}
