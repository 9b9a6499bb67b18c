package core

import (
	"context"
	"errors"
	"io/fs"
	"time"

	"github.com/cloister-run/cloister/core/border"
	"github.com/cloister-run/cloister/core/receipt"
	"github.com/cloister-run/cloister/enclave/attest"
)

// faultError is an error that knows its fault.
type faultError struct {
	fault Fault
	err   error
}

func (e *faultError) Error() string { return e.err.Error() }
func (e *faultError) Unwrap() error { return e.err }

// wait waits for done, or for the end of ctx.
func wait(ctx context.Context, done <-chan struct{}) error {
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// conclude makes the result and the receipt. Without a receipt nothing is released, and neither
// is anything of a job that was ended before the receipt was made.
func (c *course) conclude(ctx context.Context, err error) end {
	e := c.account(ctx, err)
	if e.clearance != nil && ctx.Err() != nil { // while the receipt was being made
		e = c.account(ctx, err)
	}
	if e.clearance == nil && c.clearance != nil {
		_ = c.clearance.Close() // nothing of it may leave; what it held is wiped with the job
	}
	return e
}

func (c *course) account(ctx context.Context, err error) end {
	if ctx.Err() != nil { // whatever else went wrong, a job that was ended releases nothing
		err = context.Cause(ctx)
	}
	e := end{result: c.result(err)}
	c.record.Released = nil
	if err == nil && c.clearance != nil {
		e.clearance, c.record.Released = c.clearance, c.clearance.Artifacts()
	}
	if !c.asked() {
		return e
	}
	c.record.Keys = c.keys()
	c.record.Outcome = e.result.Outcome
	c.record.Finished = receipt.Time(c.job.runner.cfg.Now())
	if e.receipt, err = c.attest(ctx); err != nil {
		return end{result: Result{Outcome: receipt.Broken, Fault: FaultMachine, Detail: "the receipt cannot be made"}}
	}
	return e
}

// attestTimeout bounds how long the NSM may take over a receipt.
const attestTimeout = 30 * time.Second

// attest makes the receipt of the record, whatever became of ctx.
func (c *course) attest(ctx context.Context) ([]byte, error) {
	statement, err := c.record.Statement()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), attestTimeout)
	defer cancel()
	document, err := attest.ForReceipt(ctx, c.job.runner.cfg.NSM, receipt.Message(statement))
	if err != nil {
		return nil, err
	}
	return receipt.Encode(statement, document)
}

// asked says whether any policy could be asked; before that there is nothing to record.
func (c *course) asked() bool { return c.border != nil }

// result says what the operator is told. Where an asset has another owner, an application that saw it
// tells the operator two things at most, however it ends: that it succeeded, or that it failed.
func (c *course) result(err error) Result {
	r := c.whole(err)
	if c.exposed && len(c.job.Fronts()) > 0 && (r.Outcome == receipt.Broken || r.Outcome == receipt.Refused) {
		return Result{Outcome: receipt.Failed}
	}
	return r
}

// whole is the result with all that the enclave knows.
func (c *course) whole(err error) Result {
	if denial, ok := errors.AsType[*border.Denial](err); ok {
		return Result{Outcome: receipt.Denied, Denial: denial}
	}
	if refused, ok := errors.AsType[*border.OutputError](err); ok {
		r := Result{Outcome: receipt.Refused, Detail: refused.Error()}
		if errors.Is(err, fs.ErrNotExist) {
			r.Detail = string(refused.Channel) + ": the application did not write it"
			r.Hint = "the application must write it to the path that ${" + string(refused.Channel) + "} stands for"
		}
		return r
	}
	if key, ok := errors.AsType[*KeyError](err); ok {
		r := Result{Outcome: receipt.KeyRefused, Detail: key.Error()}
		if !key.Refused {
			r.Outcome, r.Fault = receipt.Broken, FaultKMS
		}
		return r
	}
	fault, isFault := errors.AsType[*faultError](err)
	if isUnavailable(err) && !isFault { // it was needed to load a policy
		fault, isFault = &faultError{FaultMachine, err}, true
	}
	switch {
	case err == nil && c.status.Succeeded():
		return Result{Outcome: receipt.Succeeded}
	case err == nil:
		return Result{Outcome: receipt.Failed}
	case errors.Is(err, errNoTurn):
		return Result{Outcome: receipt.TimedOut, Detail: "there was no room in the enclave within limits.queue, " + c.job.spec.Limits.Queue.String(),
			Hint: "raise limits.queue, or ask for less memory and disk"}
	case errors.Is(err, errTimedOut):
		return Result{Outcome: receipt.TimedOut, Detail: "the application ran for longer than limits.run, " + c.job.spec.Limits.Run.String(),
			Hint: "raise limits.run"}
	case (errors.Is(err, errCancelled) || errors.Is(err, errIdle) || errors.Is(err, errBroken)) && !isUnavailable(err):
		return Result{Outcome: receipt.Cancelled, Detail: err.Error()}
	case !isFault:
		fault = &faultError{FaultMachine, err}
	}
	r := Result{Outcome: receipt.Broken, Fault: fault.fault, Detail: c.words(fault)}
	if unavailable, ok := errors.AsType[*UnavailableError](err); ok && !c.exposed {
		r.Hint = unavailable.Cure
	}
	return r
}

// words is what the operator is told of a fault: its own words while the executor could see
// nothing of the job's, and afterwards one sentence for each fault, so that no error carries
// out what an application chose.
func (c *course) words(f *faultError) string {
	if !c.exposed {
		return f.Error()
	}
	switch f.fault {
	case FaultEntrypoint:
		return "the executor cannot run the entrypoint: it is missing, or no file that it can run"
	case FaultRuntime:
		return "the executor's runtime is missing or broken"
	case FaultEnvironment:
		return "the executor cannot use the environment: it is made for another executor, another runtime or another machine"
	case FaultGone, FaultExecutor:
		return "the executor died, or broke its protocol, while the application ran"
	case FaultMachine, FaultKMS:
		return "the enclave failed"
	}
	return string(f.fault)
}
