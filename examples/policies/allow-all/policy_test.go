package main_test

import (
	"os"
	"testing"

	policy "github.com/cloister-run/cloister/examples/policies/allow-all"
	"github.com/cloister-run/cloister/policies/abi"
	"github.com/cloister-run/cloister/policies/policytest"
	"github.com/cloister-run/cloister/policies/sdk"
)

// TestFixturesNatively asks the policy without WebAssembly; ../policies_test.go asks it
// through the engine with the same fixtures.
func TestFixturesNatively(t *testing.T) {
	fixtures, err := policytest.Load("../fixtures/allow-all")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("manifest.json")
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := abi.DecodeManifest(text)
	if err != nil {
		t.Fatal(err)
	}
	for _, fixture := range fixtures {
		t.Run(fixture.Name, func(t *testing.T) {
			decision, err := sdk.Eval(policy.Decide, fixture.Request(), fixture.Files())
			if err := fixture.Check(decision, err, manifest); err != nil {
				t.Error(err)
			}
		})
	}
}
