package rego

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tetratelabs/wazero"

	"github.com/cloister-run/cloister/policies/abi"
	"github.com/cloister-run/cloister/policies/module"
)

// Program is what a module says of itself: what is evaluated, over which data, and which functions of
// the host its numbers mean. It is safe for concurrent use.
type Program struct {
	entrypoint int32
	builtins   map[int32]builtin
	data       []byte
}

// Inspect asks a module, in an instance of its own, for its entrypoints and for the built-in functions
// that it needs. An empty entrypoint stands for the only one. The context bounds time and memory.
func Inspect(ctx context.Context, runtime wazero.Runtime, code wazero.CompiledModule, shape module.Shape, entrypoint string) (p *Program, err error) {
	defer func() {
		if r := recover(); r != nil {
			p, err = nil, fmt.Errorf("it failed while it was asked what it needs: %v", r)
		}
	}()
	p = &Program{builtins: map[int32]builtin{}}
	if p.data, err = data(shape); err != nil {
		return nil, err
	}
	r := newRun(p, time.Time{})
	if err := r.start(ctx, runtime, code); err != nil {
		return nil, short(err)
	}
	defer func() { _ = r.instance.Close(ctx) }()
	if err := r.version(); err != nil {
		return nil, err
	}
	entrypoints, err := r.list(ctx, "entrypoints")
	if err != nil {
		return nil, short(err)
	}
	needed, err := r.list(ctx, "builtins")
	if err != nil {
		return nil, short(err)
	}
	p.entrypoint, err = choose(entrypoints, entrypoint)
	if err = errors.Join(err, p.link(needed)); err != nil {
		return nil, err
	}
	return p, nil
}

// short cuts off an error of a call the trace of its stack, which names what is in the module.
func short(err error) error {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return errors.New(strings.ToValidUTF8(line[:min(len(line), 200)], "?"))
}

// version holds the module's against what is known here. Later minor versions add to earlier ones.
func (r *run) version() error {
	major, minor := r.instance.ExportedGlobal(versionGlobal), r.instance.ExportedGlobal(minorGlobal)
	if major == nil || minor == nil {
		return errors.New("no version of OPA's ABI")
	}
	if int32(major.Get()) != 1 || int32(minor.Get()) < 2 {
		return fmt.Errorf("built for OPA's WebAssembly ABI %d.%d; 1.2 or a later 1.x is needed: build it again with OPA 0.31 or later",
			int32(major.Get()), int32(minor.Get()))
	}
	return nil
}

// choose finds the entrypoint that the manifest names, or the only one.
func choose(entrypoints map[string]int32, name string) (int32, error) {
	known := strings.Join(quoted(entrypoints), ", ")
	if name == "" {
		if len(entrypoints) != 1 {
			return 0, fmt.Errorf("%d entrypoints; the manifest's rego.entrypoint must name one of %s", len(entrypoints), known)
		}
		name = slices.Collect(maps.Keys(entrypoints))[0]
	}
	number, ok := entrypoints[name]
	if !ok {
		return 0, fmt.Errorf("no entrypoint %q; it has %s", name, known)
	}
	return number, nil
}

// link finds the built-in functions that a module needs, and names all that nobody offers.
func (p *Program) link(needed map[string]int32) error {
	var missing []string
	for _, name := range slices.Sorted(maps.Keys(needed)) {
		function, ok := builtins[name]
		if !ok {
			missing = append(missing, fmt.Sprintf("%q", clip(name)))
			continue
		}
		p.builtins[needed[name]] = function
	}
	if len(missing) > 0 {
		return fmt.Errorf("needs built-in functions that nobody offers: %s", strings.Join(missing[:min(len(missing), 20)], ", "))
	}
	return nil
}

// quoted lists names from a module, fit for an error message.
func quoted(names map[string]int32) []string {
	var list []string
	for _, name := range slices.Sorted(maps.Keys(names)) {
		list = append(list, fmt.Sprintf("%q", clip(name)))
	}
	return list[:min(len(list), 20)]
}

// CheckData reports why text is no data document: a JSON object in which no key stands twice.
func CheckData(text []byte) error {
	var document map[string]any
	if err := abi.DecodeExact(bytes.TrimSpace(text), MaxDataBytes, &document); err != nil {
		return fmt.Errorf("data: %w", err)
	}
	return nil
}
