package envelope_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/cloister-run/cloister/core/tree"
	"github.com/cloister-run/cloister/enclave/envelope"
	"github.com/cloister-run/cloister/jobspec"
	"github.com/cloister-run/cloister/policies/abi"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	keyARN   = "arn:cloister-dev:kms:local:000000000000:key/00000000-0000-4000-8000-000000000001"
	otherARN = "arn:aws:kms:eu-west-2:111122223333:key/mrk-0123456789abcdef0123456789abcdef"
)

var errRefused = errors.New("InvalidCiphertextException")

// kms is a KMS that binds a wrapped key to key and context, as the real one does.
type kms struct {
	// fixed, if set, is what every data key is made of: the worst that two bundles can share.
	fixed byte
	// generous makes Decrypt ignore key and context: what else holds then?
	generous bool
	made     map[string]made
	// last is the plaintext that was last given out.
	last []byte
}

type made struct {
	arn     string
	context map[string]string
	key     []byte
}

func newKMS() *kms { return &kms{made: map[string]made{}} }

func (k *kms) Generate(_ context.Context, arn string, encryptionContext map[string]string) (plaintext, wrapped []byte, err error) {
	key := bytes.Repeat([]byte{k.fixed}, envelope.KeySize)
	if k.fixed == 0 {
		rand.Read(key)
	}
	wrapped = fmt.Appendf(nil, "wrapped key %03d", len(k.made))
	k.made[string(wrapped)] = made{arn, maps.Clone(encryptionContext), bytes.Clone(key)}
	k.last = key
	return key, wrapped, nil
}

func (k *kms) decrypt(arn string, encryptionContext map[string]string, wrapped []byte) ([]byte, error) {
	m, ok := k.made[string(wrapped)]
	if !ok || !k.generous && (m.arn != arn || !maps.Equal(m.context, encryptionContext)) {
		return nil, errRefused
	}
	return bytes.Clone(m.key), nil
}

// open does what an enclave does, to the end.
func open(k *kms, bundle io.Reader) (content []byte, digest string, err error) {
	b, err := envelope.Read(bundle)
	if err != nil {
		return nil, "", err
	}
	key, err := k.decrypt(b.Header.Key, b.Context(), b.Header.WrappedKey)
	if err != nil {
		return nil, "", err
	}
	p, err := b.Open(context.Background(), key)
	if err != nil {
		return nil, "", err
	}
	defer p.Close()
	content, err = io.ReadAll(p)
	return content, p.Digest(), err
}

func opens(k *kms, bundle []byte) error {
	_, _, err := open(k, bytes.NewReader(bundle))
	return err
}

func dataset() envelope.Spec {
	return envelope.Spec{Name: "scans", Kind: jobspec.DatasetKind, Key: keyARN}
}

// application is a spec with everything in it.
func application() envelope.Spec {
	threshold := "0.5"
	return envelope.Spec{
		Name: "digits-app", Kind: jobspec.ApplicationKind, Key: otherARN,
		Command: &jobspec.Command{
			Executor: "python", Entrypoint: "infer.py",
			Args:       []string{"--data", "${inputs.scans}", "--out", "${outputs.predictions}", "--at", "${parameters.threshold}"},
			Env:        map[string]string{"MODE": "<fast>"},
			Outputs:    map[string]string{"predictions": "predictions.csv"},
			Parameters: map[string]jobspec.Parameter{"threshold": {Default: &threshold, Pattern: `0?\.[0-9]+`}},
		},
		Config: []byte(`{"min_group": 5, "columns": ["id", "<digit>"]}`),
		Limits: envelope.Limits{MemoryBytes: 16 << 20, DecideMillis: 2000},
		Codes:  []abi.Code{{Code: "too-small", Hint: "ask for larger groups"}},
	}
}

// folder writes files below a new folder; a path that ends in / is an empty folder.
func folder(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		to := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		if name[len(name)-1] == '/' {
			if err := os.MkdirAll(to, 0o755); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.WriteFile(to, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func source(t testing.TB, name string) *tree.Source {
	t.Helper()
	s, err := tree.Open(name, tree.Limits{Bytes: 1 << 40, Entries: 1000})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// seal seals the file or folder at name.
func seal(t testing.TB, k *kms, spec envelope.Spec, name string, module []byte) ([]byte, envelope.Summary) {
	t.Helper()
	var out bytes.Buffer
	s, err := envelope.Seal(t.Context(), &out, spec, source(t, name), module, k)
	if err != nil {
		t.Fatal(err)
	}
	if s.Bytes != int64(out.Len()) {
		t.Errorf("the summary says %d bytes of %d", s.Bytes, out.Len())
	}
	return out.Bytes(), s
}

// sized seals one file of n random bytes.
func sized(t testing.TB, k *kms, spec envelope.Spec, n int) []byte {
	t.Helper()
	content := make([]byte, n)
	rand.Read(content)
	data, _ := seal(t, k, spec, filepath.Join(folder(t, map[string]string{"content": string(content)}), "content"), []byte("the module"))
	return data
}

func read(t testing.TB, bundle []byte) *envelope.Bundle {
	t.Helper()
	b, err := envelope.Read(bytes.NewReader(bundle))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// regions of a bundle, in their order.
type regions struct {
	names []string
	parts [][]byte
}

func split(t testing.TB, bundle []byte) regions {
	t.Helper()
	b := read(t, bundle)
	front := b.Front()
	header := len(front) - envelope.OpeningSize - len(b.Module)
	var r regions
	take := func(name string, n int) {
		n = min(n, len(bundle))
		r.names, r.parts, bundle = append(r.names, name), append(r.parts, bundle[:n:n]), bundle[n:]
	}
	take("magic", envelope.OpeningSize-8)
	take("version", 4)
	take("length", 4)
	take("header", header)
	take("module", len(b.Module))
	take("mac", envelope.MACSize)
	take("stream header", envelope.StreamHeader)
	take("segment 0", envelope.SegmentSize-envelope.StreamHeader)
	for i := 1; len(bundle) > 0; i++ {
		take(fmt.Sprintf("segment %d", i), envelope.SegmentSize)
	}
	return r
}

func (r regions) join() []byte { return bytes.Join(r.parts, nil) }

// with replaces one region.
func (r regions) with(i int, part []byte) regions {
	parts := append([][]byte{}, r.parts...)
	parts[i] = part
	return regions{r.names, parts}
}

func (r regions) index(t testing.TB, name string) int {
	t.Helper()
	for i, n := range r.names {
		if n == name {
			return i
		}
	}
	t.Fatalf("no region %q among %q", name, r.names)
	return 0
}
