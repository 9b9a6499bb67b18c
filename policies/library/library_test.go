// Package library_test holds every ready-made policy against its fixtures, in the engine that enclaves
// have. Those in Rust and C are checked in; `make check-guests` builds them again.
package library_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
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
	inGo   bool
	denies bool
}{
	{"allow-all", true, false},
	{"csv-columns", false, true},
	{"json-schema", false, true},
	{"output-limits", true, true},
	{"redact", false, true},
	{"size-cap", false, true},
	{"verbatim", false, true},
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
			if row.inGo {
				module = buildGo(t, row.name)
			}
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

// buildGo builds a policy that is written in Go, as make does.
func buildGo(t *testing.T, name string) string {
	t.Helper()
	module := filepath.Join(t.TempDir(), name+".wasm")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags=-s -w -buildid=", "-o", module, "./"+name)
	cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building %s: %v\n%s", name, err, out)
	}
	return module
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
