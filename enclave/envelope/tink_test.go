package envelope_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"github.com/tink-crypto/tink-go/v2/streamingaead/subtle"
	"pgregory.net/rapid"

	"github.com/cloister-run/cloister/enclave/envelope"
)

// tink is the reference: the parameters of the key template AES256_GCM_HKDF_1MB.
func tink(t testing.TB, key []byte) *subtle.AESGCMHKDF {
	t.Helper()
	c, err := subtle.NewAESGCMHKDF(key, "SHA256", 32, 1<<20, 0)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

func encrypt(t testing.TB, key, aad, content []byte, step int) []byte {
	t.Helper()
	var out bytes.Buffer
	write, finish, err := envelope.Encrypt(&out, key, aad)
	if err != nil {
		t.Fatal(err)
	}
	for rest := content; len(rest) > 0; {
		n, err := write(rest[:min(step, len(rest))])
		if err != nil {
			t.Fatal(err)
		}
		rest = rest[n:]
	}
	if err := finish(); err != nil {
		t.Fatal(err)
	}
	if _, err := write([]byte("more")); err == nil {
		t.Error("takes more after the end")
	}
	return out.Bytes()
}

func decrypt(t testing.TB, key, aad []byte, r io.Reader) ([]byte, error) {
	t.Helper()
	p, err := envelope.Decrypt(t.Context(), r, key, aad)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	return io.ReadAll(p)
}

// agree checks both directions for one content.
func agree(t testing.TB, content []byte, step int) {
	t.Helper()
	key, aad := random(32), random(48)
	r, err := tink(t, key).NewDecryptingReader(bytes.NewReader(encrypt(t, key, aad, content, step)), aad)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, content) {
		t.Errorf("Tink reads %d bytes of %d: %v", len(got), len(content), err)
	}
	var out bytes.Buffer
	w, err := tink(t, key).NewEncryptingWriter(&out, aad)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := decrypt(t, key, aad, iotest.DataErrReader(&out)); err != nil || !bytes.Equal(got, content) {
		t.Errorf("read %d bytes of Tink's %d: %v", len(got), len(content), err)
	}
}

// The last segment is empty, short, full, or one byte too long.
func TestPayloadIsTinks(t *testing.T) {
	const first, segment = envelope.SegmentSize - envelope.StreamHeader - 16, envelope.SegmentSize - 16
	for _, size := range []int{0, 1, 1000, first - 1, first, first + 1, first + segment - 1, first + segment, first + segment + 1, first + 9*segment} {
		for _, step := range []int{1 << 30, 99_991} {
			agree(t, random(size), step)
		}
	}
}

func TestPayloadIsTinksForAnySize(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		borders := rapid.IntRange(0, 3).Draw(r, "segments") * envelope.SegmentSize
		size := max(0, borders+rapid.IntRange(-100, 100).Draw(r, "beside"))
		agree(t, random(size), rapid.IntRange(1000, 2<<20).Draw(r, "step"))
	})
}

// What Tink refuses is refused, and what this package refuses Tink refuses.
func FuzzPayloadIsTinks(f *testing.F) {
	key, aad := bytes.Repeat([]byte{1}, 32), []byte("front")
	good := encrypt(f, key, aad, []byte("content"), 100)
	for _, seed := range [][]byte{good, good[:len(good)-1], good[:40], good[:39], nil, append(bytes.Clone(good), 0)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		ours, err := decrypt(t, key, aad, bytes.NewReader(data))
		if err != nil && !isAny(err, payloadErrors) {
			t.Fatal(err)
		}
		var theirs []byte
		r, theirErr := tink(t, key).NewDecryptingReader(bytes.NewReader(data), aad)
		if theirErr == nil {
			theirs, theirErr = io.ReadAll(r)
		}
		if (err == nil) != (theirErr == nil) || err == nil && !bytes.Equal(ours, theirs) {
			t.Fatalf("%q, %v; Tink: %q, %v", ours, err, theirs, theirErr)
		}
	})
}

// No plaintext of a segment is given before the segment is authentic, and none after a bad one.
func TestNothingUnauthenticatedIsGiven(t *testing.T) {
	key, content := random(32), random(3<<20)
	data := encrypt(t, key, nil, content, 1<<20)
	data[envelope.SegmentSize+5] ^= 1
	got, err := decrypt(t, key, nil, bytes.NewReader(data))
	const first = envelope.SegmentSize - envelope.StreamHeader - 16
	if !errors.Is(err, envelope.ErrTampered) || !bytes.Equal(got, content[:first]) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}
