package attest_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/cloister-run/cloister/enclave/attest"
	"github.com/cloister-run/cloister/enclave/attest/devca"
)

// payload is the map of a document; its values are encoded.
type payload map[string]cbor.RawMessage

// edited signs a document after its payload was edited. Everything but the edit is genuine.
func edited(t testing.TB, ca *devca.CA, edit func(payload)) []byte {
	t.Helper()
	leaf, err := ca.Issue(module, moment)
	if err != nil {
		t.Fatal(err)
	}
	data, err := leaf.Payload(claims())
	if err != nil {
		t.Fatal(err)
	}
	var p payload
	if err := cbor.Unmarshal(data, &p); err != nil {
		t.Fatal(err)
	}
	edit(p)
	return signed(t, leaf, encode(t, p))
}

func encode(t testing.TB, value any) []byte {
	t.Helper()
	data, err := cbor.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func signed(t testing.TB, leaf *devca.Leaf, data []byte) []byte {
	t.Helper()
	doc, err := leaf.SignPayload(data)
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func rename(from, to string) func(payload) {
	return func(p payload) { p[to] = p[from]; delete(p, from) }
}

func set(field string, raw string) func(payload) {
	return func(p payload) { p[field] = cbor.RawMessage(raw) }
}

func value(field string, v any) func(payload) {
	return func(p payload) {
		data, err := cbor.Marshal(v)
		if err != nil {
			panic(err)
		}
		p[field] = data
	}
}

func drop(field string) func(payload) { return func(p payload) { delete(p, field) } }

func pcrs(edit func(map[any]any)) func(payload) {
	return func(p payload) {
		m := map[any]any{}
		for i, r := range measured() {
			m[i] = r[:]
		}
		edit(m)
		value("pcrs", m)(p)
	}
}

// bundle edits the certificates above the leaf.
func bundle(edit func([][]byte) [][]byte) func(payload) {
	return func(p payload) {
		var b [][]byte
		if err := cbor.Unmarshal(p["cabundle"], &b); err != nil {
			panic(err)
		}
		for len(b) < 4 { // the seeds of FuzzPayload have one
			b = append(b, []byte{1})
		}
		value("cabundle", edit(b))(p)
	}
}

// The rules for fields; "" is a document that passes. null is CBOR's, undefined its neighbour.
const null, undefined = "\xf6", "\xf7"

var fieldRules = []struct {
	name string
	rule attest.Rule
	edit func(payload)
}{
	{"an unknown field", attest.RulePayload, value("more", 1)},
	{"a field in another case", attest.RulePayload, rename("nonce", "Nonce")},
	{"NitroTPM instead of PCRs", attest.RuleNitroTPM, rename("pcrs", "nitrotpm_pcrs")},
	{"NitroTPM beside PCRs", attest.RuleNitroTPM, value("nitrotpm_pcrs", map[int][]byte{4: make([]byte, 48)})},

	{"no module_id", attest.RuleModuleID, drop("module_id")},
	{"module_id null", attest.RuleModuleID, set("module_id", null)},
	{"module_id empty", attest.RuleModuleID, value("module_id", "")},
	{"module_id of bytes", attest.RuleModuleID, value("module_id", []byte("i-1"))},
	{"module_id not UTF-8", attest.RuleModuleID, set("module_id", "\x61\xff")},

	{"no digest", attest.RuleDigest, drop("digest")},
	{"digest null", attest.RuleDigest, set("digest", null)},
	{"digest SHA256", attest.RuleDigest, value("digest", "SHA256")},
	{"digest in lower case", attest.RuleDigest, value("digest", "sha384")},

	{"no timestamp", attest.RuleTimestamp, drop("timestamp")},
	{"timestamp null", attest.RuleTimestamp, set("timestamp", null)},
	{"timestamp 0", attest.RuleTimestamp, value("timestamp", 0)},
	{"timestamp negative", attest.RuleTimestamp, value("timestamp", -1)},
	{"timestamp beyond the year 9999", attest.RuleTimestamp, value("timestamp", uint64(1)<<63)},
	{"timestamp a fraction", attest.RuleTimestamp, value("timestamp", 1.79e12)},
	{"timestamp of text", attest.RuleTimestamp, value("timestamp", "1790000000123")},

	{"no pcrs", attest.RulePCRs, drop("pcrs")},
	{"pcrs null", attest.RulePCRs, set("pcrs", null)},
	{"pcrs empty", attest.RulePCRs, set("pcrs", "\xa0")},
	{"pcrs a list", attest.RulePCRs, value("pcrs", [][]byte{make([]byte, 48)})},
	{"pcr 32", attest.RulePCRs, pcrs(func(m map[any]any) { m[32] = make([]byte, 48) })},
	{"pcr -1", attest.RulePCRs, pcrs(func(m map[any]any) { m[-1] = make([]byte, 48) })},
	{"33 pcrs", attest.RulePCRs, pcrs(func(m map[any]any) {
		for i := range 33 {
			m[i] = make([]byte, 48)
		}
	})},
	{"pcr named by text", attest.RulePCRs, pcrs(func(m map[any]any) { m["0"] = make([]byte, 48) })},
	{"pcr of 32 bytes", attest.RulePCRs, pcrs(func(m map[any]any) { m[4] = make([]byte, 32) })},
	{"pcr of 64 bytes", attest.RulePCRs, pcrs(func(m map[any]any) { m[4] = make([]byte, 64) })},
	{"pcr of 47 bytes", attest.RulePCRs, pcrs(func(m map[any]any) { m[0] = make([]byte, 47) })},
	{"pcr empty", attest.RulePCRs, pcrs(func(m map[any]any) { m[0] = []byte{} })},
	{"pcr null", attest.RulePCRs, pcrs(func(m map[any]any) { m[0] = nil })},
	{"pcr a list of 48", attest.RulePCRs, pcrs(func(m map[any]any) { m[0] = make([]int, 48) })},
	{"pcr 0 twice", attest.RulePCRs, func(p payload) {
		one := "\x00\x58\x30" + strings.Repeat("\x01", 48)
		p["pcrs"] = cbor.RawMessage("\xa2" + one + one)
	}},
	{"pcr 0 twice, spelt differently", attest.RulePCRs, func(p payload) {
		bytes := "\x58\x30" + strings.Repeat("\x01", 48)
		p["pcrs"] = cbor.RawMessage("\xa2\x00" + bytes + "\x18\x00" + bytes)
	}},

	{"no certificate", attest.RuleCertificate, drop("certificate")},
	{"certificate null", attest.RuleCertificate, set("certificate", null)},
	{"certificate empty", attest.RuleCertificate, value("certificate", []byte{})},
	{"certificate of 1025 bytes", attest.RuleCertificate, value("certificate", make([]byte, 1025))},
	{"certificate of text", attest.RuleCertificate, value("certificate", "x")},
	{"certificate no certificate", attest.RuleCertificate, value("certificate", []byte("x"))},
	{"certificate with a byte more", attest.RuleCertificate, func(p payload) {
		var der []byte
		if err := cbor.Unmarshal(p["certificate"], &der); err != nil {
			panic(err)
		}
		value("certificate", append(der, 0))(p)
	}},

	{"no cabundle", attest.RuleBundle, drop("cabundle")},
	{"cabundle null", attest.RuleBundle, set("cabundle", null)},
	{"cabundle empty", attest.RuleBundle, set("cabundle", "\x80")},
	{"cabundle with null", attest.RuleBundle, bundle(func(b [][]byte) [][]byte { b[1] = nil; return b })},
	{"cabundle with an empty one", attest.RuleBundle, bundle(func(b [][]byte) [][]byte { b[1] = []byte{}; return b })},
	{"cabundle with 1025 bytes", attest.RuleBundle, bundle(func(b [][]byte) [][]byte { b[1] = make([]byte, 1025); return b })},
	{"cabundle with no certificate", attest.RuleBundle, bundle(func(b [][]byte) [][]byte { b[1] = []byte("x"); return b })},
	{"cabundle of nine", attest.RuleBundle, bundle(func(b [][]byte) [][]byte { return append(append(b, b...), b[1]) })},

	{"public_key empty", attest.RulePublicKey, value("public_key", []byte{})},
	{"public_key of 1025 bytes", attest.RulePublicKey, value("public_key", make([]byte, 1025))},
	{"public_key undefined", attest.RulePublicKey, set("public_key", undefined)},
	{"user_data of 513 bytes", attest.RuleUserData, value("user_data", make([]byte, 513))},
	{"user_data of text", attest.RuleUserData, value("user_data", "data")},
	{"user_data in pieces", attest.RuleUserData, set("user_data", "\x5f\x42ab\x41c\xff")},
	{"user_data false", attest.RuleUserData, value("user_data", false)},
	{"user_data tagged", attest.RulePayload, set("user_data", "\xc2\x41\x01")},
	{"nonce of 513 bytes", attest.RuleNonce, value("nonce", make([]byte, 513))},
	{"nonce a list of numbers", attest.RuleNonce, value("nonce", []int{1, 2})},

	{"as it is", "", func(payload) {}},
	{"32 pcrs", "", pcrs(func(m map[any]any) {
		for i := 3; i < 32; i++ {
			m[i] = make([]byte, 48)
		}
	})},
	{"public_key of 1024 bytes", "", value("public_key", make([]byte, 1024))},
	{"user_data of 512 bytes", "", value("user_data", make([]byte, 512))},
	{"nonce of 512 bytes", "", value("nonce", make([]byte, 512))},
	{"user_data and nonce empty", "", func(p payload) { value("user_data", []byte{})(p); value("nonce", []byte{})(p) }},
	{"optional fields null", "", func(p payload) {
		p["public_key"], p["user_data"], p["nonce"] = []byte(null), []byte(null), []byte(null)
	}},
	{"optional fields missing", "", func(p payload) { drop("public_key")(p); drop("user_data")(p); drop("nonce")(p) }},
	{"maps and lists of indefinite length", "", func(p payload) {
		p["pcrs"] = append(append([]byte{0xbf}, p["pcrs"][1:]...), 0xff)
		p["cabundle"] = append(append([]byte{0x9f}, p["cabundle"][1:]...), 0xff)
	}},
}

// TestI5_FieldRules: AWS's rules for each field ("Nitro Enclaves attestation process", 3.2.2).
// The documents are signed under the root that is trusted: nothing but the rule refuses them.
func TestI5_FieldRules(t *testing.T) {
	ca := newCA(t)
	for _, row := range fieldRules {
		t.Run(row.name, func(t *testing.T) {
			doc := edited(t, ca, row.edit)
			if row.rule == "" {
				holds(t, doc, options(ca))
				return
			}
			breaks(t, row.rule, doc, options(ca))
		})
	}
}

// TestI5_PayloadRules: what is no single map, signed nevertheless.
func TestI5_PayloadRules(t *testing.T) {
	ca := newCA(t)
	leaf, err := ca.Issue(module, moment)
	if err != nil {
		t.Fatal(err)
	}
	good, err := leaf.Payload(claims())
	if err != nil {
		t.Fatal(err)
	}
	if good[0] != 0xbf || good[len(good)-1] != 0xff {
		t.Fatalf("not of indefinite length, as the NSM's are: %x … %x", good[0], good[len(good)-1])
	}
	definite := append([]byte{0xa9}, good[1:len(good)-1]...)
	again := "\x65nonce\xf6"
	deep := strings.Repeat("\x81", 40) + "\x00"
	for name, row := range map[string]struct {
		rule attest.Rule
		data string
	}{
		"of definite length":    {"", string(definite)},
		"a key twice":           {attest.RulePayload, string(good[:len(good)-1]) + again + "\xff"},
		"a key twice, definite": {attest.RulePayload, "\xaa" + string(definite[1:]) + again},
		"without its end":       {attest.RulePayload, string(good[:len(good)-1])},
		"with a byte more":      {attest.RulePayload, string(good) + "\x00"},
		"two maps":              {attest.RulePayload, string(good) + string(good)},
		"a list":                {attest.RulePayload, "\x81" + string(definite)},
		"null":                  {attest.RulePayload, null},
		"tagged":                {attest.RulePayload, "\xd9\xd9\xf7" + string(definite)},
		"keys that are numbers": {attest.RulePayload, "\xa1\x01\x02"},
		"too deep":              {attest.RulePayload, "\xa1\x65nonce" + deep},
		"a thousand keys":       {attest.RulePayload, thousandKeys()},
		"a length that the document does not have": {attest.RulePayload, "\xbb\x7f\xff\xff\xff\xff\xff\xff\xff"},
	} {
		t.Run(name, func(t *testing.T) {
			doc := signed(t, leaf, []byte(row.data))
			if row.rule == "" {
				holds(t, doc, options(ca))
				return
			}
			breaks(t, row.rule, doc, options(ca))
		})
	}
}

func thousandKeys() string {
	var text strings.Builder
	text.WriteString("\xb9\x03\xe8")
	for i := range 1000 {
		fmt.Fprintf(&text, "\x64%04d\x00", i)
	}
	return text.String()
}

// TestI5_EnvelopeRules: what the signature does not cover.
func TestI5_EnvelopeRules(t *testing.T) {
	ca := newCA(t)
	good := string(sign(t, ca, claims()))
	edit := func(old, new string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("no %x", old)
		}
		return strings.Replace(good, old, new, 1)
	}
	const headers = "\x84\x44\xa1\x01\x38\x22\xa0"
	signature := good[len(good)-98:]
	if !strings.HasPrefix(good, headers) || !strings.HasPrefix(signature, "\x58\x60") {
		t.Fatalf("%x … %x", good[:8], signature)
	}
	for name, row := range map[string]struct {
		rule attest.Rule
		doc  string
	}{
		"nothing":                   {attest.RuleSize, ""},
		"16 KiB":                    {attest.RuleCOSE, strings.Repeat("\x00", attest.MaxDocument)},
		"16 KiB and a byte":         {attest.RuleSize, good + strings.Repeat("\x00", attest.MaxDocument-len(good)+1)},
		"a byte more":               {attest.RuleCOSE, good + "\x00"},
		"twice":                     {attest.RuleCOSE, good + good},
		"cut short":                 {attest.RuleCOSE, good[:len(good)-1]},
		"of three":                  {attest.RuleCOSE, "\x83" + good[1:]},
		"of indefinite length":      {attest.RuleCOSE, "\x9f" + good[1:] + "\xff"},
		"a tag alone":               {attest.RuleCOSE, "\xd2"},
		"ES256":                     {attest.RuleAlg, edit(headers, "\x84\x43\xa1\x01\x26\xa0")},
		"no algorithm":              {attest.RuleAlg, edit(headers, "\x84\x40\xa0")},
		"ES384 and a key id":        {attest.RuleAlg, edit(headers, "\x84\x47\xa2\x01\x38\x22\x04\x41\x00\xa0")},
		"ES384, a longer spelling":  {attest.RuleAlg, edit(headers, "\x84\x45\xa1\x01\x39\x00\x22\xa0")},
		"protected null":            {attest.RuleCOSE, edit(headers, "\x84\xf6\xa0")},
		"ES384 where none protects": {attest.RuleAlg, edit(headers, "\x84\x40\xa1\x01\x38\x22")},
		"something unprotected":     {attest.RuleCOSE, edit(headers, "\x84\x44\xa1\x01\x38\x22\xa1\x04\x41\x00")},
		"payload null":              {attest.RulePayload, headers + null + signature},
		"payload empty":             {attest.RulePayload, headers + "\x40" + signature},
		"signature empty":           {attest.RuleCOSE, good[:len(good)-98] + "\x40"},
		"signature of 95 bytes":     {attest.RuleSignature, good[:len(good)-98] + "\x58\x5f" + good[len(good)-96:len(good)-1]},
		"signature of 97 bytes":     {attest.RuleSignature, good[:len(good)-98] + "\x58\x61\x00" + good[len(good)-96:]},
		"signature of zeros":        {attest.RuleSignature, good[:len(good)-96] + strings.Repeat("\x00", 96)},
	} {
		t.Run(name, func(t *testing.T) { breaks(t, row.rule, []byte(row.doc), options(ca)) })
	}
}

// TestWhatADocumentSays: every field, as it was asked for.
func TestWhatADocumentSays(t *testing.T) {
	ca := newCA(t)
	want := claims()
	got := holds(t, sign(t, ca, want), options(ca))
	if got.ModuleID != want.ModuleID || !got.Time.Equal(want.Time) || got.Time.Location() != time.UTC || got.Realm != attest.RealmLocal {
		t.Errorf("%+v", got)
	}
	if !bytes.Equal(got.UserData, want.UserData) || !bytes.Equal(got.Nonce, want.Nonce) || !bytes.Equal(got.PublicKey, want.PublicKey) {
		t.Errorf("%q %q %q", got.UserData, got.Nonce, got.PublicKey)
	}
	if fmt.Sprint(got.PCRs) != fmt.Sprint(want.PCRs) || got.Leaf.Subject.CommonName != module {
		t.Errorf("%v of %s", got.PCRs, got.Leaf.Subject)
	}
	want.UserData, want.Nonce, want.PublicKey = nil, []byte{}, nil
	got = holds(t, sign(t, ca, want), options(ca))
	if got.UserData != nil || got.Nonce == nil || len(got.Nonce) != 0 || got.PublicKey != nil {
		t.Errorf("null and empty: %v %v %v", got.UserData, got.Nonce, got.PublicKey)
	}
}
