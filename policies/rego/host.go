package rego

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
)

// Bounds of what a module hands to its host.
const (
	// maxListBytes bounds the lists of built-in functions and of entrypoints.
	maxListBytes = 64 << 10
	// maxArgumentBytes bounds one argument of a built-in function, as text, and its result.
	maxArgumentBytes = 1 << 20
)

// functionTypes says how many numbers each function of the host takes ("Imports" of OPA's ABI). The
// first two arguments of a built-in function are its number and an address that is reserved.
var functionTypes = map[string]int{
	"opa_abort": 1, "opa_println": 1,
	"opa_builtin0": 2, "opa_builtin1": 3, "opa_builtin2": 4, "opa_builtin3": 5, "opa_builtin4": 6,
}

// Offer makes the functions of the host in a runtime. They keep nothing: an instance finds what belongs
// to its decision in the context of its call.
func Offer(ctx context.Context, runtime wazero.Runtime) error {
	builder := runtime.NewHostModuleBuilder(hostModule)
	for name, count := range functionTypes {
		params := make([]api.ValueType, count)
		for i := range params {
			params[i] = api.ValueTypeI32
		}
		var results []api.ValueType
		var function api.GoModuleFunc
		switch name {
		case "opa_abort":
			function = abort
		case "opa_println": // what a policy prints, nobody may see
			function = func(context.Context, api.Module, []uint64) {}
		default:
			function, results = callBuiltin(count), []api.ValueType{api.ValueTypeI32}
		}
		builder.NewFunctionBuilder().WithGoModuleFunction(function, params, results).Export(name)
	}
	if _, err := builder.Instantiate(ctx); err != nil {
		return fmt.Errorf("offering OPA's host functions: %w", err)
	}
	return nil
}

// abort ends an instance. What it says comes from the module: it is bounded, and shown to nobody but the
// owner of the policy, who tries it out.
func abort(_ context.Context, instance api.Module, stack []uint64) {
	message, err := readText(instance.Memory(), uint32(stack[0]), 200)
	if err != nil {
		message = []byte("for a reason that cannot be read")
	}
	panic(fmt.Errorf("%w: %q", ErrAbort, message))
}

// callBuiltin serves opa_builtin0 to opa_builtin4. A built-in function that fails is undefined, as it is
// in OPA; breaking a bound of the host ends the instance.
func callBuiltin(count int) api.GoModuleFunc {
	return func(ctx context.Context, _ api.Module, stack []uint64) {
		run, ok := ctx.Value(runKey{}).(*run)
		if !ok {
			panic(fmt.Errorf("%w: a built-in function outside of a decision", ErrAbort))
		}
		address, err := run.builtin(ctx, int32(stack[0]), stack[2:count])
		if err != nil {
			panic(fmt.Errorf("%w: %w", ErrAbort, err))
		}
		stack[0] = uint64(address)
	}
}

// errText: an instance does not have the text that it says it has.
var errText = errors.New("no text")

// readText reads a string that ends with a zero byte, of at most limit bytes. It shares the memory. Errors
// wrap errText.
func readText(memory api.Memory, at uint32, limit int) ([]byte, error) {
	if at == 0 || at >= memory.Size() {
		return nil, fmt.Errorf("%w: an address outside of the memory", errText)
	}
	text, _ := memory.Read(at, memory.Size()-at)
	text = text[:min(len(text), limit+1)]
	end := bytes.IndexByte(text, 0)
	if end < 0 {
		return nil, fmt.Errorf("%w: a text without an end in %d bytes", errText, len(text))
	}
	return text[:end], nil
}
