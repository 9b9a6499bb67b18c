package policytest_test

import (
	"errors"
	"io"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/cloister-run/cloister/policies/abi"
	"github.com/cloister-run/cloister/policies/policytest"
)

const fixture = `
# a rule
point: egress
config: {"a": 1}
channels: outputs.a outputs.b
expect: deny small
-- outputs.a --
text
-- outputs.b/x --
1
-- outputs.b/y --
2
`

// TestParse: the question that a fixture asks.
func TestParse(t *testing.T) {
	f, err := policytest.Parse([]byte(fixture))
	if err != nil {
		t.Fatal(err)
	}
	req := f.Request()
	if req.Point != abi.Egress || string(req.Config) != `{"a": 1}` || len(req.Channels) != 2 || len(req.Artifacts) != 2 {
		t.Errorf("%+v", req)
	}
	if a, b := req.Artifacts[0], req.Artifacts[1]; a.Kind != "file" || a.Bytes != 5 || b.Kind != "tree" || b.Files != 2 || b.Bytes != 4 {
		t.Errorf("%+v %+v", a, b)
	}
	if len(req.Assets) != 1 || !req.Assets[0].Verified || req.Executor.Digest == "" || req.Sharing != 0 {
		t.Errorf("%+v", req)
	}
	f, err = policytest.Parse([]byte("point: admit\nassets: [{\"name\":\"application\",\"sealed\":true}]\nexecutor: sha256:00\nsharing: 2\nexpect: allow\n"))
	if err != nil {
		t.Fatal(err)
	}
	if req := f.Request(); len(req.Assets) != 1 || !req.Assets[0].Sealed || req.Executor.Digest != "sha256:00" || req.Sharing != 2 {
		t.Errorf("%+v", req)
	}
}

// TestParseRefuses: a fixture that says something else than it seems to is none.
func TestParseRefuses(t *testing.T) {
	for rule, text := range map[string]string{
		"no expectation":             "point: admit\n",
		"no point":                   "expect: allow\n",
		"an unknown point":           "point: later\nexpect: allow\n",
		"an unknown key":             "point: admit\nexpect: allow\nchannel: outputs.a\n",
		"an unknown expectation":     "point: admit\nexpect: maybe\n",
		"two codes":                  "point: admit\nexpect: deny a b\n",
		"a broken configuration":     "point: admit\nconfig: {\nexpect: allow\n",
		"an unknown field of assets": "point: admit\nassets: [{\"nam\":\"application\"}]\nexpect: allow\n",
		"assets that are no list":    "point: admit\nassets: {}\nexpect: allow\n",
		"fewer jobs than none":       "point: admit\nsharing: -1\nexpect: allow\n",
		"artifacts before egress":    "point: admit\nexpect: allow\n-- outputs.a --\n",
		"an artifact that leads out": "point: egress\nexpect: allow\n-- ../a --\n",
		"an artifact twice":          "point: egress\nexpect: allow\n-- a --\n-- a --\n",
	} {
		if _, err := policytest.Parse([]byte(text)); err == nil {
			t.Errorf("%s: accepted", rule)
		}
	}
	if _, err := policytest.Load(t.TempDir()); err == nil {
		t.Error("a folder without fixtures: accepted")
	}
}

// TestCheck: an answer passes only if it is the expected one.
func TestCheck(t *testing.T) {
	m := abi.Manifest{ABI: 1, Name: "p", Codes: []abi.Code{{Code: "small", Hint: "h"}, {Code: "large", Hint: "h"}}}
	parse := func(text string) policytest.Fixture {
		f, err := policytest.Parse([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	a := []abi.Channel{"outputs.a"}
	admit := "point: admit\nchannels: outputs.a\nexpect: "
	for _, row := range []struct {
		rule     string
		fixture  string
		decision abi.Decision
		err      error
		ok       bool
	}{
		{"the code", admit + "deny small", abi.Decision{Code: "small"}, nil, true},
		{"no code", admit + "deny", abi.Decision{}, nil, true},
		{"the consent", admit + "allow outputs.a", abi.Decision{Allow: true, Channels: a}, nil, true},
		{"an error", admit + "error", abi.Decision{}, errors.New("x"), true},
		{"an answer that the border would not believe", admit + "error", abi.Decision{Code: "other"}, nil, true},
		{"another code", admit + "deny small", abi.Decision{Code: "large"}, nil, false},
		{"a code too much", admit + "deny", abi.Decision{Code: "small"}, nil, false},
		{"an error for a denial", admit + "deny", abi.Decision{}, errors.New("x"), false},
		{"a denial for an error", admit + "error", abi.Decision{}, nil, false},
		{"an allow for a denial", admit + "deny", abi.Decision{Allow: true}, nil, false},
		{"less consent", admit + "allow outputs.a", abi.Decision{Allow: true}, nil, false},
		{"more consent", admit + "allow", abi.Decision{Allow: true, Channels: a}, nil, false},
		{"a cap that was not expected", admit + "allow outputs.a", abi.Decision{Allow: true, Channels: a, Caps: map[abi.Channel]int64{"outputs.a": 1}}, nil, false},
		{"an allow with an error", admit + "error", abi.Decision{Allow: true}, errors.New("x"), false},
	} {
		err := check(parse(row.fixture), row.decision, row.err, m)
		if (err == nil) != row.ok {
			t.Errorf("%s: %v", row.rule, err)
		}
	}
	if err := check(parse(admit+"deny small"), abi.Decision{}, errors.New("the cause"), m); err == nil || !strings.Contains(err.Error(), "the cause") {
		t.Errorf("the cause is missing: %v", err)
	}
}

func check(f policytest.Fixture, d abi.Decision, err error, m abi.Manifest) error {
	return f.Check(f.Ask(func(abi.Request, abi.Files) (abi.Decision, error) { return d, err }), m)
}

// TestCheckRedaction: a redaction passes only if exactly the expected files were written.
func TestCheckRedaction(t *testing.T) {
	f, err := policytest.Parse([]byte(`
point: redact
expect: allow outputs.a
-- outputs.a --
id,name
-- self/inputs.b --
own
-- redacted/outputs.a --
id,name
`))
	if err != nil {
		t.Fatal(err)
	}
	redactions := map[string]string{}
	for _, row := range []struct {
		rule    string
		name    string
		content string
		answers []abi.Channel
		problem string
	}{
		{"as expected", "outputs.a", "id,name\n", []abi.Channel{"outputs.a"}, ""},
		{"other content", "outputs.a", "id\n", []abi.Channel{"outputs.a"}, "-id,name"},
		{"another channel", "outputs.b", "id,name\n", []abi.Channel{"outputs.a"}, "expected, and not written"},
		{"not named", "outputs.a", "id,name\n", nil, `answered "allow", expected "allow outputs.a"`},
	} {
		answer := f.Ask(func(r abi.Request, files abi.Files) (abi.Decision, error) {
			if own, err := fs.ReadFile(files.Own, "inputs.b"); err != nil || string(own) != "own\n" || len(r.Artifacts) != 1 {
				t.Errorf("found %q, %v", own, err)
			}
			out, err := files.Redacted.Create(row.name)
			if err != nil {
				return abi.Decision{}, err
			}
			_, err = io.WriteString(out, row.content)
			return abi.Decision{Allow: true, Redacted: row.answers}, err
		})
		err := f.Check(answer, abi.Manifest{Redacts: []abi.Channel{abi.AnyOutput}})
		if (err == nil) != (row.problem == "") || err != nil && !strings.Contains(err.Error(), row.problem) {
			t.Errorf("%s: %v", row.rule, err)
		}
		redaction := answer.Redaction()
		if before := redactions[redaction]; redaction == "" != (row.answers == nil) || before != "" {
			t.Errorf("%s: what was written is %q, as with %q", row.rule, redaction, before)
		}
		redactions[redaction] = row.rule
	}
}

// TestSealedOutputs: a fixture says to whom outputs are sealed, and whom an admission must accept.
func TestSealedOutputs(t *testing.T) {
	text := "seal_to: {\"a\": [\"age1x\"]}\nchannels: outputs.a outputs.b\n"
	f, err := policytest.Parse([]byte("point: egress\nexpect: allow\n" + text + "-- outputs.a --\n-- outputs.b --\n"))
	if err != nil {
		t.Fatal(err)
	}
	r := f.Request()
	if a, b := r.Artifacts[0].Recipients, r.Artifacts[1].Recipients; !slices.Equal(a, []string{"age1x"}) || b != nil {
		t.Errorf("recipients %v and %v", a, b)
	}
	if !strings.Contains(string(r.Job), `"seal_to":{"a":["age1x"]}`) {
		t.Errorf("job %s", r.Job)
	}
	if f, err = policytest.Parse([]byte("point: admit\nexpect: allow outputs.a\nrecipients: [\"age1x\"]\n" + text)); err != nil {
		t.Fatal(err)
	}
	d := abi.Decision{Allow: true, Channels: []abi.Channel{"outputs.a"}}
	for _, row := range []struct {
		recipients []string
		good       bool
	}{{[]string{"age1x"}, true}, {[]string{"age1y"}, false}, {[]string{}, false}, {nil, false}} {
		d.Recipients = row.recipients
		if err := check(f, d, nil, abi.Manifest{}); (err == nil) != row.good {
			t.Errorf("accepts %v: %v", row.recipients, err)
		}
	}
}
