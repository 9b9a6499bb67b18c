package abi_test

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/cloister-run/cloister/policies/abi"
)

// TestDecodeDecisionRefuses: what is not exactly a decision is an error and the zero Decision.
func TestDecodeDecisionRefuses(t *testing.T) {
	for rule, text := range map[string]string{
		"nothing":                      "",
		"white space":                  " \n",
		"null":                         "null",
		"another type":                 `[{"allow":true}]`,
		"no allow":                     `{}`,
		"allow that is null":           `{"allow":null}`,
		"allow that is a number":       `{"allow":1}`,
		"allow that is text":           `{"allow":"true"}`,
		"an unknown field":             `{"allow":true,"reason":"x"}`,
		"a field in another case":      `{"Allow":true}`,
		"a second spelling of a field": `{"allow":false,"ALLOW":true}`,
		"a spelling that folds":        `{"allow":true,"recipientſ":["x"]}`,
		"a field twice":                `{"allow":false,"allow":true}`,
		"a field twice by an escape":   `{"allow":false,"\u0061llow":true}`,
		"a cap twice":                  `{"allow":true,"caps":{"outputs.a":1,"outputs.a":9}}`,
		"a cap that is no whole":       `{"allow":true,"caps":{"outputs.a":1.5}}`,
		"a cap over 63 bits":           `{"allow":true,"caps":{"outputs.a":9223372036854775808}}`,
		"a channel that is no text":    `{"allow":true,"channels":[7]}`,
		"trailing data":                `{"allow":true}{"allow":true}`,
		"trailing text":                `{"allow":true} true`,
		"cut short":                    `{"allow":true`,
		"invalid UTF-8":                "{\"allow\":false,\"code\":\"\xff\"}",
		"a byte order mark":            "\ufeff" + `{"allow":true}`,
		"over the limit":               `{"allow":true}` + strings.Repeat(" ", abi.MaxDecisionBytes),
		"nested too deep":              `{"channels":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`,
	} {
		t.Run(rule, func(t *testing.T) {
			d, err := abi.DecodeDecision([]byte(text))
			if err == nil {
				t.Error("accepted")
			}
			if d.Allow || d.Code != "" || d.Channels != nil || d.Caps != nil || d.Recipients != nil {
				t.Errorf("an error came with %+v", d)
			}
		})
	}
}

// TestDecisionRoundTrip: what a policy means arrives, an empty list of recipients included.
func TestDecisionRoundTrip(t *testing.T) {
	for _, d := range []abi.Decision{
		{},
		{Allow: true},
		{Code: "small-group"},
		{Allow: true, Channels: []abi.Channel{abi.Output("a"), abi.Stdout}, Caps: map[abi.Channel]int64{abi.Stdout: 0}},
		{Allow: true, Recipients: []string{}},
		{Allow: true, Recipients: []string{"age1x"}},
	} {
		text, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		got, err := abi.DecodeDecision(text)
		if err != nil || fmt.Sprintf("%#v", got) != fmt.Sprintf("%#v", d) {
			t.Errorf("%s became %#v, %v", text, got, err)
		}
	}
}

// TestDecisionCheck: deny rows outnumber allow rows.
func TestDecisionCheck(t *testing.T) {
	m := abi.Manifest{ABI: 1, Name: "p", Codes: []abi.Code{{Code: "small", Hint: "h"}}, Redacts: []abi.Channel{abi.AnyOutput}}
	a, b := abi.Output("a"), abi.Output("b")
	caps := func(channel abi.Channel, n int64) map[abi.Channel]int64 { return map[abi.Channel]int64{channel: n} }
	for _, row := range []struct {
		rule     string
		point    abi.Point
		decision abi.Decision
		problems int
	}{
		{"a denial", abi.Egress, abi.Decision{}, 0},
		{"a denial with a declared code", abi.Admit, abi.Decision{Code: "small"}, 0},
		{"an allow", abi.Egress, abi.Decision{Allow: true}, 0},
		{"a consent with caps and recipients", abi.Admit, abi.Decision{Allow: true, Channels: []abi.Channel{a, abi.Stdout}, Caps: caps(a, 0), Recipients: []string{"age1x"}}, 0},
		{"a consent for nobody", abi.Admit, abi.Decision{Allow: true, Channels: []abi.Channel{a}, Recipients: []string{}}, 0},
		{"an undeclared code", abi.Egress, abi.Decision{Code: "other"}, 1},
		{"a code in another case", abi.Egress, abi.Decision{Code: "Small"}, 1},
		{"a code with an allow", abi.Egress, abi.Decision{Allow: true, Code: "small"}, 1},
		{"channels with a denial", abi.Admit, abi.Decision{Channels: []abi.Channel{a}}, 1},
		{"channels at ingress", abi.Ingress, abi.Decision{Allow: true, Channels: []abi.Channel{a}}, 1},
		{"channels at egress", abi.Egress, abi.Decision{Allow: true, Channels: []abi.Channel{a}}, 1},
		{"caps at egress", abi.Egress, abi.Decision{Allow: true, Caps: caps(a, 1)}, 1},
		{"recipients at egress", abi.Egress, abi.Decision{Allow: true, Recipients: []string{}}, 1},
		{"a channel that was not asked for", abi.Admit, abi.Decision{Allow: true, Channels: []abi.Channel{b}}, 1},
		{"a channel twice", abi.Admit, abi.Decision{Allow: true, Channels: []abi.Channel{a, a}}, 1},
		{"a cap without consent", abi.Admit, abi.Decision{Allow: true, Channels: []abi.Channel{a}, Caps: caps(abi.Stdout, 1)}, 1},
		{"a negative cap", abi.Admit, abi.Decision{Allow: true, Channels: []abi.Channel{a}, Caps: caps(a, math.MinInt64)}, 1},
		{"an empty recipient", abi.Admit, abi.Decision{Allow: true, Recipients: []string{""}}, 1},
		{"a recipient that writes to the terminal", abi.Admit, abi.Decision{Allow: true, Recipients: []string{"\x1b[2J"}}, 1},
		{"a recipient twice", abi.Admit, abi.Decision{Allow: true, Recipients: []string{"x", "x"}}, 1},
		{"too many recipients", abi.Admit, abi.Decision{Allow: true, Recipients: make([]string, abi.MaxRecipients+1)}, 1},
		{"a redaction", abi.Redact, abi.Decision{Allow: true, Redacted: []abi.Channel{a}}, 0},
		{"a redaction of nothing", abi.Redact, abi.Decision{Allow: true}, 0},
		{"a redaction at admit", abi.Admit, abi.Decision{Allow: true, Redacted: []abi.Channel{a}}, 1},
		{"a redaction at ingress", abi.Ingress, abi.Decision{Allow: true, Redacted: []abi.Channel{a}}, 1},
		{"a redaction at egress", abi.Egress, abi.Decision{Allow: true, Redacted: []abi.Channel{a}}, 1},
		{"a redaction with a denial", abi.Redact, abi.Decision{Redacted: []abi.Channel{a}}, 1},
		{"a redaction that is not declared", abi.Redact, abi.Decision{Allow: true, Redacted: []abi.Channel{abi.Stdout}}, 1},
		{"a redaction of the exit status", abi.Redact, abi.Decision{Allow: true, Redacted: []abi.Channel{abi.Exit}}, 1},
		{"a redaction without an artifact", abi.Redact, abi.Decision{Allow: true, Redacted: []abi.Channel{b}}, 1},
		{"a redaction twice", abi.Redact, abi.Decision{Allow: true, Redacted: []abi.Channel{a, a}}, 1},
		{"channels at redact", abi.Redact, abi.Decision{Allow: true, Channels: []abi.Channel{a}}, 1},
		{"everything at once", abi.Admit, abi.Decision{Allow: true, Code: "small", Channels: []abi.Channel{b, b}, Caps: caps(a, -1)}, 6},
	} {
		t.Run(row.rule, func(t *testing.T) {
			req := abi.Request{Point: row.point, Channels: []abi.Channel{a, abi.Stdout},
				Artifacts: []abi.Artifact{{Channel: a}, {Channel: abi.Stdout}, {Channel: abi.Exit}}}
			err := row.decision.Check(req, m)
			if problems := count(err); problems != row.problems {
				t.Errorf("%d problems, wanted %d: %v", problems, row.problems, err)
			}
		})
	}
}

// TestManifestValidate: every problem is reported, each with its place.
func TestManifestValidate(t *testing.T) {
	hint := strings.Repeat("h", 200)
	good := abi.Manifest{ABI: 1, Name: "csv-columns2", Codes: []abi.Code{{Code: "small-group", Hint: hint}}, ConfigSchema: json.RawMessage(` {}`)}
	if err := good.Validate(); err != nil {
		t.Errorf("a good manifest: %v", err)
	}
	code := func(code, hint string) []abi.Code { return []abi.Code{{Code: code, Hint: hint}} }
	for _, row := range []struct {
		rule     string
		manifest abi.Manifest
		place    string
	}{
		{"no version", abi.Manifest{Name: "p"}, "manifest.abi"},
		{"a newer version", abi.Manifest{ABI: 2, Name: "p"}, "manifest.abi"},
		{"no name", abi.Manifest{ABI: 1}, "manifest.name"},
		{"a name with a slash", abi.Manifest{ABI: 1, Name: "a/b"}, "manifest.name"},
		{"a name in upper case", abi.Manifest{ABI: 1, Name: "CSV"}, "manifest.name"},
		{"a name that is too long", abi.Manifest{ABI: 1, Name: strings.Repeat("a", 64)}, "manifest.name"},
		{"a name that ends in a hyphen", abi.Manifest{ABI: 1, Name: "a-"}, "manifest.name"},
		{"16 codes", abi.Manifest{ABI: 1, Name: "p", Codes: manyCodes(16)}, "manifest.codes"},
		{"a code with a space", abi.Manifest{ABI: 1, Name: "p", Codes: code("a b", "h")}, "manifest.codes[0].code"},
		{"a code that is too long", abi.Manifest{ABI: 1, Name: "p", Codes: code(strings.Repeat("a", 33), "h")}, "manifest.codes[0].code"},
		{"a code that is taken", abi.Manifest{ABI: 1, Name: "p", Codes: code("denied", "h")}, "manifest.codes[0].code"},
		{"a code twice", abi.Manifest{ABI: 1, Name: "p", Codes: append(code("a", "h"), code("a", "h")...)}, "manifest.codes[1].code"},
		{"a redaction of the exit status", abi.Manifest{ABI: 1, Name: "p", Redacts: []abi.Channel{abi.Exit}}, "manifest.redacts[0]"},
		{"a redaction of an output without a name", abi.Manifest{ABI: 1, Name: "p", Redacts: []abi.Channel{"outputs."}}, "manifest.redacts[0]"},
		{"a redaction of another log", abi.Manifest{ABI: 1, Name: "p", Redacts: []abi.Channel{"logs.other"}}, "manifest.redacts[0]"},
		{"a redaction twice", abi.Manifest{ABI: 1, Name: "p", Redacts: []abi.Channel{abi.Stdout, abi.Stdout}}, "manifest.redacts[1]"},
		{"a redaction that writes to the terminal", abi.Manifest{ABI: 1, Name: "p", Redacts: []abi.Channel{"outputs.\x1b"}}, "manifest.redacts[0]"},
		{"65 redactions", abi.Manifest{ABI: 1, Name: "p", Redacts: make([]abi.Channel, 65)}, "manifest.redacts"},
		{"no hint", abi.Manifest{ABI: 1, Name: "p", Codes: code("a", "")}, "manifest.codes[0].hint"},
		{"a hint of two lines", abi.Manifest{ABI: 1, Name: "p", Codes: code("a", "x\ny")}, "manifest.codes[0].hint"},
		{"a hint that is too long", abi.Manifest{ABI: 1, Name: "p", Codes: code("a", hint+"h")}, "manifest.codes[0].hint"},
		{"a hint that reorders a line", abi.Manifest{ABI: 1, Name: "p", Codes: code("a", "x\u202ey")}, "manifest.codes[0].hint"},
		{"a schema that is a list", abi.Manifest{ABI: 1, Name: "p", ConfigSchema: json.RawMessage(`[]`)}, "manifest.config_schema"},
		{"a schema that is true", abi.Manifest{ABI: 1, Name: "p", ConfigSchema: json.RawMessage(`true`)}, "manifest.config_schema"},
	} {
		t.Run(row.rule, func(t *testing.T) {
			err := row.manifest.Validate()
			if count(err) != 1 || !strings.Contains(err.Error(), row.place+":") {
				t.Errorf("got %v, wanted one problem at %s", err, row.place)
			}
		})
	}
	if err := (abi.Manifest{Codes: manyCodes(16), ConfigSchema: json.RawMessage("1")}).Validate(); count(err) != 4 {
		t.Errorf("four problems at once: %v", err)
	}
	if err := (abi.Manifest{ABI: 1, Name: "p", Codes: manyCodes(abi.MaxCodes)}).Validate(); err != nil {
		t.Errorf("15 codes: %v", err)
	}
}

func manyCodes(n int) []abi.Code {
	codes := make([]abi.Code, n)
	for i := range codes {
		codes[i] = abi.Code{Code: fmt.Sprintf("code-%d", i), Hint: "h"}
	}
	return codes
}

// TestDecodeManifest: strict like a decision, down to the codes and into the schema.
func TestDecodeManifest(t *testing.T) {
	if _, err := abi.DecodeManifest([]byte(`{"abi":1,"name":"p","config_schema":{"anything":{"goes":1}}}`)); err != nil {
		t.Errorf("a good manifest: %v", err)
	}
	for _, row := range []struct{ rule, text, reason string }{
		{"nothing", "", "not a JSON document"},
		{"a newer version with fields unknown here", `{"abi":2,"name":"p","new":1}`, "written for version 2"},
		{"an unknown field", `{"abi":1,"name":"p","redact":[]}`, "redact: unknown field"},
		{"an unknown field of a code", `{"abi":1,"name":"p","codes":[{"code":"a","hint":"h","x":1}]}`, "codes[0].x: unknown field"},
		{"a field of a code twice", `{"abi":1,"name":"p","codes":[{"code":"a","code":"b","hint":"h"}]}`, "codes[0].code: appears twice"},
		{"a keyword of the schema twice", `{"abi":1,"name":"p","config_schema":{"type":"a","type":"b"}}`, "config_schema.type: appears twice"},
		{"trailing data", `{"abi":1,"name":"p"}{}`, "not a JSON document"},
		{"a manifest that is not valid", `{"abi":1,"name":"P"}`, "manifest.name"},
		{"over the limit", `{"abi":1,"name":"p"}` + strings.Repeat(" ", abi.MaxManifestBytes), "longer than"},
	} {
		t.Run(row.rule, func(t *testing.T) {
			m, err := abi.DecodeManifest([]byte(row.text))
			if err == nil || !strings.Contains(err.Error(), row.reason) || m.Name != "" {
				t.Errorf("got %+v, %v; wanted %q", m, err, row.reason)
			}
		})
	}
}

// TestDecodeExactTypes: embedded structs, pointers and maps of structs are walked too.
func TestDecodeExactTypes(t *testing.T) {
	type Base struct {
		A int `json:"a"`
	}
	type shape struct {
		Base
		B map[string]*Base `json:"b"`
		C [1]Base          `json:"c"`
		D string
		e int
	}
	_ = shape{}.e
	for text, ok := range map[string]bool{
		`{"a":1,"b":{"x":{"a":2}},"c":[{"a":3}],"D":"d"}`: true,
		`{"b":{"x":{"A":2}}}`:                             false,
		`{"c":[{"z":3}]}`:                                 false,
		`{"d":"d"}`:                                       false,
		`{"e":1}`:                                         false,
		`{"Base":{"a":1}}`:                                false,
		`{"b":{"x":null,"x":null}}`:                       false,
	} {
		var s shape
		if err := abi.DecodeExact([]byte(text), 1000, &s); (err == nil) != ok {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// TestChannel: names and paths of channels.
func TestChannel(t *testing.T) {
	if name, ok := abi.Output("a").OutputName(); name != "a" || !ok {
		t.Error(name, ok)
	}
	for _, channel := range []abi.Channel{abi.Stdout, abi.Exit, "outputs.", "outputsx"} {
		if name, ok := channel.OutputName(); ok {
			t.Errorf("%s is the output %q", channel, name)
		}
	}
	if path := abi.Output("a").Path(); path != "/artifact/outputs.a" {
		t.Error(path)
	}
}

// count counts the errors that were joined.
func count(err error) int {
	if err == nil {
		return 0
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return len(joined.Unwrap())
	}
	return 1
}

// TestCompareRefs: whatever the order in a job, the order of asking is one.
func TestCompareRefs(t *testing.T) {
	want := []abi.PolicyRef{
		{Owner: "a", Module: "1", Config: "1", Asset: "x"}, {Owner: "a", Module: "1", Config: "1", Asset: "y"},
		{Owner: "a", Module: "1", Config: "2", Asset: "x"}, {Owner: "a", Module: "2", Config: "1", Asset: "a"},
		{Owner: "b", Module: "1", Config: "1", Asset: "a"}, {Module: "2"}, {Module: "1"}, // the operator's own stay as they are
	}
	for rotate := range 5 {
		got := slices.Concat(want[5:], want[rotate:5], want[:rotate]) // the operator's own first
		slices.SortStableFunc(got, abi.CompareRefs)
		if !slices.Equal(got, want) {
			t.Errorf("%d: %v", rotate, got)
		}
	}
}
