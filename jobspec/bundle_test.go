package jobspec_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cloister-run/cloister/jobspec"
)

// minInvalidBundles keeps the invalid fixtures from melting away unseen.
const minInvalidBundles = 25

func TestValidBundlesParse(t *testing.T) {
	schema := compile(t, jobspec.BundleSchema())
	for name, data := range fixtures(t, "testdata/bundle/valid/*.yaml") {
		b, err := jobspec.ParseBundle("bundle.yaml", data)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := b.CheckSealed(); err != nil {
			t.Errorf("%s: parses, but could not be sealed: %v", name, err)
		}
		v, err := instance(data)
		if err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(v); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestInvalidBundlesAreRefusedForTheirReason(t *testing.T) {
	files := fixtures(t, "testdata/bundle/invalid/*.yaml")
	if len(files) < minInvalidBundles {
		t.Errorf("%d invalid fixtures; at least %d are wanted", len(files), minInvalidBundles)
	}
	schema := compile(t, jobspec.BundleSchema())
	for name, data := range files {
		t.Run(filepath.Base(name), func(t *testing.T) {
			expected, flagged := header(t, data)
			b, err := jobspec.ParseBundle("bundle.yaml", data)
			problems, ok := errors.AsType[*jobspec.Problems](err)
			if b != nil || !ok {
				t.Fatalf("ParseBundle = %v, %v; want no bundle and problems", b, err)
			}
			left := *problems
			for _, want := range expected {
				i := find(left, want)
				if i < 0 {
					t.Errorf("line %d: %s: %s: not among\n%v", want.line, want.path, want.message, err)
					continue
				}
				left = append(left[:i:i], left[i+1:]...)
			}
			for _, p := range left {
				t.Errorf("not expected: %s", p)
			}
			v, err := instance(data)
			if err != nil || v == nil {
				return // no schema can see it
			}
			if err := schema.Validate(v); (err != nil) != flagged {
				t.Errorf("the schema says %v; flagged: %v", err, flagged)
			}
		})
	}
}

func TestParseBundleFillsDefaultsIn(t *testing.T) {
	b, err := jobspec.ParseBundle("bundle.yaml", []byte(`asset: {name: app, kind: application, from: ./app}
command: {entrypoint: main.py}
key: arn:aws-cn:kms:cn-north-1:111122223333:key/01234567-89ab-cdef-0123-456789abcdef
policy: {module: ./a.wasm, config: {b: 1.50, a: "<"}}
`))
	if err != nil {
		t.Fatal(err)
	}
	if b.Command.Executor != jobspec.DefaultExecutor || string(b.Policy.Config) != `{"a":"<","b":1.5}` {
		t.Errorf("%+v, %s", b.Command, b.Policy.Config)
	}
	if p := b.Fault("asset.from", "is not there", ""); p.Line != 1 || p.File != "bundle.yaml" {
		t.Errorf("the fault is at %+v", p)
	}
	minimal, err := jobspec.ParseBundle("b", fixtures(t, "testdata/bundle/valid/minimal.yaml")["testdata/bundle/valid/minimal.yaml"])
	if err != nil || minimal.Command != nil || string(minimal.Policy.Config) != "null" {
		t.Errorf("%+v, %v", minimal, err)
	}
}

func TestSchemaOfTheBundleHasEveryFieldAndNoOther(t *testing.T) {
	fieldsAgree(t, jobspec.BundleSchema(), jobspec.BundleFields())
}

// bundleReference is the owners' page; its table is written by: go test ./jobspec -update
const bundleReference = "../docs/bundle-format.md"

func TestReferenceDescribesTheBundleFile(t *testing.T) {
	describes(t, bundleReference, jobspec.BundleFields())
	examplesParse(t, bundleReference, compile(t, jobspec.BundleSchema()),
		func(text []byte) error { _, err := jobspec.ParseBundle("bundle.yaml", text); return err })
}

// Every field of the table is used by a valid fixture, so the parser reads each.
func TestEveryFieldIsUsedByAValidBundle(t *testing.T) {
	var all string
	for _, data := range fixtures(t, "testdata/bundle/valid/*.yaml") {
		all += string(data)
	}
	for _, f := range jobspec.BundleFields() {
		name := strings.TrimSuffix(f.Path[strings.LastIndex(f.Path, ".")+1:], "[]")
		if name != "NAME" && !strings.Contains(all, name+":") {
			t.Errorf("no valid fixture uses %s", f.Path)
		}
	}
}

func TestCanonicalConfig(t *testing.T) {
	for raw, want := range map[string]string{"": "null", ` {"b": [1.0, -0], "a": "<\u00e9"}`: `{"a":"<é","b":[1,0]}`} {
		if got, err := jobspec.CanonicalConfig(json.RawMessage(raw)); err != nil || string(got) != want {
			t.Errorf("%s: %s, %v", raw, got, err)
		}
	}
	for _, raw := range []string{"{", "{} {}", `{"a":1,"a":2}`, `1e999`} {
		if got, err := jobspec.CanonicalConfig(json.RawMessage(raw)); err == nil {
			t.Errorf("%s: %s", raw, got)
		}
	}
}

// FuzzParseBundle: no input makes the parser panic or run long; what parses can be sealed.
func FuzzParseBundle(f *testing.F) {
	for _, data := range seeds(f, "testdata/bundle/valid/*.yaml", "testdata/bundle/invalid/*.yaml") {
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		start := time.Now()
		b, err := jobspec.ParseBundle("bundle.yaml", data)
		if took := time.Since(start); took > mostTime {
			t.Fatalf("parsing took %v", took)
		}
		if err != nil {
			if problems, ok := errors.AsType[*jobspec.Problems](err); b != nil || !ok || len(*problems) == 0 {
				t.Fatalf("%v, %v is no refusal", b, err)
			}
			return
		}
		if err := b.CheckSealed(); err != nil {
			t.Fatalf("parses, but could not be sealed: %v", err)
		}
		if again, err := jobspec.CanonicalConfig(b.Policy.Config); err != nil || !bytes.Equal(again, b.Policy.Config) {
			t.Fatalf("the configuration %s is not canonical: %v", b.Policy.Config, err)
		}
	})
}
