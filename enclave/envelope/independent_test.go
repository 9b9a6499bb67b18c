package envelope_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"maps"
	"testing"
)

// A second reader, written from docs/bundle-format.md alone: it shares nothing with the package.
// It checks less of the header than the page asks for, and leaves the rest to the MAC.

type independentHeader struct {
	Asset             struct{ Name, Kind string }
	ID                string
	EncryptionContext map[string]string `json:"encryption_context"`
	Policy            struct {
		ModuleBytes int `json:"module_bytes"`
		Config      json.RawMessage
		Limits      json.RawMessage
		Codes       json.RawMessage
		Digest      string
	}
}

type independent struct {
	front   []byte
	context map[string]string
	content []byte
}

// lp puts each part behind its length.
func lp(parts ...[]byte) (out []byte) {
	for _, p := range parts {
		out = append(binary.BigEndian.AppendUint64(out, uint64(len(p))), p...)
	}
	return out
}

// readIndependently returns what it computed, and the word for what was wrong.
func readIndependently(data, dataKey []byte) (got independent, wrong string) {
	if len(data) < 24 || string(data[:16]) != "cloister-bundle\n" {
		return got, "not-a-bundle"
	}
	if binary.BigEndian.Uint32(data[16:]) != 1 {
		return got, "unknown-version"
	}
	n := int(binary.BigEndian.Uint32(data[20:]))
	if n < 1 || n > 1<<20 {
		return got, "bad-header"
	}
	if len(data) < 24+n {
		return got, "truncated"
	}
	opening, header, rest := data[:24], data[24:24+n], data[24+n:]
	var h independentHeader
	if json.Unmarshal(header, &h) != nil {
		return got, "bad-header"
	}
	if len(rest) < h.Policy.ModuleBytes {
		return got, "truncated"
	}
	module, rest := rest[:h.Policy.ModuleBytes], rest[h.Policy.ModuleBytes:]
	sum := sha256.Sum256(module)
	digest := sha256.Sum256(lp([]byte("cloister policy v1"), sum[:], h.Policy.Config, h.Policy.Limits, h.Policy.Codes))
	if h.Policy.Digest != "sha256:"+hex.EncodeToString(digest[:]) {
		return got, "bad-policy"
	}
	got.context = map[string]string{"cloister:version": "1", "cloister:kind": h.Asset.Kind, "cloister:asset": h.Asset.Name,
		"cloister:bundle": h.ID, "cloister:policy": h.Policy.Digest}
	if !maps.Equal(got.context, h.EncryptionContext) {
		return got, "bad-header"
	}
	front := sha512.Sum384(lp([]byte("cloister bundle front v1"), opening, header, module))
	got.front = front[:]
	prk, _ := hkdf.Extract(sha512.New384, dataKey, front[:])
	macKey, _ := hkdf.Expand(sha512.New384, prk, "cloister bundle v1 header mac", 32)
	payloadKey, _ := hkdf.Expand(sha512.New384, prk, "cloister bundle v1 payload", 32)
	if len(rest) < 32 {
		return got, "truncated"
	}
	m := hmac.New(sha256.New, macKey)
	m.Write(front[:])
	if !hmac.Equal(m.Sum(nil), rest[:32]) {
		return got, "bad-key"
	}
	return got.payload(rest[32:], payloadKey)
}

func (got independent) payload(data, payloadKey []byte) (independent, string) {
	if len(data) <= 40 {
		return got, "truncated"
	}
	if data[0] != 0x28 {
		return got, "tampered"
	}
	streamKey, _ := hkdf.Key(sha256.New, payloadKey, data[1:33], string(got.front), 32)
	block, _ := aes.NewCipher(streamKey)
	gcm, _ := cipher.NewGCM(block)
	prefix, data := data[33:40], data[40:]
	for i, length := uint32(0), 1048536; ; i, length = i+1, 1048576 {
		nonce := append(binary.BigEndian.AppendUint32(bytes.Clone(prefix), i), 0)
		if len(data) <= length {
			nonce[11], length = 1, len(data)
		}
		plain, err := gcm.Open(nil, nonce, data[:length], nil)
		if err != nil {
			return got, "tampered"
		}
		got.content, data = append(got.content, plain...), data[length:]
		if nonce[11] == 1 {
			return got, ""
		}
	}
}

func TestIndependentReaderAgrees(t *testing.T) {
	for _, v := range vectors(t) {
		data, key := v.read(t)
		got, wrong := readIndependently(data, key)
		if v.Expect != "success" {
			// What a strict reader refuses in the header, the MAC refuses here.
			if wrong != v.Expect && (v.Expect != "bad-header" || wrong != "bad-key") {
				t.Errorf("%s: %q, expected %s", v.File, wrong, v.Expect)
			}
			continue
		}
		bundle, content := sha256.Sum256(data), sha256.Sum256(got.content)
		if wrong != "" || hex.EncodeToString(got.front) != v.Front || !maps.Equal(got.context, v.Context) ||
			"sha256:"+hex.EncodeToString(bundle[:]) != v.Digest || "sha256:"+hex.EncodeToString(content[:]) != v.Content {
			t.Errorf("%s: %q, %+v", v.File, wrong, v)
		}
	}
	// More than one segment.
	k := &kms{fixed: 3, made: map[string]made{}}
	for _, size := range []int{1<<20 - 3000, 3 << 20} {
		data := sized(t, k, dataset(), size)
		want, _, err := open(k, bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		if got, wrong := readIndependently(data, bytes.Repeat([]byte{3}, 32)); wrong != "" || !bytes.Equal(got.content, want) {
			t.Errorf("%d bytes: %q, %d bytes of %d", size, wrong, len(got.content), len(want))
		}
	}
}
