package policies_test

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/cloister-run/cloister/policies"
	"github.com/cloister-run/cloister/policies/abi"
)

// buildProbe builds testdata/probe.
func buildProbe(t *testing.T) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "probe.wasm")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags=-s -w -buildid=", "-o", path, "./testdata/probe")
	cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building the probe: %v\n%s", err, out)
	}
	module, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	packed, err := policies.Pack(module, abi.Manifest{ABI: 1, Name: "probe"})
	if err != nil {
		t.Fatal(err)
	}
	return packed
}

// TestI8NothingUnmeasuredReachesAPolicy: a policy gets no environment and no argument, and
// the same clock and randomness in every decision of every engine.
func TestI8NothingUnmeasuredReachesAPolicy(t *testing.T) {
	t.Setenv("CLOISTER_PROBE", "1")
	module := buildProbe(t)
	req := request(abi.Admit, "null", "outputs.environment", "outputs.arguments", "outputs.random",
		"outputs.clock", "outputs.elapsed", "outputs.roots")
	var first map[abi.Channel]int64
	for range 2 {
		policy := load(t, newEngine(t, policies.Limits{CompileTime: 5 * time.Minute}), module) // slow under the race detector
		for range 2 {
			decision, err := policy.Decide(t.Context(), req, abi.Files{})
			if err != nil {
				t.Fatal(err)
			}
			for _, channel := range []abi.Channel{"outputs.environment", "outputs.arguments", "outputs.roots"} {
				if decision.Caps[channel] != 0 {
					t.Errorf("%s: %d reached the policy", channel, decision.Caps[channel])
				}
			}
			if first == nil {
				first = decision.Caps
			}
			if !maps.Equal(first, decision.Caps) {
				t.Errorf("one decision saw %v, another %v", first, decision.Caps)
			}
		}
	}
}
