package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"slices"
	"strings"

	"github.com/cloister-run/cloister/core/tree"
	"github.com/cloister-run/cloister/enclave/client"
	"github.com/cloister-run/cloister/policies/abi"
	"github.com/cloister-run/cloister/policies/module"
	"github.com/cloister-run/cloister/policies/rego"
)

// checkReport is what `policy check --json` prints.
type checkReport struct {
	Status   status       `json:"status"`
	Name     string       `json:"name"`
	ABI      int          `json:"abi"`
	Digest   string       `json:"digest"`
	Bytes    int          `json:"bytes"`
	Imports  []string     `json:"imports"`
	Exports  []string     `json:"exports"`
	Codes    []abi.Code   `json:"codes"`
	Config   bool         `json:"takes_config"`
	LoadTime float64      `json:"load_ms"`
	Memory   memoryReport `json:"memory"`
	Rego     *regoReport  `json:"rego,omitempty"`
	// Repeats counts the fixtures that were asked twice.
	Repeats int `json:"repeats,omitempty"`
}

// regoReport is what a module that OPA built has beside others.
type regoReport struct {
	Entrypoint string `json:"entrypoint,omitempty"`
	Data       int    `json:"data_bytes"`
}

// memoryReport is the linear memory that a module begins with.
type memoryReport struct {
	Bytes int64 `json:"begins_with_bytes"`
}

// checkPolicy loads a policy, and asks it the fixtures of a folder if one is given.
func (a *app) checkPolicy(ctx context.Context, path, config, fixtures string) error {
	return withPolicies(ctx, []string{path}, func(all []tried) error {
		p := all[0]
		shape, err := module.Scan(p.binary)
		if err != nil {
			return err
		}
		raw, err := configOf(config)
		if err != nil {
			return err
		}
		if config != "" {
			if err := p.policy.CheckConfig(ctx, raw); err != nil {
				return usage("the manifest's config_schema says what it takes", "%s: %v", path, err)
			}
		}
		r := report(p, shape)
		if fixtures != "" {
			if r.Repeats, err = repeats(ctx, p, fixtures); err != nil {
				return err
			}
		}
		if a.json {
			printJSON(a.stdout, r)
			return nil
		}
		w := a.stdout
		say(w, "policy    %s, ABI %d, %s\n", line(r.Name), r.ABI, r.Digest)
		say(w, "size      %d bytes, begins with %s of memory, loads in %.0f ms\n", r.Bytes, bytesOf(r.Memory.Bytes), r.LoadTime)
		say(w, "imports   %s\n", line(strings.Join(r.Imports, ", ")))
		say(w, "exports   %s\n", line(strings.Join(r.Exports, ", ")))
		if r.Rego != nil {
			say(w, "rego      %s, %d bytes of data\n", line(cmp.Or(r.Rego.Entrypoint, "the only entrypoint")), r.Rego.Data)
		}
		sayCodes(w, r.Codes)
		switch {
		case config != "":
			say(w, "config    is what it takes\n")
		case r.Config:
			say(w, "config    takes one: --config checks yours\n")
		default:
			say(w, "config    takes none\n")
		}
		if r.Repeats > 0 {
			say(w, "repeats   the answer to each of %d fixtures, in another process\n", r.Repeats)
		}
		return nil
	})
}

// repeats asks a policy every fixture of a folder twice, in two processes, and says how many there are.
// Every answer must come twice, and so must what it writes.
func repeats(ctx context.Context, p tried, dir string) (n int, err error) {
	fixtures, err := loadFixtures(dir)
	if err != nil {
		return 0, err
	}
	return len(fixtures), withPolicies(ctx, []string{p.path}, func(again []tried) error {
		for _, f := range fixtures {
			first, second := answer(ctx, p, f), answer(ctx, again[0], f)
			if err := context.Cause(ctx); err != nil {
				return err
			}
			if err := same(f.Name, first, second); err != nil {
				return err
			}
		}
		return nil
	})
}

// same says that two answers to one fixture differ.
func same(fixture, first, second string) error {
	if first == second {
		return nil
	}
	return usage("a decision is a function of the request and of the files around it; it must not end at a limit either",
		"%s: asked twice it answers %s, and then %s", fixture, printable(first), printable(second))
}

func report(p tried, shape module.Shape) checkReport {
	m := p.policy.Manifest()
	sum := sha256.Sum256(p.binary)
	r := checkReport{
		Name: m.Name, ABI: m.ABI, Digest: tree.Hex(sum[:]), Bytes: len(p.binary), Codes: append([]abi.Code{}, m.Codes...),
		Config: len(m.ConfigSchema) > 0, LoadTime: float64(p.took.Microseconds()) / 1000, Imports: []string{}, Exports: []string{},
		Memory: memoryReport{int64(shape.WithOwnMemory().MemoryPages) * module.PageBytes},
	}
	for _, i := range shape.Imports {
		r.Imports = append(r.Imports, i.Module+"."+i.Name)
	}
	for _, e := range shape.Exports {
		r.Exports = append(r.Exports, e.Name)
	}
	if rego.Is(shape) {
		r.Rego = &regoReport{}
		if m.Rego != nil {
			r.Rego.Entrypoint = m.Rego.Entrypoint
		}
		for _, data := range shape.Custom(rego.DataSection) {
			r.Rego.Data = len(data)
		}
	}
	slices.Sort(r.Imports)
	slices.Sort(r.Exports)
	r.Imports = slices.Compact(r.Imports) // a module may import one thing twice
	return r
}

// configOf reads a configuration: JSON itself, or a file that holds it.
func configOf(text string) (json.RawMessage, error) {
	if text == "" {
		return json.RawMessage("null"), nil
	}
	if strings.HasPrefix(strings.TrimSpace(text), "{") {
		return json.RawMessage(text), nil
	}
	raw, err := client.ReadBounded(text, abi.MaxConfigBytes)
	if err != nil {
		return nil, usage("give JSON, or the name of a file that holds it", "--config %s: %v", text, err)
	}
	return raw, nil
}
