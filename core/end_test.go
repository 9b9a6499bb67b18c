package core_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/cloister-run/cloister/core"
	"github.com/cloister-run/cloister/core/coretest"
	"github.com/cloister-run/cloister/core/receipt"
	"github.com/cloister-run/cloister/plugins/executor"
	"github.com/cloister-run/cloister/policies/abi"
)

// fails makes an executor whose application does what usual ones do and then ends with err.
func fails(err error) coretest.Session {
	return coretest.Session{Run: func(ctx context.Context, s *coretest.Running, task executor.Task) (executor.Result, error) {
		if r, err := writes(0).Run(ctx, s, task); err != nil {
			return r, err
		}
		return executor.Result{}, err
	}}
}

// Every way in which a job can end without a verdict: nothing leaves, nothing is left, and what
// the operator is told holds no word of the application's.
func TestI2_WhateverBreaksReleasesNothing(t *testing.T) {
	leak := errors.New(secret)
	launch := func(err error) func(*coretest.Enclave) {
		return func(e *coretest.Enclave) {
			e.Executors.Next = func(context.Context, executor.Place) (coretest.Session, error) { return coretest.Session{}, err }
		}
	}
	session := func(s coretest.Session) func(*coretest.Enclave) { return func(e *coretest.Enclave) { next(e, s) } }
	policy := func(p *coretest.Policy) func(*coretest.Enclave) {
		return func(e *coretest.Enclave) { e.Policies.Known["allow"] = p }
	}
	judge := func(err error) func(context.Context, abi.Request, abi.Files) (abi.Decision, error) {
		return func(_ context.Context, r abi.Request, _ abi.Files) (abi.Decision, error) {
			return coretest.Allow(r), err
		}
	}
	for _, test := range []struct {
		rule    string
		arrange func(*coretest.Enclave)
		outcome receipt.Outcome
		fault   core.Fault
		record  bool
	}{
		{"the machine gives no walls", launch(&core.UnavailableError{Reason: "no walls", Cure: "build some"}), receipt.Broken, core.FaultMachine, true},
		{"the executor does not start", launch(executor.ErrGone), receipt.Broken, core.FaultExecutor, true},
		{"the executor does not describe itself", session(coretest.Session{Describe: func(context.Context) error { return executor.ErrGone }}), receipt.Broken, core.FaultExecutor, true},
		{"there is no interpreter", session(coretest.Session{Prepare: func(context.Context, *coretest.Running) (executor.Runtime, error) {
			return executor.Runtime{}, executor.ErrRuntime
		}}), receipt.Broken, core.FaultRuntime, true},
		{"the runtime has no proper name", session(coretest.Session{Prepare: func(context.Context, *coretest.Running) (executor.Runtime, error) {
			return executor.Runtime{Name: "C\nPython", Version: "3"}, nil
		}}), receipt.Broken, core.FaultExecutor, true},
		{"the runtime's name is long", session(coretest.Session{Prepare: func(context.Context, *coretest.Running) (executor.Runtime, error) {
			return executor.Runtime{Name: strings.Repeat("x", 65), Version: "3"}, nil
		}}), receipt.Broken, core.FaultExecutor, true},
		{"the entrypoint cannot be run", session(fails(errors.Join(leak, executor.ErrEntrypoint))), receipt.Broken, core.FaultEntrypoint, true},
		{"the interpreter breaks", session(fails(errors.Join(leak, executor.ErrRuntime))), receipt.Broken, core.FaultRuntime, true},
		{"the executor dies", session(fails(errors.Join(leak, executor.ErrGone))), receipt.Broken, core.FaultGone, true},
		{"the executor fails as nobody knows", session(fails(leak)), receipt.Broken, core.FaultGone, true},
		{"the status is more than a byte", session(writes(256)), receipt.Broken, core.FaultGone, true},
		{"the status is negative", session(writes(-1)), receipt.Broken, core.FaultGone, true},
		{"the executor cannot be killed", session(coretest.Session{Run: writes(0).Run, Kill: func() error { return leak }}), receipt.Broken, core.FaultMachine, true},
		{"there is no room for the folders", func(e *coretest.Enclave) { e.Disk.Break(errors.New("no"), nil) }, receipt.Broken, core.FaultMachine, true},
		{"a policy fails at admit", policy(at(abi.Admit, judge(leak))), receipt.Denied, "", true},
		{"a policy fails at ingress", policy(at(abi.Ingress, judge(leak))), receipt.Denied, "", true},
		{"a policy panics at egress", policy(at(abi.Egress, func(context.Context, abi.Request, abi.Files) (abi.Decision, error) { panic(secret) })), receipt.Denied, "", true},
		{"the record is too large", session(coretest.Session{Run: writes(0).Run, Walls: []string{strings.Repeat("x", receipt.MaxBytes)}}), receipt.Broken, core.FaultMachine, false},
	} {
		t.Run(test.rule, func(t *testing.T) {
			e := allowing(t, writes(0))
			test.arrange(e)
			j, r := e.Run(t, coretest.Simple("job", "allow"))
			if r.Outcome != test.outcome || r.Fault != test.fault || (r.Detail == "" && r.Denial == nil) {
				t.Errorf("%+v", r)
			}
			if told, _ := json.Marshal(r); strings.Contains(string(told), secret) && test.outcome != receipt.Denied {
				t.Errorf("the operator is told %s", told) // of a denial by their own policy they may be
			}
			if raw, err := statement(j); (err == nil) != test.record || strings.Contains(string(raw), secret) {
				t.Errorf("record %s, %v", raw, err)
			} else if test.record && record(t, j).Outcome != test.outcome {
				t.Errorf("the record says %s", record(t, j).Outcome)
			}
			for _, ch := range everything {
				var b coretest.Buffer
				if err := j.Release(t.Context(), ch, &b); err == nil || b.Len() > 0 {
					t.Errorf("%s leaves: %d bytes, %v", ch, b.Len(), err)
				}
			}
			gone(t, e, "job")
		})
	}
}

func TestACureIsTold(t *testing.T) {
	e := allowing(t, writes(0))
	e.Executors.Next = func(context.Context, executor.Place) (coretest.Session, error) {
		return coretest.Session{}, &core.UnavailableError{Reason: "no user namespaces", Cure: "sysctl"}
	}
	_, r := e.Run(t, coretest.Simple("job", "allow"))
	if r.Detail != "no user namespaces" || r.Hint != "sysctl" {
		t.Errorf("%+v", r)
	}
}

// A machine that gives no walls to a policy's worker is at fault, and not the module.
func TestACureIsToldWhereAPolicyCannotBeLoaded(t *testing.T) {
	e := allowing(t, writes(0))
	e.Policies.Loading = func(context.Context, string) error {
		return &core.UnavailableError{Reason: "no user namespaces", Cure: "sysctl"}
	}
	j, err := e.Submit(coretest.Simple("job", "allow").Submission(t))
	if err != nil {
		t.Fatal(err)
	}
	err = j.PutModule(t.Context(), coretest.Digest("allow"), []byte("allow"))
	if _, ok := errors.AsType[*core.UnavailableError](err); !ok || errors.Is(err, core.ErrInvalid) {
		t.Errorf("%v", err)
	}
	r, _ := j.Result(t.Context())
	if r.Outcome != receipt.Broken || r.Fault != core.FaultMachine || r.Hint != "sysctl" {
		t.Errorf("%+v", r)
	}
}

func TestABadModuleEndsTheJob(t *testing.T) {
	for _, test := range []struct {
		rule   string
		policy *coretest.Policy
		where  string
	}{
		{"that is no policy", nil, "policies[0], policies[2]"},
		{"that refuses its configuration", &coretest.Policy{Config: func(json.RawMessage) error { return errors.New("wrong") }}, "policies[0]"},
	} {
		t.Run(test.rule, func(t *testing.T) {
			e := allowing(t, writes(0))
			if test.policy != nil {
				e.Policies.Known["bad"] = test.policy
			}
			loading, failed := make(chan struct{}), make(chan error, 1)
			e.Policies.Loading = func(ctx context.Context, module string) error {
				if module != "allow" {
					close(loading)
					return nil
				}
				<-ctx.Done() // of the job, as nobody else ends it
				return ctx.Err()
			}
			j, err := e.Submit(coretest.Simple("job", "bad", "allow", "bad").Submission(t))
			if err != nil {
				t.Fatal(err)
			}
			go func() {
				<-loading // wherever this one is by then, it ends with the job
				failed <- j.PutModule(context.Background(), coretest.Digest("allow"), []byte("allow"))
			}()
			err = j.PutModule(t.Context(), coretest.Digest("bad"), []byte("bad"))
			is(t, err, core.ErrInvalid)
			if err == nil || !strings.Contains(err.Error(), test.where) {
				t.Errorf("%v does not name %s", err, test.where)
			}
			is(t, <-failed, core.ErrOver)
			r, _ := j.Result(t.Context())
			if r.Outcome != receipt.Cancelled || !strings.Contains(r.Detail, test.where) {
				t.Errorf("%+v", r)
			}
			_, err = j.Receipt()
			is(t, err, core.ErrOrder)
			if _, over, err := j.Admission(t.Context()); !over || err != nil {
				t.Errorf("admission: over %v, %v", over, err)
			}
		})
	}
}

func TestACallerThatHangsUpEndsTheJob(t *testing.T) {
	e := allowing(t, writes(0))
	hungUp := errors.New("hung up")
	ctx, cancel := context.WithCancelCause(context.Background())
	e.Policies.Loading = func(ctx context.Context, _ string) error {
		cancel(hungUp)
		<-ctx.Done()
		return ctx.Err()
	}
	j, err := e.Submit(coretest.Simple("job", "allow").Submission(t))
	if err != nil {
		t.Fatal(err)
	}
	is(t, j.PutModule(ctx, coretest.Digest("allow"), []byte("allow")), hungUp)
	if r, _ := j.Result(t.Context()); r.Outcome != receipt.Cancelled {
		t.Errorf("%+v", r)
	}
}

// blocker blocks where it is told to, until the job's context ends.
type blocker struct {
	at      string
	reached chan struct{}
}

func (b *blocker) here(ctx context.Context, at string) error {
	if at != b.at {
		return nil
	}
	close(b.reached)
	<-ctx.Done()
	return ctx.Err()
}

// arrange makes an enclave that blocks at one of the places below.
func (b *blocker) arrange(t *testing.T, change ...func(*core.Config)) *coretest.Enclave {
	e := allowing(t, coretest.Session{}, change...)
	e.Policies.Loading = func(ctx context.Context, _ string) error { return b.here(ctx, "loading") }
	judge := func(ctx context.Context, r abi.Request, _ abi.Files) (abi.Decision, error) {
		err := b.here(ctx, string(r.Point))
		return coretest.Allow(r), err
	}
	p := at(abi.Admit, judge)
	p.At[abi.Ingress], p.At[abi.Egress] = judge, judge
	e.Policies.Known["allow"] = p
	e.Executors.Next = func(ctx context.Context, _ executor.Place) (coretest.Session, error) {
		return coretest.Session{
			Describe: func(ctx context.Context) error { return b.here(ctx, "describe") },
			Prepare: func(ctx context.Context, _ *coretest.Running) (executor.Runtime, error) {
				return executor.Runtime{Name: "CPython", Version: "3"}, b.here(ctx, "prepare")
			},
			Run: func(ctx context.Context, s *coretest.Running, task executor.Task) (executor.Result, error) {
				if err := b.here(ctx, "run"); err != nil {
					return executor.Result{}, err
				}
				return writes(0).Run(ctx, s, task)
			},
		}, b.here(ctx, "launch")
	}
	return e
}

// places are where a job can be while it waits for something. "modules" and "assets" are waits for
// the operator, "upload" is one for the rest of an asset.
var places = []string{
	"modules", "loading", "admit", "assets", "upload", "launch", "describe", "prepare", "ingress", "run", "egress",
}

// drive takes a job as far as it gets, in goroutines that end with it.
func (b *blocker) drive(t *testing.T, e *coretest.Enclave) *core.Job {
	spec := coretest.Simple("job", "allow")
	j, err := e.Submit(spec.Submission(t))
	if err != nil {
		t.Fatal(err)
	}
	if b.at == "modules" {
		close(b.reached)
		return j
	}
	go func() {
		_ = j.PutModule(context.Background(), coretest.Digest("allow"), []byte("allow"))
		_, over, _ := j.Admission(context.Background())
		switch {
		case over:
		case b.at == "assets":
			close(b.reached)
		case b.at == "upload":
			r, w := io.Pipe()
			go func() {
				_, _ = w.Write(coretest.Tar(t, spec.Assets["application"])[:100])
				close(b.reached)
			}()
			_ = j.PutAsset(context.Background(), "application", r)
		default:
			for name, files := range spec.Assets {
				_ = j.PutAsset(context.Background(), name, coretest.Stream(coretest.Tar(t, files)))
			}
		}
	}()
	return j
}

func TestI2_ACancelReleasesNothingWhereverTheJobIs(t *testing.T) {
	for _, place := range places {
		for how, end := range map[string]func(*coretest.Enclave, *core.Job) error{
			"cancel": func(_ *coretest.Enclave, j *core.Job) error { j.Cancel(); return nil },
			"delete": func(_ *coretest.Enclave, j *core.Job) error { return j.Delete() },
			"close":  func(e *coretest.Enclave, _ *core.Job) error { return e.Close() },
		} {
			t.Run(place+"/"+how, func(t *testing.T) {
				b := &blocker{at: place, reached: make(chan struct{})}
				e := b.arrange(t)
				j := b.drive(t, e)
				<-b.reached
				if err := end(e, j); err != nil {
					t.Fatal(err)
				}
				r, _ := j.Result(context.Background())
				if r.Outcome != receipt.Cancelled || r.Detail != "cancelled" {
					t.Errorf("%+v", r)
				}
				nothing(t, j)
				e.Empty(t)
				phases, err := j.Phases(context.Background(), 0)
				if err != nil || len(phases) == 0 {
					t.Errorf("phases %v, %v", phases, err)
				}
			})
		}
	}
}

func TestI2_ACancelBetweenClearanceAndRecordReleasesNothing(t *testing.T) {
	var j *core.Job
	ready, cleared := make(chan struct{}), make(chan struct{})
	e := allowing(t, writes(0), func(cfg *core.Config) {
		cfg.Now = func() time.Time {
			select {
			case <-cleared: // the record is being finished
				<-ready
				j.Cancel()
			default:
			}
			return coretest.Clock()
		}
	})
	e.Policies.Known["last"] = at(abi.Egress, func(_ context.Context, r abi.Request, _ abi.Files) (abi.Decision, error) {
		close(cleared)
		return coretest.Allow(r), nil
	})
	spec := coretest.Simple("job", "last")
	j = e.Begin(t, spec)
	close(ready)
	e.Send(t, j, spec)
	r, _ := j.Result(t.Context())
	if r.Outcome != receipt.Cancelled {
		t.Errorf("%+v", r)
	}
	nothing(t, j)
	if run := record(t, j); run.Outcome != receipt.Cancelled || len(run.Released) != 0 {
		t.Errorf("the record says %+v", run)
	}
	gone(t, e, "job")
}

func TestACancelAfterTheEndChangesNothing(t *testing.T) {
	e := allowing(t, writes(0))
	j, _ := e.Run(t, coretest.Simple("job", "allow"))
	j.Cancel()
	if r, _ := j.Result(t.Context()); r.Outcome != receipt.Succeeded {
		t.Errorf("%+v", r)
	}
	record(t, j)
	if got := released(t, j); len(got) != 4 {
		t.Errorf("released %q", got)
	}
}

func TestCountsOfABoot(t *testing.T) {
	e := allowing(t, writes(0))
	p := e.Policies.Known["allow"]
	e.Policies.Known["deny"] = deny(abi.Egress, "")
	for i, test := range []struct {
		module        string
		runs, denials int
	}{{"allow", 0, 0}, {"deny", 1, 0}, {"allow", 2, 1}} {
		j, _ := e.Run(t, coretest.Simple(string(rune('a'+i)), "allow", test.module))
		asked := p.Asked(abi.Admit)
		if got := asked[len(asked)-1].Boot; got.Runs != test.runs || got.Denials != test.denials {
			t.Errorf("job %d was told %+v", i, got)
		}
		if n := record(t, j).Enclave.Sequence; n != i+1 {
			t.Errorf("job %d has sequence %d", i, n)
		}
	}
}

// An operator who sees a denial coming must not escape the count by cancelling in time.
func TestADenialCountsWhateverBecameOfTheJob(t *testing.T) {
	var j *core.Job
	e := allowing(t, coretest.Session{Kill: func() error { j.Cancel(); return nil }})
	e.Policies.Known["deny"] = deny(abi.Ingress, "")
	spec := coretest.Simple("a", "deny")
	j = e.Begin(t, spec)
	e.Send(t, j, spec)
	if r, _ := j.Result(t.Context()); r.Outcome != receipt.Cancelled {
		t.Errorf("%+v", r)
	}
	next(e, writes(0))
	e.Run(t, coretest.Simple("b", "allow"))
	if got := e.Policies.Known["allow"].Asked(abi.Admit)[0].Boot.Denials; got != 1 {
		t.Errorf("%d denials counted", got)
	}
}

func TestPhasesComeInOrder(t *testing.T) {
	e := allowing(t, writes(0))
	j, _ := e.Run(t, coretest.Simple("job", "allow"))
	want := []core.Phase{core.Admitting, core.Receiving, core.Ingress, core.Executing, core.Egress, core.Done}
	var got []core.Phase
	for {
		more, err := j.Phases(t.Context(), len(got))
		if err != nil {
			t.Fatal(err)
		}
		if len(more) == 0 {
			break
		}
		got = append(got, more...)
	}
	if len(got) != len(want) {
		t.Fatalf("%v", got)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("%v", got)
		}
	}
	for _, n := range []int{6, 7, 100} {
		if more, err := j.Phases(t.Context(), n); len(more) != 0 || err != nil {
			t.Errorf("after %d: %v, %v", n, more, err)
		}
	}
	if all, _ := j.Phases(t.Context(), -1); len(all) != 6 {
		t.Errorf("after -1: %v", all)
	}
}

func TestWaitsEndWithTheirContext(t *testing.T) {
	b := &blocker{at: "modules", reached: make(chan struct{})}
	e := b.arrange(t)
	j := b.drive(t, e)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("why")
	cancel(why)
	_, err := j.Phases(ctx, 1)
	is(t, err, why)
	_, err = j.Result(ctx)
	is(t, err, why)
	_, _, err = j.Admission(ctx)
	is(t, err, why)
}
