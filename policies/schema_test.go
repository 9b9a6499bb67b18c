package policies_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cloister-run/cloister/policies"
)

// withSchema loads a policy that declares a schema.
func withSchema(t *testing.T, schema string) *policies.Policy {
	t.Helper()
	manifest := `{"abi":1,"name":"guest"}`
	if schema != "" {
		manifest = `{"abi":1,"name":"guest","config_schema":` + schema + `}`
	}
	return load(t, newEngine(t, policies.Limits{}), guest{manifest: manifest}.bytes(t))
}

const columnsSchema = `{"type":"object","properties":{"columns":{"type":"array","items":{"type":"string"}},
	"min_group":{"type":"integer","minimum":1}},"required":["columns"],"additionalProperties":false}`

// TestCheckConfig: a configuration is held against the schema, place by place.
func TestCheckConfig(t *testing.T) {
	policy := withSchema(t, columnsSchema)
	if err := policy.CheckConfig(json.RawMessage(`{"columns":["id"],"min_group":5}`)); err != nil {
		t.Errorf("a good configuration: %v", err)
	}
	for _, row := range []struct{ rule, config, reason string }{
		{"none", "null", "config: missing"},
		{"nothing at all", "", "config: missing"},
		{"no JSON", "{", "config: not a JSON document"},
		{"another type", `["id"]`, "config: got array, want object"},
		{"a missing field", `{}`, "missing property 'columns'"},
		{"an unknown field", `{"columns":[],"logs":true}`, "additional properties 'logs' not allowed"},
		{"a field twice", `{"columns":[],"columns":["id"]}`, "columns: appears twice"},
		{"a wrong item", `{"columns":["id",7]}`, "config.columns[1]: got number, want string"},
		{"two problems", `{"columns":[7],"min_group":0}`, "config.min_group: minimum: got 0, want 1"},
		{"a number that is too large", `{"columns":[],"min_group":1e400}`, "too long or too large"},
		{"a number that is too long", `{"columns":[],"min_group":` + strings.Repeat("9", 33) + `}`, "too long or too large"},
		{"nested too deep", strings.Repeat("[", 40) + strings.Repeat("]", 40), "nested deeper than 32"},
		{"over the limit", `{"columns":["` + strings.Repeat("x", 65536) + `"]}`, "longer than 65536 bytes"},
		{"too many values", `{"columns":[` + strings.Repeat("1,", 32_000) + `1]}`, "too many to hold against"},
	} {
		t.Run(row.rule, func(t *testing.T) {
			err := policy.CheckConfig(json.RawMessage(row.config))
			if !errors.Is(err, policies.ErrConfig) || !strings.Contains(err.Error(), row.reason) {
				t.Errorf("got %v, wanted %q", err, row.reason)
			}
		})
	}
}

// TestCheckConfigMayBeLeftOut: where the schema takes null.
func TestCheckConfigMayBeLeftOut(t *testing.T) {
	policy := withSchema(t, `{"type":["object","null"],"additionalProperties":false}`)
	for _, config := range []string{"", "null", "{}"} {
		if err := policy.CheckConfig(json.RawMessage(config)); err != nil {
			t.Errorf("%q: %v", config, err)
		}
	}
	if err := policy.CheckConfig(json.RawMessage(`{"x":1}`)); !errors.Is(err, policies.ErrConfig) {
		t.Errorf("%v", err)
	}
}

// TestCheckConfigWithoutSchema: a policy without a schema accepts no configuration.
func TestCheckConfigWithoutSchema(t *testing.T) {
	policy := withSchema(t, "")
	for _, config := range []string{"", "null", " null "} {
		if err := policy.CheckConfig(json.RawMessage(config)); err != nil {
			t.Errorf("%q: %v", config, err)
		}
	}
	for _, config := range []string{"{}", "[]", "0", "false", `""`, "x"} {
		if err := policy.CheckConfig(json.RawMessage(config)); !errors.Is(err, policies.ErrConfig) {
			t.Errorf("%q: %v", config, err)
		}
	}
}

// TestSchemaIsBounded: a schema that refers elsewhere, or whose expressions are large, is
// refused when the policy is loaded.
func TestSchemaIsBounded(t *testing.T) {
	bomb := `{"type":7}`
	for i := range 30 {
		bomb = fmt.Sprintf(`{"$defs":{"d%d":%s},"allOf":[{"$ref":"#/$defs/d%d"},{"$ref":"#/$defs/d%d"}]}`, i, bomb, i, i)
	}
	for rule, schema := range map[string]string{
		"a reference":             `{"$ref":"#/$defs/a","$defs":{"a":{}}}`,
		"a reference to a file":   `{"items":{"$ref":"file:///etc/passwd"}}`,
		"a reference to a server": `{"allOf":[{"$ref":"https://example.com/schema"}]}`,
		"a dynamic reference":     `{"$dynamicRef":"#a"}`,
		"an id":                   `{"$id":"https://example.com/schema"}`,
		"an anchor":               `{"properties":{"a":{"$anchor":"a"}}}`,
		"a dynamic anchor":        `{"properties":{"a":{"$dynamicAnchor":"a"}}}`,
		"an unknown dialect":      `{"$schema":"https://example.com/dialect"}`,
		"an exponential one":      bomb,
		"a huge expression":       `{"pattern":"(a{100}){10}(b{100}){10}(c{100}){10}(d{100}){10}(e{100}){10}(f{100}){10}"}`,
		"a keyword twice":         `{"type":"object","type":"array"}`,
		"a huge number":           `{"multipleOf":1e-400000}`,
	} {
		t.Run(rule, func(t *testing.T) {
			began := time.Now()
			manifest := `{"abi":1,"name":"guest","config_schema":` + schema + `}`
			_, err := newEngine(t, policies.Limits{}).Load(t.Context(), guest{manifest: manifest}.bytes(t))
			if !errors.Is(err, policies.ErrInvalid) {
				t.Errorf("got %v", err)
			}
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
}
