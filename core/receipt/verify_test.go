package receipt_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cloister-run/cloister/core/receipt"
	"github.com/cloister-run/cloister/enclave/attest"
	"github.com/cloister-run/cloister/enclave/attest/devca"
)

// attested is when the documents of these tests were made: shortly after run() finished.
var attested = time.Unix(3, 0)

// pcrs are what the enclave of these tests measures as.
func pcrs() attest.PCRSet {
	var zero attest.PCR
	return attest.PCRSet{0: zero.Extend([]byte("0")), 1: zero.Extend([]byte("1")), 2: zero.Extend([]byte("2"))}
}

func newCA(t testing.TB) *devca.CA {
	t.Helper()
	ca, err := devca.New(time.Unix(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// claims are those of a document over a statement.
func claims(statement []byte) devca.Claims {
	return devca.Claims{ModuleID: module, Time: attested, PCRs: pcrs(), UserData: attest.UserData(attest.KindReceipt, receipt.Message(statement))}
}

func sign(t testing.TB, ca *devca.CA, c devca.Claims) []byte {
	t.Helper()
	document, err := ca.Sign(c)
	if err != nil {
		t.Fatal(err)
	}
	return document
}

func encode(t testing.TB, statement, document []byte) []byte {
	t.Helper()
	data, err := receipt.Encode(statement, document)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// made is the receipt of a run.
func made(t testing.TB, ca *devca.CA, r *receipt.Run) []byte {
	t.Helper()
	s := statement(t, r)
	return encode(t, s, sign(t, ca, claims(s)))
}

func expect(ca *devca.CA) receipt.Expect {
	return receipt.Expect{Root: ca.Root(), Realm: attest.RealmLocal, PCRs: pcrs()}
}

// fails requires a violation of one rule; "" stands for bytes that are no receipt.
func fails(t *testing.T, data []byte, e receipt.Expect, rule attest.Rule) {
	t.Helper()
	v, err := receipt.Verify(data, e)
	if v != nil || err == nil {
		t.Fatalf("verified: %+v, %v", v, err)
	}
	violation, ok := errors.AsType[*attest.Violation](err)
	switch {
	case rule == "":
		if ok || !errors.Is(err, receipt.ErrMalformed) {
			t.Errorf("%v, and not malformed", err)
		}
	case !ok || violation.Rule != rule || errors.Is(err, receipt.ErrMalformed):
		t.Errorf("%v, and not the rule %s", err, rule)
	case !slices.Contains(receipt.Rules(), rule):
		t.Errorf("%s is not among the rules", rule)
	}
}

func TestVerify(t *testing.T) {
	ca, r := newCA(t), run()
	data := made(t, ca, r)
	v, err := receipt.Verify(data, expect(ca))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(&v.Statement.Predicate, r) {
		t.Errorf("%+v is not %+v", v.Statement.Predicate, r)
	}
	if v.Document.ModuleID != module || !v.Document.Time.Equal(attested) || v.Document.Realm != attest.RealmLocal {
		t.Errorf("%+v", v.Document)
	}
	e := expect(ca)
	e.Inspect, e.PCRs = true, nil
	if _, err := receipt.Verify(data, e); err != nil {
		t.Errorf("without PCRs: %v", err)
	}
}

// shortest is the record of a job that was cancelled before anything was known of it.
func shortest() *receipt.Run {
	r := run()
	return &receipt.Run{
		Job: receipt.Job{Digest: jobDigest}, Enclave: receipt.Enclave{Realm: "local", ModuleID: module},
		Outcome: receipt.Cancelled, Started: r.Started, Finished: r.Finished,
	}
}

// TestEveryByteCounts: whichever byte of a receipt becomes another, it is found.
func TestEveryByteCounts(t *testing.T) {
	t.Parallel()
	ca := newCA(t)
	data, e := made(t, ca, shortest()), expect(ca)
	for i := range data {
		changed := bytes.Clone(data)
		changed[i] ^= []byte{0x01, 0x20, 0x80}[i%3] // a neighbour, the other case, no ASCII
		if v, err := receipt.Verify(changed, e); err == nil || v != nil {
			t.Errorf("byte %d: %q for %q", i, changed[i], data[i])
		}
	}
}

func TestEveryCutIsFound(t *testing.T) {
	ca := newCA(t)
	data, e := made(t, ca, run()), expect(ca)
	for n := range data {
		fails(t, data[:n], e, "")
		fails(t, data[n+1:], e, "")
	}
}

// TestEveryFieldCounts: each value of the statement becomes another, in a statement that says
// the same elsewhere and is spelt as it should be.
func TestEveryFieldCounts(t *testing.T) {
	ca := newCA(t)
	s, document, err := receipt.Decode(made(t, ca, run()))
	if err != nil {
		t.Fatal(err)
	}
	var tree any
	if err := json.Unmarshal(s, &tree); err != nil {
		t.Fatal(err)
	}
	fields := 0
	edit(tree, func(path string) {
		fields++
		changed, err := json.Marshal(tree)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(path, func(t *testing.T) { fails(t, encode(t, changed, document), expect(ca), attest.RuleWantData) })
	})
	if fields < 60 {
		t.Errorf("%d fields only", fields)
	}
}

// edit changes each value below v, one at a time, and puts it back.
func edit(v any, changed func(path string)) {
	var walk func(v any, path string, set func(any))
	walk = func(v any, path string, set func(any)) {
		switch v := v.(type) {
		case map[string]any:
			for key, value := range v {
				walk(value, path+"."+key, func(other any) { v[key] = other })
				delete(v, key)
				changed(path + " without " + key)
				v[key] = value
			}
			return
		case []any:
			for i, value := range v {
				walk(value, path+"[]", func(other any) { v[i] = other })
			}
			set(append(slices.Clone(v), "more"))
		case string:
			set(v + "x")
		case float64:
			set(v + 1)
		case bool:
			set(!v)
		}
		changed(path)
		set(v)
	}
	walk(v, "", nil)
}

// resigned is a receipt over a statement whose enclave vouches for whatever it is given.
func resigned(t *testing.T, ca *devca.CA, change func(*receipt.Run, *devca.Claims)) []byte {
	t.Helper()
	r, other := run(), devca.Claims{}
	change(r, &other)
	s := statement(t, r)
	c := claims(s)
	if other.ModuleID != "" {
		c.ModuleID = other.ModuleID
	}
	if !other.Time.IsZero() {
		c.Time = other.Time
	}
	return encode(t, s, sign(t, ca, c))
}

// TestAStatementFitsItsDocument: also where the enclave itself attested both.
func TestAStatementFitsItsDocument(t *testing.T) {
	ca := newCA(t)
	for name, row := range map[string]struct {
		rule   attest.Rule
		change func(*receipt.Run, *devca.Claims)
	}{
		"a local enclave that says aws": {receipt.RuleRealm, func(r *receipt.Run, _ *devca.Claims) { r.Enclave.Realm = "aws" }},
		"a realm of its own invention":  {receipt.RuleRealm, func(r *receipt.Run, _ *devca.Claims) { r.Enclave.Realm = "test" }},
		"no realm":                      {receipt.RuleRealm, func(r *receipt.Run, _ *devca.Claims) { r.Enclave.Realm = "" }},
		"no module":                     {receipt.RuleModuleID, func(r *receipt.Run, _ *devca.Claims) { r.Enclave.ModuleID = "" }},
		"another module":                {receipt.RuleModuleID, func(_ *receipt.Run, c *devca.Claims) { c.ModuleID = "i-2-enc2" }},
		"no start":                      {receipt.RuleTime, func(r *receipt.Run, _ *devca.Claims) { r.Started = "" }},
		"no end":                        {receipt.RuleTime, func(r *receipt.Run, _ *devca.Claims) { r.Finished = "" }},
		"a time in another zone":        {receipt.RuleTime, func(r *receipt.Run, _ *devca.Claims) { r.Finished = "1970-01-01T01:00:01+01:00" }},
		"a time that is too exact":      {receipt.RuleTime, func(r *receipt.Run, _ *devca.Claims) { r.Finished = "1970-01-01T00:00:01.5Z" }},
		"finished before it started":    {receipt.RuleTime, func(r *receipt.Run, _ *devca.Claims) { r.Started = "1970-01-01T00:00:02Z" }},
		"finished after it was attested": {receipt.RuleTime, func(r *receipt.Run, _ *devca.Claims) {
			r.Finished = receipt.Time(attested.Add(61 * time.Second))
		}},
		"attested too late": {receipt.RuleTime, func(_ *receipt.Run, c *devca.Claims) { c.Time = time.Unix(1, 1e6).Add(time.Hour) }},
	} {
		t.Run(name, func(t *testing.T) { fails(t, resigned(t, ca, row.change), expect(ca), row.rule) })
	}
	for name, change := range map[string]func(*receipt.Run, *devca.Claims){
		"a clock that is a little ahead": func(r *receipt.Run, _ *devca.Claims) { r.Finished = receipt.Time(attested.Add(time.Minute)) },
		"attested in the last moment":    func(_ *receipt.Run, c *devca.Claims) { c.Time = time.Unix(1, 0).Add(time.Hour) },
		"instantly":                      func(r *receipt.Run, _ *devca.Claims) { r.Started = r.Finished },
	} {
		if _, err := receipt.Verify(resigned(t, ca, change), expect(ca)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestAnotherDocumentIsNoSignature: of another receipt, kind, enclave or root.
func TestAnotherDocumentIsNoSignature(t *testing.T) {
	ca, stranger := newCA(t), newCA(t)
	s := statement(t, run())
	second := run()
	second.Job.ID = "0124"
	for name, row := range map[string]struct {
		rule   attest.Rule
		ca     *devca.CA
		change func(*devca.Claims)
	}{
		"of another receipt": {attest.RuleWantData, ca, func(c *devca.Claims) {
			c.UserData = attest.UserData(attest.KindReceipt, receipt.Message(statement(t, second)))
		}},
		"for a client": {attest.RuleWantData, ca, func(c *devca.Claims) {
			c.UserData, c.Nonce = attest.UserData(attest.KindClient, nil), receipt.Message(s)[:attest.MaxNonce]
		}},
		"for KMS": {attest.RuleWantData, ca, func(c *devca.Claims) {
			c.UserData, c.PublicKey = attest.UserData(attest.KindKMS, nil), []byte("key")
		}},
		"with a public key":  {attest.RuleWantKey, ca, func(c *devca.Claims) { c.PublicKey = []byte("key") }},
		"over the bare text": {attest.RuleWantData, ca, func(c *devca.Claims) { c.UserData = attest.UserData(attest.KindReceipt, s) }},
		"over nothing":       {attest.RuleWantData, ca, func(c *devca.Claims) { c.UserData = nil }},
		"under another root": {attest.RuleRoot, stranger, func(*devca.Claims) {}},
		"of another image":   {attest.RulePCR(0), ca, func(c *devca.Claims) { c.PCRs[0] = c.PCRs[1] }},
		"in debug mode":      {attest.RuleDebug, ca, func(c *devca.Claims) { c.PCRs[0] = attest.PCR{} }},
	} {
		t.Run(name, func(t *testing.T) {
			c := claims(s)
			row.change(&c)
			fails(t, encode(t, s, sign(t, row.ca, c)), expect(ca), row.rule)
		})
	}
	fails(t, encode(t, s, []byte("no document")), expect(ca), attest.RuleCOSE)
}

// TestI5_AReceiptProvesNothingOutsideItsRealm, both ways.
func TestI5_AReceiptProvesNothingOutsideItsRealm(t *testing.T) {
	ca := newCA(t)
	aws := func(r *receipt.Run, _ *devca.Claims) { r.Enclave.Realm = "aws" }
	local := func(*receipt.Run, *devca.Claims) {}
	for name, row := range map[string]struct {
		rule   attest.Rule
		change func(*receipt.Run, *devca.Claims)
		expect receipt.Expect
	}{
		"local, where AWS is expected":                 {attest.RuleRoot, local, receipt.Expect{Realm: attest.RealmAWS, PCRs: pcrs()}},
		"local that says aws, where AWS is expected":   {attest.RuleRoot, aws, receipt.Expect{Realm: attest.RealmAWS, PCRs: pcrs()}},
		"local, under a root that is taken for AWS's":  {attest.RuleRealm, local, receipt.Expect{Root: ca.Root(), Realm: attest.RealmAWS, PCRs: pcrs()}},
		"says aws, under a root that is taken for AWS": {attest.RuleRealm, aws, receipt.Expect{Root: ca.Root(), Realm: attest.RealmAWS, PCRs: pcrs()}},
		"AWS's root, taken for a local one":            {attest.RuleRoot, local, receipt.Expect{Realm: attest.RealmLocal, PCRs: pcrs()}},
	} {
		t.Run(name, func(t *testing.T) { fails(t, resigned(t, ca, row.change), row.expect, row.rule) })
	}
	if v, err := receipt.Verify(made(t, ca, run()), receipt.Expect{Root: ca.Root(), PCRs: pcrs()}); err == nil || v != nil {
		t.Error("verified where no realm is expected")
	}
}

func TestPCRsAreExpected(t *testing.T) {
	ca := newCA(t)
	data := made(t, ca, run())
	for name, row := range map[string]struct {
		rule   attest.Rule
		change func(*receipt.Expect)
	}{
		"none":                    {attest.RuleWantPCRs, func(e *receipt.Expect) { e.PCRs = nil }},
		"one less":                {attest.RulePCR(2), func(e *receipt.Expect) { delete(e.PCRs, 2) }},
		"one that is not there":   {attest.RulePCR(8), func(e *receipt.Expect) { e.PCRs[8] = e.PCRs[0] }},
		"another":                 {attest.RulePCR(1), func(e *receipt.Expect) { e.PCRs[1] = e.PCRs[0] }},
		"another, on a mere look": {attest.RulePCR(1), func(e *receipt.Expect) { e.Inspect, e.PCRs[1] = true, e.PCRs[0] }},
	} {
		t.Run(name, func(t *testing.T) {
			e := expect(ca)
			row.change(&e)
			fails(t, data, e, row.rule)
		})
	}
}

// TestWhatIsAttestedIsAStatement: an enclave can attest nonsense; nobody is told what it says.
func TestWhatIsAttestedIsAStatement(t *testing.T) {
	ca := newCA(t)
	good := string(statement(t, run()))
	for name, text := range map[string]string{
		"no JSON":          "hello",
		"another type":     strings.Replace(good, receipt.PredicateType, "https://slsa.dev/provenance/v1", 1),
		"a contradiction":  strings.Replace(good, `"outcome":"succeeded"`, `"outcome":"denied"`, 1),
		"an unknown field": strings.Replace(good, "{", `{"more":1,`, 1),
	} {
		t.Run(name, func(t *testing.T) {
			fails(t, encode(t, []byte(text), sign(t, ca, claims([]byte(text)))), expect(ca), receipt.RuleStatement)
		})
	}
}

// TestAReceiptIsGoodForEver: long after every certificate but the root's is over.
func TestAReceiptIsGoodForEver(t *testing.T) {
	ca := newCA(t)
	data := made(t, ca, run())
	_, document, err := receipt.Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := attest.Verify(document, attest.Options{At: time.Now(), Root: ca.Root(), Inspect: true}); err == nil {
		t.Fatal("the document is good today")
	}
	if _, err := receipt.Verify(data, expect(ca)); err != nil {
		t.Error(err)
	}
}
