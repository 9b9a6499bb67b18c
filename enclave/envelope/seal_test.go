package envelope_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"pgregory.net/rapid"

	"github.com/cloister-run/cloister/core/tree"
	"github.com/cloister-run/cloister/enclave/envelope"
	"github.com/cloister-run/cloister/jobspec"
	"github.com/cloister-run/cloister/policies/abi"
)

func TestRoundTrip(t *testing.T) {
	k, module := newKMS(), []byte("\x00asm the module")
	name := folder(t, map[string]string{"infer.py": "print()", "lib/a.py": "a = 1", "lib/empty/": "", "none": ""})
	data, _ := seal(t, k, application(), name, module)

	b := read(t, data)
	if b.Header.Asset != (envelope.Asset{Name: "digits-app", Kind: jobspec.ApplicationKind, Form: "tree", Bytes: 12, Entries: 5}) {
		t.Errorf("asset: %+v", b.Header.Asset)
	}
	if string(b.Header.Policy.Config) != `{"columns":["id","<digit>"],"min_group":5}` || !bytes.Equal(b.Module, module) {
		t.Errorf("policy: %s, module %q", b.Header.Policy.Config, b.Module)
	}
	if !bytes.Equal(b.Front(), data[:len(b.Front())]) || b.FrontDigest() != read(t, b.Front()).FrontDigest() {
		t.Error("what stands in front does not stand alone")
	}
	content, digest, err := open(k, iotest.HalfReader(bytes.NewReader(data)))
	if err != nil {
		t.Fatal(err)
	}
	if sum := sha256.Sum256(data); digest != tree.Hex(sum[:]) {
		t.Errorf("the digest is %s", digest)
	}
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	got, err := tree.Unpack(t.Context(), bytes.NewReader(content), root, b.Header.Asset.Limits())
	if err != nil {
		t.Fatal(err)
	}
	if want, err := source(t, name).Digest(t.Context()); err != nil || got != want {
		t.Errorf("unpacked %+v; sealed %+v, %v", got, want, err)
	}
}

// Any tree, whatever the sizes, comes back as it was.
func TestRoundTripOfAnyTree(t *testing.T) {
	dirs := t.TempDir()
	rapid.Check(t, func(r *rapid.T) {
		k := newKMS()
		dir, err := os.MkdirTemp(dirs, "")
		if err != nil {
			r.Fatal(err)
		}
		for range rapid.IntRange(0, 5).Draw(r, "files") {
			name := filepath.Join(dir, rapid.StringMatching(`[a-c]{1,2}(/[d-f]{1,3})?`).Draw(r, "name"))
			size := rapid.OneOf(rapid.IntRange(0, 100), rapid.IntRange(envelope.SegmentSize-2048, envelope.SegmentSize+64)).Draw(r, "size")
			if os.MkdirAll(filepath.Dir(name), 0o755) == nil {
				_ = os.WriteFile(name, bytes.Repeat([]byte{1}, size), 0o644) // some names are folders already
			}
		}
		s, err := tree.Open(dir, tree.Limits{Bytes: 1 << 30, Entries: 100})
		if err != nil {
			r.Fatal(err)
		}
		defer s.Close()
		var out, packed bytes.Buffer
		if _, err := envelope.Seal(t.Context(), &out, dataset(), s, []byte("m"), k); err != nil {
			r.Fatal(err)
		}
		if _, err := s.Pack(t.Context(), &packed); err != nil {
			r.Fatal(err)
		}
		content, _, err := open(k, &out)
		if err != nil || !bytes.Equal(content, packed.Bytes()) {
			r.Fatalf("opened %d bytes of %d: %v", len(content), packed.Len(), err)
		}
	})
}

func TestSealRefusesAndWritesNothing(t *testing.T) {
	file := filepath.Join(folder(t, map[string]string{"a": "a"}), "a")
	edit := func(change func(*envelope.Spec)) envelope.Spec {
		s := application()
		change(&s)
		return s
	}
	large := strings.Repeat("x", 4096)
	for name, row := range map[string]struct {
		spec   envelope.Spec
		module []byte
		want   error
	}{
		"no name":            {edit(func(s *envelope.Spec) { s.Name = "" }), []byte("m"), envelope.ErrHeader},
		"unknown kind":       {edit(func(s *envelope.Spec) { s.Kind = "code" }), []byte("m"), envelope.ErrHeader},
		"no command":         {edit(func(s *envelope.Spec) { s.Command = nil }), []byte("m"), envelope.ErrHeader},
		"command of a model": {edit(func(s *envelope.Spec) { s.Kind = jobspec.ModelKind }), []byte("m"), envelope.ErrHeader},
		"alias":              {edit(func(s *envelope.Spec) { s.Key = "arn:aws:kms:eu-west-2:111122223333:alias/a" }), []byte("m"), envelope.ErrHeader},
		"no partition":       {edit(func(s *envelope.Spec) { s.Key = strings.Replace(keyARN, "cloister-dev", "aws-iso", 1) }), []byte("m"), envelope.ErrHeader},
		"LD_PRELOAD":         {edit(func(s *envelope.Spec) { s.Command.Env["LD_PRELOAD"] = "a" }), []byte("m"), envelope.ErrHeader},
		"huge command": {edit(func(s *envelope.Spec) {
			for range 250 {
				s.Command.Args = append(s.Command.Args, strings.Repeat("\n", 2048)+large[2048:])
			}
		}), []byte("m"), envelope.ErrHeader},
		"no policy":       {application(), nil, envelope.ErrPolicy},
		"huge policy":     {application(), make([]byte, envelope.MaxModule+1), envelope.ErrPolicy},
		"two configs":     {edit(func(s *envelope.Spec) { s.Config = []byte(`{} {}`) }), []byte("m"), envelope.ErrPolicy},
		"negative limit":  {edit(func(s *envelope.Spec) { s.Limits.DecideMillis = -1 }), []byte("m"), envelope.ErrPolicy},
		"odd memory":      {edit(func(s *envelope.Spec) { s.Limits.MemoryBytes = 1 }), []byte("m"), envelope.ErrPolicy},
		"16 codes":        {edit(func(s *envelope.Spec) { s.Codes = many(16) }), []byte("m"), envelope.ErrPolicy},
		"code of no code": {edit(func(s *envelope.Spec) { s.Codes = []abi.Code{{Code: "NO", Hint: "a"}} }), []byte("m"), envelope.ErrPolicy},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			_, err := envelope.Seal(t.Context(), &out, row.spec, source(t, file), row.module, newKMS())
			if !errors.Is(err, row.want) {
				t.Errorf("Seal: %v", err)
			}
			if out.Len() != 0 {
				t.Errorf("wrote %d bytes", out.Len())
			}
		})
	}
}

func many(n int) (list []abi.Code) {
	for i := range n {
		list = append(list, abi.Code{Code: "c" + string(rune('a'+i)), Hint: "a"})
	}
	return list
}

// answer is a KMS that says what a test wants.
type answer struct {
	key, wrapped []byte
	err          error
}

func (a answer) Generate(context.Context, string, map[string]string) (plaintext, wrapped []byte, err error) {
	return a.key, a.wrapped, a.err
}

func TestSealTrustsNoAnswerOfTheKMS(t *testing.T) {
	file := filepath.Join(folder(t, map[string]string{"a": "a"}), "a")
	key := func(n int) []byte { return bytes.Repeat([]byte{9}, n) }
	denied := errors.New("AccessDenied")
	for name, a := range map[string]answer{
		"denied":         {nil, nil, denied},
		"short key":      {key(16), []byte("w"), nil},
		"long key":       {key(33), []byte("w"), nil},
		"no wrapped key": {key(32), nil, nil},
		"10 MB":          {key(32), make([]byte, 10<<20), nil},
	} {
		var out bytes.Buffer
		_, err := envelope.Seal(t.Context(), &out, dataset(), source(t, file), []byte("m"), a)
		if err == nil || a.err != nil && !errors.Is(err, a.err) || out.Len() != 0 {
			t.Errorf("%s: %v, %d bytes written", name, err, out.Len())
		}
		if bytes.Contains(a.key, []byte{9}) {
			t.Errorf("%s: the data key is still there", name)
		}
	}
}

func TestDataKeysAreZeroed(t *testing.T) {
	k := newKMS()
	data := sized(t, k, dataset(), 10)
	if !bytes.Equal(k.last, make([]byte, envelope.KeySize)) {
		t.Error("Seal leaves the data key in memory")
	}
	for _, good := range []bool{true, false} {
		b := read(t, data)
		key, _ := k.decrypt(b.Header.Key, b.Context(), b.Header.WrappedKey)
		if !good {
			key[0] ^= 1
		}
		if p, err := b.Open(t.Context(), key); (err == nil) != good {
			t.Error(err)
		} else if good {
			p.Close()
		}
		if !bytes.Equal(key, make([]byte, envelope.KeySize)) {
			t.Error("Open leaves the data key in memory")
		}
	}
}

// The KMS is asked with exactly what the header says, and with what the enclave recomputes.
func TestContextIsWhatTheKeyWasMadeWith(t *testing.T) {
	k := newKMS()
	data := sized(t, k, dataset(), 10)
	b := read(t, data)
	asked := k.made[string(b.Header.WrappedKey)]
	text, _ := json.Marshal(b.Context())
	made, _ := json.Marshal(asked.context)
	stored, _ := json.Marshal(b.Header.EncryptionContext)
	if !bytes.Equal(text, made) || !bytes.Equal(text, stored) || asked.arn != b.Header.Key {
		t.Errorf("made with %s, recomputed %s, stored %s", made, text, stored)
	}
	want := map[string]string{"cloister:version": "1", "cloister:kind": "dataset", "cloister:asset": "scans",
		"cloister:bundle": b.Header.ID, "cloister:policy": b.Header.Policy.Digest}
	if wanted, _ := json.Marshal(want); !bytes.Equal(text, wanted) {
		t.Errorf("the context is %s", text)
	}
}

// failing fails after n bytes.
type failing struct {
	n   int
	err error
}

func (f *failing) Write(p []byte) (int, error) {
	if f.n -= len(p); f.n < 0 {
		return 0, f.err
	}
	return len(p), nil
}

func TestSealPassesErrorsOn(t *testing.T) {
	full := errors.New("disk full")
	name := filepath.Join(folder(t, map[string]string{"a": strings.Repeat("a", 20<<20)}), "a")
	for _, n := range []int{0, 30, 1000, 2 << 20, 20 << 20} {
		if _, err := envelope.Seal(t.Context(), &failing{n, full}, dataset(), source(t, name), []byte("m"), newKMS()); !errors.Is(err, full) {
			t.Errorf("after %d bytes: %v", n, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := envelope.Seal(ctx, io.Discard, dataset(), source(t, name), []byte("m"), newKMS()); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// A seal that fails half-way leaves nothing that opens, even where all was written that there is.
func TestI3_AnInterruptedSealDoesNotOpen(t *testing.T) {
	k := newKMS()
	broken := errors.New("broken disk")
	var out bytes.Buffer
	s := half{source(t, filepath.Join(folder(t, map[string]string{"a": "content"}), "a")), broken}
	if _, err := envelope.Seal(t.Context(), &out, dataset(), s, []byte("m"), k); !errors.Is(err, broken) {
		t.Fatal(err)
	}
	if err := opens(k, out.Bytes()); !errors.Is(err, envelope.ErrTruncated) && !errors.Is(err, envelope.ErrTampered) {
		t.Errorf("opens: %v", err)
	}
}

type half struct {
	*tree.Source
	err error
}

func (h half) Stream(ctx context.Context, w io.Writer) error {
	return errors.Join(h.Source.Stream(ctx, w), h.err)
}

func TestOpenPassesErrorsOn(t *testing.T) {
	k := newKMS()
	data := sized(t, k, dataset(), 5<<20)
	gone := errors.New("connection reset")
	for _, n := range []int{0, 10, 100, len(data) - 5<<20, len(data) - 1<<20, len(data)} {
		_, _, err := open(k, io.MultiReader(bytes.NewReader(data[:n]), iotest.ErrReader(gone)))
		if _, ours := errors.AsType[*envelope.Error](err); !errors.Is(err, gone) || ours {
			t.Errorf("after %d bytes: %v", n, err)
		}
	}
}

func TestOpenOnceAndEndsWithItsContext(t *testing.T) {
	k := newKMS()
	data := sized(t, k, dataset(), 40<<20)
	ctx, cancel := context.WithCancel(t.Context())
	b, err := envelope.Read(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	key := func() []byte {
		key, _ := k.decrypt(b.Header.Key, b.Context(), b.Header.WrappedKey)
		return key
	}
	p, err := b.Open(ctx, key())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Open(ctx, key()); err == nil {
		t.Error("opens twice")
	}
	if _, err := io.ReadFull(p, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := io.Copy(io.Discard, p); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if p.Digest() != "" {
		t.Error("a digest without an end")
	}
	p.Close()
	if _, err := p.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("after Close: %v", err)
	}
}

// A payload that was read ahead to its end is not given out any more once its context ended.
func TestNothingIsGivenAfterCancelling(t *testing.T) {
	k := newKMS()
	data := sized(t, k, dataset(), 10)
	for range 20 {
		b := read(t, data)
		key, _ := k.decrypt(b.Header.Key, b.Context(), b.Header.WrappedKey)
		ctx, cancel := context.WithCancel(t.Context())
		p, err := b.Open(ctx, key)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
		cancel()
		if n, err := p.Read(make([]byte, 1)); n != 0 || !errors.Is(err, context.Canceled) {
			t.Fatalf("%d bytes, %v", n, err)
		}
	}
}

func TestReadLeavesTheReaderAtTheMAC(t *testing.T) {
	data := sized(t, newKMS(), dataset(), 10)
	r := bytes.NewReader(data)
	b, err := envelope.Read(r)
	if err != nil {
		t.Fatal(err)
	}
	if at := len(data) - r.Len(); at != len(b.Front()) {
		t.Errorf("the reader stands at %d; the MAC at %d", at, len(b.Front()))
	}
}

func TestCheckManifest(t *testing.T) {
	b := read(t, sized(t, newKMS(), application(), 10))
	good := abi.Manifest{ABI: 1, Name: "p", Codes: application().Codes}
	if err := b.CheckManifest(good); err != nil {
		t.Error(err)
	}
	for _, listed := range [][]abi.Code{nil, {{Code: "too-small", Hint: "another"}}, append(many(1), good.Codes...)} {
		if err := b.CheckManifest(abi.Manifest{Codes: listed}); !errors.Is(err, envelope.ErrPolicy) {
			t.Errorf("%v: %v", listed, err)
		}
	}
}

// All that is ever allocated is far below what streams through, so no moment holds more.
func TestMemoryDoesNotGrowWithTheAsset(t *testing.T) {
	const size, most = 256 << 20, 48 << 20
	name := filepath.Join(t.TempDir(), "content")
	if err := errors.Join(os.WriteFile(name, nil, 0o600), os.Truncate(name, size)); err != nil {
		t.Fatal(err)
	}
	k, s := newKMS(), source(t, name)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	r, w := io.Pipe()
	sealed := make(chan error, 1)
	go func() {
		_, err := envelope.Seal(t.Context(), w, dataset(), s, []byte("m"), k)
		sealed <- errors.Join(err, w.CloseWithError(err))
	}()
	b, err := envelope.Read(r)
	if err != nil {
		t.Fatal(err)
	}
	key, _ := k.decrypt(b.Header.Key, b.Context(), b.Header.WrappedKey)
	p, err := b.Open(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	n, err := io.Copy(io.Discard, p)
	if err := errors.Join(err, <-sealed); err != nil || n < size {
		t.Fatal(n, err)
	}
	runtime.ReadMemStats(&after)
	if took := after.TotalAlloc - before.TotalAlloc; took > most {
		t.Errorf("sealing and opening %d MiB took %d MiB", size>>20, took>>20)
	} else {
		t.Logf("sealing and opening %d MiB allocated %d MiB in all", size>>20, took>>20)
	}
}
