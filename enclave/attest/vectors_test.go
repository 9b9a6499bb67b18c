package attest_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cloister-run/cloister/enclave/attest"
)

// genuine is a row of shared/vectors/attestation/manifest.json.
type genuine struct {
	File     string            `json:"file"`
	Expect   string            `json:"expect"`
	AtMs     int64             `json:"at_ms"`
	ModuleID string            `json:"module_id"`
	PCRs     map[string]string `json:"pcrs"`
	Why      string            `json:"why"`
	bytes    []byte
}

func (g genuine) at() time.Time { return time.UnixMilli(g.AtMs) }

// sharedVectors skips the test where the folder `shared` is absent, and only there.
func sharedVectors(t testing.TB) []genuine {
	t.Helper()
	folder := shared(t)
	if folder == "" {
		t.Skip("SKIPPED: no folder `shared` beside the checkout; the genuine documents are not verified")
	}
	folder = filepath.Join(folder, "vectors", "attestation")
	data, err := os.ReadFile(filepath.Join(folder, "manifest.json"))
	if err != nil {
		t.Fatal(err)
	}
	var manifest struct {
		Documents []genuine `json:"documents"`
	}
	if err := json.Unmarshal(data, &manifest); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(folder, "*.cbor"))
	if err != nil || len(files) == 0 || len(files) != len(manifest.Documents) {
		t.Fatalf("%d files, %d in the manifest: %v", len(files), len(manifest.Documents), err)
	}
	for i := range manifest.Documents {
		g := &manifest.Documents[i]
		if g.bytes, err = os.ReadFile(filepath.Join(folder, g.File)); err != nil {
			t.Fatal(err)
		}
	}
	return manifest.Documents
}

// refusedFor says which rule each tampered vector breaks.
var refusedFor = map[string]attest.Rule{
	"19b7-sig-bitflip-last.cbor":             attest.RuleSignature,
	"19b7-cabundle-flip.cbor":                attest.RuleBundle,
	"19b7-sig-der.cbor":                      attest.RuleSignature,
	"19b7-sig-short95.cbor":                  attest.RuleSignature,
	"19b7-trailing.cbor":                     attest.RuleCOSE,
	"19b7-alg-es256.cbor":                    attest.RuleAlg,
	"19b7-alg-none.cbor":                     attest.RuleAlg,
	"19b7-payload-nil.cbor":                  attest.RulePayload,
	"19b7-dup-key.cbor":                      attest.RulePayload,
	"542a-pcr0-bitflip.cbor":                 attest.RuleSignature,
	"542a-timestamp-plus1ms.cbor":            attest.RuleSignature,
	"542a-payload-nobreak.cbor":              attest.RulePayload,
	"swap-payload.cbor":                      attest.RuleSignature,
	"forged-root-same-name.cbor":             attest.RuleRoot,
	"forged-real-g1-in-bundle.cbor":          attest.RuleChain,
	"forged-empty-cabundle.cbor":             attest.RuleBundle,
	"forged-genuine-chain-attacker-sig.cbor": attest.RuleSignature,
}

// TestI5_GenuineDocuments: every file of shared/vectors/attestation as its manifest says.
func TestI5_GenuineDocuments(t *testing.T) {
	results := map[string]int{}
	for _, g := range sharedVectors(t) {
		t.Run(g.File, func(t *testing.T) {
			o := attest.Options{At: g.at(), Inspect: true}
			results[g.Expect]++
			switch g.Expect {
			case "success":
				doc := holds(t, g.bytes, o)
				if doc.ModuleID != g.ModuleID || doc.Realm != attest.RealmAWS || doc.Time.UnixMilli() != g.AtMs {
					t.Errorf("%s of realm %s at %s", doc.ModuleID, doc.Realm, doc.Time)
				}
				for i, p := range doc.PCRs {
					if !p.IsZero() && p.String() != g.PCRs[strconv.Itoa(i)] {
						t.Errorf("PCR%d is %s", i, p)
					}
				}
				set, err := attest.ParsePCRSet(g.PCRs)
				if err != nil {
					t.Fatal(err)
				}
				holds(t, g.bytes, attest.Options{At: g.at(), PCRs: set})
			case "debug-pcrs":
				breaks(t, attest.RuleDebug, g.bytes, o)
			case "reject":
				rule, ok := refusedFor[g.File]
				if !ok {
					t.Fatalf("a new vector: say in refusedFor which rule it breaks (%s)", g.Why)
				}
				breaks(t, rule, g.bytes, o)
			default:
				t.Fatalf("expect: %q", g.Expect)
			}
		})
	}
	t.Logf("%v", results)
}

// TestI5_AGenuineDocumentHasItsTime: hours later, and the day before, it is refused.
func TestI5_AGenuineDocumentHasItsTime(t *testing.T) {
	for _, g := range sharedVectors(t) {
		if g.Expect != "success" {
			continue
		}
		at, err := attest.ClaimedTime(g.bytes)
		if err != nil || at.UnixMilli() != g.AtMs {
			t.Errorf("%s claims %s: %v", g.File, at, err)
		}
		for _, later := range []time.Duration{4 * time.Hour, -24 * time.Hour, 30 * 365 * 24 * time.Hour} {
			breaks(t, attest.RuleTime, g.bytes, attest.Options{At: g.at().Add(later), Inspect: true})
		}
	}
}

// TestI5_AGenuineDocumentIsOfItsRealm: not under a development root, whatever is asked for.
func TestI5_AGenuineDocumentIsOfItsRealm(t *testing.T) {
	ca := newCA(t)
	for _, g := range sharedVectors(t) {
		if g.Expect == "success" {
			breaks(t, attest.RuleRoot, g.bytes, attest.Options{At: g.at(), Root: ca.Root(), Inspect: true})
		}
	}
}

// TestATagMayPrecedeADocument: both forms of COSE_Sign1 are in use.
func TestATagMayPrecedeADocument(t *testing.T) {
	ca := newCA(t)
	doc := sign(t, ca, claims())
	holds(t, append([]byte{0xd2}, doc...), options(ca))
	for _, other := range []string{"\xd2\xd2", "\xd1", "\xd8\x12"} {
		breaks(t, attest.RuleCOSE, append([]byte(other), doc...), options(ca))
	}
}

// The documents in testdata/documents are of development authorities, one header line each for
// what Verify makes of it, when, and under which root.
func TestI5_OwnDocuments(t *testing.T) {
	for _, v := range ownVectors(t) {
		t.Run(v.name, func(t *testing.T) {
			if v.expect == "success" {
				if doc := holds(t, v.bytes, v.options()); doc.Realm != attest.RealmLocal {
					t.Errorf("realm %s", doc.Realm)
				}
				return
			}
			breaks(t, attest.Rule(v.expect), v.bytes, v.options())
		})
	}
}

func TestOwnDocumentsAreNoneOfAWS(t *testing.T) {
	for _, v := range ownVectors(t) {
		o := v.options()
		o.Root = attest.Root{}
		d, err := attest.Verify(v.bytes, o)
		if err == nil || d != nil {
			t.Errorf("%s: %v, %v", v.name, d, err)
		}
		if v.expect == "success" && ruleOf(err) != attest.RuleRoot {
			t.Errorf("%s: %v", v.name, err)
		}
	}
}

// own is one file of testdata/documents.
type own struct {
	name, expect string
	at           time.Time
	root         attest.Root
	bytes        []byte
}

func (v own) options() attest.Options {
	return attest.Options{At: v.at, Root: v.root, PCRs: expected()}
}

func ownVectors(t testing.TB) []own {
	t.Helper()
	pem, err := os.ReadFile("testdata/root.pem")
	if err != nil {
		t.Fatal(err)
	}
	root, err := attest.ParseRoot(pem)
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("testdata/documents/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no vectors: %v", err)
	}
	var vectors []own
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		v := readOwn(t, string(text))
		v.name, v.root = strings.TrimSuffix(filepath.Base(file), ".txt"), root
		vectors = append(vectors, v)
	}
	return vectors
}
