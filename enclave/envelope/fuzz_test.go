package envelope_test

import (
	"bytes"
	"errors"
	"maps"
	"slices"
	"testing"

	"github.com/cloister-run/cloister/enclave/envelope"
)

// FuzzRead: whatever the bytes, Read ends with a bundle that agrees with itself or with an
// error of this package.
func FuzzRead(f *testing.F) {
	for _, v := range vectors(f) {
		data, _ := v.read(f)
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := envelope.Read(bytes.NewReader(data))
		if err != nil {
			if _, ours := errors.AsType[*envelope.Error](err); !ours || b != nil || !isAny(err, frontErrors) {
				t.Fatalf("%v, %v", b, err)
			}
			return
		}
		if !bytes.HasPrefix(data, b.Front()) || !maps.Equal(b.Context(), b.Header.EncryptionContext) {
			t.Fatalf("%+v is not what was read", b.Header)
		}
	})
}

// FuzzHeader: no header, whatever it says, is taken unless it is within every bound, and a MAC
// is no reason to trust one.
func FuzzHeader(f *testing.F) {
	key := bytes.Repeat([]byte{1}, envelope.KeySize)
	for _, v := range vectors(f) {
		data, _ := v.read(f)
		if b, err := envelope.Read(bytes.NewReader(data)); err == nil {
			header, err := b.Header.Encode()
			if err != nil {
				f.Fatal(err)
			}
			f.Add(header, b.Module)
		}
	}
	f.Fuzz(func(t *testing.T, header, module []byte) {
		front, err := envelope.Front(header, module, key)
		if err != nil {
			t.Fatal(err)
		}
		b, err := envelope.Read(bytes.NewReader(front))
		if err != nil {
			if !isAny(err, frontErrors) {
				t.Fatal(err)
			}
			return
		}
		h := b.Header
		if h.Version != 1 || len(h.WrappedKey) == 0 || len(h.WrappedKey) > envelope.MaxWrappedKey || len(h.ID) != 32 ||
			(h.Command != nil) != (h.Asset.Kind == "application") || h.Asset.Bytes < 0 || len(h.Policy.Codes) > 15 || len(b.Module) == 0 {
			t.Fatalf("%+v", h)
		}
		if _, err := b.Open(t.Context(), bytes.Clone(key)); len(b.Front())+envelope.MACSize == len(front) && !errors.Is(err, envelope.ErrTruncated) {
			t.Fatal(err) // there is no payload
		}
	})
}

// FuzzI3_NoEditOpens: some bytes of a bundle replaced by others, which may be none or more.
func FuzzI3_NoEditOpens(f *testing.F) {
	var bundle, key []byte
	for _, v := range vectors(f) {
		if v.File == "application.sealed" {
			bundle, key = v.read(f)
		}
	}
	if bundle == nil {
		f.Fatal("no bundle to edit")
	}
	f.Add(0, 1, []byte("C"))
	f.Add(24, 0, []byte(" "))
	f.Add(len(bundle)-16, 16, []byte{})
	f.Add(len(bundle), 0, []byte{0})
	f.Add(bytes.Index(bundle, []byte("min_group")), 9, []byte("max_group"))
	f.Fuzz(func(t *testing.T, at, cut int, with []byte) {
		if at < 0 || cut < 0 || at > len(bundle) || cut > len(bundle)-at {
			return
		}
		data := slices.Concat(bundle[:at], with, bundle[at+cut:])
		b, err := envelope.Read(bytes.NewReader(data))
		if err != nil {
			return
		}
		p, err := b.Open(t.Context(), bytes.Clone(key))
		if err != nil {
			return
		}
		defer p.Close()
		var content bytes.Buffer
		if _, err := content.ReadFrom(p); err == nil && !bytes.Equal(data, bundle) {
			t.Fatal("an edited bundle opens")
		}
	})
}
