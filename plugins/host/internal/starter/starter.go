// Package starter is the seam between a host and what puts a plugin behind walls.
//
// It is internal to plugins/host on purpose: outside of it nobody can name these types, so
// nobody else can give a host another way to start a plugin than the sandbox.
package starter

import (
	"context"

	"github.com/cloister-run/cloister/plugins/sandbox"
)

// Process is what runs behind walls: *sandbox.Process, or that of a test.
type Process interface {
	// Wait blocks until nothing of the process runs any more.
	Wait() (status int, err error)
	// Kill ends the process and everything that it started; it may be called again.
	Kill() error
	// Walls says what enforces each limit.
	Walls() []string
}

var _ Process = (*sandbox.Process)(nil)

// Func starts what a Spec describes. ctx bounds the start alone.
type Func func(context.Context, sandbox.Spec) (Process, error)

// Sandbox starts behind walls.
func Sandbox(ctx context.Context, spec sandbox.Spec) (Process, error) {
	p, err := sandbox.Start(ctx, spec)
	if err != nil {
		return nil, err
	}
	return p, nil
}
