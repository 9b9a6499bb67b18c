package main_test

import (
	"testing"

	"github.com/cloister-run/cloister/policies/abi"
	policy "github.com/cloister-run/cloister/policies/library/allow-all"
	"github.com/cloister-run/cloister/policies/policytest"
	"github.com/cloister-run/cloister/policies/sdk"
)

// TestFixturesNatively asks the policy without WebAssembly; ../policies_test.go asks it
// through the engine with the same fixtures.
func TestFixturesNatively(t *testing.T) {
	if err := policytest.CheckAll("../fixtures/allow-all", "manifest.json", ask); err != nil {
		t.Error(err)
	}
}

func ask(request abi.Request, files abi.Files) (abi.Decision, error) {
	return sdk.Eval(policy.Decide, request, files)
}
