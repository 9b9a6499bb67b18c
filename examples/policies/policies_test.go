// Package policies_test holds one policy in several languages against one set of fixtures.
package policies_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/cloister-run/cloister/policies"
	"github.com/cloister-run/cloister/policies/abi"
	"github.com/cloister-run/cloister/policies/policytest"
	"github.com/cloister-run/cloister/policies/rego/build"
)

// TestOneBehaviour: whatever a policy is written in, it answers the same.
func TestOneBehaviour(t *testing.T) {
	engine, err := policies.New(t.Context(), policies.Config{Limits: policies.Limits{
		CompileTime: 5 * time.Minute, // the race detector makes wazero's compiler ten times slower
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = engine.Close(context.Background()) })
	for _, name := range []string{"csv-groups-go", "csv-groups-c", "csv-groups-rust", "csv-groups-rego"} {
		t.Run(name, func(t *testing.T) {
			module, manifest := filepath.Join(name, name+".wasm"), filepath.Join(name, "manifest.json")
			switch name {
			case "csv-groups-go":
				module = buildGo(t, name)
			case "csv-groups-rego":
				module = buildRego(t, name)
			}
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
			if err := policytest.CheckAll("fixtures/csv-groups", manifest, func(r abi.Request, files abi.Files) (abi.Decision, error) {
				return policy.Decide(t.Context(), r, files)
			}); err != nil {
				t.Error(err)
			}
		})
	}
}

// buildGo builds the one that is not checked in, as make does.
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

// buildRego builds the one in Rego, as make does.
func buildRego(t *testing.T, name string) string {
	t.Helper()
	wasm, _, err := build.Compile(t.Context(), os.DirFS(name), nil)
	if err != nil {
		t.Fatal(err)
	}
	module := filepath.Join(t.TempDir(), name+".wasm")
	if err := os.WriteFile(module, wasm, 0o644); err != nil {
		t.Fatal(err)
	}
	return module
}
