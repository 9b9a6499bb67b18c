package rego_test

import (
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cloister-run/cloister/policies/rego"
)

// TestBuiltins has what OPA's own cases do not: TestOPABuiltins of package policies runs those.
func TestBuiltins(t *testing.T) {
	for _, row := range []struct{ name, args, want string }{
		{"indexof_n", `["äaäa", "a"]`, `[1, 3]`},
		{"indexof_n", `["aaa", "aa"]`, `[0, 1]`},
		{"json.marshal_with_options", `[{"b": {1, 2}, "a": null}, {}]`, `"{\"a\":null,\"b\":[1,2]}"`},
		{"json.patch", `[{1, 2}, [{"op": "add", "path": [3], "value": 3}]]`, `{1, 2, 3}`},
		{"numbers.range_step", `[10, 1, 4]`, `[10, 6, 2]`},
		{"object.subset", `[{"a": {"b": {1, 2}}, "c": 1}, {"a": {"b": {2}}}]`, `true`},
		{"object.subset", `[{"a": [1, 2, 3]}, {"a": {3, 1}}]`, `false`},
		{"regex.replace", `["abc", "(b)", "<$1$1>"]`, `"a<bb>c"`},
		{"semver.compare", `["1.0.0-alpha.1", "1.0.0-alpha.beta"]`, `-1`},
		{"sprintf", `["%s %d %v %v %.2f", ["x", 7, {1, 2}, {"a": [true]}, 2.5]]`, `"x 7 {1, 2} {\"a\": [true]} 2.50"`},
		{"strings.split_n", `["a,b,c", ",", -9223372036854775808]`, `["a", "b", "c"]`},
		{"time.diff", `[1582934400000000000, 1551398400000000000]`, `[0, 11, 28, 0, 0, 0]`},
		{"time.now_ns", `[]`, `1767323045000000000`},
		{"time.format", `[[0, "UTC", "RFC1123"]]`, `"Thu, 01 Jan 1970 00:00:00 UTC"`},
		{"time.parse_duration_ns", `["1w1.5d2h"]`, `741600000000000`},
		{"urlquery.encode_object", `[{"b": {"x", "y"}, "a": "z"}]`, `"a=z&b=x&b=y"`},
	} {
		t.Run(row.name, func(t *testing.T) {
			if got, err := rego.Call(row.name, row.args); err != nil || got != row.want {
				t.Errorf("%s(%s) is %s, %v; want %s", row.name, row.args, got, err, row.want)
			}
		})
	}
}

// TestBuiltinsUndefined: what OPA calls an error is undefined, and ends nothing.
func TestBuiltinsUndefined(t *testing.T) {
	for _, row := range []struct{ name, args string }{
		{"hex.decode", `["0"]`}, {"hex.encode", `[1]`}, {"indexof_n", `["a", ""]`}, {"json.marshal_with_options", `[1, {"indent": 1}]`},
		{"json.marshal_with_options", `[1, {"width": "x"}]`}, {"json.patch", `[{}, [{"op": "remove", "path": "/a"}]]`},
		{"json.patch", `[[1], [{"op": "add", "path": "/2", "value": 1}]]`}, {"json.patch", `[[1], [{"op": "add", "path": "/00", "value": 1}]]`},
		{"json.patch", `[{}, [{"op": "add", "path": "/a"}]]`}, {"json.patch", `[1, [1]]`}, {"json.patch", `[{}, [{"op": "shout", "path": "/a"}]]`},
		{"numbers.range_step", `[1, 2, 0]`}, {"numbers.range_step", `[1, 2, -1]`}, {"numbers.range_step", `[1.5, 2, 1]`}, {"object.subset", `[{}, set()]`},
		{"rand.intn", `["a", 1.5]`}, {"regex.find_n", `["(", "a", 1]`}, {"regex.template_match", `["a{b", "ab", "{", "}"]`},
		{"regex.template_match", `["a}b{", "ab", "{", "}"]`}, {"semver.compare", `["1.0", "1.0.0"]`}, {"semver.compare", `["01.0.0", "1.0.0"]`},
		{"sprintf", `["%s", "x"]`}, {"strings.any_prefix_match", `[1, "a"]`}, {"strings.any_prefix_match", `[["a", 1], "a"]`},
		{"time.add_date", `[0, 9999999999, 0, 0]`}, {"time.add_date", `[9223372036854775807, 1, 0, 0]`}, {"time.date", `[[0, "Europe/London"]]`},
		{"time.date", `[[0, "Local"]]`}, {"time.date", `[[]]`}, {"time.date", `["x"]`}, {"time.format", `[1e400]`}, {"time.parse_ns", `["RFC3339", "x"]`},
		{"time.parse_duration_ns", `["d"]`}, {"time.parse_rfc3339_ns", `["9999-01-01T00:00:00Z"]`}, {"urlquery.decode", `["%x"]`},
		{"urlquery.encode_object", `[{"a": 1}]`},
	} {
		t.Run(row.name, func(t *testing.T) {
			if got, err := rego.Call(row.name, row.args); err == nil || errors.Is(err, rego.ErrBound) {
				t.Errorf("%s(%s) is %s, %v; want it undefined", row.name, row.args, got, err)
			}
		})
	}
}

// TestBuiltinsAreBounded: no call of a function of the host takes long or makes more of its arguments than
// they are, for nothing interrupts it and no limit of the instance holds it.
func TestBuiltinsAreBounded(t *testing.T) {
	many := func(one string, n int) string { return strings.TrimSuffix(strings.Repeat(one+", ", n), ", ") }
	text := func(n int) string { return strconv.Quote(strings.Repeat("a", n)) }
	for _, row := range []struct{ rule, name, args string }{
		{"a width", "sprintf", `["%9999999d", [1]]`},
		{"widths", "sprintf", `["` + strings.Repeat("%999999d", 2) + `", [1, 2]]`},
		{"a precision", "sprintf", `["%.9999999f", [1.5]]`},
		{"a width over 64 bits", "sprintf", `["%99999999999999999999d", [1]]`},
		{"widths that are arguments", "sprintf", `["` + strings.Repeat("%*d", 9) + `", [` + many("999999, 1", 9) + `]]`},
		{"one argument many times", "sprintf", `["` + strings.Repeat("%[1]s", 5000) + `", [` + text(10_000) + `]]`},
		{"affixes", "strings.any_prefix_match", `[[` + many(`"a"`, 5000) + `], [` + many(`"b"`, 5000) + `]]`},
		{"places", "indexof_n", `[` + text(500_000) + `, ` + text(250_000) + `]`},
		{"a range", "numbers.range_step", `[0, 1000000000, 1]`},
		{"a part of an array", "object.subset", `[[` + many("0", 10_000) + `], [` + many("0", 5_000) + `, 1]]`},
		{"a long expression", "regex.split", `[` + text(20_000) + `, "a"]`},
		{"an expression that is large as a program", "regex.find_n", `["((a?b?c?d?){30}){30}", ` + text(10_000) + `, 1]`},
		{"a group many times", "regex.replace", `[` + text(200_000) + `, "^(.*)$", "` + strings.Repeat("$1", 1000) + `"]`},
		{"a long replacement", "regex.replace", `[` + text(100_000) + `, "", ` + text(1000) + `]`},
		{"indents", "json.marshal_with_options", `[[` + many("1", 100_000) + `], {"indent": ` + text(1000) + `}]`},
		{"many patches", "json.patch", `[{}, [` + many(`{"op": "add", "path": "/a", "value": 1}`, 1000) + `]]`},
		{"a document copied into itself", "json.patch", `[{"a": ` + text(100) + `}, [` + many(`{"op": "copy", "from": "", "path": "/b"}, {"op": "copy", "from": "", "path": "/c"}`, 100) + `]]`},
	} {
		t.Run(row.rule, func(t *testing.T) {
			began := time.Now()
			got, err := rego.Call(row.name, row.args)
			if !errors.Is(err, rego.ErrBound) {
				t.Errorf("%s gave %d bytes, %v", row.name, len(got), err)
			}
			if took := time.Since(began); took > 2*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
}

// FuzzValue: what is parsed is written as what parses alike.
func FuzzValue(f *testing.F) {
	for _, seed := range []string{
		`null`, `[1, -2.5e3, "a\u0000\n\"", {}, set()]`, `{"a": {1, 2}, [1]: {{2}: 3}}`, `{1, "x", {}}`, `-.5`, `[[[[`, `{1: 2, 3}`, `"\ud800"`, `1e99999999999`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		once, err := rego.Again(text)
		if err != nil {
			return
		}
		twice, err := rego.Again(once)
		if err != nil || once != twice {
			t.Errorf("%q is written as %q and then as %q, %v", text, once, twice, err)
		}
	})
}
