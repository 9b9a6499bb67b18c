package policies_test

import (
	"testing"
	"testing/fstest"

	"github.com/cloister-run/cloister/policies"
	"github.com/cloister-run/cloister/policies/abi"
	"github.com/cloister-run/cloister/policies/rego/build"
)

// regoModule compiles Rego with the entrypoint test/decision and packs it.
func regoModule(t testing.TB, source string) []byte {
	t.Helper()
	wasm, _, err := build.Compile(t.Context(), fstest.MapFS{"policy.rego": {Data: []byte("package test\n" + source)}}, &abi.Rego{Entrypoint: "test/decision"})
	if err != nil {
		t.Fatal(err)
	}
	packed, err := policies.Pack(wasm, abi.Manifest{ABI: 1, Name: "test", Codes: []abi.Code{{Code: "small", Hint: "too small"}}})
	if err != nil {
		t.Fatal(err)
	}
	return packed
}

func TestRegoAnswers(t *testing.T) {
	policy := load(t, newEngine(t, policies.Limits{}), regoModule(t, `decision := {"allow": true, "channels": input.channels} if sprintf("%s", [input.point]) == "admit"`))
	decision, err := policy.Decide(t.Context(), request(abi.Admit, "null", "outputs.a"), abi.Files{})
	if err != nil || !decision.Allow {
		t.Fatal(decision, err)
	}
}
