package core

import (
	"context"
	"fmt"
	"io"

	"github.com/cloister-run/cloister/core/border"
	"github.com/cloister-run/cloister/policies/abi"
)

// Receipt is the receipt of a job that is done (package receipt). Only after it can anything be
// released. Errors wrap [ErrOrder].
func (j *Job) Receipt() ([]byte, error) {
	select {
	case <-j.done:
	default:
		return nil, fmt.Errorf("%w: the job is not done", ErrOrder)
	}
	if j.receipt == nil {
		return nil, fmt.Errorf("%w: a job that no policy was asked about has no receipt", ErrOrder)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.told = true
	return j.receipt, nil
}

// Release writes what every policy allowed to leave by a channel: a file's bytes, or a tar
// stream. It gives [border.ErrNotCleared] where that is nothing, [ErrOrder] before the
// receipt was handed out, and [ErrOver] when the job is deleted; else an error is w's or the machine's.
//
// If ctx ends or the job is deleted meanwhile, w is closed, from another goroutine: that must
// end a Write under way. In any other case it is the caller's to close.
func (j *Job) Release(ctx context.Context, ch abi.Channel, w io.WriteCloser) error {
	if !j.leaving.enter() {
		return ErrOver
	}
	defer j.leaving.leave()
	j.mu.Lock()
	told, clearance := j.told, j.clearance
	j.mu.Unlock()
	switch {
	case !told:
		return fmt.Errorf("%w: the receipt comes first", ErrOrder)
	case clearance == nil:
		return fmt.Errorf("%s: %w", ch, border.ErrNotCleared)
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	defer context.AfterFunc(j.kept, func() { stop(ErrOver) })()
	defer context.AfterFunc(ctx, func() { _ = w.Close() })() // what it has is no whole artifact
	err := clearance.Release(ctx, ch, w)
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
