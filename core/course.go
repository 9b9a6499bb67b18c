package core

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/cloister-run/cloister/core/border"
	"github.com/cloister-run/cloister/core/receipt"
	"github.com/cloister-run/cloister/core/space"
	"github.com/cloister-run/cloister/core/tree"
	"github.com/cloister-run/cloister/plugins/executor"
	"github.com/cloister-run/cloister/policies/abi"
)

// maxEntries bounds the files and folders of one asset.
const maxEntries = 1_000_000

// course is a job's way through its phases. One goroutine walks it; stage alone is called
// by others, between admission and [Job.settle].
type course struct {
	job    *Job
	info   abi.Executor
	record receipt.Run
	border *border.Border
	space  *space.Space
	launch *launch

	mu     sync.Mutex
	staged map[string]tree.Summary
	// given is what each input's reference stands for, inside.
	given map[string]string
	task  executor.Task

	// roomy says that the job has what the ledger was asked for.
	roomy bool
	// exposed says that the executor can see assets: what it says from now on may be of them.
	exposed   bool
	status    executor.Result
	clearance *border.Clearance
}

// end is how a course ended.
type end struct {
	result    Result
	receipt   []byte
	clearance *border.Clearance
	// denied says that a denial was recorded; dropped that no asset is left.
	denied, dropped bool
}

func newCourse(j *Job, info abi.Executor, sequence int) *course {
	cfg := j.runner.cfg
	return &course{
		job: j, info: info, staged: map[string]tree.Summary{}, given: map[string]string{},
		record: receipt.Run{
			Job:       receipt.Job{ID: j.sub.ID, Name: j.spec.Name, Digest: j.spec.Digest()},
			Enclave:   receipt.Enclave{Realm: cfg.Realm, ModuleID: cfg.ModuleID, Version: cfg.Version, Sequence: sequence, Rehearsal: cfg.Rehearsal},
			Executor:  receipt.Executor{Executor: info, Walls: []string{}},
			Assets:    []abi.Asset{},
			Policies:  []abi.PolicyRef{},
			Consented: []receipt.Consent{},
			Decisions: []receipt.Decision{},
			Released:  []abi.Artifact{},
			Started:   receipt.Time(cfg.Now()),
		},
	}
}

// run walks the course: the phases in their order, then the end of everything that ran, then
// the record.
func (c *course) run(ctx context.Context) end {
	var err error
	for _, phase := range []func(context.Context) error{c.queue, c.admit, c.receive, c.ingress, c.execute, c.egress} {
		if err = phase(ctx); err != nil {
			break
		}
	}
	if killed := c.launch.kill(); killed != nil {
		err = &faultError{FaultMachine, killed}
	}
	if c.exposed && c.job.runner.cfg.Rehearsal {
		c.rehearse()
	}
	c.job.settle()
	c.job.dropCredentials()
	dropped := c.drop(err)
	if dropped != nil {
		err = errors.Join(err, &faultError{FaultMachine, dropped})
	}
	e := c.conclude(ctx, err)
	e.dropped = dropped == nil
	e.denied = slices.ContainsFunc(c.record.Decisions, func(d receipt.Decision) bool { return !d.Allow })
	return e
}

// queue waits for room. The operator has nothing to send meanwhile, but is to be there: see [Job.Phases].
func (c *course) queue(ctx context.Context) error {
	if c.job.Queued() {
		c.job.enter(Queued)
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, c.job.spec.Limits.Queue, errNoTurn)
		defer cancel()
		if err := wait(ctx, c.job.reserved.Ready()); err != nil {
			return err
		}
	}
	c.roomy = true
	c.job.runner.entered()
	return nil
}

// admit waits for the policies and the fronts of bundles, and asks every policy about the job, on
// claims.
func (c *course) admit(ctx context.Context) (err error) {
	c.job.enter(Admitting)
	if err := wait(ctx, c.job.modules.full); err != nil {
		return err
	}
	if err := wait(ctx, c.job.fronts.full); err != nil {
		return err
	}
	c.job.patience.hold() // the policies are at work, not the operator
	c.border = border.New(c.parties(), &c.record, c.sealTo())
	c.record.Policies = c.border.Policies()
	if c.record.Assets, err = c.assets(false); err != nil {
		return err
	}
	request := c.request()
	request.Channels = c.channels()
	if err := c.border.Admit(ctx, request); err != nil {
		return err
	}
	c.record.Consented = c.border.Consent()
	if c.space, err = c.job.runner.cfg.Spaces.Make(c.job.sub.ID, c.job.spec.Limits.Disk, sealedRoom(c.job.spec)); err != nil {
		return &faultError{FaultMachine, err}
	}
	c.launch = newLaunch(c.job.runner.cfg.Executors, c.info.Name, c.place())
	c.job.mu.Lock()
	c.job.consented = c.record.Consented
	c.job.mu.Unlock()
	close(c.job.admitted)
	c.job.patience.resume()
	return nil
}

// receive waits for the assets. The executor starts meanwhile, and sees none of them.
func (c *course) receive(ctx context.Context) error {
	c.job.enter(Receiving)
	if err := wait(ctx, c.job.assets.begun); err != nil {
		return err
	}
	c.launch.start(ctx)
	select {
	case <-c.job.assets.full:
		c.job.patience.stop()
		c.job.dropCredentials()
		return nil
	case <-c.launch.failed:
		return c.launch.wait(ctx)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// ingress asks every policy again, on verified facts, and shows the assets to the application.
// It waits for the executor first: what that says of itself goes into the record, so it must
// have been said before there was anything to see.
func (c *course) ingress(ctx context.Context) (err error) {
	c.job.enter(Ingress)
	if c.record.Assets, err = c.assets(true); err != nil {
		return err
	}
	if err := c.border.Ingress(ctx, c.request()); err != nil {
		return err
	}
	if err := c.launch.wait(ctx); err != nil {
		return err
	}
	c.record.Executor.Runtime = c.launch.runtime.Name + " " + c.launch.runtime.Version
	c.record.Executor.Walls = c.launch.session.Walls()
	if err := c.fits(); err != nil {
		return err
	}
	if c.task, err = c.makeTask(); err != nil {
		return err
	}
	c.exposed = true
	if err := c.space.Publish(); err != nil {
		return &faultError{FaultMachine, err}
	}
	return nil
}

// fits says whether the executor can use the environment, while its answer is still for everybody to hear.
func (c *course) fits() error {
	if !c.job.spec.Environment {
		return nil
	}
	root, err := os.OpenRoot(filepath.Join(c.space.Staging, folder(environmentName)))
	if err != nil {
		return &faultError{FaultMachine, err}
	}
	defer root.Close()
	env, err := executor.ReadEnvironment(root.FS())
	if err == nil {
		err = env.Fits(c.info.Name, c.launch.runtime)
	}
	if err != nil {
		return &faultError{FaultEnvironment, err}
	}
	return nil
}

// execute runs the application to its end and kills everything that it started.
func (c *course) execute(ctx context.Context) (err error) {
	if err := c.job.runner.boot.begin(ctx, c.job); err != nil {
		return err
	}
	c.job.enter(Executing)
	c.job.runner.began()
	ctx, cancel := context.WithTimeoutCause(ctx, c.job.spec.Limits.Run, errTimedOut)
	defer cancel()
	c.status, err = c.launch.session.Run(ctx, c.task)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, executor.ErrEntrypoint):
		return &faultError{FaultEntrypoint, err}
	case errors.Is(err, executor.ErrRuntime):
		return &faultError{FaultRuntime, err}
	case errors.Is(err, executor.ErrEnvironment):
		return &faultError{FaultEnvironment, err}
	case err != nil:
		return &faultError{FaultGone, err}
	case c.status.Status < 0 || c.status.Status > 255: // a channel of one byte carries no more
		return &faultError{FaultGone, executor.ErrGone}
	}
	return nil
}

// sealTo says to whom each channel is sealed.
func (c *course) sealTo() map[abi.Channel][]string {
	to := map[abi.Channel][]string{}
	for name, recipients := range c.job.spec.SealTo {
		to[abi.Output(name)] = recipients
	}
	return to
}

// channels lists what the job asks for.
func (c *course) channels() []abi.Channel {
	spec := c.job.spec
	var channels []abi.Channel
	for _, name := range spec.Outputs {
		channels = append(channels, abi.Output(name))
	}
	for _, asked := range []struct {
		wanted  bool
		channel abi.Channel
	}{{spec.Logs.Stdout, abi.Stdout}, {spec.Logs.Stderr, abi.Stderr}, {spec.Exit, abi.Exit}} {
		if asked.wanted {
			channels = append(channels, asked.channel)
		}
	}
	return channels
}

// parties are the policies of the job.
func (c *course) parties() []border.Party {
	c.job.mu.Lock()
	defer c.job.mu.Unlock()
	parties := c.owners()
	for _, use := range c.job.spec.Policies {
		p := c.job.policies[use.Module]
		sum := sha256.Sum256(use.Config)
		parties = append(parties, border.Party{
			Ref:      abi.PolicyRef{Module: use.Module, Config: tree.Hex(sum[:])},
			Config:   use.Config,
			Manifest: p.Manifest(),
			Judge:    p,
		})
	}
	return parties
}

// request is what policies are asked, but for the point and what belongs to it.
func (c *course) request() abi.Request {
	counts, sharing := c.job.runner.counts()
	return abi.Request{
		Job: json.RawMessage(c.job.sub.Job), JobDigest: c.record.Job.Digest,
		Executor: c.info, Assets: c.record.Assets,
		Time: receipt.Time(c.job.runner.cfg.Now()), PCRs: c.job.runner.cfg.PCRs,
		Boot: counts, Sharing: sharing,
	}
}

// assets states the facts about every asset: as claimed, or as found when it had arrived.
func (c *course) assets(verified bool) ([]abi.Asset, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	assets := make([]abi.Asset, 0, len(c.job.sub.Assets))
	for _, claim := range c.job.sub.Assets {
		a := abi.Asset{Name: claim.Name, Kind: "input", Form: claim.Form, Bytes: claim.Bytes, Sealed: claim.sealed()}
		switch sealed := c.job.sealed[claim.Name]; {
		case sealed != nil:
			a.Kind, a.Owner = string(sealed.header.Asset.Kind), sealed.header.Key
		case claim.Name == applicationName, claim.Name == environmentName:
			a.Kind = claim.Name
		}
		if verified {
			sum, ok := c.staged[claim.Name]
			if !ok {
				return nil, &faultError{FaultMachine, fmt.Errorf("%s has not arrived", claim.Name)}
			}
			a.Verified, a.Digest, a.Bytes = true, sum.Digest, sum.Bytes
		}
		assets = append(assets, a)
	}
	return assets, nil
}
