// Package build compiles Rego to WebAssembly with OPA's own compiler.
//
// It is for the commands of people who write policies, and for tests. The enclave never imports it:
// what a policy means there is said by the module alone.
package build

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/compile"

	"github.com/cloister-run/cloister/policies/abi"
)

// DefaultEntrypoint is what is evaluated where a manifest names nothing.
const DefaultEntrypoint = "cloister/decision"

// Bounds of what is compiled.
const (
	maxSources     = 1_000
	maxSourceBytes = 4 << 20
)

// Compile compiles the *.rego files of a folder, except *_test.rego, with data.json in its root if there
// is one, as `opa build -t wasm -e ENTRYPOINT` does, for the entrypoint of a manifest. Data is nil if there is none.
func Compile(ctx context.Context, sources fs.FS, m *abi.Rego) (wasm, data []byte, err error) {
	entrypoint := DefaultEntrypoint
	if m != nil && m.Entrypoint != "" {
		entrypoint = m.Entrypoint
	}
	b, err := load(sources)
	if err != nil {
		return nil, nil, fmt.Errorf("build: %w", err)
	}
	compiler := compile.New().
		WithTarget(compile.TargetWasm).
		WithRegoVersion(ast.RegoV1).
		WithEntrypoints(entrypoint).
		WithBundle(b)
	if err := compiler.Build(ctx); err != nil {
		return nil, nil, fmt.Errorf("build: %w", err)
	}
	built := compiler.Bundle()
	if len(built.WasmModules) != 1 {
		return nil, nil, fmt.Errorf("build: %d modules came out", len(built.WasmModules))
	}
	if len(built.Data) > 0 {
		if data, err = json.Marshal(built.Data); err != nil {
			return nil, nil, fmt.Errorf("build: encoding data: %w", err)
		}
	}
	return built.WasmModules[0].Raw, data, nil
}

// load reads the sources, in the order of their names.
func load(sources fs.FS) (*bundle.Bundle, error) {
	b := &bundle.Bundle{Data: map[string]any{}}
	total := 0
	err := fs.WalkDir(sources, ".", func(name string, entry fs.DirEntry, err error) error {
		rule := path.Ext(name) == ".rego" && !strings.HasSuffix(name, "_test.rego")
		if err != nil || entry.IsDir() || (!rule && name != "data.json") {
			return err
		}
		text, err := fs.ReadFile(sources, name)
		if err != nil {
			return err
		}
		if total += len(text); total > maxSourceBytes || len(b.Modules) >= maxSources {
			return fmt.Errorf("%s: over %d files, or %d bytes in all", name, maxSources, maxSourceBytes)
		}
		if !rule {
			decoder := json.NewDecoder(bytes.NewReader(text))
			decoder.UseNumber()
			if err := decoder.Decode(&b.Data); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			return nil
		}
		parsed, err := ast.ParseModuleWithOpts(name, string(text), ast.ParserOptions{
			RegoVersion: ast.RegoV1,
		})
		if err != nil {
			return err
		}
		b.Modules = append(b.Modules, bundle.ModuleFile{URL: name, Path: name, Parsed: parsed, Raw: text})
		return nil
	})
	if err == nil && len(b.Modules) == 0 {
		err = errors.New("no *.rego file")
	}
	return b, err
}
