package core

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cloister-run/cloister/core/border"
	"github.com/cloister-run/cloister/core/space"
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

// egress freezes what the application left and asks every policy about it. Of an application
// that failed only the logs and the exit status are looked at.
func (c *course) egress(ctx context.Context) (err error) {
	if err := c.launch.kill(); err != nil {
		return &faultError{FaultMachine, err}
	}
	c.job.enter(Egress)
	work, err := os.OpenRoot(c.space.Work)
	if err != nil {
		return &faultError{FaultMachine, err}
	}
	defer work.Close()
	own, err := os.OpenRoot(c.space.Own)
	if err != nil {
		return &faultError{FaultMachine, err}
	}
	defer own.Close()
	if err := own.WriteFile("exit", fmt.Appendf(nil, "%d\n", c.status.Status), 0o600); err != nil {
		return &faultError{FaultMachine, err}
	}
	scratch, err := os.OpenRoot(c.space.Redacted)
	if err != nil {
		return &faultError{FaultMachine, err}
	}
	defer scratch.Close()
	var sealed *os.Root
	if c.space.Sealed != "" {
		if sealed, err = os.OpenRoot(c.space.Sealed); err != nil {
			return &faultError{FaultMachine, err}
		}
		defer sealed.Close()
	}
	assets, err := c.ownAssets()
	defer func() {
		for _, a := range assets {
			_ = a.Dir.Close()
		}
	}()
	if err != nil {
		return &faultError{FaultMachine, err}
	}
	c.clearance, err = c.border.Egress(ctx, c.request(), border.Leaving{
		Candidates: c.candidates(work, own), MaxBytes: c.job.spec.Limits.Disk, Assets: assets, Scratch: scratch, Sealed: sealed,
	})
	return err
}

// ownAssets says where every asset is, for the policies of its owner, but for the environment: nobody owns
// what everybody has from an index. The caller closes what it got, with an error too.
func (c *course) ownAssets() ([]border.Asset, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var assets []border.Asset
	for _, a := range c.record.Assets {
		if a.Name == environmentName {
			continue
		}
		root, err := os.OpenRoot(filepath.Join(c.space.Assets, filepath.FromSlash(folder(a.Name))))
		if err != nil {
			return assets, err
		}
		at := border.Asset{Name: a.Name, Owner: a.Owner, Dir: root}
		if a.Form == formFile {
			at.File = path.Base(c.given[a.Name])
		}
		assets = append(assets, at)
	}
	return assets, nil
}

// candidates are the places of the channels that the job asks for.
func (c *course) candidates(work, own *os.Root) []border.Candidate {
	var found []border.Candidate
	for _, ch := range c.channels() {
		name, isOutput := ch.OutputName()
		switch {
		case isOutput && c.status.Succeeded():
			place, isTree := strings.CutSuffix(c.job.spec.Command.Outputs[name], "/")
			found = append(found, border.Candidate{Channel: ch, Dir: work, Name: path.Join(space.Outputs, place), Tree: isTree})
		case ch == abi.Exit:
			found = append(found, border.Candidate{Channel: ch, Dir: own, Name: "exit"})
		case ch == abi.Stdout:
			found = append(found, border.Candidate{Channel: ch, Dir: work, Name: path.Join(space.Logs, "stdout")})
		case ch == abi.Stderr:
			found = append(found, border.Candidate{Channel: ch, Dir: work, Name: path.Join(space.Logs, "stderr")})
		}
	}
	return found
}

// drop removes the assets, when nothing uses them any more, and all that was made of them, but for what may leave: another
// owner's application may run next. Where nothing may leave, the job is wiped.
func (c *course) drop(err error) error {
	if c.space == nil {
		return nil
	}
	dropped := c.space.DropAssets()
	if err == nil && c.clearance != nil {
		dropped = errors.Join(dropped, c.space.Keep(c.places()))
	}
	return dropped
}

// places is where what may leave is, but for what the enclave wrote itself.
func (c *course) places() []string {
	return slices.DeleteFunc(c.clearance.Places(), func(place string) bool {
		dir := filepath.Dir(place)
		return dir == c.space.Own || dir == c.space.Sealed
	})
}
