package envelope_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"strings"
	"testing"

	"github.com/cloister-run/cloister/enclave/envelope"
	"github.com/cloister-run/cloister/jobspec"
)

// edited is the bundle with another header and module, whose lengths, digest and context agree.
func edited(t *testing.T, parts regions, header, module []byte) []byte {
	t.Helper()
	at := parts.index(t, "header")
	length := []byte{byte(len(header) >> 24), byte(len(header) >> 16), byte(len(header) >> 8), byte(len(header))}
	return parts.with(at-1, length).with(at, header).with(at+1, module).join()
}

// The same header in other bytes: no re-encoding opens, whatever JSON it is.
func TestI3_HeaderReencoded(t *testing.T) {
	k := newKMS()
	parts := split(t, small(t, k))
	header, module := parts.parts[parts.index(t, "header")], parts.parts[parts.index(t, "module")]
	var indented bytes.Buffer
	if err := json.Indent(&indented, header, "", " "); err != nil {
		t.Fatal(err)
	}
	var any map[string]json.RawMessage
	if err := json.Unmarshal(header, &any); err != nil {
		t.Fatal(err)
	}
	sorted, err := json.Marshal(any)
	if err != nil {
		t.Fatal(err)
	}
	text := string(header)
	for what, other := range map[string]string{
		"a space behind":     text + " ",
		"a newline in front": "\n" + text,
		"indented":           indented.String(),
		"keys sorted":        string(sorted),
		"a letter escaped":   strings.Replace(text, `"digits-app`, `"\u0064igits-app`, 1),
		"a key twice":        strings.Replace(text, `{"version":1,`, `{"version":1,"version":1,`, 1),
		"a key in capitals":  strings.Replace(text, `"version"`, `"Version"`, 1),
		"an unknown key":     strings.Replace(text, `{"version":1,`, `{"version":1,"note":1,`, 1),
		"something behind":   text + "{}",
		"null":               "null",
		"not UTF-8":          strings.Replace(text, "MODE", "MOD\xff", 1),
	} {
		if other == text {
			t.Fatalf("%s: nothing was changed", what)
		}
		refused(t, k, what, edited(t, parts, []byte(other), module), []error{envelope.ErrHeader, envelope.ErrPolicy, envelope.ErrKey})
	}
}

// Every field edited, with all that is computed from it made to agree again, and the KMS
// willing: the data key still does not fit.
func TestI3_HeaderEdited(t *testing.T) {
	k := newKMS()
	k.generous = true
	data := small(t, k)
	parts := split(t, data)
	other := read(t, small(t, k)).Header
	for what, edit := range map[string]func(h *envelope.Header){
		"name":          func(h *envelope.Header) { h.Asset.Name = "other" },
		"form":          func(h *envelope.Header) { h.Asset.Form, h.Asset.Entries = "file", 1 },
		"kind":          func(h *envelope.Header) { h.Asset.Kind, h.Command = jobspec.ModelKind, nil },
		"bytes":         func(h *envelope.Header) { h.Asset.Bytes++ },
		"entries":       func(h *envelope.Header) { h.Asset.Entries++ },
		"id":            func(h *envelope.Header) { h.ID = other.ID },
		"entrypoint":    func(h *envelope.Header) { h.Command.Entrypoint = "evil.py" },
		"arguments":     func(h *envelope.Header) { h.Command.Args = h.Command.Args[:2] },
		"environment":   func(h *envelope.Header) { h.Command.Env["MODE"] = "slow" },
		"parameters":    func(h *envelope.Header) { h.Command.Parameters["more"] = jobspec.Parameter{Pattern: ".*"} },
		"key":           func(h *envelope.Header) { h.Key = keyARN },
		"configuration": func(h *envelope.Header) { h.Policy.Config = []byte(`{"min_group":1}`) },
		"limits":        func(h *envelope.Header) { h.Policy.Limits.DecideMillis++ },
		"no limits":     func(h *envelope.Header) { h.Policy.Limits = envelope.Limits{} },
		"codes":         func(h *envelope.Header) { h.Policy.Codes = nil },
		"code":          func(h *envelope.Header) { h.Policy.Codes[0].Hint += "!" },
	} {
		h := read(t, data).Header
		edit(&h)
		module := parts.parts[parts.index(t, "module")]
		header, err := h.Rebind(module)
		if err != nil {
			t.Fatal(err)
		}
		if err := opens(k, edited(t, parts, header, module)); !errors.Is(err, envelope.ErrKey) {
			t.Errorf("%s: %v", what, err)
		}
		if err := opensStrictly(k, edited(t, parts, header, module)); !errors.Is(err, envelope.ErrKey) && !errors.Is(err, errRefused) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func opensStrictly(k *kms, bundle []byte) error {
	k.generous = false
	defer func() { k.generous = true }()
	return opens(k, bundle)
}

// The wrapped key and the context of another bundle, together: that bundle's key does not open
// this one, and this one's key is not to be had with that context.
func TestI3_WrappedKeySwapped(t *testing.T) {
	k := newKMS()
	data, other := small(t, k), small(t, k)
	parts, foreign := split(t, data), read(t, other).Header
	module := parts.parts[parts.index(t, "module")]
	for what, edit := range map[string]func(h *envelope.Header){
		"wrapped key": func(h *envelope.Header) { h.WrappedKey = foreign.WrappedKey },
		"context":     func(h *envelope.Header) { h.EncryptionContext = foreign.EncryptionContext },
		"wrapped key and context": func(h *envelope.Header) {
			h.WrappedKey, h.EncryptionContext = foreign.WrappedKey, foreign.EncryptionContext
		},
		"wrapped key, context and id": func(h *envelope.Header) {
			h.WrappedKey, h.EncryptionContext, h.ID = foreign.WrappedKey, foreign.EncryptionContext, foreign.ID
		},
	} {
		h := read(t, data).Header
		edit(&h)
		header, err := h.Encode()
		if err != nil {
			t.Fatal(err)
		}
		refused(t, k, what, edited(t, parts, header, module), []error{envelope.ErrHeader, envelope.ErrKey, envelope.ErrPolicy})
	}
}

// A policy in place of the sealed one, with everything recomputed that can be.
func TestI3_PolicySwapped(t *testing.T) {
	k := newKMS()
	data := small(t, k)
	parts := split(t, data)
	for _, module := range []string{"\x00asm MODULE", "\x00asm another module", "m"} {
		h := read(t, data).Header
		header, err := h.Rebind([]byte(module))
		if err != nil {
			t.Fatal(err)
		}
		k.generous = true
		if err := opens(k, edited(t, parts, header, []byte(module))); !errors.Is(err, envelope.ErrKey) {
			t.Errorf("%q: %v", module, err)
		}
		k.generous = false
		if err := opens(k, edited(t, parts, header, []byte(module))); !errors.Is(err, errRefused) {
			t.Errorf("%q: the KMS unwraps the key for another policy: %v", module, err)
		}
	}
	at := parts.index(t, "module")
	if _, err := envelope.Read(bytes.NewReader(parts.with(at, []byte("\x00asm MODULE")).join())); !errors.Is(err, envelope.ErrPolicy) {
		t.Errorf("only the module: %v", err)
	}
}

// What the header says of its context is never used, and a false one is refused.
func TestI3_ContextIsRecomputed(t *testing.T) {
	data := small(t, newKMS())
	parts := split(t, data)
	h := read(t, data).Header
	for key := range h.EncryptionContext {
		for _, change := range []func(map[string]string){
			func(m map[string]string) { m[key] += "0" },
			func(m map[string]string) { delete(m, key) },
			func(m map[string]string) { m["more"] = "" },
		} {
			changed := h
			changed.EncryptionContext = maps.Clone(h.EncryptionContext)
			change(changed.EncryptionContext)
			header, err := changed.Encode()
			if err != nil {
				t.Fatal(err)
			}
			_, err = envelope.Read(bytes.NewReader(edited(t, parts, header, parts.parts[parts.index(t, "module")])))
			if !errors.Is(err, envelope.ErrHeader) {
				t.Errorf("%s: %v", key, err)
			}
		}
	}
}

// A length in a header takes no memory before the bytes are there.
func TestLengthsAreBounded(t *testing.T) {
	parts := split(t, small(t, newKMS()))
	at := parts.index(t, "length")
	for _, length := range [][]byte{{0, 0, 0, 0}, {0, 16, 0, 1}, {0xff, 0xff, 0xff, 0xff}} {
		if _, err := envelope.Read(bytes.NewReader(parts.with(at, length).join())); !errors.Is(err, envelope.ErrHeader) {
			t.Errorf("%x: %v", length, err)
		}
	}
	h := read(t, parts.join()).Header
	for _, n := range []int64{-1, 0, envelope.MaxModule + 1, 1 << 62} {
		h.Policy.ModuleBytes = n
		header, err := h.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := envelope.Read(bytes.NewReader(edited(t, parts, header, nil))); !errors.Is(err, envelope.ErrPolicy) {
			t.Errorf("a module of %d bytes: %v", n, err)
		}
	}
	h.Policy.ModuleBytes, h.WrappedKey = 3, make([]byte, envelope.MaxWrappedKey+1)
	header, err := h.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := envelope.Read(bytes.NewReader(edited(t, parts, header, nil))); !errors.Is(err, envelope.ErrHeader) {
		t.Errorf("a huge wrapped key: %v", err)
	}
}

func TestFilesThatAreNoBundles(t *testing.T) {
	for what, data := range map[string]string{
		"nothing": "", "text": "asset: {}\n" + strings.Repeat("x", 100), "age": "age-encryption.org/v1\n" + strings.Repeat("x", 100),
		"zip": "PK\x03\x04" + strings.Repeat("\x00", 100), "magic in capitals": "CLOISTER-BUNDLE\n" + strings.Repeat("\x00", 100),
	} {
		_, err := envelope.Read(strings.NewReader(data))
		found, ok := errors.AsType[*envelope.Error](err)
		if !errors.Is(err, envelope.ErrNotBundle) || !ok || found.Hint == "" {
			t.Errorf("%s: %v", what, err)
		}
	}
	parts := split(t, small(t, newKMS()))
	if _, err := envelope.Read(bytes.NewReader(parts.with(1, []byte{0, 0, 0, 2}).join())); !errors.Is(err, envelope.ErrVersion) {
		t.Errorf("version 2: %v", err)
	}
}

// Bounds hold also for a header whose MAC fits: an owner is trusted no more than an operator.
func TestHeadersOutOfBoundsAreRefused(t *testing.T) {
	b := read(t, small(t, newKMS()))
	for what, row := range map[string]struct {
		edit func(h *envelope.Header)
		want error
	}{
		"version":            {func(h *envelope.Header) { h.Version = 2 }, envelope.ErrHeader},
		"negative bytes":     {func(h *envelope.Header) { h.Asset.Bytes = -1 }, envelope.ErrHeader},
		"huge bytes":         {func(h *envelope.Header) { h.Asset.Bytes = 1<<50 + 1 }, envelope.ErrHeader},
		"negative entries":   {func(h *envelope.Header) { h.Asset.Entries = -1 }, envelope.ErrHeader},
		"huge entries":       {func(h *envelope.Header) { h.Asset.Entries = 1<<30 + 1 }, envelope.ErrHeader},
		"no form":            {func(h *envelope.Header) { h.Asset.Form = "" }, envelope.ErrHeader},
		"file of two":        {func(h *envelope.Header) { h.Asset.Form, h.Asset.Entries = "file", 2 }, envelope.ErrHeader},
		"id in capitals":     {func(h *envelope.Header) { h.ID = strings.Repeat("A", 32) }, envelope.ErrHeader},
		"short id":           {func(h *envelope.Header) { h.ID = "00" }, envelope.ErrHeader},
		"no wrapped key":     {func(h *envelope.Header) { h.WrappedKey = nil }, envelope.ErrHeader},
		"alias":              {func(h *envelope.Header) { h.Key = "arn:aws:kms:eu-west-2:111122223333:alias/a" }, envelope.ErrHeader},
		"entrypoint":         {func(h *envelope.Header) { h.Command.Entrypoint = "../evil" }, envelope.ErrHeader},
		"config with spaces": {func(h *envelope.Header) { h.Policy.Config = []byte(`{"b":1,"a":2}`) }, envelope.ErrPolicy},
		"16 codes":           {func(h *envelope.Header) { h.Policy.Codes = many(16) }, envelope.ErrPolicy},
		"limits":             {func(h *envelope.Header) { h.Policy.Limits.MemoryBytes = 4 << 30 }, envelope.ErrPolicy},
	} {
		h := read(t, b.Front()).Header
		row.edit(&h)
		header, err := h.Rebind(b.Module)
		if err != nil {
			t.Fatal(err)
		}
		front, err := envelope.Front(header, b.Module, make([]byte, envelope.KeySize))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := envelope.Read(bytes.NewReader(front)); !errors.Is(err, row.want) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
