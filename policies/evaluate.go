package policies

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/tetratelabs/wazero/experimental"

	"github.com/cloister-run/cloister/policies/abi"
	"github.com/cloister-run/cloister/policies/module"
	"github.com/cloister-run/cloister/policies/rego"
)

// regoMemory is what a small policy that OPA built uses over a small request.
const regoMemory = 256 << 10

// inspect asks a module that OPA built for what it needs, within the limits of a decision; nil for another.
func (e *Engine) inspect(c *compiled, shape module.Shape, m abi.Manifest) (*rego.Program, error) {
	if !rego.Is(shape) {
		return nil, nil
	}
	e.deciding <- struct{}{}
	defer func() { <-e.deciding }()
	ctx, stop := context.WithTimeout(context.Background(), e.limits.DecideTime)
	defer stop()
	ram := &memory{limit: uint64(e.limits.MemoryBytes)}
	defer ram.release()
	var entrypoint string
	if m.Rego != nil {
		entrypoint = m.Rego.Entrypoint
	}
	return rego.Inspect(experimental.WithMemoryAllocator(ctx, ram), c.runtime, c.module, shape, entrypoint)
}

// evaluate asks a policy that OPA built once and returns its one result. Its owner's assets it is not
// shown. live is ctx with the decision's limit.
func (p *Policy) evaluate(ctx, live context.Context, question []byte, files abi.Files) ([]byte, error) {
	limits := p.engine.limits
	ram := &memory{limit: uint64(limits.MemoryBytes), spare: regoMemory}
	defer ram.release()
	var tree fs.FS
	if files.Artifacts != nil {
		artifacts := newArtifacts(live, files.Artifacts, limits)
		defer artifacts.close()
		tree = artifacts
	}
	result, err := p.eval(experimental.WithMemoryAllocator(live, ram), question, tree)
	if (errors.Is(err, rego.ErrResult) || errors.Is(err, rego.ErrInput)) && live.Err() == nil {
		return nil, fmt.Errorf("%w: %s", ErrAnswer, firstLine(err))
	}
	return result, p.classify(ctx, live, err, &answer{}, ram)
}

// eval makes the input and evaluates the policy over it.
func (p *Policy) eval(ctx context.Context, question []byte, tree fs.FS) (result []byte, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%v", r)
		}
	}()
	input, now, err := rego.Input(question, tree)
	if err != nil {
		return nil, err
	}
	results, err := p.rego.Results(ctx, p.code.runtime, p.code.module, input, now, int(p.engine.limits.DecisionBytes))
	if err != nil {
		return nil, err
	}
	return rego.Single(results)
}
