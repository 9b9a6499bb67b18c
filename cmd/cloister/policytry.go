package main

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/cloister-run/cloister/enclave/client"
	"github.com/cloister-run/cloister/enclave/wire"
	"github.com/cloister-run/cloister/policies"
	"github.com/cloister-run/cloister/policies/abi"
	"github.com/cloister-run/cloister/policies/policytest"
)

// tried is a policy that was loaded as an enclave loads it.
type tried struct {
	path   string
	binary []byte
	policy *policies.Policy
	// took is how long loading took, above all compiling.
	took time.Duration
}

// withPolicies loads policies, and frees them when use returns.
func withPolicies(ctx context.Context, paths []string, use func([]tried) error) (err error) {
	engine, err := policies.New(ctx, policies.Config{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, engine.Close(context.WithoutCancel(ctx))) }()
	var all []tried
	for _, path := range paths {
		binary, err := client.ReadBounded(path, wire.MaxModule)
		if err != nil {
			return usage("name a WebAssembly module", "%s: %v", path, err)
		}
		start := time.Now()
		policy, err := engine.Load(ctx, binary)
		if errors.Is(err, policies.ErrInvalid) {
			return usage(cureOf(err), "%s: %v", path, err)
		}
		if err != nil {
			return err
		}
		all = append(all, tried{path, binary, policy, time.Since(start)})
	}
	return use(all)
}

// cureOf says how a module that no enclave takes becomes one.
func cureOf(err error) string {
	if strings.Contains(err.Error(), abi.SectionName) {
		return "put a manifest into it: cloister policy pack MODULE.wasm MANIFEST.json -o POLICY.wasm"
	}
	return "docs/policy-abi.md says what a module may hold"
}

func loadFixtures(dir string) ([]policytest.Fixture, error) {
	fixtures, err := policytest.Load(dir)
	if err != nil {
		return nil, usage("docs/policy-abi.md says what a fixture holds", "%v", err)
	}
	return fixtures, nil
}

func compact(v any) string {
	text, _ := json.Marshal(v) // every decision can be encoded
	return string(text)
}
