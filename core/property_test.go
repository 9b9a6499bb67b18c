package core_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"pgregory.net/rapid"

	"github.com/cloister-run/cloister/core"
	"github.com/cloister-run/cloister/core/border"
	"github.com/cloister-run/cloister/core/coretest"
	"github.com/cloister-run/cloister/core/queue"
	"github.com/cloister-run/cloister/policies/abi"
)

// operator calls whatever it wants, whenever it wants, and watches what it gets.
type operator struct {
	t    *testing.T
	e    *coretest.Enclave
	spec coretest.Job

	// forbidden says that nothing may leave by the channel of the result.
	forbidden bool

	mu  sync.Mutex
	job *core.Job
	// told has the jobs whose record was asked for.
	told sync.Map
	bad  []error
}

// allowed are the errors that a call may give: everything else is a fault of the runner's.
var allowed = []error{
	core.ErrInvalid, core.ErrConflict, core.ErrNotFound, core.ErrOrder, core.ErrOver, core.ErrClosed,
	border.ErrNotCleared, queue.ErrNoRoom, queue.ErrTooLarge, context.Canceled,
}

func (o *operator) check(err error) {
	if err == nil {
		return
	}
	for _, a := range allowed {
		if errors.Is(err, a) {
			return
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.bad = append(o.bad, err)
}

func (o *operator) current() *core.Job {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.job
}

// calls are what an operator can do.
func (o *operator) calls() map[string]func(context.Context) {
	put := func(name string, content []byte) func(context.Context) {
		return func(ctx context.Context) { o.check(o.current().PutAsset(ctx, name, coretest.Stream(content))) }
	}
	app, data := coretest.Tar(o.t, o.spec.Assets["application"]), coretest.Tar(o.t, o.spec.Assets["inputs.data"])
	return map[string]func(context.Context){
		"submit": func(context.Context) {
			j, err := o.e.Submit(o.spec.Submission(o.t))
			o.check(err)
			if err == nil {
				o.mu.Lock()
				o.job = j
				o.mu.Unlock()
			}
		},
		"module": func(ctx context.Context) {
			o.check(o.current().PutModule(ctx, coretest.Digest("allow"), []byte("allow")))
		},
		"application": put("application", app),
		"data":        put("inputs.data", data),
		"half":        put("inputs.data", data[:600]),
		"unknown":     put("inputs.other", data),
		"admission": func(ctx context.Context) {
			_, _, err := o.current().Admission(ctx)
			o.check(err)
		},
		"phases": func(ctx context.Context) {
			_, err := o.current().Phases(ctx, 2)
			o.check(err)
		},
		"cancel": func(context.Context) { o.current().Cancel() },
		"delete": func(context.Context) { o.check(o.current().Delete()) },
		"record": func(context.Context) {
			j := o.current()
			o.told.Store(j, true)
			_, err := j.Receipt()
			o.check(err)
		},
		"release": func(ctx context.Context) {
			j := o.current()
			var b coretest.Buffer
			err := j.Release(ctx, result, &b)
			o.check(err)
			_, told := o.told.Load(j)
			if b.Len() > 0 && (!told || o.forbidden || b.String() != secret[:b.Len()]) {
				o.check(errors.New("released without a record, without leave, or what was not judged: " + b.String()))
			}
		},
	}
}

func TestNoOrderOfCallsBreaksARule(t *testing.T) {
	names := []string{
		"submit", "module", "module", "application", "application", "data", "data", "half", "unknown", "admission", "admission", "phases",
		"cancel", "delete", "record", "record", "release", "release",
	}
	usual := []string{"module", "admission", "application", "data"}
	rapid.Check(t, func(rt *rapid.T) {
		status := rapid.IntRange(0, 1).Draw(rt, "status")
		verdict := rapid.SampledFrom([]string{"allow", "allow", "deny", "fail"}).Draw(rt, "verdict")
		scripts := rapid.SliceOfN(rapid.SliceOfN(rapid.SampledFrom(names), 1, 12), 1, 4).Draw(rt, "scripts")
		if rapid.Bool().Draw(rt, "usual") {
			scripts[0] = append(slices.Clone(usual), scripts[0]...)
		}
		closing := rapid.Bool().Draw(rt, "closing")
		synctest.Test(t, func(t *testing.T) {
			e := allowing(t, writes(status))
			e.Policies.Known["allow"] = at(abi.Egress, func(_ context.Context, r abi.Request, _ abi.Files) (abi.Decision, error) {
				return abi.Decision{Allow: verdict != "deny"}, map[string]error{"fail": errors.New("fail")}[verdict]
			})
			o := &operator{t: t, e: e, spec: coretest.Simple("job", "allow"), forbidden: status != 0 || verdict != "allow"}
			o.play(scripts, closing)
			for _, err := range o.bad {
				rt.Errorf("%v", err)
			}
		})
	})
}

// play runs every script in a goroutine of its own.
func (o *operator) play(scripts [][]string, closing bool) {
	calls := o.calls()
	calls["submit"](o.t.Context())
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var callers sync.WaitGroup
	for _, script := range scripts {
		callers.Go(func() {
			for _, name := range script {
				calls[name](ctx)
			}
		})
	}
	if closing {
		_ = o.e.Close() // its error comes again below
	}
	synctest.Wait() // whoever waits now waits for what never comes
	cancel()
	callers.Wait()
	if err := o.e.Close(); err != nil {
		o.t.Errorf("closing: %v", err)
	}
	o.e.Empty(o.t)
}
