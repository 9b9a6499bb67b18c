package policies_test

import (
	"bytes"
	"encoding/json"
	"os"
	"regexp"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/cloister-run/cloister/policies/abi"
)

// documented compiles a schema of docs/policy-abi.md, and refuses fields that it does not name.
func documented(t *testing.T, name string) *jsonschema.Schema {
	t.Helper()
	page, err := os.ReadFile("../docs/policy-abi.md")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile("(?s)<!-- schema: " + name + " -->\n```json\n(.*?)```").FindSubmatch(page)
	if found == nil {
		t.Fatalf("the page has no schema of a %s", name)
	}
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(found[1]))
	if err != nil {
		t.Fatal(err)
	}
	shut(document)
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("mem:"+name, document); err != nil {
		t.Fatal(err)
	}
	schema, err := compiler.Compile("mem:" + name)
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

// shut makes every object of a schema that names properties take no other.
func shut(schema any) {
	switch s := schema.(type) {
	case map[string]any:
		if _, ok := s["properties"]; ok && s["type"] == "object" {
			s["additionalProperties"] = false
		}
		for _, inside := range s {
			shut(inside)
		}
	case []any:
		for _, inside := range s {
			shut(inside)
		}
	}
}

func holds(t *testing.T, schema *jsonschema.Schema, v any) error {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return schema.Validate(value)
}

// TestTheDocumentedSchemas: what package abi writes is what the page says, field by field.
func TestTheDocumentedSchemas(t *testing.T) {
	r := request(abi.Redact, `{"a": 1}`, "outputs.a")
	r.Policies = []abi.PolicyRef{{Owner: "arn", Asset: "inputs.a", Module: "sha256:00", Config: "sha256:00"}}
	r.Assets = []abi.Asset{{Name: "inputs.a", Kind: "model", Form: "file", Digest: "sha256:00", Owner: "arn", Sealed: true, Verified: true, Bytes: 1}}
	r.Artifacts = []abi.Artifact{{Channel: "outputs.a", Kind: "tree", Digest: "sha256:00", Bytes: 1, Files: 1}}
	r.PCRs = map[string]string{"0": "00"}
	schema := documented(t, "request")
	if err := holds(t, schema, r); err != nil {
		t.Error(err)
	}
	r.Point = "later"
	if holds(t, schema, r) == nil {
		t.Error("an unknown point is taken")
	}
	schema = documented(t, "decision")
	for _, d := range []abi.Decision{
		{}, {Code: "small-group"}, {Allow: true, Redacted: []abi.Channel{"outputs.a"}},
		{Allow: true, Channels: []abi.Channel{"outputs.a"}, Caps: map[abi.Channel]int64{"outputs.a": 1<<63 - 1}, Recipients: []string{}},
	} {
		if err := holds(t, schema, d); err != nil {
			t.Error(err)
		}
	}
	for _, d := range []abi.Decision{
		{Code: "Small"}, {Allow: true, Channels: []abi.Channel{"a", "a"}}, {Allow: true, Caps: map[abi.Channel]int64{"a": -1}}, {Allow: true, Recipients: []string{""}},
	} {
		if holds(t, schema, d) == nil {
			t.Errorf("%+v is taken", d)
		}
	}
}
