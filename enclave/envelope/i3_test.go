package envelope_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"

	"github.com/cloister-run/cloister/enclave/envelope"
)

// payloadErrors are how a payload that was changed fails.
var payloadErrors = []error{envelope.ErrTampered, envelope.ErrTruncated}

// frontErrors are how everything before the payload fails.
var frontErrors = []error{envelope.ErrNotBundle, envelope.ErrVersion, envelope.ErrHeader, envelope.ErrPolicy, envelope.ErrKey, envelope.ErrTruncated}

func isAny(err error, of []error) bool {
	return slices.ContainsFunc(of, func(e error) bool { return errors.Is(err, e) })
}

// refused checks that a bundle does not open to the end, for a reason of the right kind, with a
// KMS that unwraps whatever it knows and with one that checks the context.
func refused(t *testing.T, k *kms, what string, bundle []byte, want []error) {
	t.Helper()
	for _, generous := range []bool{true, false} {
		k.generous = generous
		if err := opens(k, bundle); err == nil {
			t.Errorf("%s: opens to the end", what)
		} else if !isAny(err, want) && !errors.Is(err, errRefused) {
			t.Errorf("%s: %v", what, err)
		}
	}
	k.generous = false
}

// small is a bundle of a few KiB.
func small(t *testing.T, k *kms) []byte {
	t.Helper()
	name := folder(t, map[string]string{"infer.py": "print()"})
	data, _ := seal(t, k, application(), name, []byte("\x00asm module"))
	if err := opens(k, data); err != nil {
		t.Fatal(err)
	}
	return data
}

func TestI3_EveryByteFlipped(t *testing.T) {
	k := newKMS()
	data := small(t, k)
	payload := len(read(t, data).Front()) + envelope.MACSize
	k.generous = true
	for i := range data {
		want, bits := frontErrors, []byte{1, 0x20, 0x80}
		if i >= payload {
			want, bits = payloadErrors, []byte{1 << (i % 8)}
		}
		for _, bit := range bits {
			data[i] ^= bit
			if err := opens(k, data); err == nil {
				t.Fatalf("opens with byte %d ^ %#x", i, bit)
			} else if !isAny(err, want) && !errors.Is(err, errRefused) {
				t.Errorf("byte %d ^ %#x: %v", i, bit, err)
			}
			data[i] ^= bit
		}
	}
}

func TestI3_EveryTruncation(t *testing.T) {
	k := newKMS()
	data := small(t, k)
	payload := len(read(t, data).Front()) + envelope.MACSize + envelope.StreamHeader
	for n := range data {
		err := opens(k, data[:n])
		want := []error{envelope.ErrTruncated}
		if n < envelope.OpeningSize {
			want = []error{envelope.ErrNotBundle}
		} else if n > payload {
			want = payloadErrors // a segment cut short looks like one that was changed
		}
		if !isAny(err, want) {
			t.Errorf("%d bytes of %d: %v", n, len(data), err)
		}
	}
}

func TestI3_NothingFollows(t *testing.T) {
	k := &kms{fixed: 7, made: map[string]made{}}
	data, other := small(t, k), sized(t, k, dataset(), 2<<20)
	parts := split(t, data)
	full := sized(t, k, dataset(), 3<<20)
	for what, tail := range map[string][]byte{
		"a zero": {0}, "a newline": []byte("\n"), "a MiB of zeros": make([]byte, 1<<20),
		"the bundle again": data, "another bundle": other,
		"its payload again": bytes.Join(parts.parts[parts.index(t, "stream header"):], nil),
		"its last segment":  parts.parts[len(parts.parts)-1],
	} {
		for _, to := range [][]byte{data, full} {
			refused(t, k, what+" at the end", slices.Concat(to, tail), payloadErrors)
		}
	}
}

// Each region changed, left out, doubled, and exchanged for that of other bundles: of one that has
// the same data key, of another key of the KMS, and with another policy.
func TestI3_EveryRegion(t *testing.T) {
	k := &kms{fixed: 7, made: map[string]made{}}
	name := folder(t, map[string]string{"infer.py": "print()"})
	data := small(t, k)
	spec := application()
	spec.Key = keyARN
	own := newKMS()
	own.made = k.made
	others := map[string][]byte{"sealed again": small(t, k)}
	others["under another key"], _ = seal(t, k, spec, name, []byte("\x00asm module"))
	others["with another policy"], _ = seal(t, k, application(), name, []byte("\x00asm MODULE"))
	others["with another data key"], _ = seal(t, own, application(), name, []byte("\x00asm module"))
	parts := split(t, data)
	for i, region := range parts.names {
		refused(t, k, region+" left out", parts.with(i, nil).join(), append(payloadErrors, frontErrors...))
		refused(t, k, region+" doubled", parts.with(i, bytes.Repeat(parts.parts[i], 2)).join(), append(payloadErrors, frontErrors...))
		refused(t, k, region+" zeroed", parts.with(i, make([]byte, len(parts.parts[i]))).join(), append(payloadErrors, frontErrors...))
		for whose, other := range others {
			foreign := split(t, other)
			if bytes.Equal(foreign.parts[i], parts.parts[i]) {
				continue
			}
			refused(t, k, region+" of one "+whose, parts.with(i, foreign.parts[i]).join(), append(payloadErrors, frontErrors...))
		}
	}
	// Each cut between two regions: the front of one, the rest of the other.
	for whose, other := range others {
		foreign := split(t, other)
		for i := 1; i < len(parts.parts); i++ {
			mixed := slices.Concat(bytes.Join(parts.parts[:i], nil), bytes.Join(foreign.parts[i:], nil))
			if bytes.Equal(mixed, data) || bytes.Equal(mixed, other) {
				continue
			}
			refused(t, k, "from "+parts.names[i]+" on one "+whose, mixed, append(payloadErrors, frontErrors...))
		}
	}
}

func TestI3_EverySegment(t *testing.T) {
	k := &kms{fixed: 7, made: map[string]made{}}
	parts, foreign := split(t, sized(t, k, dataset(), 4<<20)), split(t, sized(t, k, dataset(), 4<<20))
	if err := opens(k, parts.join()); err != nil {
		t.Fatal(err)
	}
	first := parts.index(t, "segment 0")
	for i := first; i < len(parts.parts); i++ {
		refused(t, k, "without "+parts.names[i], parts.with(i, nil).join(), payloadErrors)
		refused(t, k, "cut before "+parts.names[i], bytes.Join(parts.parts[:i], nil), payloadErrors)
		refused(t, k, "doubled "+parts.names[i], parts.with(i, bytes.Repeat(parts.parts[i], 2)).join(), payloadErrors)
		refused(t, k, "foreign "+parts.names[i], parts.with(i, foreign.parts[i]).join(), payloadErrors)
		for j := first; j < i; j++ {
			swapped := parts.with(i, parts.parts[j]).with(j, parts.parts[i])
			refused(t, k, fmt.Sprintf("%s and %s exchanged", parts.names[i], parts.names[j]), swapped.join(), payloadErrors)
			refused(t, k, fmt.Sprintf("%s in place of %s", parts.names[i], parts.names[j]), parts.with(j, parts.parts[i]).join(), payloadErrors)
		}
	}
}

// The MAC is checked before the first byte of the payload is read.
func TestI3_WrongKeyReadsNoPayload(t *testing.T) {
	data := small(t, newKMS())
	r := bytes.NewReader(data)
	b, err := envelope.Read(r)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Open(t.Context(), make([]byte, envelope.KeySize)); !errors.Is(err, envelope.ErrKey) {
		t.Errorf("a wrong key: %v", err)
	}
	if at := len(data) - r.Len(); at != len(b.Front())+envelope.MACSize {
		t.Errorf("read up to byte %d; the payload begins at %d", at, len(b.Front())+envelope.MACSize)
	}
	for _, n := range []int{0, 16, 31, 33} {
		if _, err := read(t, data).Open(t.Context(), make([]byte, n)); !errors.Is(err, envelope.ErrKey) {
			t.Errorf("a key of %d bytes: %v", n, err)
		}
	}
}

// The MAC of one data key never fits another: the bundle commits to its key.
func TestI3_CommitsToTheKey(t *testing.T) {
	data := small(t, newKMS())
	b := read(t, data)
	header := split(t, data).parts[3]
	seen := map[string]bool{}
	for i := range 100 {
		front, err := envelope.Front(header, b.Module, bytes.Repeat([]byte{byte(i)}, envelope.KeySize))
		if err != nil {
			t.Fatal(err)
		}
		seen[string(front[len(front)-envelope.MACSize:])] = true
	}
	if len(seen) != 100 {
		t.Errorf("%d MACs of 100 keys", len(seen))
	}
}

// A payload is bound to its header also by itself: the same key with another header hash fails.
func TestI3_PayloadIsBoundToTheHeader(t *testing.T) {
	var out bytes.Buffer
	key := bytes.Repeat([]byte{1}, 32)
	write, finish, err := envelope.Encrypt(&out, key, []byte("front"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := write([]byte("content")); err != nil {
		t.Fatal(err)
	}
	if err := finish(); err != nil {
		t.Fatal(err)
	}
	for aad, good := range map[string]bool{"front": true, "other": false, "": false} {
		p, err := envelope.Decrypt(context.Background(), bytes.NewReader(out.Bytes()), key, []byte(aad))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(p); (err == nil && string(got) == "content") != good {
			t.Errorf("%q: %q, %v", aad, got, err)
		}
		p.Close()
	}
}
