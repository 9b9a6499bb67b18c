package main_test

import (
	"os"
	"strconv"
	"testing"

	policy "github.com/cloister-run/cloister/examples/policies/csv-columns"
	"github.com/cloister-run/cloister/policies/abi"
	"github.com/cloister-run/cloister/policies/policytest"
	"github.com/cloister-run/cloister/policies/sdk"
)

// TestFixturesNatively asks the policy without WebAssembly; ../policies_test.go asks it
// through the engine with the same fixtures.
func TestFixturesNatively(t *testing.T) {
	fixtures, err := policytest.Load("../fixtures/csv-columns")
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

// TestLongLine: a line is refused before it is held in memory.
func TestLongLine(t *testing.T) {
	file := append([]byte("id\n"), make([]byte, 2<<20)...)
	for i := range file[3:] {
		file[3+i] = '1'
	}
	fixture, err := policytest.Parse([]byte("point: egress\nconfig: {\"columns\": [\"id\"]}\nexpect: deny not-csv\n-- outputs.a --\n" + string(file)))
	if err != nil {
		t.Fatal(err)
	}
	decision, err := sdk.Eval(policy.Decide, fixture.Request(), fixture.Files())
	if err != nil || decision.Allow || decision.Code != "not-csv" {
		t.Errorf("answered %+v, %v", decision, err)
	}
}

// TestManyGroups: the groups that the policy counts are bounded.
func TestManyGroups(t *testing.T) {
	text := "point: egress\nconfig: {\"columns\": [\"id\"], \"group_by\": \"id\"}\nexpect: deny many-groups\n-- outputs.a --\nid\n"
	for i := range 10_001 {
		text += strconv.Itoa(i) + "\n"
	}
	fixture, err := policytest.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	decision, err := sdk.Eval(policy.Decide, fixture.Request(), fixture.Files())
	if err != nil || decision.Allow || decision.Code != "many-groups" {
		t.Errorf("answered %+v, %v", decision, err)
	}
}
