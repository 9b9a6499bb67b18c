package attest_test

import (
	"bytes"
	"errors"
	"reflect"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/cloister-run/cloister/enclave/attest"
)

// TestI5_EveryByteCounts: a document of which one byte differs is refused, whichever byte it is.
func TestI5_EveryByteCounts(t *testing.T) {
	for _, v := range ownVectors(t) {
		if v.name == "good" || v.name == "good-tagged" {
			everyByte(t, v.bytes, v.options())
		}
	}
}

// TestI5_EveryByteOfAGenuineDocumentCounts: the newest of AWS's.
func TestI5_EveryByteOfAGenuineDocumentCounts(t *testing.T) {
	for _, g := range sharedVectors(t) {
		if g.File == "9e038c2da8dea881.cbor" {
			everyByte(t, g.bytes, attest.Options{At: g.at(), Inspect: true})
		}
	}
}

func everyByte(t *testing.T, doc []byte, o attest.Options) {
	t.Helper()
	holds(t, doc, o)
	workers := runtime.GOMAXPROCS(0)
	var group sync.WaitGroup
	for w := range workers {
		group.Go(func() {
			spoilt := bytes.Clone(doc)
			for i := w; i < len(doc); i += workers {
				spoilt[i] ^= 1 << (i % 8)
				if d, err := attest.Verify(spoilt, o); err == nil || d != nil {
					t.Errorf("byte %d: %v, %v", i, d, err)
				}
				spoilt[i] = doc[i]
			}
		})
	}
	group.Wait()
}

// TestI5_EveryCutIsRefused: no beginning of a document is one.
func TestI5_EveryCutIsRefused(t *testing.T) {
	v := ownVectors(t)[slices.IndexFunc(ownVectors(t), func(v own) bool { return v.name == "good" })]
	for i := range v.bytes {
		if d, err := attest.Verify(v.bytes[:i], v.options()); err == nil || d != nil {
			t.Fatalf("%d bytes: %v, %v", i, d, err)
		}
	}
}

// FuzzVerify: an error comes without a document and names a rule of the list; a document comes
// only from bytes of which every seed's author knows.
func FuzzVerify(f *testing.F) {
	vectors := ownVectors(f)
	for _, v := range vectors {
		f.Add(v.bytes)
	}
	o := vectors[0].options()
	o.At, o.PCRs, o.Inspect = moment, nil, true
	rules := attest.Rules()
	f.Fuzz(func(t *testing.T, data []byte) {
		doc, err := attest.Verify(data, o)
		if (doc == nil) == (err == nil) {
			t.Fatalf("%v with %v", doc, err)
		}
		var v *attest.Violation
		if err != nil && (!errors.As(err, &v) || !slices.Contains(rules, v.Rule) || len(err.Error()) > 400) {
			t.Fatalf("%v", err)
		}
		if doc != nil && (doc.ModuleID != module || doc.Realm != attest.RealmLocal || doc.PCRs[0].IsZero()) {
			t.Fatalf("%+v", doc)
		}
		if _, claimed := attest.ClaimedTime(data); claimed != nil && err == nil {
			t.Fatal(claimed)
		}
	})
}

// FuzzPayload: fields that keep their rules are within every bound, and read the same when written again.
func FuzzPayload(f *testing.F) {
	small := map[string]any{
		"module_id": "i", "digest": "SHA384", "timestamp": 1, "pcrs": map[int][]byte{0: make([]byte, 48)},
		"certificate": []byte{1}, "cabundle": [][]byte{{1}}, "public_key": nil, "user_data": []byte{}, "nonce": []byte{1},
	}
	definite := encode(f, small)
	f.Add(definite)
	f.Add(append(append([]byte{0xbf}, definite[1:]...), 0xff))
	for _, row := range fieldRules {
		p := payload{}
		for name, v := range small {
			p[name] = encode(f, v)
		}
		row.edit(p)
		f.Add(encode(f, p))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		fields, err := attest.ParsePayload(data)
		if err != nil {
			return
		}
		within(t, fields)
		again := map[string]any{
			"module_id": fields.ModuleID, "digest": "SHA384", "timestamp": uint64(fields.Time.UnixMilli()),
			"pcrs": map[int][]byte{}, "certificate": fields.Certificate, "cabundle": fields.Bundle,
			"public_key": fields.PublicKey, "user_data": fields.UserData, "nonce": fields.Nonce,
		}
		for i, p := range fields.PCRs {
			again["pcrs"].(map[int][]byte)[i] = p[:]
		}
		second, err := attest.ParsePayload(encode(t, again))
		if err != nil || !reflect.DeepEqual(fields, second) {
			t.Fatalf("%+v became %+v: %v", fields, second, err)
		}
	})
}

func within(t *testing.T, f *attest.Fields) {
	t.Helper()
	ok := f.ModuleID != "" && f.Time.UnixMilli() > 0 && f.Time.Year() < 10000 &&
		len(f.PCRs) > 0 && len(f.PCRs) <= 32 && len(f.Certificate) > 0 && len(f.Certificate) <= 1024 &&
		len(f.Bundle) > 0 && len(f.Bundle) <= 8 && (f.PublicKey == nil || len(f.PublicKey) > 0) &&
		len(f.PublicKey) <= 1024 && len(f.UserData) <= 512 && len(f.Nonce) <= 512
	for i := range f.PCRs {
		ok = ok && i >= 0 && i < 32
	}
	for _, c := range f.Bundle {
		ok = ok && len(c) > 0 && len(c) <= 1024
	}
	if !ok {
		t.Fatalf("%+v", f)
	}
}

func BenchmarkVerify(b *testing.B) {
	ca := newCA(b)
	doc, o := sign(b, ca, claims()), options(ca)
	for b.Loop() {
		if _, err := attest.Verify(doc, o); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRefuse is what a document that anybody can make costs: a changed byte.
func BenchmarkRefuse(b *testing.B) {
	ca := newCA(b)
	doc, o := sign(b, ca, claims()), options(ca)
	doc[len(doc)-1] ^= 1
	for b.Loop() {
		if _, err := attest.Verify(doc, o); err == nil {
			b.Fatal("verified")
		}
	}
}
