package core_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/cloister-run/cloister/core"
	"github.com/cloister-run/cloister/core/coretest"
	"github.com/cloister-run/cloister/core/receipt"
	"github.com/cloister-run/cloister/plugins/executor"
	"github.com/cloister-run/cloister/policies/abi"
)

func TestAWipeThatFailsIsTriedAgain(t *testing.T) {
	for rule, status := range map[string]string{"with something to release": "allow", "with nothing": "deny"} {
		t.Run(rule, func(t *testing.T) {
			e := allowing(t, writes(0))
			e.Policies.Known["deny"] = deny(abi.Egress, "")
			spec := coretest.Simple("job", status)
			j := e.Begin(t, spec)
			e.Disk.Break(nil, errors.New(secret))
			e.Send(t, j, spec)
			_, _ = j.Result(t.Context())
			before := e.Balance().Reserved
			err := j.Delete()
			if err == nil || strings.Contains(err.Error(), secret) {
				t.Fatalf("%v", err)
			}
			if before == 0 || e.Balance().Reserved != before {
				t.Error("memory that is not free was given back")
			}
			if got := released(t, j); len(got) != 0 {
				t.Errorf("released after Delete: %q", got)
			}
			if _, err := e.Job("job", j.Token()); err != nil {
				t.Errorf("nobody can try again: %v", err)
			}
			e.Disk.Heal()
			if err := j.Delete(); err != nil {
				t.Fatal(err)
			}
			e.Empty(t)
			_, err = e.Job("job", j.Token())
			is(t, err, core.ErrNotFound)
		})
	}
}

// pipe is the two ends of a release that is under way.
func pipe(t *testing.T, j *core.Job) (*io.PipeReader, chan error) {
	t.Helper()
	r, w := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- j.Release(context.Background(), result, w) }()
	if _, err := io.ReadFull(r, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	return r, ended
}

func TestI9_DeleteCutsAReleaseOff(t *testing.T) {
	e := allowing(t, coretest.Session{Run: func(_ context.Context, s *coretest.Running, task executor.Task) (executor.Result, error) {
		return executor.Result{}, errors.Join(s.Write("result.txt", strings.Repeat("x", 8<<20)), s.Log(task.Stdout, ""), s.Log(task.Stderr, ""))
	}})
	j, _ := e.Run(t, coretest.Simple("job", "allow"))
	record(t, j)
	_, ended := pipe(t, j) // nobody reads on
	if err := j.Delete(); err != nil {
		t.Fatal(err)
	}
	is(t, <-ended, core.ErrOver)
	e.Empty(t)
	is(t, j.Release(t.Context(), result, &coretest.Buffer{}), core.ErrOver)
}

func TestI9_AWipeThatRacesAnUploadLeavesNothing(t *testing.T) {
	for range 50 {
		b := &blocker{at: "upload", reached: make(chan struct{})}
		e := b.arrange(t)
		j := b.drive(t, e)
		<-b.reached
		more := make(chan struct{})
		go func() {
			defer close(more)
			_ = j.PutAsset(context.Background(), "inputs.data", coretest.Stream(coretest.Tar(t, map[string]string{"a": "b"})))
		}()
		if err := j.Delete(); err != nil {
			t.Fatal(err)
		}
		e.Empty(t)
		<-more
		e.Empty(t)
	}
}

// The executor fails while an asset is on its way: the job is over, and so is the upload.
func TestI9_AnUploadEndsWithItsJob(t *testing.T) {
	e := allowing(t, writes(0))
	goOn := make(chan struct{})
	e.Executors.Next = func(context.Context, executor.Place) (coretest.Session, error) {
		<-goOn
		return coretest.Session{}, executor.ErrGone
	}
	spec := coretest.Simple("job", "allow")
	j := e.Begin(t, spec)
	if _, _, err := j.Admission(t.Context()); err != nil {
		t.Fatal(err)
	}
	r, w := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- j.PutAsset(context.Background(), "application", r) }()
	if _, err := w.Write(coretest.Tar(t, spec.Assets["application"])[:600]); err != nil {
		t.Fatal(err)
	}
	close(goOn)
	is(t, <-ended, core.ErrOver)
	if r, _ := j.Result(t.Context()); r.Outcome != receipt.Broken || r.Fault != core.FaultExecutor {
		t.Errorf("%+v", r)
	}
	gone(t, e, "job")
	is(t, j.PutAsset(t.Context(), "inputs.data", coretest.Stream(nil)), core.ErrOver)
	gone(t, e, "job")
}

func TestI2_NothingRunsWhenTheOutputsAreJudged(t *testing.T) {
	e := allowing(t, writes(0))
	e.Policies.Known["look"] = at(abi.Egress, func(_ context.Context, r abi.Request, _ abi.Files) (abi.Decision, error) {
		if n := e.Executors.Running(); n != 0 {
			t.Errorf("%d executors still run", n)
		}
		return coretest.Allow(r), nil
	})
	if _, r := e.Run(t, coretest.Simple("job", "look")); r.Outcome != receipt.Succeeded {
		t.Errorf("%+v", r)
	}
}

// An executor that may still run is worse than any verdict.
func TestI2_AKillThatFailsIsTold(t *testing.T) {
	e := allowing(t, coretest.Session{})
	e.Policies.Known["deny"] = deny(abi.Ingress, "")
	ready := make(chan struct{})
	e.Policies.Known["wait"] = at(abi.Ingress, func(_ context.Context, r abi.Request, _ abi.Files) (abi.Decision, error) {
		<-ready // the executor is there, and so must be killed
		return coretest.Allow(r), nil
	})
	e.Executors.Next = func(context.Context, executor.Place) (coretest.Session, error) {
		return coretest.Session{
			Describe: func(context.Context) error { close(ready); return nil },
			Kill:     func() error { return errors.New("no") },
		}, nil
	}
	j, r := e.Run(t, coretest.Simple("job", "wait", "deny"))
	if r.Outcome != receipt.Broken || r.Fault != core.FaultMachine {
		t.Errorf("%+v", r)
	}
	nothing(t, j)
}

// What is kept for the operator is what may be released to them: no asset is.
func TestI9_NoAssetOutlivesTheRun(t *testing.T) {
	e := allowing(t, writes(0))
	j, r := e.Run(t, coretest.Simple("job", "allow"))
	if r.Outcome != receipt.Succeeded {
		t.Fatalf("%+v", r)
	}
	for _, file := range files(t, e.Dir) {
		if strings.Contains(file, "/assets/") {
			t.Errorf("%s is left", file)
		}
	}
	if err := j.Delete(); err != nil {
		t.Fatal(err)
	}
	gone(t, e, "job")
}
