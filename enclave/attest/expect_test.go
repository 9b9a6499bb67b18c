package attest_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/cloister-run/cloister/enclave/attest"
)

// TestI5_PCRsMatch: what is expected against what a document has. Refusals outnumber.
func TestI5_PCRsMatch(t *testing.T) {
	ca := newCA(t)
	with := func(set attest.PCRSet, i int, p attest.PCR) attest.PCRSet { set[i] = p; return set }
	without := func(set attest.PCRSet, i int) attest.PCRSet { delete(set, i); return set }
	for name, row := range map[string]struct {
		rule      attest.Rule
		has, want attest.PCRSet
	}{
		"all of them":                  {"", measured(), expected()},
		"PCR3 and PCR8 too":            {"", with(measured(), 3, register(4)), with(with(expected(), 3, register(4)), 8, register(9))},
		"nothing is expected":          {attest.RuleWantPCRs, measured(), nil},
		"an empty set is expected":     {attest.RuleWantPCRs, measured(), attest.PCRSet{}},
		"PCR0 is not expected":         {attest.RulePCR(0), measured(), without(expected(), 0)},
		"PCR1 is not expected":         {attest.RulePCR(1), measured(), without(expected(), 1)},
		"PCR2 is not expected":         {attest.RulePCR(2), measured(), without(expected(), 2)},
		"PCR8 alone is expected":       {attest.RulePCR(0), measured(), attest.PCRSet{8: register(9)}},
		"another PCR0":                 {attest.RulePCR(0), with(measured(), 0, register(7)), expected()},
		"another PCR1":                 {attest.RulePCR(1), with(measured(), 1, register(7)), expected()},
		"another PCR2":                 {attest.RulePCR(2), with(measured(), 2, register(7)), expected()},
		"another PCR3":                 {attest.RulePCR(3), with(measured(), 3, register(7)), with(expected(), 3, register(4))},
		"PCR0 is missing":              {attest.RulePCR(0), without(measured(), 0), expected()},
		"PCR1 is missing":              {attest.RulePCR(1), without(measured(), 1), expected()},
		"PCR2 is missing":              {attest.RulePCR(2), without(measured(), 2), expected()},
		"PCR16 is missing":             {attest.RulePCR(16), measured(), with(expected(), 16, register(7))},
		"PCR0 is zero":                 {attest.RuleDebug, with(measured(), 0, attest.PCR{}), expected()},
		"PCR1 is zero":                 {attest.RuleDebug, with(measured(), 1, attest.PCR{}), expected()},
		"PCR2 is zero":                 {attest.RuleDebug, with(measured(), 2, attest.PCR{}), expected()},
		"PCR0 is zero and so expected": {attest.RuleDebug, with(measured(), 0, attest.PCR{}), with(expected(), 0, attest.PCR{})},
		"PCR3 is zero and so expected": {attest.RulePCR(3), measured(), with(expected(), 3, attest.PCR{})},
		"zeros are expected of PCR4":   {attest.RulePCR(4), measured(), with(expected(), 4, attest.PCR{})},
		"there is no PCR32":            {attest.RuleWantPCRs, measured(), with(expected(), 32, register(1))},
	} {
		t.Run(name, func(t *testing.T) {
			c := claims()
			c.PCRs = row.has
			doc, o := sign(t, ca, c), options(ca)
			o.PCRs = row.want
			if row.rule == "" {
				holds(t, doc, o)
				return
			}
			breaks(t, row.rule, doc, o)
		})
	}
}

// TestI5_AMatchNeedsADocument: the matcher alone, for those who keep a Document.
func TestI5_AMatchNeedsADocument(t *testing.T) {
	for _, doc := range []*attest.Document{nil, {}, {PCRs: attest.PCRSet{}}, {PCRs: attest.PCRSet{0: {}, 1: {}, 2: {}}}} {
		if err := expected().Match(doc); err == nil {
			t.Errorf("%+v matches", doc)
		}
		if err := (attest.PCRSet{0: {}, 1: {}, 2: {}}).Match(doc); err == nil {
			t.Errorf("%+v matches zeros", doc)
		}
	}
	if err := expected().Match(&attest.Document{PCRs: measured()}); err != nil {
		t.Error(err)
	}
}

// TestI5_LookingIsNoMatch: to look at a document, fewer PCRs will do; what is given must match, and
// a document of a debug enclave is refused all the same.
func TestI5_LookingIsNoMatch(t *testing.T) {
	ca := newCA(t)
	doc, o := sign(t, ca, claims()), options(ca)
	o.Inspect = true
	for _, few := range []attest.PCRSet{nil, {0: register(1)}, {8: register(9)}} {
		o.PCRs = few
		holds(t, doc, o)
	}
	o.PCRs = attest.PCRSet{}
	breaks(t, attest.RuleWantPCRs, doc, o)
	o.PCRs = attest.PCRSet{8: register(7)}
	breaks(t, attest.RulePCR(8), doc, o)
	o.PCRs = nil
	c := claims()
	c.PCRs[0], c.PCRs[1], c.PCRs[2] = attest.PCR{}, attest.PCR{}, attest.PCR{}
	breaks(t, attest.RuleDebug, sign(t, ca, c), o)
	delete(c.PCRs, 1)
	c.PCRs[0] = register(1)
	breaks(t, attest.RulePCR(1), sign(t, ca, c), o)
}

func TestI5_ParsePCRSet(t *testing.T) {
	good, zero := strings.Repeat("0f", 48), strings.Repeat("0", 96)
	for name, text := range map[string]map[string]string{
		"nil":             nil,
		"empty":           {},
		"a value empty":   {"0": ""},
		"zeros":           {"0": zero},
		"one digit less":  {"0": good[1:]},
		"one digit more":  {"0": good + "0"},
		"no digits":       {"0": strings.Repeat("x", 96)},
		"index 32":        {"32": good},
		"index -1":        {"-1": good},
		"index 00":        {"00": good},
		"index +1":        {"+1": good},
		"no index":        {"": good},
		"an index's name": {"PCR0": good},
		"one is wrong":    {"0": good, "1": "x"},
	} {
		if set, err := attest.ParsePCRSet(text); err == nil || set != nil {
			t.Errorf("%s: %v", name, set)
		}
	}
	set, err := attest.ParsePCRSet(map[string]string{"0": good, "31": strings.ToUpper(good)})
	if err != nil || len(set) != 2 || set[0] != set[31] || set.Hex()["31"] != good {
		t.Errorf("%v: %v", set, err)
	}
	_, err = attest.ParsePCRSet(map[string]string{"0": "x", "1": zero, "99": good})
	for _, part := range []string{"PCR0", "PCR1", `"99"`} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("no %s in %v", part, err)
		}
	}
}

// TestExtend: against the definition, and against what a Nitro Enclave measures for nothing at all.
func TestExtend(t *testing.T) {
	empty := sha512.Sum384(nil)
	const ofNothing = "21b9efbc184807662e966d34f390821309eeac6802309798826296bf3e8bec7c10edb30948c90ba67310f7b964fc500a"
	if got := (attest.PCR{}).Extend(empty[:]).String(); got != ofNothing {
		t.Errorf("got %s", got)
	}
}

// TestI5_Expectations: nonce, user data, age.
func TestI5_Expectations(t *testing.T) {
	ca := newCA(t)
	doc := sign(t, ca, claims())
	for name, row := range map[string]struct {
		rule attest.Rule
		set  func(*attest.Options)
	}{
		"the nonce":               {"", func(o *attest.Options) { o.Nonce = []byte("nonce of sixteen") }},
		"another nonce":           {attest.RuleWantNonce, func(o *attest.Options) { o.Nonce = []byte("another of the 16") }},
		"part of the nonce":       {attest.RuleWantNonce, func(o *attest.Options) { o.Nonce = []byte("nonce of") }},
		"the user data":           {"", func(o *attest.Options) { o.UserData = []byte("data") }},
		"other user data":         {attest.RuleWantData, func(o *attest.Options) { o.UserData = []byte("date") }},
		"no user data":            {attest.RuleWantData, func(o *attest.Options) { o.UserData = []byte{} }},
		"the data as the nonce":   {attest.RuleWantNonce, func(o *attest.Options) { o.Nonce = []byte("data") }},
		"a receipt's":             {attest.RuleWantData, func(o *attest.Options) { o.Kind = attest.KindReceipt }},
		"an hour old":             {"", func(o *attest.Options) { o.At = moment.Add(time.Hour) }},
		"a minute old, of two":    {"", func(o *attest.Options) { o.At = moment.Add(time.Minute); o.MaxAge = 2 * time.Minute }},
		"three minutes, of two":   {attest.RuleTime, func(o *attest.Options) { o.At = moment.Add(3 * time.Minute); o.MaxAge = 2 * time.Minute }},
		"a minute ahead":          {"", func(o *attest.Options) { o.At = moment.Add(-time.Minute) }},
		"after the certificates":  {attest.RuleTime, func(o *attest.Options) { o.At = moment.Add(4 * time.Hour) }},
		"before the certificates": {attest.RuleTime, func(o *attest.Options) { o.At = moment.Add(-time.Hour) }},
		"AWS's root":              {attest.RuleRoot, func(o *attest.Options) { o.Root = attest.Root{} }},
	} {
		t.Run(name, func(t *testing.T) {
			o := options(ca)
			row.set(&o)
			if row.rule == "" {
				holds(t, doc, o)
				return
			}
			breaks(t, row.rule, doc, o)
		})
	}
}

// TestI5_AFutureDocumentIsRefused: within the certificates' life, by the document's own time.
func TestI5_AFutureDocumentIsRefused(t *testing.T) {
	ca := newCA(t)
	sign(t, ca, claims()) // its certificates serve the next one as well
	c := claims()
	c.Time = moment.Add(time.Hour)
	doc, o := sign(t, ca, c), options(ca)
	breaks(t, attest.RuleTime, doc, o)
	o.At = c.Time.Add(-4 * time.Minute)
	holds(t, doc, o)
}

// TestOptionsAreComplete: their errors are no violations, and come without a document.
func TestOptionsAreComplete(t *testing.T) {
	ca := newCA(t)
	doc := sign(t, ca, claims())
	for name, spoil := range map[string]func(*attest.Options){
		"no time":                    func(o *attest.Options) { o.At = time.Time{} },
		"an unknown kind":            func(o *attest.Options) { o.Kind = "other" },
		"kind and user data":         func(o *attest.Options) { o.Kind, o.UserData = attest.KindReceipt, []byte{1} },
		"content without a kind":     func(o *attest.Options) { o.Content = []byte{} },
		"an empty nonce":             func(o *attest.Options) { o.Nonce = []byte{} },
		"a client without nonce":     func(o *attest.Options) { o.Kind = attest.KindClient },
		"a client's nonce too short": func(o *attest.Options) { o.Kind, o.Nonce = attest.KindClient, make([]byte, 15) },
		"a negative age":             func(o *attest.Options) { o.MaxAge = -1 },
	} {
		o := options(ca)
		spoil(&o)
		d, err := attest.Verify(doc, o)
		if d != nil || err == nil || ruleOf(err) != "" || !strings.HasPrefix(err.Error(), "attest: options: ") {
			t.Errorf("%s: %v, %v", name, d, err)
		}
	}
}

// asked is an NSM that signs under a development root.
func asked(t *testing.T, ask func(attest.Attester) ([]byte, error)) func(attest.Options) (*attest.Document, error) {
	t.Helper()
	ca := newCA(t)
	doc, err := ask(attester(func(r attest.Request) ([]byte, error) {
		c := claims()
		c.UserData, c.Nonce, c.PublicKey = r.UserData, r.Nonce, r.PublicKey
		return ca.Sign(c)
	}))
	if err != nil {
		t.Fatal(err)
	}
	return func(o attest.Options) (*attest.Document, error) {
		o.At, o.Root, o.PCRs = moment, ca.Root(), expected()
		return attest.Verify(doc, o)
	}
}

type attester func(attest.Request) ([]byte, error)

func (a attester) Attest(_ context.Context, r attest.Request) ([]byte, error) { return a(r) }

// TestI5_ADocumentIsOfOneKind: each is accepted as what it was made for and as nothing else.
func TestI5_ADocumentIsOfOneKind(t *testing.T) {
	ctx, nonce, record := t.Context(), bytes.Repeat([]byte{7}, 16), []byte("a record")
	made := map[attest.Kind]func(attest.Options) (*attest.Document, error){
		attest.KindClient:  asked(t, func(a attest.Attester) ([]byte, error) { return attest.ForClient(ctx, a, nonce) }),
		attest.KindKMS:     asked(t, func(a attest.Attester) ([]byte, error) { return attest.ForKMS(ctx, a, []byte("key")) }),
		attest.KindReceipt: asked(t, func(a attest.Attester) ([]byte, error) { return attest.ForReceipt(ctx, a, record) }),
	}
	wanted := map[attest.Kind]attest.Options{
		attest.KindClient:  {Kind: attest.KindClient, Nonce: nonce},
		attest.KindKMS:     {Kind: attest.KindKMS},
		attest.KindReceipt: {Kind: attest.KindReceipt, Content: record},
	}
	for is, verify := range made {
		for as, o := range wanted {
			if _, err := verify(o); (err == nil) != (is == as) {
				t.Errorf("a document for %s as one for %s: %v", is, as, err)
			}
		}
	}
	if _, err := made[attest.KindReceipt](attest.Options{Kind: attest.KindReceipt, Content: []byte("another")}); ruleOf(err) != attest.RuleWantData {
		t.Errorf("another record: %v", err)
	}
	if _, err := made[attest.KindClient](attest.Options{Kind: attest.KindClient, Nonce: bytes.Repeat([]byte{8}, 16)}); ruleOf(err) != attest.RuleWantNonce {
		t.Errorf("another nonce: %v", err)
	}
}

// TestI5_TheKindSaysWhetherThereIsAKey: whatever the user data says.
func TestI5_TheKindSaysWhetherThereIsAKey(t *testing.T) {
	ca, nonce := newCA(t), bytes.Repeat([]byte{7}, 16)
	for kind, hasKey := range map[attest.Kind]bool{attest.KindClient: true, attest.KindReceipt: true, attest.KindKMS: false} {
		c := claims()
		c.UserData, c.Nonce, c.PublicKey = attest.UserData(kind, nil), nonce, nil
		if hasKey {
			c.PublicKey = []byte("key")
		}
		o := options(ca)
		o.Kind, o.Nonce = kind, nonce
		breaks(t, attest.RuleWantKey, sign(t, ca, c), o)
	}
}

func TestI5_WhatIsAskedForIsOfAKind(t *testing.T) {
	never := attester(func(attest.Request) ([]byte, error) { t.Error("asked"); return nil, nil })
	if _, err := attest.ForClient(t.Context(), never, make([]byte, attest.MinNonce-1)); err == nil {
		t.Error("a short nonce")
	}
	if _, err := attest.ForKMS(t.Context(), never, nil); err == nil {
		t.Error("no key")
	}
}

// TestUserData: against the definition in docs/attestation.md, and its example.
func TestUserData(t *testing.T) {
	var text []byte
	for _, part := range []string{"cloister-attestation", "receipt", "1", "abc"} {
		text = append(binary.BigEndian.AppendUint64(text, uint64(len(part))), part...)
	}
	want := sha512.Sum384(text)
	got := attest.UserData(attest.KindReceipt, []byte("abc"))
	if !bytes.Equal(got, want[:]) || len(got) > attest.MaxUserData {
		t.Errorf("%x", got)
	}
	page := documentation(t)
	for kind, content := range map[attest.Kind]string{attest.KindReceipt: "abc", attest.KindClient: "", attest.KindKMS: ""} {
		if sum := hex.EncodeToString(attest.UserData(kind, []byte(content))); !strings.Contains(page, sum) {
			t.Errorf("docs/attestation.md lacks %s, for %s", sum, kind)
		}
	}
	seen := map[string]bool{}
	for _, kind := range []attest.Kind{"a", "ab", "client", "kms", "receipt"} {
		for _, content := range []string{"", "b", "1", "kms"} {
			seen[string(attest.UserData(kind, []byte(content)))] = true
		}
	}
	if len(seen) != 20 {
		t.Errorf("%d of 20", len(seen))
	}
}

func documentation(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile("../../docs/attestation.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(page)
}

// TestEveryRuleIsDocumented: by its name, in the table of rules.
func TestEveryRuleIsDocumented(t *testing.T) {
	page := documentation(t)
	rules := attest.Rules()
	for _, rule := range rules {
		if name := "`" + string(rule) + "`"; !strings.HasPrefix(string(rule), "pcr") && !strings.Contains(page, name) {
			t.Errorf("docs/attestation.md lacks %s", name)
		}
	}
	if len(rules) != 24+32 {
		t.Errorf("%d rules", len(rules))
	}
}

// TestI5_TheRootIsAWS: the embedded certificate, by the fingerprint that AWS prints.
func TestI5_TheRootIsAWS(t *testing.T) {
	der, err := os.ReadFile("aws-nitro-root-g1.der")
	if err != nil {
		t.Fatal(err)
	}
	const printed = "64:1A:03:21:A3:E2:44:EF:E4:56:46:31:95:D6:06:31:7E:D7:CD:CC:3C:17:56:E0:98:93:F3:C6:8F:79:BB:5B"
	sum := sha256.Sum256(der)
	if got := hex.EncodeToString(sum[:]); got != strings.ToLower(strings.ReplaceAll(printed, ":", "")) {
		t.Error(got)
	}
	given, err := attest.ParseRoot(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	if err != nil {
		t.Fatal(err)
	}
	if given.Realm() != attest.RealmAWS || (attest.Root{}).Realm() != attest.RealmAWS {
		t.Error("not of realm aws")
	}
	if root := newCA(t).Root(); root.Realm() != attest.RealmLocal {
		t.Error("a development root is not of realm local")
	}
}

func TestParseRoot(t *testing.T) {
	ca := newCA(t)
	leaf, err := ca.Issue(module, moment)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"nothing":        "",
		"DER":            string(ca.Certificate().Raw),
		"two":            string(ca.PEM()) + string(ca.PEM()),
		"a key":          string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")})),
		"no certificate": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")})),
		"a leaf":         string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Certificate})),
	} {
		if r, err := attest.ParseRoot([]byte(text)); err == nil || r != (attest.Root{}) {
			t.Errorf("%s: %v", name, r)
		}
	}
}
