// Package node is the executor for applications in JavaScript: it runs one script with the Node.js of
// the image.
//
// The entrypoint is a regular file inside the application: CommonJS or an ES module, as Node.js tells
// them apart by name and package.json. What the application needs is in its own node_modules. Anything
// else is executor.ErrEntrypoint. The package runs inside the sandbox, beside the application, and guards
// nothing that the enclave relies on.
package node

import (
	"context"
	"fmt"

	"github.com/cloister-run/cloister/plugins/executor"
	"github.com/cloister-run/cloister/plugins/process"
)

// Name and Version are what the executor describes itself as, and its manifest says.
const (
	Name    = "node"
	Version = "0.1.0"
)

var _ executor.Executor = (*Executor)(nil)

// Executor runs one script.
type Executor struct{ interpreter process.Interpreter }

// New makes an executor for one job.
func New() *Executor { return newAt("/usr/local/bin/node", "/opt/node/bin/node", "/usr/bin/node") }

func newAt(places ...string) *Executor {
	return &Executor{process.Interpreter{
		Places:   places,
		Ask:      []string{"-p", `"Node.js " + process.versions.node`},
		Reserved: []string{"NODE_"},
	}}
}

// Describe implements executor.Executor.
func (e *Executor) Describe(context.Context) (executor.Description, error) {
	return executor.Description{Name: Name, Version: Version}, nil
}

// Begin looks for the interpreter while the enclave connects.
func (e *Executor) Begin() { e.interpreter.Begin() }

// Prepare implements executor.Executor.
func (e *Executor) Prepare(ctx context.Context) (executor.Runtime, error) {
	r, err := e.interpreter.Prepare(ctx)
	if err != nil {
		return executor.Runtime{}, fmt.Errorf("node: %w", err)
	}
	return r, nil
}

// Run runs the script to its end.
func (e *Executor) Run(ctx context.Context, t executor.Task) (executor.Result, error) {
	if t.Environment != "" {
		return executor.Result{}, fmt.Errorf("node: %w: this executor has none", executor.ErrEnvironment)
	}
	r, err := e.interpreter.Run(ctx, t, process.Script)
	if err != nil {
		return executor.Result{}, fmt.Errorf("node: %w", err)
	}
	return r, nil
}

// Stop implements executor.Executor.
func (e *Executor) Stop(ctx context.Context) error { return e.interpreter.Stop(ctx) }
