// Package library_test holds every ready-made policy against its fixtures, in the engine that enclaves
// have. All are checked in; `make check-guests` builds them again.
package library_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cloister-run/cloister/policies"
	"github.com/cloister-run/cloister/policies/abi"
	"github.com/cloister-run/cloister/policies/policytest"
)

// library is every policy. Some deny: then denials outnumber the rest of their fixtures.
var library = []struct {
	name   string
	denies bool
}{
	{"allow-all", false},
	{"csv-columns", true},
	{"json-schema", true},
	{"output-limits", true},
	{"recipients", true},
	{"redact", true},
	{"size-cap", true},
	{"verbatim", true},
}

func TestLibrary(t *testing.T) {
	engine, err := policies.New(t.Context(), policies.Config{Limits: policies.Limits{
		CompileTime: 5 * time.Minute, // the race detector makes wazero's compiler ten times slower
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = engine.Close(context.Background()) })
	for _, row := range library {
		t.Run(row.name, func(t *testing.T) {
			manifest, module := filepath.Join(row.name, "manifest.json"), filepath.Join(row.name, row.name+".wasm")
			policy := load(t, engine, module, manifest)
			if err := policytest.CheckAll(filepath.Join("fixtures", row.name), manifest, func(r abi.Request, files abi.Files) (abi.Decision, error) {
				d, err := policy.Decide(t.Context(), r, files)
				if wrong := policy.CheckConfig(r.Config); err == nil && wrong != nil {
					err = errors.Join(errors.New("the schema refuses a configuration that the policy takes"), wrong)
				}
				return d, err
			}); err != nil {
				t.Error(err)
			}
			if allowed, denied := count(t, row.name); row.denies && denied <= allowed {
				t.Errorf("%d fixtures deny and %d allow; a policy's denials are what needs testing", denied, allowed)
			}
		})
	}
}

func load(t testing.TB, engine *policies.Engine, module, manifest string) *policies.Policy {
	t.Helper()
	packed := filepath.Join(t.TempDir(), "policy.wasm")
	if err := policies.PackFile(module, manifest, packed); err != nil {
		t.Fatal(err)
	}
	binary, err := os.ReadFile(packed)
	if err != nil {
		t.Fatal(err)
	}
	policy, err := engine.Load(t.Context(), binary)
	if err != nil {
		t.Fatal(err)
	}
	return policy
}

// count tells the fixtures that allow from those that do not.
func count(t *testing.T, name string) (allowed, denied int) {
	t.Helper()
	fixtures, err := policytest.Load(filepath.Join("fixtures", name))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range fixtures {
		if f.Allows() {
			allowed++
		}
	}
	return allowed, len(fixtures) - allowed
}
