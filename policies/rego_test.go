package policies_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/open-policy-agent/opa/v1/compile"
	"github.com/open-policy-agent/opa/v1/rego"

	"github.com/cloister-run/cloister/policies"
	"github.com/cloister-run/cloister/policies/abi"
	"github.com/cloister-run/cloister/policies/rego/build"
)

// compileRego compiles Rego of package test; decision is its entrypoint.
func compileRego(t testing.TB, source string) []byte {
	t.Helper()
	wasm, _, err := build.Compile(t.Context(), fstest.MapFS{"policy.rego": {Data: []byte("package test\n\n" + source)}},
		&abi.Rego{Entrypoint: "test/decision"})
	if err != nil {
		t.Fatal(err)
	}
	return wasm
}

// regoModule compiles Rego and packs it with the codes "small" and "large".
func regoModule(t testing.TB, source string) []byte {
	t.Helper()
	return packRego(t, compileRego(t, source))
}

func packRego(t testing.TB, wasm []byte) []byte {
	t.Helper()
	packed, err := policies.Pack(wasm, abi.Manifest{ABI: 1, Name: "test", Codes: []abi.Code{
		{Code: "small", Hint: "too small"}, {Code: "large", Hint: "too large"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return packed
}

// queryModule compiles a query, which `opa build` does not: its results have the names of its variables.
func queryModule(t testing.TB, query string) []byte {
	t.Helper()
	compiled, err := rego.New(rego.Query(query), rego.Module("policy.rego", "package test\n\np contains {\"allow\": true}\n\np contains {\"allow\": true, \"channels\": []}")).Compile(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return packRego(t, compiled.Bytes)
}

// TestI2_RegoFailuresDeny: whatever goes wrong in a policy in Rego is a denial.
func TestI2_RegoFailuresDeny(t *testing.T) {
	long := `"channels": [sprintf("%d", [i]) | some i in numbers.range(1, 20000)]`
	for _, row := range []struct {
		rule   string
		module []byte
		cause  error
	}{
		{"undefined", regoModule(t, `decision := {"allow": true} if input.point == "egress"`), policies.ErrAnswer},
		{"several results", queryModule(t, "result = data.test.p[_]"), policies.ErrAnswer},
		{"a result of another name", queryModule(t, `x = {"allow": true}`), policies.ErrAnswer},
		{"a result and another", queryModule(t, `result = {"allow": true}; x = [1, 2][_]`), policies.ErrAnswer},
		{"two rules that differ", regoModule(t, "decision := {\"allow\": true} if input.point == \"admit\"\n\ndecision := {\"allow\": false} if input.abi == 1"), policies.ErrTrap},
		{"two members with one key that differ", regoModule(t, `decision := {"allow": x | some x in [true, false]}`), policies.ErrTrap},
		{"an oversized answer", regoModule(t, `decision := {"allow": true, `+long+`}`), policies.ErrAnswer},
		{"an endless loop", regoModule(t, `decision := {"allow": true} if {
	many := numbers.range(1, 1000)
	some a in many
	some b in many
	some c in many
	some d in many
	d < 0
	a + b + c < 0
}`), policies.ErrTimeout},
		{"too much memory", regoModule(t, `decision := {"allow": count(numbers.range(1, 1000000)) > 0}`), policies.ErrMemory},
		{"a function of the host with too much to do", regoModule(t, `decision := {"allow": sprintf("%0999999d%0999999d", [1, 2]) != ""}`), policies.ErrTrap},
		{"a function of the host that fails", regoModule(t, `decision := {"allow": hex.decode("x") != "y"}`), policies.ErrAnswer},
		{"a boolean", regoModule(t, `decision := true`), policies.ErrAnswer},
		{"a text", regoModule(t, `decision := "{\"allow\": true}"`), policies.ErrAnswer},
		{"a list of one decision", regoModule(t, `decision := [{"allow": true}]`), policies.ErrAnswer},
		{"a set of one decision", regoModule(t, `decision contains {"allow": true}`), policies.ErrAnswer},
		{"null", regoModule(t, `decision := null`), policies.ErrAnswer},
		{"no allow", regoModule(t, `decision := {"code": "small"}`), policies.ErrAnswer},
		{"allow as a number", regoModule(t, `decision := {"allow": 1}`), policies.ErrAnswer},
		{"allow in another case", regoModule(t, `decision := {"Allow": true}`), policies.ErrAnswer},
		{"an unknown field", regoModule(t, `decision := {"allow": true, "because": "x"}`), policies.ErrAnswer},
		{"an undeclared code", regoModule(t, `decision := {"allow": false, "code": "other"}`), policies.ErrAnswer},
		{"a code with an allow", regoModule(t, `decision := {"allow": true, "code": "small"}`), policies.ErrAnswer},
		{"a channel that was not asked for", regoModule(t, `decision := {"allow": true, "channels": ["outputs.b"]}`), policies.ErrAnswer},
		{"the whole package", regoModule(t, "allow := true\n\ndecision := data.test.input"), policies.ErrAnswer},
	} {
		t.Run(row.rule, func(t *testing.T) {
			limits := policies.Limits{DecideTime: 10 * time.Second}
			if row.cause == policies.ErrTimeout {
				limits.DecideTime = 100 * time.Millisecond
			}
			if row.cause == policies.ErrMemory {
				limits.MemoryBytes = 8 << 20
			}
			decision, err := load(t, newEngine(t, limits), row.module).Decide(t.Context(), request(abi.Admit, "null", "outputs.a"), abi.Files{})
			denied(t, decision, err, row.cause)
		})
	}
}

// TestRegoAnswerIsBounded: the limit is on the decision alone, and a byte more is too much.
func TestRegoAnswerIsBounded(t *testing.T) {
	const answer = `{"allow":true,"channels":["outputs.a"]}`
	module := regoModule(t, "decision := "+answer)
	for _, row := range []struct {
		limit int
		cause error
	}{{len(answer), nil}, {len(answer) - 1, policies.ErrAnswer}} {
		decision, err := load(t, newEngine(t, policies.Limits{DecisionBytes: int64(row.limit)}), module).
			Decide(t.Context(), request(abi.Admit, "null", "outputs.a"), abi.Files{})
		if row.cause != nil {
			denied(t, decision, err, row.cause)
		} else if err != nil || !decision.Allow {
			t.Errorf("answered %+v, %v", decision, err)
		}
	}
}

// TestRegoAnswers: what a policy in Rego says arrives, so that the denials above are not those of an engine
// that denies everything.
func TestRegoAnswers(t *testing.T) {
	engine := newEngine(t, policies.Limits{})
	for _, row := range []struct {
		rule, source string
		want         string
	}{
		{"allow", `decision := {"allow": true}`, "{true  [] map[] [] []}"},
		{"deny", `decision := {"allow": false}`, "{false  [] map[] [] []}"},
		{"deny with a code", `decision := {"allow": false, "code": "small"}`, "{false small [] map[] [] []}"},
		{"consent, as a set", `decision := {"allow": true, "channels": {c | some c in input.channels}, "caps": {"outputs.a": 1}}`, "{true  [outputs.a] map[outputs.a:1] [] []}"},
		{"the input", `decision := {"allow": true} if {
	input.abi == 1
	input.point == "admit"
	input.config.columns == ["ä", "b"]
	input.executor.name == "python"
	input.assets[0].kind == "application"
	not input.artifacts
}`, "{true  [] map[] [] []}"},
		{"the time of the request", `decision := {"allow": true} if time.format(time.now_ns()) == "2026-01-02T03:04:05Z"`, "{true  [] map[] [] []}"},
		{"what is printed goes nowhere", `decision := {"allow": true} if print("x")`, "{true  [] map[] [] []}"},
		{"chance that is none", `decision := {"allow": true} if {
	rand.intn("a", 1000000) == rand.intn("a", 1000000)
	rand.intn("a", 1000000) != rand.intn("b", 1000000)
	uuid.rfc4122("a") == uuid.rfc4122("a")
	regex.match("^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$", uuid.rfc4122("a"))
}`, "{true  [] map[] [] []}"},
	} {
		t.Run(row.rule, func(t *testing.T) {
			decision, err := load(t, engine, regoModule(t, row.source)).Decide(t.Context(), request(abi.Admit, `{"columns": ["ä", "b"]}`, "outputs.a"), abi.Files{})
			if got := fmt.Sprint(decision); err != nil || got != row.want {
				t.Errorf("answered %s, %v; want %s", got, err, row.want)
			}
		})
	}
}

// TestRegoLoadRefuses: a module that OPA built and that no enclave can run is refused for a reason that helps.
func TestRegoLoadRefuses(t *testing.T) {
	with := func(source string, m abi.Manifest) []byte {
		packed, err := policies.Pack(compileRego(t, source), m)
		if err != nil {
			t.Fatal(err)
		}
		return packed
	}
	const plain = `decision := {"allow": true}`
	two, err := rego.New(rego.Query("data.test"), rego.Module("policy.rego", "package test\n\n"+plain)).Compile(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		rule   string
		module []byte
		reason string
	}{
		{"functions that nobody offers", regoModule(t, `decision := {"allow": http.send({"url": "http://x", "method": "get"}).status_code == opa.runtime().x}`),
			`needs built-in functions that nobody offers: "http.send", "opa.runtime"`},
		{"an entrypoint that is not there", with(plain, abi.Manifest{ABI: 1, Name: "test", Rego: &abi.Rego{Entrypoint: "test/other"}}),
			`no entrypoint "test/other"; it has "test/decision"`},
		{"an entrypoint of another name", packWith(t, two.Bytes, abi.Manifest{ABI: 1, Name: "test", Rego: &abi.Rego{Entrypoint: "test/decision"}}),
			`no entrypoint "test/decision"; it has "eval"`},
		{"a data document that is none", appendSection(regoModule(t, plain), 0, append(text("cloister.rego.data"), "[]"...)), "data: json: cannot unmarshal"},
		{"a data document that says a thing twice", appendSection(regoModule(t, plain), 0, append(text("cloister.rego.data"), `{"a":1,"a":2}`...)), "data: a: appears twice"},
		{"two data documents", appendSection(appendSection(regoModule(t, plain), 0, append(text("cloister.rego.data"), "{}"...)), 0, append(text("cloister.rego.data"), "{}"...)), "2 cloister.rego.data sections"},
		{"no manifest", compileRego(t, plain), "no cloister.policy section"},
		{"rego in the manifest of a WASI command", guest{manifest: `{"abi":1,"name":"guest","rego":{"entrypoint":"x"}}`}.bytes(t),
			"manifest.rego: given for a module that OPA did not build"},
	} {
		t.Run(row.rule, func(t *testing.T) {
			refused(t, policies.Limits{}, row.module, row.reason)
		})
	}
	for _, row := range []struct {
		rule   string
		m      abi.Manifest
		data   string
		reason string
	}{
		{"an entrypoint that is no line of text", abi.Manifest{ABI: 1, Name: "test", Rego: &abi.Rego{Entrypoint: "a\nb"}}, "", "rego.entrypoint: not at most 200 bytes of printable text"},
		{"channels to redact", abi.Manifest{ABI: 1, Name: "test", Redacts: []abi.Channel{"outputs.a"}}, "", "which cannot write files"},
		{"data that is no object", abi.Manifest{ABI: 1, Name: "test"}, "7", "data: json: cannot unmarshal"},
		{"data over the limit", abi.Manifest{ABI: 1, Name: "test"}, `{"a":"` + strings.Repeat("x", 1<<20) + `"}`, "longer than 1048576 bytes"},
	} {
		t.Run("pack "+row.rule, func(t *testing.T) {
			if _, err := policies.PackData(compileRego(t, plain), row.m, []byte(row.data)); err == nil || !strings.Contains(err.Error(), row.reason) {
				t.Errorf("got %v; wanted %q", err, row.reason)
			}
		})
	}
	t.Run("pack data for a WASI command", func(t *testing.T) {
		if _, err := policies.PackData(says(yes).bytes(t), abi.Manifest{ABI: 1, Name: "test"}, []byte("{}")); err == nil || !strings.Contains(err.Error(), "OPA did not build") {
			t.Errorf("got %v", err)
		}
	})
}

func packWith(t testing.TB, wasm []byte, m abi.Manifest) []byte {
	t.Helper()
	packed, err := policies.Pack(wasm, m)
	if err != nil {
		t.Fatal(err)
	}
	return packed
}

func refused(t *testing.T, limits policies.Limits, module []byte, reason string) {
	t.Helper()
	policy, err := newEngine(t, limits).Load(t.Context(), module)
	if policy != nil || err == nil || !strings.Contains(err.Error(), reason) {
		t.Errorf("got %v, %v; wanted %q", policy, err, reason)
	}
}

// TestRegoData: data goes with the module, and a policy packed again keeps it.
func TestRegoData(t *testing.T) {
	m := abi.Manifest{ABI: 1, Name: "test"}
	wasm, data, err := build.Compile(t.Context(), fstest.MapFS{
		"a/policy.rego":      {Data: []byte("package test\n\ndecision := {\"allow\": data.who.ada == \"yes\"}")},
		"a/policy_test.rego": {Data: []byte("package test\n\ntest_nothing if false")},
		"data.json":          {Data: []byte(`{"who": {"ada": "yes"}}`)},
	}, &abi.Rego{Entrypoint: "test/decision"})
	if err != nil {
		t.Fatal(err)
	}
	packed, err := policies.PackData(wasm, m, data)
	if err != nil {
		t.Fatal(err)
	}
	again := packWith(t, packed, m)
	other, err := policies.PackData(packed, m, []byte(`{"who": {"ada": "no"}}`))
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		rule   string
		module []byte
		allow  bool
	}{{"packed", packed, true}, {"packed again", again, true}, {"with other data", other, false}} {
		t.Run(row.rule, func(t *testing.T) {
			decision, err := load(t, newEngine(t, policies.Limits{}), row.module).Decide(t.Context(), request(abi.Admit, "null"), abi.Files{})
			if err != nil || decision.Allow != row.allow {
				t.Errorf("answered %+v, %v", decision, err)
			}
		})
	}
}

// TestRegoBundle: what `opa build -t wasm` writes is packed as it is.
func TestRegoBundle(t *testing.T) {
	dir := t.TempDir()
	source := filepath.Join(dir, "source")
	write := func(path, text string) {
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join(source, "policy.rego"), "package test\n\ndecision := {\"allow\": data.who.ada == \"yes\"}")
	write(filepath.Join(source, "data.json"), `{"who": {"ada": "yes"}}`)
	write(filepath.Join(dir, "manifest.json"), `{"abi": 1, "name": "test", "rego": {"entrypoint": "test/decision"}}`)
	var bundle bytes.Buffer
	if err := compile.New().WithTarget(compile.TargetWasm).WithEntrypoints("test/decision").WithPaths(source).
		WithAsBundle(true).WithOutput(&bundle).Build(t.Context()); err != nil {
		t.Fatal(err)
	}
	file, out := filepath.Join(dir, "bundle.tar.gz"), filepath.Join(dir, "policy.wasm")
	write(file, bundle.String())
	if err := policies.PackFile(file, filepath.Join(dir, "manifest.json"), out); err != nil {
		t.Fatal(err)
	}
	decision, err := loadFile(t, newEngine(t, policies.Limits{}), out).Decide(t.Context(), request(abi.Admit, "null"), abi.Files{})
	if err != nil || !decision.Allow {
		t.Errorf("answered %+v, %v", decision, err)
	}
	write(file, bundle.String()[:bundle.Len()-9])
	if err := policies.PackFile(file, filepath.Join(dir, "manifest.json"), out); !errors.Is(err, policies.ErrInvalid) {
		t.Errorf("half a bundle gave %v", err)
	}
}

// TestRegoFreshInstance: instances share nothing, though OPA's modules import their memory.
func TestRegoFreshInstance(t *testing.T) {
	policy := load(t, newEngine(t, policies.Limits{}), regoModule(t, `decision := {"allow": count(input.channels) == 1}`))
	done := make(chan error)
	for i := range 8 {
		go func() {
			channels := []abi.Channel{"outputs.a", "outputs.b"}[:1+i%2]
			for range 20 {
				decision, err := policy.Decide(t.Context(), request(abi.Admit, "null", channels...), abi.Files{})
				if err != nil || decision.Allow != (i%2 == 0) {
					done <- fmt.Errorf("%d channels: answered %+v, %w", len(channels), decision, err)
					return
				}
			}
			done <- nil
		}()
	}
	for range 8 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
