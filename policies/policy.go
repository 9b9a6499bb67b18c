package policies

import (
	"encoding/json"
	"fmt"

	"github.com/cloister-run/cloister/policies/abi"
	"github.com/cloister-run/cloister/policies/rego"
)

// Policy is a compiled policy. It is safe for concurrent use, and stays usable after the
// engine forgot it, until the engine is closed.
type Policy struct {
	engine   *Engine
	digest   string
	manifest abi.Manifest
	schema   *schema
	code     *compiled
	rego     *rego.Program // nil for a WASI command
}

// Digest is "sha256:…" of the module's bytes, manifest included.
func (p *Policy) Digest() string { return p.digest }

// Manifest is what the module declares. The caller must not change it.
func (p *Policy) Manifest() abi.Manifest { return p.manifest }

// CheckConfig holds a configuration against the policy's schema and reports what is wrong,
// place by place; "null" or nothing means none is given. A policy without a schema accepts
// none. Errors wrap [ErrConfig].
func (p *Policy) CheckConfig(config json.RawMessage) error {
	if err := p.schema.check(config); err != nil {
		return fmt.Errorf("policies: %w: %w", ErrConfig, err)
	}
	return nil
}
