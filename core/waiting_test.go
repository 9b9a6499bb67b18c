package core_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cloister-run/cloister/core"
	"github.com/cloister-run/cloister/core/coretest"
	"github.com/cloister-run/cloister/core/queue"
	"github.com/cloister-run/cloister/core/receipt"
	"github.com/cloister-run/cloister/plugins/executor"
	"github.com/cloister-run/cloister/policies/abi"
)

// large is a job beside which there is no room for another one like it.
func large(id string, wait time.Duration) coretest.Job {
	j := coretest.Simple(id, "allow")
	j.Spec.Limits.Memory, j.Spec.Limits.Queue = coretest.Memory/2, wait
	return j
}

func submit(t testing.TB, e *coretest.Enclave, j coretest.Job) *core.Job {
	t.Helper()
	job, err := e.Submit(j.Submission(t))
	if err != nil {
		t.Fatal(err)
	}
	return job
}

// TestAJobWaitsForRoom: it is sent nothing and counted as nobody's company meanwhile, waits as long as it
// takes, and runs when the job before it is done with its memory.
func TestAJobWaitsForRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := coretest.Session{Run: func(ctx context.Context, s *coretest.Running, task executor.Task) (executor.Result, error) {
			time.Sleep(30 * time.Minute) // far longer than an operator may keep the enclave waiting
			return writes(0).Run(ctx, s, task)
		}}
		e := allowing(t, slow, timed(time.Minute, time.Hour))
		first := large("first", 0)
		running := e.Begin(t, first)
		second := large("second", time.Hour)
		e.Seal(t, &second, "inputs.data", "b", "allow")
		waiting := submit(t, e, second)
		if !waiting.Queued() || running.Queued() {
			t.Fatal("the second one found room")
		}
		if phases, err := waiting.Phases(t.Context(), 0); err != nil || len(phases) != 1 || phases[0] != core.Queued {
			t.Errorf("%v, %v", phases, err)
		}
		is(t, waiting.PutModule(t.Context(), coretest.Digest("allow"), []byte("allow")), core.ErrOrder)
		is(t, waiting.PutFront(t.Context(), "inputs.data", coretest.Front(t, second.Sealed["inputs.data"])), core.ErrOrder)
		next := make(chan error)
		go func() {
			_, err := waiting.Phases(t.Context(), 1) // its operator is there, and has nothing to send
			next <- err
		}()
		if !e.Send(t, running, first) {
			t.Fatal("the first one did not arrive")
		}
		if r, err := running.Result(t.Context()); err != nil || r.Outcome != receipt.Succeeded {
			t.Fatalf("%+v, %v", r, err)
		}
		if err := <-next; err != nil || waiting.Queued() {
			t.Fatalf("the memory of the first one is free, and nobody has it: %v", err)
		}
		if err := waiting.PutFront(t.Context(), "inputs.data", coretest.Front(t, second.Sealed["inputs.data"])); err != nil {
			t.Fatal(err)
		}
		if _, r := e.Finish(t, waiting, second); r.Outcome != receipt.Succeeded {
			t.Errorf("%+v", r)
		}
		for i, asked := range e.Policies.Known["allow"].Asked(abi.Admit) {
			if asked.Sharing != 0 {
				t.Errorf("request %d: %d others share the enclave", i, asked.Sharing)
			}
		}
	})
}

// TestAJobThatNobodyWaitsForGivesUpItsPlace: who would send what it needs?
func TestAJobThatNobodyWaitsForGivesUpItsPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := allowing(t, writes(0), timed(time.Minute, time.Hour))
		first := submit(t, e, large("first", 0))
		alone, attended := submit(t, e, large("alone", time.Hour)), submit(t, e, large("attended", time.Hour))
		if _, err := attended.Phases(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		ctx, leave := context.WithCancel(t.Context())
		next := make(chan error)
		go func() {
			_, err := attended.Phases(ctx, 1)
			next <- err
		}()
		r, err := alone.Result(t.Context())
		if err != nil || r.Outcome != receipt.Cancelled || !strings.Contains(r.Detail, "too long") {
			t.Errorf("%+v, %v", r, err)
		}
		_, _ = first.Result(t.Context()) // it got nothing either
		if err := <-next; err != nil || attended.Queued() {
			t.Errorf("it was next: %v", err)
		}
		leave()
		if err := attended.Delete(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestAJobWaitsNoLongerThanItSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := allowing(t, writes(0), timed(time.Hour, time.Hour))
		submit(t, e, large("first", 0))
		_, err := e.Submit(large("hasty", 0).Submission(t))
		is(t, err, queue.ErrNoRoom)
		start := time.Now()
		waiting := submit(t, e, large("waiting", 10*time.Minute))
		r, err := waiting.Result(t.Context())
		if err != nil || r.Outcome != receipt.TimedOut || !strings.Contains(r.Detail, "limits.queue, 10m0s") || r.Hint == "" {
			t.Errorf("%+v, %v", r, err)
		}
		if waited := time.Since(start); waited != 10*time.Minute {
			t.Errorf("it waited for %v", waited)
		}
		nothing(t, waiting)
		_, err = e.Submit(func() core.Submission {
			s := large("never", time.Hour)
			s.Spec.Limits.Memory = coretest.Memory
			return s.Submission(t)
		}())
		if is(t, err, queue.ErrTooLarge); !strings.Contains(err.Error(), "jobs may use") {
			t.Error(err)
		}
	})
}

// TestAJobThatWaitsCanBeCancelled, and gives its place to the next.
func TestAJobThatWaitsCanBeCancelled(t *testing.T) {
	e := allowing(t, writes(0))
	first := submit(t, e, large("first", 0))
	second, third := submit(t, e, large("second", time.Hour)), submit(t, e, large("third", time.Hour))
	if err := second.Delete(); err != nil {
		t.Fatal(err)
	}
	if r, err := second.Result(t.Context()); err != nil || r.Outcome != receipt.Cancelled {
		t.Errorf("%+v, %v", r, err)
	}
	if err := first.Delete(); err != nil {
		t.Fatal(err)
	}
	if third.Queued() {
		t.Error("nobody is before it, and it waits")
	}
	if err := third.Delete(); err != nil {
		t.Fatal(err)
	}
	e.Empty(t)
}
