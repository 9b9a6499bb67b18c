package main_test

import (
	"strconv"
	"testing"

	policy "github.com/cloister-run/cloister/examples/policies/csv-groups-go"
	"github.com/cloister-run/cloister/policies/abi"
	"github.com/cloister-run/cloister/policies/policytest"
	"github.com/cloister-run/cloister/policies/sdk"
)

// TestFixturesNatively asks the policy without WebAssembly; ../policies_test.go asks it
// through the engine with the same fixtures.
func TestFixturesNatively(t *testing.T) {
	if err := policytest.CheckAll("../fixtures/csv-groups", "manifest.json", ask); err != nil {
		t.Error(err)
	}
}

func ask(request abi.Request, files abi.Files) (abi.Decision, error) {
	return sdk.Eval(policy.Decide, request, files)
}

// TestLongLine: a line is refused before it is held in memory.
func TestLongLine(t *testing.T) {
	file := append([]byte("id\n"), make([]byte, 2<<20)...)
	for i := range file[3:] {
		file[3+i] = '1'
	}
	fixture, err := policytest.Parse([]byte("point: egress\nconfig: {\"columns\": [\"id\"], \"group_by\": \"id\", \"min_group\": 1}\nexpect: deny not-csv\n-- outputs.a --\n" + string(file)))
	if err != nil {
		t.Fatal(err)
	}
	if err := fixture.Check(fixture.Ask(ask), abi.Manifest{Codes: []abi.Code{{Code: "not-csv"}}}); err != nil {
		t.Error(err)
	}
}

// TestManyGroups: the groups that the policy counts are bounded.
func TestManyGroups(t *testing.T) {
	text := "point: egress\nconfig: {\"columns\": [\"id\"], \"group_by\": \"id\", \"min_group\": 1}\nexpect: deny many-groups\n-- outputs.a --\nid\n"
	for i := range 10_001 {
		text += strconv.Itoa(i) + "\n"
	}
	fixture, err := policytest.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if err := fixture.Check(fixture.Ask(ask), abi.Manifest{Codes: []abi.Code{{Code: "many-groups"}}}); err != nil {
		t.Error(err)
	}
}
