package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
)

// Process is what runs in a sandbox. It is safe for concurrent use.
type Process struct {
	init  *os.Process
	walls []string
	done  chan struct{} // closed when nothing is left of the sandbox

	// Set before done is closed.
	status int
	err    error
}

// Start builds the walls and starts the program behind them. It returns when the program was
// executed. ctx bounds the start alone. Errors are an [UnavailableError], the cause of ctx, or
// a problem of the Spec. Whoever started a process owes it a [Process.Kill] or [Process.Wait].
func Start(ctx context.Context, spec Spec) (*Process, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	if err := spec.check(); err != nil {
		return nil, fmt.Errorf("sandbox: %w", err)
	}
	s, err := prepare(&spec)
	if err != nil {
		return nil, err
	}
	p := &Process{walls: s.group.walls(), done: make(chan struct{})}
	forked := make(chan error)
	onThread(func() { s.live(p, forked) })
	if err := <-forked; err != nil {
		return nil, refused(&spec, err)
	}
	defer s.report.Close()
	if err := s.finish(ctx, p); err != nil {
		_ = p.Kill()
		<-p.done
		return nil, err
	}
	return p, nil
}

// Wait blocks until nothing of the sandbox runs any more, and gives the program's exit status:
// its own, or 128 and the number of the signal that ended it.
func (p *Process) Wait() (int, error) {
	<-p.done
	return p.status, p.err
}

// Kill ends the program and everything that it started. It may be called again.
func (p *Process) Kill() error {
	if err := p.init.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("sandbox: killing: %w", err)
	}
	return nil
}

// Walls says what enforces each limit: "memory: cgroup" or "memory: per-process".
func (p *Process) Walls() []string { return slices.Clone(p.walls) }
