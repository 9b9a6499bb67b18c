package devkit_test

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cloister-run/cloister/enclave/devkit"
)

// skeleton is what a message is made of: tags, forms of lengths and sizes, and the contents that do
// not depend on keys.
func skeleton(t *testing.T, ber []byte) string {
	t.Helper()
	var out strings.Builder
	var walk func(data []byte, depth int, endless bool) []byte
	walk = func(data []byte, depth int, endless bool) []byte {
		for len(data) > 0 {
			if endless && len(data) >= 2 && data[0] == 0 && data[1] == 0 {
				fmt.Fprintf(&out, "%*send\n", depth, "")
				return data[2:]
			}
			tag, first := data[0], data[1]
			size, header := int(first), 2
			if first > 0x80 {
				header += int(first & 0x7f)
				size = 0
				for _, b := range data[2:header] {
					size = size<<8 | int(b)
				}
			}
			if first == 0x80 {
				fmt.Fprintf(&out, "%*s%02x endless\n", depth, "", tag)
				data = walk(data[2:], depth+1, true)
				continue
			}
			content := data[header : header+size]
			fmt.Fprintf(&out, "%*s%02x %d in %d", depth, "", tag, size, header)
			if tag == 0x06 || tag == 0x02 {
				fmt.Fprintf(&out, " %x", content)
			}
			out.WriteByte('\n')
			if tag&0x20 != 0 {
				walk(content, depth+1, false)
			}
			data = data[header+size:]
		}
		return nil
	}
	walk(ber, 0, false)
	return out.String()
}

// TestEnvelopesAreAsKMSSends: the same elements, in the same forms, as in the genuine ones.
func TestEnvelopesAreAsKMSSends(t *testing.T) {
	shared := filepath.Join("..", "..", "..", "shared")
	if _, err := os.Stat(shared); err != nil {
		t.Skip("SKIPPED: no folder `shared` beside the checkout; envelopes are not compared with genuine ones")
	}
	folder := filepath.Join(shared, "vectors", "cms")
	raw, err := os.ReadFile(filepath.Join(folder, "manifest.json"))
	if err != nil {
		t.Fatal(err)
	}
	var vectors []struct {
		Name, BER  string
		Form       string `json:"encrypted_content_form"`
		Ciphertext int    `json:"ciphertext_len"`
	}
	if err := json.Unmarshal(raw, &vectors); err != nil || len(vectors) == 0 {
		t.Fatal("no vectors", err)
	}
	key := rsaKey(t, 2048)
	seen := map[bool]bool{}
	for _, v := range vectors {
		genuine, err := os.ReadFile(filepath.Join(folder, v.BER))
		if err != nil {
			t.Fatal(err)
		}
		constructed := strings.HasPrefix(v.Form, "constructed")
		seen[constructed] = true
		ours, err := devkit.SealTo(&key.PublicKey, spki(t, &key.PublicKey), make([]byte, v.Ciphertext-16), constructed)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := skeleton(t, ours), skeleton(t, genuine); got != want || len(ours) != len(genuine) {
			t.Errorf("%s:\n%s\nnot\n%s\n%s", v.Name, got, want, hex.EncodeToString(ours))
		}
	}
	if len(seen) != 2 {
		t.Error("only one form is among the vectors")
	}
}
