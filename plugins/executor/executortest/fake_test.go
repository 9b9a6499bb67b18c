package executortest_test

import (
	"context"
	"errors"
	"os"
	"slices"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/cloister-run/cloister/plugins/executor"
	"github.com/cloister-run/cloister/plugins/executor/executortest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func task() executor.Task {
	return executor.Task{
		Application: "/job/application", Entrypoint: "main", Dir: "/work/tmp", Stdout: "/work/logs/stdout",
	}
}

func prepare(t *testing.T, f *executortest.Fake) *executortest.Fake {
	t.Helper()
	if _, err := f.Describe(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestFakeInOrder(t *testing.T) {
	f := &executortest.Fake{}
	if _, err := f.Prepare(t.Context()); !errors.Is(err, executor.ErrOrder) {
		t.Errorf("Prepare first: %v", err)
	}
	prepare(t, f)
	if _, err := f.Prepare(t.Context()); !errors.Is(err, executor.ErrOrder) {
		t.Errorf("Prepare again: %v", err)
	}
	if r, err := f.Run(t.Context(), task()); err != nil || !r.Succeeded() {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := f.Run(t.Context(), task()); !errors.Is(err, executor.ErrOrder) {
		t.Errorf("Run again: %v", err)
	}
	if err := f.Kill(); err != nil {
		t.Error(err)
	}
	want := []string{"Prepare", "Describe", "Prepare", "Prepare", "Run", "Run", "Kill"}
	if got := f.Calls(); !slices.Equal(got, want) {
		t.Errorf("calls %q, want %q", got, want)
	}
	if tasks := f.Tasks(); len(tasks) != 1 || tasks[0].Entrypoint != "main" {
		t.Errorf("tasks %+v", tasks)
	}
}

func TestFakeApplications(t *testing.T) {
	for _, test := range []struct {
		rule string
		app  executortest.Application
		want int
		err  error
	}{
		{"succeeds", nil, 0, nil},
		{"fails", executortest.Exit(3), 3, nil},
		{"has no entrypoint", executortest.Refuse(executor.ErrEntrypoint), 0, executor.ErrEntrypoint},
		{"has no runtime", executortest.Refuse(executor.ErrRuntime), 0, executor.ErrRuntime},
		{"breaks", executortest.Refuse(os.ErrInvalid), 0, executor.ErrGone},
		{"dies", executortest.Die(), 0, executor.ErrGone},
	} {
		t.Run(test.rule, func(t *testing.T) {
			f := prepare(t, &executortest.Fake{Application: test.app})
			r, err := f.Run(t.Context(), task())
			if !errors.Is(err, test.err) || r.Status != test.want {
				t.Errorf("%+v, %v, want %d, %v", r, err, test.want, test.err)
			}
		})
	}
}

func TestFakeWritesWhereItsPlaceIs(t *testing.T) {
	place := executortest.Place(t)
	if err := os.Mkdir(place.Work+"/logs", 0o755); err != nil {
		t.Fatal(err)
	}
	f := prepare(t, &executortest.Fake{Place: place, Application: executortest.Print("out", "err",
		executortest.Write(map[string]string{"/work/outputs/a/b": "1", "relative": "2"}, executortest.Exit(4)))})
	if r, err := f.Run(t.Context(), task()); err != nil || r.Status != 4 {
		t.Errorf("%+v, %v", r, err)
	}
	for name, want := range map[string]string{"outputs/a/b": "1", "tmp/relative": "2", "logs/stdout": "out"} {
		if got, err := os.ReadFile(place.Work + "/" + name); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

func TestFakeHangs(t *testing.T) {
	type way struct {
		rule string
		deaf bool
		end  func(f *executortest.Fake, cancel context.CancelFunc) error
		want int
		err  error
	}
	for _, test := range []way{
		{"until it is stopped", false, func(f *executortest.Fake, _ context.CancelFunc) error { return f.Stop(context.Background()) }, 143, nil},
		{"until it is killed", false, func(f *executortest.Fake, _ context.CancelFunc) error { return f.Kill() }, 0, executor.ErrGone},
		{"until nobody waits", false, func(_ *executortest.Fake, cancel context.CancelFunc) error { cancel(); return nil }, 0, context.Canceled},
		{"and is deaf", true, func(f *executortest.Fake, _ context.CancelFunc) error {
			return errors.Join(f.Stop(context.Background()), f.Kill())
		}, 0, executor.ErrGone},
	} {
		t.Run(test.rule, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			running := make(chan struct{})
			f := prepare(t, &executortest.Fake{
				Deaf: test.deaf,
				Application: func(ctx context.Context, run executortest.Running) (executor.Result, error) {
					close(running)
					return executortest.Hang()(ctx, run)
				},
			})
			var all sync.WaitGroup
			all.Go(func() {
				r, err := f.Run(ctx, task())
				if !errors.Is(err, test.err) || r.Status != test.want {
					t.Errorf("%+v, %v, want %d, %v", r, err, test.want, test.err)
				}
			})
			<-running
			if err := test.end(f, cancel); err != nil {
				t.Error(err)
			}
			all.Wait()
		})
	}
}

func TestFakeIsGoneOnceKilled(t *testing.T) {
	f := prepare(t, &executortest.Fake{})
	for range 2 {
		if err := f.Kill(); err != nil {
			t.Error(err)
		}
	}
	<-f.Done()
	_, describe := f.Describe(t.Context())
	_, run := f.Run(t.Context(), task())
	for call, err := range map[string]error{"Describe": describe, "Run": run, "Stop": f.Stop(t.Context())} {
		if !errors.Is(err, executor.ErrGone) {
			t.Errorf("%s: %v", call, err)
		}
	}
}

func TestFakeStoppedBeforeItRuns(t *testing.T) {
	f := prepare(t, &executortest.Fake{})
	if err := f.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r, err := f.Run(t.Context(), task()); err == nil {
		t.Errorf("it ran: %+v", r)
	}
}

func TestFakeRefusesBadTasks(t *testing.T) {
	f := prepare(t, &executortest.Fake{})
	if r, err := f.Run(t.Context(), executor.Task{}); err == nil || len(f.Tasks()) != 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestFakeSaysWhatItIsTold(t *testing.T) {
	f := &executortest.Fake{DescribeErr: executor.ErrGone, Limits: []string{"memory: cgroup"}}
	if _, err := f.Describe(t.Context()); !errors.Is(err, executor.ErrGone) {
		t.Error(err)
	}
	if _, err := f.Prepare(t.Context()); !errors.Is(err, executor.ErrOrder) {
		t.Error(err)
	}
	f = &executortest.Fake{PrepareErr: executor.ErrRuntime, Description: executor.Description{Name: "python", Version: "2"}}
	if d, err := f.Describe(t.Context()); err != nil || d.Name != "python" {
		t.Errorf("%+v, %v", d, err)
	}
	if _, err := f.Prepare(t.Context()); !errors.Is(err, executor.ErrRuntime) {
		t.Error(err)
	}
	if _, err := f.Run(t.Context(), task()); !errors.Is(err, executor.ErrOrder) {
		t.Error(err)
	}
}
