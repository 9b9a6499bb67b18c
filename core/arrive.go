package core

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/cloister-run/cloister/core/queue"
	"github.com/cloister-run/cloister/core/tree"
	"github.com/cloister-run/cloister/plugins/executor"
)

// PutModule takes a policy's module. An error of the module or of a configuration for it ends
// the job: it can never be admitted. Errors wrap [ErrInvalid], [ErrConflict] or [ErrOver], or
// are the context's.
func (j *Job) PutModule(ctx context.Context, digest string, module []byte) (err error) {
	sum := sha256.Sum256(module)
	if digest != "sha256:"+hex.EncodeToString(sum[:]) {
		return fmt.Errorf("%w: the module is not what its digest says", ErrInvalid)
	}
	ctx, leave, err := j.arrive(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if err := j.mayArrive(); err != nil {
		return err
	}
	if err := j.modules.take(digest); err != nil {
		return err
	}
	j.patience.hold()
	defer func() { err = j.arrived(err) }()
	if err := j.holds(len(module)); err != nil {
		return err
	}
	release, err := j.turn(ctx)
	if err != nil {
		return err
	}
	defer release()
	p, err := j.runner.cfg.Policies.Load(ctx, module)
	switch {
	case err != nil && ctx.Err() != nil:
		return context.Cause(ctx)
	case isUnavailable(err):
		return err
	case err != nil:
		return fmt.Errorf("%w: policies%s: %w", ErrInvalid, j.places(digest), err)
	}
	for i, use := range j.spec.Policies {
		if use.Module == digest {
			err := p.CheckConfig(ctx, use.Config)
			if err != nil && ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err != nil {
				return fmt.Errorf("%w: policies[%d]: %w", ErrInvalid, i, err)
			}
		}
	}
	j.mu.Lock()
	j.policies[digest] = p
	j.mu.Unlock()
	j.modules.fill(digest)
	return nil
}

// holds counts a module against what the modules of the job's own policies may have together.
func (j *Job) holds(module int) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	most := modulesRoom(j.spec)
	if j.held += int64(module); j.held > most {
		return fmt.Errorf("%w: policies: their modules have over %d MiB together", ErrInvalid, most>>20)
	}
	return nil
}

// mayArrive is ErrOrder while the job waits for room: what would arrive is counted by nobody yet.
func (j *Job) mayArrive() error {
	if j.Queued() {
		return fmt.Errorf("%w: the job waits for room", ErrOrder)
	}
	return nil
}

// turn is held while one of the job's policies is loaded: one at a time, for all jobs share the processes
// that do it.
func (j *Job) turn(ctx context.Context) (release func(), err error) {
	select {
	case j.loading <- struct{}{}:
		return func() { <-j.loading }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// isUnavailable reports whether the machine is at fault, and not what was sent.
func isUnavailable(err error) bool {
	_, ok := errors.AsType[*UnavailableError](err)
	return ok
}

// places says which policies of the job have a module.
func (j *Job) places(digest string) string {
	var at []string
	for i, p := range j.spec.Policies {
		if p.Module == digest {
			at = append(at, fmt.Sprintf("[%d]", i))
		}
	}
	return strings.Join(at, ", policies")
}

// PutAsset takes an asset, into a place that no sandbox sees: a plain one as a tar stream, a sealed
// one as its bundle. An error ends the job, unless it says that this call should not have come.
// Errors wrap [ErrOrder], [ErrInvalid], [ErrConflict], [queue.ErrNoRoom] or [ErrOver], or are a
// [KeyError], or the context's or the machine's.
//
// If ctx or the job ends meanwhile, content is closed, from another goroutine: that must end a
// Read under way. In any other case it is the caller's to close.
func (j *Job) PutAsset(ctx context.Context, name string, content io.ReadCloser) (err error) {
	ctx, leave, err := j.arrive(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if err := j.isAdmitted(); err != nil {
		return err
	}
	i := slices.IndexFunc(j.sub.Assets, func(c Claim) bool { return c.Name == name })
	if i < 0 {
		return fmt.Errorf("%w: the job has no asset %.80q", ErrInvalid, name)
	}
	if _, unwrapper := j.sealedOf(name); j.sub.Assets[i].sealed() && unwrapper == nil {
		return fmt.Errorf("%w: the credentials come before sealed assets", ErrOrder)
	}
	if err := j.assets.take(name); err != nil {
		return err
	}
	j.patience.hold()
	defer func() { err = j.arrived(err) }()
	defer context.AfterFunc(ctx, func() { _ = content.Close() })() // it is read to no end
	if err := j.course.stage(ctx, j.sub.Assets[i], content); err != nil {
		return err
	}
	j.assets.fill(name)
	return nil
}

// isAdmitted is ErrOrder until every policy admitted the job.
func (j *Job) isAdmitted() error {
	select {
	case <-j.admitted:
		return nil
	default:
		return fmt.Errorf("%w: the job is not admitted yet", ErrOrder)
	}
}

// arrive begins a call that brings something. The context that it gives also ends when the job
// takes nothing any more.
func (j *Job) arrive(ctx context.Context) (_ context.Context, leave func(), err error) {
	if !j.arriving.enter() {
		return nil, nil, ErrOver
	}
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(j.open, func() { cancel(context.Cause(j.open)) })
	return ctx, func() {
		stop()
		cancel(nil)
		j.arriving.leave()
	}, nil
}

// arrived notes that something arrived whole, or ends the job with what went wrong.
func (j *Job) arrived(err error) error {
	j.patience.resume()
	switch {
	case err == nil:
		return nil
	case j.open.Err() != nil: // the end of the job is why it failed, or might as well be
		return ErrOver
	}
	j.cancel(fmt.Errorf("%w: %w", errBroken, err))
	return err
}

// settle takes nothing any more, and returns when nothing arrives.
func (j *Job) settle() {
	j.refuse(ErrOver)
	j.arriving.shut()
}

// stage unpacks or unseals an asset where no sandbox sees it. It is safe for concurrent use.
func (c *course) stage(ctx context.Context, claim Claim, content io.Reader) error {
	dir := filepath.Join(c.space.Staging, filepath.FromSlash(folder(claim.Name)))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return stageError(claim.Name, err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return stageError(claim.Name, err)
	}
	defer root.Close()
	var sum tree.Summary
	if claim.sealed() {
		sum, err = c.unseal(ctx, claim, content, root)
	} else {
		sum, err = tree.Unpack(ctx, content, root, tree.Limits{Bytes: claim.Bytes, Entries: claim.Entries})
	}
	if err != nil {
		return stageError(claim.Name, err)
	}
	if accepted := c.job.spec.Command.Environments; claim.Name == environmentName && len(accepted) > 0 && !slices.Contains(accepted, sum.Digest) {
		return fmt.Errorf("%w: %s: it is %s, and the application runs in %s alone", ErrInvalid, claim.Name, sum.Digest, strings.Join(accepted, ", "))
	}
	inside := path.Join(executor.AssetsDir, folder(claim.Name))
	if claim.Form == formFile {
		names, err := os.ReadDir(dir)
		if err != nil || len(names) != 1 || !names[0].Type().IsRegular() {
			return fmt.Errorf("%w: %s: claimed to be a file and is not one", ErrInvalid, claim.Name)
		}
		inside = path.Join(inside, names[0].Name())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.staged[claim.Name], c.given[claim.Name] = sum, inside
	return nil
}

// stageError tells what is wrong with an asset, or with its stream, from what the machine lacks.
func stageError(name string, err error) error {
	local, isLocal := errors.AsType[*fs.PathError](err)
	_, isKey := errors.AsType[*KeyError](err)
	_, isFault := errors.AsType[*faultError](err)
	switch {
	case isKey, isFault: // they say it all
		return err
	case errors.Is(err, syscall.ENOSPC):
		return fmt.Errorf("%w: for %s", queue.ErrNoRoom, name)
	case isLocal:
		return fmt.Errorf("%s: %w", name, local.Err) // without the path, which is the enclave's
	default:
		return fmt.Errorf("%w: %s: %w", ErrInvalid, name, err)
	}
}
