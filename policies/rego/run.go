package rego

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/cloister-run/cloister/policies/abi"
)

// runKey is the key of a *run in the context of a call.
type runKey struct{}

// run is one instance and what its decision has.
type run struct {
	program  *Program
	now      time.Time
	instance api.Module
	// functions of the instance, found once.
	functions map[string]api.Function
}

func newRun(p *Program, now time.Time) *run {
	return &run{program: p, now: now, functions: map[string]api.Function{}}
}

// start makes the instance.
func (r *run) start(ctx context.Context, runtime wazero.Runtime, code wazero.CompiledModule) error {
	config := wazero.NewModuleConfig().WithName("").WithStartFunctions().
		WithRandSource(bytes.NewReader(nil)) // of no use to it, and quicker made than the default
	instance, err := runtime.InstantiateModule(ctx, code, config)
	r.instance = instance
	return err
}

// call calls a function that takes addresses and gives one or none.
func (r *run) call(ctx context.Context, name string, args ...uint64) (uint32, error) {
	function := r.functions[name]
	if function == nil {
		if function = r.instance.ExportedFunction(name); function == nil {
			return 0, fmt.Errorf("%w: no %s", ErrAbort, name)
		}
		r.functions[name] = function
	}
	results, err := function.Call(ctx, args...)
	if err != nil {
		return 0, err
	}
	if len(results) == 0 {
		return 0, nil
	}
	return uint32(results[0]), nil
}

// give writes a text into the instance and lets it parse it. The value stands at the address.
func (r *run) give(ctx context.Context, parse string, text []byte) (uint32, error) {
	at, err := r.call(ctx, "opa_malloc", uint64(len(text)))
	if err != nil {
		return 0, err
	}
	if !r.instance.Memory().Write(at, text) {
		return 0, fmt.Errorf("%w: no room for %d bytes", ErrAbort, len(text))
	}
	value, err := r.call(ctx, parse, uint64(at), uint64(len(text)))
	if err != nil {
		return 0, err
	}
	if value == 0 {
		return 0, fmt.Errorf("%w: it cannot parse what the host gives it", ErrAbort)
	}
	return value, nil
}

// take reads the value at an address as text of at most limit bytes.
func (r *run) take(ctx context.Context, dump string, value uint32, limit int) ([]byte, error) {
	at, err := r.call(ctx, dump, uint64(value))
	if err != nil {
		return nil, err
	}
	shared, err := readText(r.instance.Memory(), at, limit)
	return append([]byte(nil), shared...), err
}

// list reads a map from names to numbers, as the module's function gives it.
func (r *run) list(ctx context.Context, function string) (map[string]int32, error) {
	value, err := r.call(ctx, function)
	if err != nil {
		return nil, err
	}
	text, err := r.take(ctx, "opa_json_dump", value, maxListBytes)
	if err != nil {
		return nil, fmt.Errorf("its %s: %w", function, err)
	}
	var list map[string]int32
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, fmt.Errorf("its %s: %w", function, err)
	}
	return list, nil
}

// Results evaluates the policy's entrypoint over an input, JSON, in an instance made for this one call, and
// returns its results as OPA lists them, JSON of at most limit bytes ([Single]). now is what time.now_ns
// gives. Errors wrap [ErrResult] or [ErrAbort] or are the runtime's.
func (p *Program) Results(ctx context.Context, runtime wazero.Runtime, code wazero.CompiledModule, input []byte, now time.Time, limit int) (results []byte, err error) {
	r := newRun(p, now)
	ctx = context.WithValue(ctx, runKey{}, r)
	if err := r.start(ctx, runtime, code); err != nil {
		return nil, err
	}
	defer func() { _ = r.instance.Close(ctx) }()
	var documents [2]uint32
	for i, text := range [][]byte{input, p.data} {
		if text == nil {
			continue
		}
		// opa_eval would do all that follows in one call, and take an input that it cannot parse for none.
		if documents[i], err = r.give(ctx, "opa_json_parse", text); err != nil {
			return nil, err
		}
	}
	found, err := r.evaluate(ctx, documents[0], documents[1])
	if err != nil {
		return nil, err
	}
	results, err = r.take(ctx, "opa_json_dump", found, limit+len(`[{"result":}]`))
	if errors.Is(err, errText) {
		err = fmt.Errorf("%w: %w", ErrResult, err)
	}
	return results, err
}

// evaluate runs the entrypoint and returns the address of its results. A function costs something the first
// time that it is called, so those that would set nothing are not.
func (r *run) evaluate(ctx context.Context, input, data uint32) (uint32, error) {
	evaluation, err := r.call(ctx, "opa_eval_ctx_new")
	if err != nil {
		return 0, err
	}
	for _, set := range []struct {
		name  string
		value uint32
	}{
		{"opa_eval_ctx_set_input", input},
		{"opa_eval_ctx_set_data", data},
		{"opa_eval_ctx_set_entrypoint", uint32(r.program.entrypoint)},
	} {
		if set.value == 0 {
			continue
		}
		if _, err := r.call(ctx, set.name, uint64(evaluation), uint64(set.value)); err != nil {
			return 0, err
		}
	}
	if _, err := r.call(ctx, "eval", uint64(evaluation)); err != nil {
		return 0, err
	}
	return r.call(ctx, "opa_eval_ctx_get_result", uint64(evaluation))
}

// Single is the value of the one result of an entrypoint. Errors wrap [ErrResult].
func Single(text []byte) ([]byte, error) {
	var results []struct {
		Result json.RawMessage `json:"result"`
	}
	if err := abi.DecodeExact(text, len(text), &results); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrResult, err)
	}
	switch {
	case len(results) == 0:
		return nil, fmt.Errorf("%w: the entrypoint is undefined", ErrResult)
	case len(results) > 1:
		return nil, fmt.Errorf("%w: %d results", ErrResult, len(results))
	case results[0].Result == nil:
		return nil, fmt.Errorf("%w: a result without a value", ErrResult)
	}
	return results[0].Result, nil
}
