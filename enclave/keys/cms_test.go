package keys_test

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/cloister-run/cloister/enclave/keys"
)

// vector is a row of shared/vectors/cms/manifest.json.
type vector struct {
	Name         string
	BER          string `json:"ber"`
	SHA256       string `json:"sha256"`
	SKI          string `json:"rid_ski"`
	IV           string `json:"iv"`
	Key          string `json:"key"`
	Plaintext    string `json:"plaintext_hex"`
	ParseOnly    bool   `json:"parse_only"`
	EncryptedKey string `json:"expect_encrypted_key"`
	Ciphertext   string `json:"expect_ciphertext"`
	Len          int
	KeyLen       int `json:"encrypted_key_len"`
	TextLen      int `json:"ciphertext_len"`
	message      []byte
	private      *rsa.PrivateKey
}

// sharedVectors skips the test where the folder `shared` is absent, and only there.
func sharedVectors(t testing.TB) []vector {
	t.Helper()
	shared := filepath.Join("..", "..", "..", "shared")
	if info, err := os.Stat(shared); err != nil || !info.IsDir() {
		t.Skip("SKIPPED: no folder `shared` beside the checkout; the genuine CMS messages are not opened")
	}
	folder := filepath.Join(shared, "vectors", "cms")
	data, err := os.ReadFile(filepath.Join(folder, "manifest.json"))
	if err != nil {
		t.Fatal(err)
	}
	var vectors []vector
	if err := json.Unmarshal(data, &vectors); err != nil {
		t.Fatal(err)
	}
	found, err := os.ReadDir(folder)
	if err != nil || len(vectors) == 0 {
		t.Fatalf("%d vectors: %v", len(vectors), err)
	}
	listed := map[string]bool{"manifest.json": true}
	for _, v := range vectors {
		listed[v.BER], listed[v.Key] = true, true
	}
	for _, file := range found {
		if !listed[file.Name()] {
			t.Fatalf("%s is not in the manifest", file.Name())
		}
	}
	for i := range vectors {
		v := &vectors[i]
		if v.message, err = os.ReadFile(filepath.Join(folder, v.BER)); err != nil {
			t.Fatal(err)
		}
		if sum := sha256.Sum256(v.message); hex.EncodeToString(sum[:]) != v.SHA256 {
			t.Fatalf("%s is not the file of the manifest", v.BER)
		}
		if v.Key != "" {
			v.private = readKey(t, filepath.Join(folder, v.Key))
		}
	}
	return vectors
}

func readKey(t testing.TB, path string) *rsa.PrivateKey {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		t.Fatalf("%s is no PEM", path)
	}
	if key, err := x509.ParsePKCS1PrivateKey(block.Bytes); err == nil {
		return key
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return key.(*rsa.PrivateKey)
}

func TestGenuineEnvelopes(t *testing.T) {
	opened := 0
	for _, v := range sharedVectors(t) {
		t.Run(v.Name, func(t *testing.T) {
			ski, encryptedKey, iv, ciphertext, err := keys.ParseEnvelope(v.message)
			if err != nil {
				t.Fatal(err)
			}
			if len(v.message) != v.Len || len(encryptedKey) != v.KeyLen || len(ciphertext) != v.TextLen {
				t.Errorf("a message of %d bytes, a key of %d, a text of %d", len(v.message), len(encryptedKey), len(ciphertext))
			}
			same := func(what string, got []byte, want string) {
				if hex.EncodeToString(got) != want {
					t.Errorf("%s: %x, not %s", what, got, want)
				}
			}
			same("recipient", ski, v.SKI)
			same("iv", iv, v.IV)
			if v.ParseOnly {
				same("encrypted key", encryptedKey, v.EncryptedKey)
				same("ciphertext", ciphertext, v.Ciphertext)
				return
			}
			if v.private == nil {
				t.Fatal("no key, and not marked as one to parse only")
			}
			plaintext, err := keys.OpenEnvelope(v.message, v.private)
			if err != nil {
				t.Fatal(err)
			}
			same("plaintext", plaintext, v.Plaintext)
			opened++
		})
	}
	if opened == 0 {
		t.Fatal("no vector has a key")
	}
}

func TestOpenEnvelopeForms(t *testing.T) {
	key := newKey(t)
	for _, length := range []int{0, 1, 15, 16, 32, 33, 4096} {
		want := random(length)
		m := newMessage(&key.PublicKey, encryption{blocks: padded(want)})
		constructed := m.content
		text := constructed[2 : len(constructed)-2] // the string inside
		header := 2
		if len(text) > 0x81 {
			header = 4
		}
		text = text[header:]
		half := len(text) / 2
		for name, content := range map[string][]byte{
			"one string":             constructed,
			"definite":               tlv(0xa0, tlv(0x04, text)),
			"primitive":              tlv(0x80, text),
			"two strings":            endless(0xa0, tlv(0x04, text[:half]), tlv(0x04, text[half:])),
			"an empty string before": endless(0xa0, tlv(0x04), tlv(0x04, text)),
		} {
			m.content = content
			for _, wrap := range []func(byte, ...[]byte) []byte{endless, tlv} {
				m.wrap = wrap
				got, err := keys.OpenEnvelope(m.ber(), key)
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("%d bytes, %s: %v", length, name, err)
				}
			}
		}
	}
}

func TestOpenEnvelopeRefuses(t *testing.T) {
	key, other := newKey(t), newKey(t)
	pub := &key.PublicKey
	text := padded(random(32))
	for name, edit := range map[string]func(m *message){
		"another content type":     func(m *message) { m.contentType = oid(dataOID) },
		"version 0":                func(m *message) { m.version = tlv(0x02, []byte{0}) },
		"recipient of version 0":   func(m *message) { m.recipientVersion = tlv(0x02, []byte{0}) },
		"originator info":          func(m *message) { m.beforeRecipients = tlv(0xa0) },
		"unprotected attributes":   func(m *message) { m.afterContent = tlv(0xa1) },
		"two recipients":           func(m *message) { m.moreRecipients = tlv(0x30, m.recipientVersion, m.rid, m.transport, m.encryptedKey) },
		"recipient by issuer":      func(m *message) { m.rid = tlv(0x30, keyID(pub)) },
		"recipient is a short id":  func(m *message) { m.rid = tlv(0x80, keyID(pub)[:20]) },
		"recipient is another key": func(m *message) { m.rid = tlv(0x80, keyID(&other.PublicKey)) },
		"PKCS #1 v1.5":             func(m *message) { m.transport = tlv(0x30, oid(pkcs1OID), tlv(0x05)) },
		"OAEP by default (SHA-1)":  func(m *message) { m.transport = tlv(0x30, oid(oaepOID), tlv(0x30)) },
		"OAEP with SHA-512":        func(m *message) { m.transport = oaep(sha512OID, mgf1OID, sha256OID) },
		"MGF1 with SHA-512":        func(m *message) { m.transport = oaep(sha256OID, mgf1OID, sha512OID) },
		"NULL without an end": func(m *message) {
			sha := tlv(0x30, oid(sha256OID), endless(0x05))
			m.transport = tlv(0x30, oid(oaepOID), tlv(0x30, tlv(0xa0, sha), tlv(0xa1, tlv(0x30, oid(mgf1OID), sha))))
		},
		"another mask":                func(m *message) { m.transport = oaep(sha256OID, sha256OID, sha256OID) },
		"encrypted key not a string":  func(m *message) { m.encryptedKey = tlv(0x03, m.encryptedKey[4:]) },
		"another inner type":          func(m *message) { m.innerType = oid(envelopedOID) },
		"AES-128":                     func(m *message) { m.cipher = tlv(0x30, oid(cbc128OID), m.cipher[13:]) },
		"short IV":                    func(m *message) { m.cipher = tlv(0x30, oid(cbc256OID), tlv(0x04, random(15))) },
		"no content":                  func(m *message) { m.content = nil },
		"empty content":               func(m *message) { m.content = tlv(0x80) },
		"content of no whole block":   func(m *message) { m.content = tlv(0x80, random(17)) },
		"content of another tag":      func(m *message) { m.content = tlv(0x04, random(16)) },
		"content of no strings":       func(m *message) { m.content = endless(0xa0, tlv(0x03, random(16))) },
		"content in strings in parts": func(m *message) { m.content = endless(0xa0, endless(0x24, tlv(0x04, random(16)))) },
		"too large":                   func(m *message) { m.content = tlv(0x80, make([]byte, keys.MaxEnvelope)) },
	} {
		m := newMessage(pub, encryption{blocks: text})
		edit(m)
		if got, err := keys.OpenEnvelope(m.ber(), key); err == nil || got != nil || errors.Is(err, keys.ErrDecrypt) {
			t.Errorf("%s: %x, %v", name, got, err)
		}
	}
	good := seal(pub, random(32))
	for cut := range good {
		if got, err := keys.OpenEnvelope(good[:cut], key); err == nil || got != nil {
			t.Errorf("the first %d bytes open", cut)
		}
	}
	if got, err := keys.OpenEnvelope(append(good, 0), key); err == nil || got != nil {
		t.Error("a byte after the end is overlooked")
	}
	if _, err := keys.OpenEnvelope(good, other); !errors.Is(err, keys.ErrRecipient) {
		t.Errorf("for another key: %v", err)
	}
}

// TestOneErrorForWhatWasEncrypted: nothing tells which padding was wrong.
func TestOneErrorForWhatWasEncrypted(t *testing.T) {
	key := newKey(t)
	block := func(last ...byte) []byte { return append(make([]byte, 32-len(last)), last...) }
	good := padded(random(32))
	for name, e := range map[string]encryption{
		"padding of 0":             {blocks: block(0)},
		"padding of 17":            {blocks: bytes.Repeat([]byte{17}, 32)},
		"padding of 255":           {blocks: block(255)},
		"padding not all the same": {blocks: block(3, 2, 3)},
		"padding too short":        {blocks: block(2)},
		"OAEP with SHA-1":          {blocks: good, hash: sha1.New},
		"OAEP with SHA-512":        {blocks: good, hash: sha512.New},
		"OAEP with a label":        {blocks: good, label: []byte("label")},
		"content key of 16 bytes":  {blocks: good, contentKey: random(16)},
		"content key of 24 bytes":  {blocks: good, contentKey: random(24)},
		"content key of 40 bytes":  {blocks: good, contentKey: random(40)},
	} {
		got, err := keys.OpenEnvelope(newMessage(&key.PublicKey, e).ber(), key)
		if err != keys.ErrDecrypt || got != nil {
			t.Errorf("%s: %x, %v", name, got, err)
		}
	}
	// Without its check, the random key in place of one that does not decrypt would give some
	// text once in 256 times.
	m := newMessage(&key.PublicKey, encryption{blocks: good})
	genuine := m.encryptedKey
	m.encryptedKey = tlv(0x04, append(make([]byte, 255), 3))
	for range 1500 {
		if got, err := keys.OpenEnvelope(m.ber(), key); err != keys.ErrDecrypt || got != nil {
			t.Fatalf("a key that does not decrypt: %x, %v", got, err)
		}
	}
	m.encryptedKey = genuine
	for name, encryptedKey := range map[string][]byte{"none": nil, "random": random(256), "long": append(m.encryptedKey[4:], 0), "zeros": make([]byte, 256)} {
		m.encryptedKey = tlv(0x04, encryptedKey)
		got, err := keys.OpenEnvelope(m.ber(), key)
		if err != keys.ErrDecrypt || got != nil {
			t.Errorf("encrypted key %s: %x, %v", name, got, err)
		}
	}
}

func TestBERBounds(t *testing.T) {
	key := newKey(t)
	deep := []byte{0x04, 0}
	for range 10_000 {
		deep = append([]byte{0x30, 0x80}, deep...)
	}
	wide := endless(0x30, bytes.Repeat([]byte{0x05, 0}, 20_000))
	m := newMessage(&key.PublicKey, encryption{blocks: padded(random(32))})
	text := m.content[4 : len(m.content)-2]
	var single [][]byte
	for _, b := range text {
		single = append(single, tlv(0x04, []byte{b}))
	}
	m.content = endless(0xa0, append(single, bytes.Repeat([]byte{0x04, 0}, keys.MaxElements))...)
	for name, data := range map[string][]byte{
		"deep": deep, "wide": wide, "too many strings": m.ber(), "empty": nil,
		"tag of two bytes": {0x3f, 0x81, 0x01, 0}, "length of five bytes": {0x30, 0x85, 0, 0, 0, 0, 0},
		"length beyond the end": {0x30, 0x84, 0xff, 0xff, 0xff, 0xff}, "primitive without an end": {0x04, 0x80, 0, 0},
	} {
		if _, err := keys.OpenEnvelope(data, key); err == nil {
			t.Errorf("%s: opens", name)
		}
	}
}

func FuzzEnvelope(f *testing.F) {
	key := newKey(f)
	m := newMessage(&key.PublicKey, encryption{blocks: padded(random(32))})
	f.Add(m.ber())
	m.wrap, m.content = tlv, tlv(0x80, random(48))
	f.Add(m.ber())
	f.Add(seal(&key.PublicKey, nil))
	if _, err := os.Stat(filepath.Join("..", "..", "..", "shared")); err == nil {
		for _, v := range sharedVectors(f) {
			f.Add(v.message)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		recipient, _, iv, ciphertext, err := keys.ParseEnvelope(data)
		if err == nil && (len(recipient) != 32 || len(iv) != 16 || len(ciphertext) == 0 || len(ciphertext)%16 != 0) {
			t.Fatalf("%d, %d, %d bytes", len(recipient), len(iv), len(ciphertext))
		}
		plaintext, openErr := keys.OpenEnvelope(data, key)
		if err != nil && openErr == nil || len(plaintext) > len(ciphertext) {
			t.Fatalf("%v, %v", err, openErr)
		}
	})
}
