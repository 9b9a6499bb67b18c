package core

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cloister-run/cloister/core/border"
	"github.com/cloister-run/cloister/core/queue"
	"github.com/cloister-run/cloister/core/receipt"
	"github.com/cloister-run/cloister/core/space"
	"github.com/cloister-run/cloister/jobspec"
	"github.com/cloister-run/cloister/policies/abi"
)

// Job is one job, from its submission until it is deleted. It is safe for concurrent use.
type Job struct {
	runner   *Runner
	sub      Submission
	spec     *jobspec.Canonical
	token    string
	reserved *queue.Reservation
	course   *course

	// ctx ends with the cause that ends the job early; open, below it, also when the job takes
	// nothing any more; kept when the job is deleted.
	ctx, open, kept context.Context
	cancel, refuse  context.CancelCauseFunc
	drop            context.CancelFunc
	// patience runs while the job waits for its operator.
	patience *patience
	// modules, fronts and assets are what must still arrive.
	modules, fronts, assets *intake
	// arriving are the calls that bring something, leaving those that take something away.
	arriving, leaving gate
	admitted, done    chan struct{}
	// loading is held while a policy is loaded.
	loading chan struct{}

	mu        sync.Mutex
	policies  map[string]Policy
	held      int64                   // bytes of the modules of policies
	sealed    map[string]*sealedAsset // by asset
	unwrapper Unwrapper               // nil before the credentials came, and after the last asset
	phases    []Phase
	entered   time.Time // the last of phases
	changed   chan struct{}
	consented []receipt.Consent
	result    Result // and receipt: set before done is closed, and never again
	receipt   []byte
	told      bool // the receipt was handed out
	rehearsed map[abi.Channel][]byte
	clearance *border.Clearance

	keep   *time.Timer // set before done is closed
	wiping sync.Mutex
}

func newJob(r *Runner, s Submission, spec *jobspec.Canonical, info abi.Executor, reserved *queue.Reservation) *Job {
	j := &Job{
		runner: r, sub: s, spec: spec, token: newToken(), reserved: reserved,
		admitted: make(chan struct{}), done: make(chan struct{}), changed: make(chan struct{}),
		loading:  make(chan struct{}, 1),
		policies: map[string]Policy{}, sealed: map[string]*sealedAsset{},
	}
	j.ctx, j.cancel = context.WithCancelCause(context.Background())
	j.open, j.refuse = context.WithCancelCause(j.ctx)
	j.kept, j.drop = context.WithCancel(context.Background())
	var modules, fronts, assets []string
	for _, p := range spec.Policies {
		modules = append(modules, p.Module)
	}
	for _, c := range s.Assets {
		assets = append(assets, c.Name)
		if c.sealed() {
			fronts = append(fronts, c.Name)
		}
	}
	j.modules, j.fronts, j.assets = newIntake(modules), newIntake(fronts), newIntake(assets)
	j.patience = newPatience(r.cfg.Idle, func() { j.cancel(errIdle) })
	j.course = newCourse(j, info, r.sequence)
	return j
}

// Token is what every later call about the job must know.
func (j *Job) Token() string { return j.token }

// ID is the operator's name for the job.
func (j *Job) ID() string { return j.sub.ID }

// Modules lists the digests of the policy modules that must be sent.
func (j *Job) Modules() []string { return j.modules.names() }

// Fronts lists the sealed assets whose fronts must be sent.
func (j *Job) Fronts() []string { return j.fronts.names() }

// Queued says that the job waits for room: nothing may be sent yet. It ends with a phase.
func (j *Job) Queued() bool {
	select {
	case <-j.reserved.Ready():
		return false
	default:
		return true
	}
}

// Need is what the job was promised, or waits for.
func (j *Job) Need() queue.Need { return need(j.spec, j.sub.Assets) }

// Cancel ends the job. One that is done stays as it is.
func (j *Job) Cancel() { j.cancel(errCancelled) }

// Admission waits until every policy admitted the job, and says which channels they agreed to;
// or until the job is over, whichever comes first.
func (j *Job) Admission(ctx context.Context) (consented []receipt.Consent, over bool, err error) {
	select {
	case <-j.admitted:
		j.mu.Lock()
		defer j.mu.Unlock()
		return slices.Clone(j.consented), false, nil
	case <-j.done:
		return nil, true, nil
	case <-ctx.Done():
		return nil, false, context.Cause(ctx)
	}
}

// Phases gives the phases after the first n, and waits for one if there is none. After Done
// it gives none and no error. Whoever waits for a job that waits for room is there for it: without
// anybody the job gives up its place, since nobody would send what it needs.
func (j *Job) Phases(ctx context.Context, n int) ([]Phase, error) {
	if j.Queued() {
		j.patience.hold()
		defer j.patience.resume()
	}
	for {
		j.mu.Lock()
		phases, changed := j.phases, j.changed
		j.mu.Unlock()
		n = min(max(n, 0), len(phases))
		if n < len(phases) {
			return slices.Clone(phases[n:]), nil
		}
		if n > 0 && phases[n-1] == Done {
			return nil, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// Latest counts the phases so far, and says which is the last one and how long ago it began. It waits for
// the first.
func (j *Job) Latest(ctx context.Context) (n int, last Phase, ago time.Duration, err error) {
	if _, err := j.Phases(ctx, 0); err != nil {
		return 0, "", 0, err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	n = len(j.phases)
	return n, j.phases[n-1], time.Since(j.entered), nil
}

func (j *Job) enter(p Phase) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.phases, j.entered = append(j.phases, p), time.Now()
	close(j.changed)
	j.changed = make(chan struct{})
}

// Result waits for the end of the job, or for ctx's.
func (j *Job) Result(ctx context.Context) (Result, error) {
	select {
	case <-j.done:
		return j.result, nil
	case <-ctx.Done():
		return Result{}, context.Cause(ctx)
	}
}

// run is the job's goroutine. When the job is done, all that is left of it in memory is what
// may be released; where that is nothing, nothing is left.
func (j *Job) run() {
	end := j.course.run(j.ctx)
	j.patience.stop()
	j.mu.Lock()
	j.result, j.receipt, j.clearance = end.result, end.receipt, end.clearance
	j.policies, j.sealed, j.course.border = nil, nil, nil // and their modules with them
	j.mu.Unlock()
	if j.course.roomy { // before anybody has its room
		j.runner.ended(end.denied)
	}
	if end.clearance == nil {
		_ = j.wipe() // Delete tries again, and the ledger counts the memory until it succeeds
	} else if end.dropped {
		j.reserved.Keep(keeps(j.spec))
	}
	if end.dropped {
		j.runner.boot.over(j)
	}
	j.keep = time.AfterFunc(min(j.spec.Keep, j.runner.cfg.Keep), func() { _ = j.Delete() }) // nobody waits for its error
	j.cancel(ErrOver)
	close(j.done)
	j.enter(Done)
}

// errWipe hides its cause, which has names of the application's choice.
var errWipe = errors.New("the job cannot be wiped")

// Delete cancels the job if it runs, waits for its end, cuts off what is being released, and
// wipes everything of it. Where that fails the job stays known, without anything to release,
// and Delete may be called again.
func (j *Job) Delete() error {
	j.cancel(errCancelled)
	<-j.done
	j.keep.Stop()
	j.drop()
	j.leaving.shut()
	j.mu.Lock()
	j.rehearsed = nil
	j.mu.Unlock()
	if err := j.wipe(); err != nil {
		return err
	}
	j.runner.forget(j)
	return nil
}

// wipe leaves nothing of the job in memory, and gives back what it was promised. Nobody uses
// its files any more.
func (j *Job) wipe() error {
	j.wiping.Lock()
	defer j.wiping.Unlock()
	j.mu.Lock()
	clearance := j.clearance
	j.clearance = nil
	j.mu.Unlock()
	if clearance != nil {
		_ = clearance.Close() // of folders that were only read
	}
	if j.course.space != nil && j.course.space.Wipe() != nil {
		return errWipe
	}
	j.reserved.Release()
	j.runner.boot.over(j)
	return nil
}

// The names of assets, and their forms.
const (
	applicationName = "application"
	environmentName = "environment"
	formFile        = "file"
	formTree        = "tree"
)

func inputName(name string) string { return "inputs." + name }

// folder is where an asset stands below the staging or assets folder.
func folder(asset string) string { return strings.Replace(asset, "inputs.", "inputs/", 1) }

var _ Spaces = (*space.Maker)(nil)
