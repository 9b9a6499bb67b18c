package receipt_test

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/cloister-run/cloister/core/receipt"
	"github.com/cloister-run/cloister/enclave/attest"
)

// TestMessage: DSSE's own example of the encoding, for our type.
func TestMessage(t *testing.T) {
	if got, want := string(receipt.Message([]byte("{}"))), "DSSEv1 28 application/vnd.in-toto+json 2 {}"; got != want {
		t.Errorf("%q, not %q", got, want)
	}
}

func TestEncodeIsBounded(t *testing.T) {
	long := make([]byte, receipt.MaxBytes+1)
	for name, row := range map[string][2][]byte{
		"no statement":     {nil, {1}},
		"no document":      {{1}, nil},
		"a long statement": {long, {1}},
		"a long document":  {{1}, long[:attest.MaxDocument+1]},
	} {
		if data, err := receipt.Encode(row[0], row[1]); err == nil || data != nil {
			t.Errorf("%s: encoded", name)
		}
	}
	most := encode(t, long[:receipt.MaxBytes], long[:attest.MaxDocument])
	if _, _, err := receipt.Decode(most); err != nil || len(most) > receipt.MaxReceipt {
		t.Errorf("%d bytes, at most %d: %v", len(most), receipt.MaxReceipt, err)
	}
}

// TestDecodeRefuses: what Encode does not make, however much it is the same to a lax reader.
func TestDecodeRefuses(t *testing.T) {
	good := string(encode(t, []byte("{}"), []byte("document"))) // base64 e30= and ZG9jdW1lbnQ=
	replace := func(old, new string) string {
		if strings.Count(good, old) != 1 {
			t.Fatalf("no %s in %s", old, good)
		}
		return strings.Replace(good, old, new, 1)
	}
	for name, text := range map[string]string{
		"nothing":                  "",
		"null":                     "null\n",
		"no newline":               strings.TrimSpace(good),
		"two newlines":             good + "\n",
		"a space before":           " " + good,
		"a space inside":           replace(`"payload":`, `"payload": `),
		"another order":            `{"payload":"e30=","payloadType":"application/vnd.in-toto+json","signatures":[{"sig":"ZG9jdW1lbnQ="}]}` + "\n",
		"a field more":             replace(`{"payloadType"`, `{"more":1,"payloadType"`),
		"a key id":                 replace(`{"sig"`, `{"keyid":"","sig"`),
		"a field twice":            replace(`"payload":"e30="`, `"payload":"e30=","payload":"e30="`),
		"a field less":             replace(`,"payload":"e30="`, ``),
		"a field in another case":  replace(`"payload":`, `"Payload":`),
		"a name with an escape":    replace(`"payload":`, `"p\u0061yload":`),
		"a value with an escape":   replace(`e30=`, `e\u00330=`),
		"another type":             replace(`in-toto+json`, `in-toto`),
		"no signature":             replace(`[{"sig":"ZG9jdW1lbnQ="}]`, `[]`),
		"null for signatures":      replace(`[{"sig":"ZG9jdW1lbnQ="}]`, `null`),
		"two signatures":           replace(`[{`, `[{"sig":"ZG9jdW1lbnQ="},{`),
		"an empty signature":       replace(`ZG9jdW1lbnQ=`, ``),
		"an empty statement":       replace(`e30=`, ``),
		"no padding":               replace(`e30=`, `e30`),
		"bits after the end":       replace(`e30=`, `e31=`),
		"a line break in base64":   replace(`e30=`, `e3\n0=`),
		"a carriage return":        replace(`e30=`, `e30=\r`),
		"base64 for URLs":          replace(`e30=`, base64.URLEncoding.EncodeToString([]byte{0xfb, 0xff})),
		"trailing data":            good + "{}",
		"a byte order mark":        "\ufeff" + good,
		"over the limit":           good + strings.Repeat(" ", receipt.MaxReceipt),
		"the statement on its own": string(statement(t, run())),
	} {
		t.Run(name, func(t *testing.T) {
			s, d, err := receipt.Decode([]byte(text))
			if !errors.Is(err, receipt.ErrMalformed) || s != nil || d != nil {
				t.Errorf("%q, %q, %v", s, d, err)
			}
		})
	}
	for says, text := range map[string]string{
		"payloadType: ": replace(`in-toto+json`, `in-toto`), "signatures: 2": replace(`[{`, `[{"sig":"ZG9jdW1lbnQ="},{`),
	} {
		if _, _, err := receipt.Decode([]byte(text)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("no %q in %v", says, err)
		}
	}
	if s, d, err := receipt.Decode([]byte(good)); err != nil || string(s) != "{}" || string(d) != "document" {
		t.Errorf("%q, %q, %v", s, d, err)
	}
}

// TestTheFormatIsDocumented: every rule, limit and field of a receipt is in docs/receipt.md, by its name.
func TestTheFormatIsDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/receipt.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(text)
	own := receipt.Rules()[len(attest.Rules()):]
	if len(own) != 4 {
		t.Errorf("%d rules", len(own))
	}
	userData := attest.UserData(attest.KindReceipt, receipt.Message([]byte("{}")))
	want := []string{hex.EncodeToString(userData), string(receipt.Message([]byte("{}"))), receipt.PredicateType, receipt.StatementType}
	for _, rule := range own {
		want = append(want, "| `"+string(rule)+"` |")
	}
	for _, limit := range []int{receipt.MaxReceipt, receipt.MaxBytes, attest.MaxDocument} {
		want = append(want, fmt.Sprintf(" %d bytes", limit))
	}
	for _, name := range fields(reflect.TypeFor[receipt.Run]()) {
		want = append(want, "`"+name+"`")
	}
	if len(want) < 40 {
		t.Fatalf("%d names only", len(want))
	}
	for _, name := range want {
		if !strings.Contains(page, name) {
			t.Errorf("docs/receipt.md lacks %s", name)
		}
	}
}

// fields are the names of a type's fields, and of theirs, as JSON has them.
func fields(t reflect.Type) (names []string) {
	switch t.Kind() {
	case reflect.Slice, reflect.Pointer:
		return fields(t.Elem())
	case reflect.Struct:
		for _, field := range reflect.VisibleFields(t) {
			if name, _, _ := strings.Cut(field.Tag.Get("json"), ","); name != "" {
				names = append(names, name)
				names = append(names, fields(field.Type)...)
			}
		}
	default:
	}
	return names
}
