package core

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"

	"github.com/cloister-run/cloister/core/border"
	"github.com/cloister-run/cloister/core/receipt"
	"github.com/cloister-run/cloister/core/tree"
	"github.com/cloister-run/cloister/enclave/envelope"
	"github.com/cloister-run/cloister/jobspec"
	"github.com/cloister-run/cloister/policies/abi"
)

// sealedAsset is a sealed asset of a job.
type sealedAsset struct {
	// header is a claim until the asset was unsealed.
	header envelope.Header
	policy Policy
	ref    abi.PolicyRef
	// requestID is the KMS's, once it gave the data key; set under the lock of the course.
	requestID string
}

// PutFront takes what stands in the open in a sealed asset's bundle, with its owner's policy. An
// error of what it says ends the job: it can never be admitted. Errors wrap [ErrInvalid],
// [ErrConflict] or [ErrOver], or are the context's.
func (j *Job) PutFront(ctx context.Context, name string, front []byte) (err error) {
	ctx, leave, err := j.arrive(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if err := j.mayArrive(); err != nil {
		return err
	}
	if err := j.fronts.take(name); err != nil {
		return err
	}
	j.patience.hold()
	defer func() { err = j.arrived(err) }()
	claim := j.sub.Assets[slices.IndexFunc(j.sub.Assets, func(c Claim) bool { return c.Name == name })]
	a, err := j.readFront(ctx, claim, front)
	switch {
	case err != nil && ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return fmt.Errorf("%w: %s: %w", ErrInvalid, name, err)
	}
	j.mu.Lock()
	j.sealed[name] = a
	j.mu.Unlock()
	j.fronts.fill(name)
	return nil
}

// readFront holds a front against what the job claims of the asset, and loads its policy.
func (j *Job) readFront(ctx context.Context, claim Claim, front []byte) (*sealedAsset, error) {
	rest := bytes.NewReader(front)
	bundle, err := envelope.Read(rest)
	if err != nil {
		return nil, err
	}
	if rest.Len() > 0 || bundle.FrontDigest() != claim.Front {
		return nil, errors.New("it is not the bundle that the job claims")
	}
	h := bundle.Header
	if err := j.fits(claim, h); err != nil {
		return nil, err
	}
	release, err := j.turn(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	policy, err := j.runner.cfg.Policies.Load(ctx, bundle.Module)
	if err != nil {
		return nil, fmt.Errorf("its policy: %w", err)
	}
	if err := bundle.CheckManifest(policy.Manifest()); err != nil {
		return nil, err
	}
	if j.spec.Environment && !j.sealedApplication() && !policy.Manifest().Environments {
		return nil, errors.New("its policy says nothing of environments, and what is in one can do what a plain application can")
	}
	if err := policy.CheckConfig(ctx, h.Policy.Config); err != nil {
		return nil, fmt.Errorf("its policy: %w", err)
	}
	if h.Policy.Limits != (envelope.Limits{}) {
		return nil, errors.New("its policy: it asks for limits of its own, which this enclave does not keep")
	}
	module, config := sha256.Sum256(bundle.Module), sha256.Sum256(h.Policy.Config)
	return &sealedAsset{
		header: h, policy: policy,
		ref: abi.PolicyRef{Owner: h.Key, Asset: claim.Name, Module: tree.Hex(module[:]), Config: tree.Hex(config[:])},
	}, nil
}

// sealedApplication reports whether the application comes as a bundle.
func (j *Job) sealedApplication() bool { return j.sub.Assets[0].sealed() }

// fits says whether a bundle can be what the job uses it as.
func (j *Job) fits(claim Claim, h envelope.Header) error {
	application := claim.Name == applicationName
	switch {
	case (h.Asset.Kind == jobspec.ApplicationKind) != application:
		return fmt.Errorf("its kind is %s, and the job uses it as something else", h.Asset.Kind)
	case h.Asset.Form != claim.Form, h.Asset.Bytes != claim.Bytes, h.Asset.Entries != claim.Entries:
		return errors.New("the job claims another form or size than the bundle has")
	case application && !reflect.DeepEqual(j.spec.Command.Normal(), h.Command.Normal()):
		return errors.New("the command of the job is not the one of the bundle")
	case application && j.spec.Environment && len(h.Command.Environments) == 0:
		return errors.New("it runs in no environment, and the job has one")
	}
	return nil
}

// PutCredentials takes the credentials with which the KMS of the sealed assets is asked. They are
// kept until the last asset has arrived, and nowhere but in memory. Errors wrap [ErrOrder],
// [ErrInvalid], [ErrConflict] or [ErrOver].
func (j *Job) PutCredentials(ctx context.Context, credentials []byte) error {
	_, leave, err := j.arrive(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if err := j.isAdmitted(); err != nil {
		return err
	}
	if len(j.Fronts()) == 0 {
		return fmt.Errorf("%w: the job has no sealed asset", ErrInvalid)
	}
	unwrapper, err := j.runner.cfg.Keys.Login(credentials)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.unwrapper != nil {
		return fmt.Errorf("%w: credentials were sent before", ErrConflict)
	}
	j.unwrapper = unwrapper
	return nil
}

// dropCredentials forgets them: every data key was asked for, or none will be.
func (j *Job) dropCredentials() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.unwrapper = nil
}

// sealedOf finds a sealed asset and what has its data key unwrapped.
func (j *Job) sealedOf(name string) (*sealedAsset, Unwrapper) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.sealed[name], j.unwrapper
}

// unseal decrypts a bundle into root while it arrives. The data key is asked for when all that
// stands in the open has arrived and is what was admitted, and for this job alone. The digest is the
// whole bundle's. Where there is an error, part of the content may stand in root.
func (c *course) unseal(ctx context.Context, claim Claim, content io.Reader, root *os.Root) (tree.Summary, error) {
	a, unwrapper := c.job.sealedOf(claim.Name) // both are there: see PutAsset
	bundle, err := envelope.Read(content)
	if err != nil {
		return tree.Summary{}, err
	}
	if bundle.FrontDigest() != claim.Front {
		return tree.Summary{}, errors.New("it is not the bundle that was admitted")
	}
	dataKey, err := c.unwrap(ctx, a, claim.Name, bundle, unwrapper)
	if err != nil {
		return tree.Summary{}, err
	}
	payload, err := bundle.Open(ctx, dataKey)
	if err != nil {
		return tree.Summary{}, err
	}
	defer payload.Close()
	extent, err := tree.Extract(ctx, payload, root, bundle.Header.Asset.Limits())
	if changed, ok := errors.AsType[*envelope.Error](err); ok {
		return tree.Summary{}, changed // who read the archive meanwhile explains nothing
	}
	if err != nil {
		return tree.Summary{}, err
	}
	digest := payload.Digest()
	if digest == "" { // its authenticated end was not reached
		return tree.Summary{}, envelope.ErrTruncated
	}
	return tree.Summary{Digest: digest, Bytes: extent.Bytes}, nil
}

// unwrap has the KMS give the data key of a bundle, once this enclave may ask.
func (c *course) unwrap(ctx context.Context, a *sealedAsset, name string, bundle *envelope.Bundle, by Unwrapper) ([]byte, error) {
	if err := c.job.runner.boot.unseal(ctx, c.job); err != nil {
		return nil, &faultError{FaultMachine, err}
	}
	dataKey, requestID, err := by.Unwrap(ctx, bundle.Header.Key, bundle.Header.WrappedKey, bundle.Context())
	if refused, ok := errors.AsType[*KeyError](err); ok {
		return nil, &KeyError{Refused: refused.Refused, Asset: name, Reason: refused.Reason}
	}
	if err != nil {
		return nil, &faultError{FaultMachine, fmt.Errorf("%s: asking for its data key: %w", name, err)}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	a.requestID = requestID
	return dataKey, nil
}

// owners are the policies of sealed assets, in the order of those.
func (c *course) owners() []border.Party {
	var parties []border.Party
	for _, claim := range c.job.sub.Assets {
		if a := c.job.sealed[claim.Name]; a != nil {
			parties = append(parties, border.Party{
				Ref: a.ref, Config: a.header.Policy.Config, Manifest: a.policy.Manifest(), Judge: a.policy,
			})
		}
	}
	return parties
}

// keys are the data keys that a KMS gave, sorted by asset.
func (c *course) keys() []receipt.Key {
	c.job.mu.Lock()
	defer c.job.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	var keys []receipt.Key
	for name, a := range c.job.sealed {
		if a.requestID != "" {
			keys = append(keys, receipt.Key{Asset: name, Key: a.header.Key, RequestID: a.requestID})
		}
	}
	slices.SortFunc(keys, func(a, b receipt.Key) int { return cmp.Compare(a.Asset, b.Asset) })
	return keys
}
