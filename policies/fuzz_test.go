package policies_test

import (
	"errors"
	"os"
	"testing"
	"time"

	"github.com/cloister-run/cloister/policies"
	"github.com/cloister-run/cloister/policies/abi"
)

// FuzzLoad: whatever a module holds, loading it ends in a policy or in ErrInvalid, and asking
// it ends in a checked decision or in the zero one.
func FuzzLoad(f *testing.F) {
	module, err := os.ReadFile(sizeCap)
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range [][]byte{
		module, says(yes).bytes(f), guest{main: unreachable}.bytes(f), guest{start: unreachable}.bytes(f),
		guest{pages: 2, table: 3}.bytes(f), opening("a", 0, rightRead, 0).bytes(f),
	} {
		f.Add(seed)
	}
	engine := newEngine(f, policies.Limits{MemoryBytes: 4 << 20, CompileTime: 10 * time.Second, DecideTime: 100 * time.Millisecond})
	f.Fuzz(func(t *testing.T, data []byte) {
		policy, err := engine.Load(t.Context(), data)
		if err != nil {
			if policy != nil || !errors.Is(err, policies.ErrInvalid) {
				t.Fatalf("loading gave %v, %v", policy, err)
			}
			return
		}
		req := request(abi.Admit, `{"max_total_bytes":1}`, "outputs.a")
		decision, err := policy.Decide(t.Context(), req, abi.Files{})
		if err != nil && (decision.Allow || decision.Code != "" || decision.Channels != nil) {
			t.Fatalf("an error came with %+v", decision)
		}
		if err == nil {
			if err := decision.Check(req, policy.Manifest()); err != nil {
				t.Fatal(err)
			}
		}
	})
}
