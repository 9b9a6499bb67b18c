// Package rego runs policies that were written in Rego and compiled by `opa build -t wasm`.
//
// It owns OPA's WebAssembly ABI (https://www.openpolicyagent.org/docs/wasm) as a host sees it: what a
// module must export, the functions that it may import, the built-in functions that it may ask for, and
// how a request becomes its input and its result a decision.
//
// It trusts the request and nothing of the module. A module calls the host in the middle of a decision,
// so everything that it hands over is bounded before the host works on it, and no built-in function
// reaches a network, a clock, a file, or anything that another decision left.
//
// It never allows of its own accord. A result that is undefined, one of several, or no result is an error.
package rego

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cloister-run/cloister/policies/module"
)

// DataSection is the custom section that carries a data document, as JSON.
const DataSection = "cloister.rego.data"

// MaxDataBytes bounds a data document.
const MaxDataBytes = 1 << 20

// hostModule is what OPA's modules import from.
const hostModule = "env"

// Sentinels for what a caller tells apart.
var (
	// ErrResult: the policy came to no result, to several, or to an oversized one.
	ErrResult = errors.New("no single result")
	// ErrAbort: the policy aborted, or broke a rule of its host.
	ErrAbort = errors.New("aborted")
)

// Exports that a host of OPA's ABI 1.2 needs ("Exports" there).
var exports = []string{
	"builtins", "entrypoints", "eval", "opa_eval", "opa_eval_ctx_new", "opa_eval_ctx_set_input",
	"opa_eval_ctx_set_data", "opa_eval_ctx_set_entrypoint", "opa_eval_ctx_get_result",
	"opa_malloc", "opa_json_parse", "opa_value_parse", "opa_json_dump", "opa_value_dump",
}

// The globals that state the version of the ABI.
const (
	versionGlobal = "opa_wasm_abi_version"
	minorGlobal   = "opa_wasm_abi_minor_version"
)

// Is reports whether a module was built by OPA, or says so. Modules that are older than versions of the
// ABI have an evaluation context all the same.
func Is(shape module.Shape) bool {
	return shape.Has(versionGlobal, module.Global) || shape.Has("opa_eval_ctx_new", module.Func)
}

// Check reports everything in a module's shape that keeps it from being run. Its memory is its own by now
// ([module.Shape.WithOwnMemory]).
func Check(shape module.Shape) error {
	if !shape.Has("opa_eval", module.Func) { // new in 1.2
		return errors.New("built for OPA's WebAssembly ABI before 1.2: build it again with OPA 0.31 or later")
	}
	var problems []error
	for _, i := range shape.Imports {
		if i.Module != hostModule || i.Kind != module.Func || functionTypes[i.Name] == 0 {
			problems = append(problems, fmt.Errorf("imports %q.%q, which OPA's ABI does not have", clip(i.Module), clip(i.Name)))
		}
	}
	for _, name := range exports {
		if !shape.Has(name, module.Func) {
			problems = append(problems, fmt.Errorf("no %s: not a module of OPA's ABI", name))
		}
	}
	for _, name := range []string{versionGlobal, minorGlobal} {
		if !shape.Has(name, module.Global) {
			problems = append(problems, fmt.Errorf("no %s: not a module of OPA's ABI", name))
		}
	}
	if shape.Memories == 0 {
		problems = append(problems, errors.New("no memory: not a module of OPA's ABI"))
	}
	if _, err := data(shape); err != nil {
		problems = append(problems, err)
	}
	return errors.Join(problems...)
}

// data is the data document that a module carries, or nil.
func data(shape module.Shape) ([]byte, error) {
	sections := shape.Custom(DataSection)
	switch {
	case len(sections) == 0:
		return nil, nil
	case len(sections) > 1:
		return nil, fmt.Errorf("%d %s sections", len(sections), DataSection)
	}
	return slices.Clone(sections[0]), CheckData(sections[0])
}

// clip makes a name from a module fit for an error message.
func clip(name string) string { return name[:min(len(name), 64)] }
