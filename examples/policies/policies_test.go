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
)

// library has the ready-made policies that are written in Rust.
const library = "../../policies/library"

// examples are the policies here and in the library, what each is held against, and how it comes to
// be a module.
var examples = []struct {
	dir, name, fixtures string
	build               func(t *testing.T, dir, name string) []byte
	// denies says that denying is what it is for: then denials outnumber the rest of its fixtures.
	denies bool
}{
	{".", "allow-all", "allow-all", buildGo, false},
	{".", "output-limits", "output-limits", buildGo, true},
	{".", "size-cap", "size-cap", checkedIn, true},
	{".", "csv-groups-go", "csv-groups", buildGo, true},
	{library, "csv-columns", "csv-columns", checkedIn, true},
	{library, "redact", "redact", checkedIn, true},
	{library, "verbatim", "verbatim", checkedIn, true},
}

// buildGo builds a policy that is written in Go, as make does, and packs it.
func buildGo(t *testing.T, dir, name string) []byte {
	t.Helper()
	module := filepath.Join(t.TempDir(), name+".wasm")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags=-s -w -buildid=", "-o", module, "./"+name)
	cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building %s: %v\n%s", name, err, out)
	}
	return pack(t, module, filepath.Join(dir, name, "manifest.json"))
}

// checkedIn reads a policy that needs another compiler than Go's.
func checkedIn(t *testing.T, dir, name string) []byte {
	t.Helper()
	return pack(t, filepath.Join(dir, name, name+".wasm"), filepath.Join(dir, name, "manifest.json"))
}

func pack(t *testing.T, module, manifest string) []byte {
	t.Helper()
	packed := filepath.Join(t.TempDir(), "policy.wasm")
	if err := policies.PackFile(module, manifest, packed); err != nil {
		t.Fatal(err)
	}
	return read(t, packed)
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestFixtures asks every example policy through the engine.
func TestFixtures(t *testing.T) {
	engine, err := policies.New(t.Context(), policies.Config{Limits: policies.Limits{
		CompileTime: 5 * time.Minute, // the race detector makes wazero's compiler ten times slower
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = engine.Close(context.Background()) })
	for _, example := range examples {
		t.Run(example.name, func(t *testing.T) {
			fixtures, err := policytest.Load(filepath.Join("fixtures", example.fixtures))
			if err != nil {
				t.Fatal(err)
			}
			policy, err := engine.Load(t.Context(), example.build(t, example.dir, example.name))
			if err != nil {
				t.Fatal(err)
			}
			denied := 0
			for _, fixture := range fixtures {
				if !fixture.Allows() {
					denied++
				}
				t.Run(fixture.Name, func(t *testing.T) {
					if err := policy.CheckConfig(fixture.Request().Config); err != nil && fixture.Allows() {
						t.Errorf("the schema refuses a configuration that the policy takes: %v", err)
					}
					answer := fixture.Ask(func(request abi.Request, files abi.Files) (abi.Decision, error) {
						return policy.Decide(t.Context(), request, files)
					})
					if err := fixture.Check(answer, policy.Manifest()); err != nil {
						t.Error(err)
					}
				})
			}
			if allowed := len(fixtures) - denied; example.denies && denied <= allowed {
				t.Errorf("%d fixtures deny and %d allow; a policy's denials are what needs testing", denied, allowed)
			}
		})
	}
}
