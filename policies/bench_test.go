package policies_test

import (
	"os"
	"testing"

	"github.com/cloister-run/cloister/policies"
	"github.com/cloister-run/cloister/policies/abi"
)

const sizeCap = "library/size-cap/size-cap.wasm"

// BenchmarkDecide is one decision of a small policy in a fresh instance.
func BenchmarkDecide(b *testing.B) {
	engine := newEngine(b, policies.Limits{})
	policy := loadFile(b, engine, sizeCap)
	req := request(abi.Admit, `{"max_total_bytes": 1000}`, abi.Output("predictions"), abi.Stdout)
	b.ReportAllocs()
	for b.Loop() {
		if decision, err := policy.Decide(b.Context(), req, abi.Files{}); err != nil || !decision.Allow {
			b.Fatal(decision, err)
		}
	}
}

// BenchmarkLoad is one compilation of the same policy. Each module differs by a custom
// section, or the engine would find it compiled.
func BenchmarkLoad(b *testing.B) {
	engine := newEngine(b, policies.Limits{})
	module, err := os.ReadFile(sizeCap)
	if err != nil {
		b.Fatal(err)
	}
	var n uint32
	for b.Loop() {
		n++
		other := append([]byte(nil), module...)
		other = append(other, 0, 6, 1, 'n', byte(n), byte(n>>8), byte(n>>16), byte(n>>24))
		if _, err := engine.Load(b.Context(), other); err != nil {
			b.Fatal(err)
		}
	}
}
