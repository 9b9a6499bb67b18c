package policies_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/test/cases"
	"github.com/open-policy-agent/opa/v1/types"

	"github.com/cloister-run/cloister/policies"
	"github.com/cloister-run/cloister/policies/abi"
)

// opaCases reads OPA's own cases from the module that go.mod names.
func opaCases(t *testing.T, pattern string) []cases.TestCase {
	t.Helper()
	dir, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/open-policy-agent/opa").Output()
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(dir)), pattern))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: no case, %v", pattern, err)
	}
	var all []cases.TestCase
	for _, file := range files {
		set, err := cases.Load(file)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, set.Cases...)
	}
	return all
}

// opaModule compiles a case with OPA's compiler and packs it.
func opaModule(t testing.TB, c cases.TestCase) ([]byte, error) {
	t.Helper()
	args := []func(*rego.Rego){rego.Query(c.Query)}
	for _, name := range []string{"custom_builtin_test", "custom_builtin_test_impure", "custom_builtin_test_memoization"} {
		var takes []types.Type
		if name == "custom_builtin_test" {
			takes = []types.Type{types.N}
		}
		args = append(args, rego.FunctionDecl(&rego.Function{Name: name, Decl: types.NewFunction(takes, types.N)}))
	}
	for i, module := range c.Modules {
		args = append(args, rego.Module(fmt.Sprintf("module%d.rego", i), module))
	}
	compiled, err := rego.New(args...).Compile(t.Context())
	if err != nil {
		return nil, err
	}
	var data []byte
	if c.Data != nil {
		if data, err = json.Marshal(*c.Data); err != nil {
			return nil, err
		}
	}
	return policies.PackData(compiled.Bytes, abi.Manifest{ABI: 1, Name: "case"}, data)
}

// errNeeds: a case needs a function of its host that an enclave does not offer.
var errNeeds = errors.New("needs what is not offered")

// runCase asks the engine and says why the answer is not the one that OPA's case wants.
func runCase(t testing.TB, engine *policies.Engine, c cases.TestCase) error {
	module, err := opaModule(t, c)
	if err != nil {
		return fmt.Errorf("compiling: %w", err)
	}
	policy, err := engine.Load(t.Context(), module)
	if err != nil && strings.Contains(err.Error(), "needs built-in functions that nobody offers") {
		return errNeeds
	}
	if err != nil {
		return err
	}
	var input []byte
	if c.InputTerm != nil {
		input = []byte(*c.InputTerm)
	} else if c.Input != nil {
		if input, err = json.Marshal(*c.Input); err != nil {
			return err
		}
	}
	text, err := policy.Results(t.Context(), input)
	if c.WantError != nil || c.WantErrorCode != nil {
		// In a module, what is an error of a built-in function in strict mode is undefined.
		if err != nil || (c.StrictError && string(text) == "[]") {
			return nil
		}
		return fmt.Errorf("no error, but %s", text)
	}
	if err != nil {
		return err
	}
	var got []map[string]any
	if err := json.Unmarshal(text, &got); err != nil {
		return err
	}
	if c.WantDefined != nil {
		if *c.WantDefined != (len(got) > 0) {
			return fmt.Errorf("answered %s, want_defined %t", text, *c.WantDefined)
		}
		return nil
	}
	return sameResults(got, *c.WantResult, c.SortBindings)
}

// sameResults compares results in any order; with sorted, arrays in any order too.
func sameResults(got, want []map[string]any, sorted bool) error {
	plain := func(results []map[string]any) []string {
		all := []string{}
		for _, r := range results {
			text, _ := json.Marshal(r)
			var v any
			_ = json.Unmarshal(text, &v)
			if sorted {
				v = sortArrays(v)
			}
			text, _ = json.Marshal(v)
			all = append(all, string(text))
		}
		slices.Sort(all)
		return all
	}
	if g, w := plain(got), plain(want); !reflect.DeepEqual(g, w) {
		return fmt.Errorf("answered %s, want %s", g, w)
	}
	return nil
}

func sortArrays(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k := range v {
			v[k] = sortArrays(v[k])
		}
	case []any:
		for i := range v {
			v[i] = sortArrays(v[i])
		}
		slices.SortFunc(v, func(a, b any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
	}
	return v
}

// runCases runs cases two at a time and returns how many passed and which needed what is not offered.
func runCases(t *testing.T, all []cases.TestCase, known map[string]string) (passed int, needed []string) {
	t.Helper()
	engine := newEngine(t, policies.Limits{Cached: 4})
	var mu sync.Mutex
	var group sync.WaitGroup
	work := make(chan cases.TestCase)
	for range 2 {
		group.Go(func() {
			for c := range work {
				err := runCase(t, engine, c)
				name := filepath.Base(c.Filename) + ": " + c.Note
				mu.Lock()
				switch {
				case errors.Is(err, errNeeds):
					needed = append(needed, name)
				case err != nil && known[c.Note] == "":
					t.Errorf("%s: %v", name, err)
				case err == nil:
					passed++
				}
				mu.Unlock()
			}
		})
	}
	for i, c := range all {
		if !raceDetector || i%16 == 0 {
			work <- c
		}
	}
	close(work)
	group.Wait()
	return passed, needed
}

// TestOPACases: OPA's cases for its WebAssembly modules. Those that need a function of their host need one
// that OPA's own test makes up.
func TestOPACases(t *testing.T) {
	const atLeast = 366
	all := opaCases(t, "v1/test/wasm/assets/*.yaml")
	passed, needed := runCases(t, all, nil)
	t.Logf("%d of %d cases pass; not offered: %q", passed, len(all), needed)
	if !raceDetector && passed < atLeast {
		t.Errorf("%d cases pass, %d did", passed, atLeast)
	}
}

// unlike are the cases of functions that the host offers in which it answers other than OPA's evaluation
// in Go, and why.
var unlike = map[string]string{
	"jsonbuiltins/unmarshal number with too big an exponent is undefined":      "OPA's module parses JSON by itself",
	"jsonbuiltins/unmarshal number beyond the supported exponent is undefined": "OPA's module parses JSON by itself",
	"numbersrangestep/big int step":                                            "numbers have 64 bits",
	"strings/format_int: bignum exact (>64-bit integer, all bases + negative)": "numbers of OPA's module have 64 bits",
	"time/time caching":     "needs a function that OPA's own test makes up",
	"time/date with LA tz":  "the only zone is UTC",
	"time/clock with NY tz": "the only zone is UTC",
	"time/diff":             "the only zone is UTC",
	"time/format":           "the only zone is UTC",
}

// TestOPABuiltins: OPA's cases of the functions that the host offers.
func TestOPABuiltins(t *testing.T) {
	const atLeast = 337
	var all []cases.TestCase
	for _, folder := range []string{
		"base64urlbuiltins", "cryptohmac*", "cryptomd5", "cryptosha*", "globquotemeta", "hexbuiltins", "jsonbuiltins",
		"jsonpatch", "netcidrisvalid", "numbersrangestep", "rand", "regexfind", "regexmatchtemplate", "regexreplace",
		"regexsplit", "semver*", "sprintf", "strings", "subset", "time", "urlbuiltins", "uuid",
	} {
		all = append(all, opaCases(t, "v1/test/cases/testdata/v1/"+folder+"/*.yaml")...)
	}
	passed, needed := runCases(t, all, unlike)
	t.Logf("%d of %d cases pass; not offered: %q", passed, len(all), needed)
	if !raceDetector && passed < atLeast {
		t.Errorf("%d cases pass, %d did", passed, atLeast)
	}
}
