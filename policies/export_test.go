package policies

import (
	"context"
	"time"

	"github.com/tetratelabs/wazero/experimental"
)

// WASIFunctions is what a policy may import.
func WASIFunctions() []string { return wasiFunctions }

// Results evaluates a policy that OPA built over an input, JSON or nothing, and returns every result.
func (p *Policy) Results(ctx context.Context, input []byte) ([]byte, error) {
	ram := &memory{limit: uint64(p.engine.limits.MemoryBytes)}
	defer ram.release()
	return p.rego.Results(experimental.WithMemoryAllocator(ctx, ram), p.code.runtime, p.code.module, input, time.Unix(1, 0), 1<<20)
}
