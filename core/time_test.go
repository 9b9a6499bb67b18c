package core_test

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cloister-run/cloister/core"
	"github.com/cloister-run/cloister/core/coretest"
	"github.com/cloister-run/cloister/core/receipt"
	"github.com/cloister-run/cloister/plugins/executor"
)

// timed sets the runner's clocks.
func timed(idle, keep time.Duration) func(*core.Config) {
	return func(cfg *core.Config) { cfg.Idle, cfg.Keep = idle, keep }
}

func TestAJobThatGetsNothingEnds(t *testing.T) {
	for _, place := range []string{"modules", "assets"} {
		t.Run(place, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &blocker{at: place, reached: make(chan struct{})}
				e := b.arrange(t, timed(time.Minute, time.Hour))
				j := b.drive(t, e)
				<-b.reached
				start := time.Now()
				r, err := j.Result(t.Context())
				if err != nil || r.Outcome != receipt.Cancelled || !strings.Contains(r.Detail, "too long") {
					t.Errorf("%+v, %v", r, err)
				}
				if waited := time.Since(start); waited != time.Minute {
					t.Errorf("it waited for %v", waited)
				}
				nothing(t, j)
				e.Empty(t)
			})
		})
	}
}

// While the enclave itself is at work, or something arrives, the operator keeps nobody waiting.
func TestIdleTimeStandsStillWhileSomethingHappens(t *testing.T) {
	for _, place := range []string{"loading", "admit", "upload", "launch", "prepare", "ingress", "run", "egress"} {
		t.Run(place, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &blocker{at: place, reached: make(chan struct{})}
				e := b.arrange(t, timed(time.Minute, time.Hour))
				j := b.drive(t, e)
				<-b.reached
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Minute)
				defer cancel()
				if r, err := j.Result(ctx); err == nil {
					t.Errorf("it ended: %+v", r)
				}
				if err := j.Delete(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestIdleTimeBeginsAnewWithEveryArrival(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := allowing(t, writes(0), timed(time.Minute, time.Hour))
		spec := coretest.Simple("job", "allow")
		j, err := e.Submit(spec.Submission(t))
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Second)
		if err := j.PutModule(t.Context(), coretest.Digest("allow"), []byte("allow")); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"application", "inputs.data"} {
			time.Sleep(50 * time.Second)
			if err := j.PutAsset(t.Context(), name, coretest.Stream(coretest.Tar(t, spec.Assets[name]))); err != nil {
				t.Fatal(err)
			}
		}
		if r, _ := j.Result(t.Context()); r.Outcome != receipt.Succeeded {
			t.Errorf("%+v", r)
		}
	})
}

func TestI2_ATimeOutReleasesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := allowing(t, coretest.Session{
			Prepare: func(context.Context, *coretest.Running) (executor.Runtime, error) {
				time.Sleep(time.Minute) // counts for nothing
				return executor.Runtime{Name: "CPython", Version: "3"}, nil
			},
			Run: func(ctx context.Context, s *coretest.Running, task executor.Task) (executor.Result, error) {
				r, err := writes(0).Run(ctx, s, task)
				<-ctx.Done() // and then it says that all went well
				return r, err
			},
		})
		spec := coretest.Simple("job", "allow")
		spec.Spec.Limits.Run = time.Second
		start := time.Now()
		j, r := e.Run(t, spec)
		if r.Outcome != receipt.TimedOut || !strings.Contains(r.Detail, "1s") || r.Hint == "" {
			t.Errorf("%+v", r)
		}
		if took := time.Since(start); took != time.Minute+time.Second {
			t.Errorf("it took %v", took)
		}
		nothing(t, j)
		if run := record(t, j); run.Outcome != receipt.TimedOut || len(run.Released) != 0 {
			t.Errorf("%+v", run)
		}
		gone(t, e, "job")
	})
}

func TestAnApplicationIsDoneInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := allowing(t, coretest.Session{Run: func(ctx context.Context, s *coretest.Running, task executor.Task) (executor.Result, error) {
			time.Sleep(999 * time.Millisecond)
			return writes(0).Run(ctx, s, task)
		}})
		spec := coretest.Simple("job", "allow")
		spec.Spec.Limits.Run = time.Second
		if _, r := e.Run(t, spec); r.Outcome != receipt.Succeeded {
			t.Errorf("%+v", r)
		}
	})
}

func TestResultsAreKeptForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := allowing(t, writes(0), timed(time.Minute, 10*time.Minute))
		j, _ := e.Run(t, coretest.Simple("job", "allow"))
		time.Sleep(10*time.Minute - time.Second)
		record(t, j)
		if got := released(t, j); len(got) != 4 {
			t.Errorf("released %q", got)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		e.Empty(t)
		_, err := e.Job("job", j.Token())
		is(t, err, core.ErrNotFound)
		is(t, j.Release(t.Context(), result, &coretest.Buffer{}), core.ErrOver)
	})
}

func TestTheEndOfKeepingCutsAReleaseOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := allowing(t, writes(0), timed(time.Minute, 10*time.Minute))
		j, _ := e.Run(t, coretest.Simple("job", "allow"))
		record(t, j)
		r, w := io.Pipe()
		ended := make(chan error, 1)
		go func() { ended <- j.Release(context.Background(), result, w) }()
		is(t, <-ended, core.ErrOver) // nobody ever reads
		_ = r.Close()
		synctest.Wait()
		e.Empty(t)
	})
}

func TestDeleteAndTheEndOfKeepingMeet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := allowing(t, writes(0), timed(time.Minute, 10*time.Minute))
		j, _ := e.Run(t, coretest.Simple("job", "allow"))
		time.Sleep(10 * time.Minute)
		for range 3 {
			if err := j.Delete(); err != nil {
				t.Error(err)
			}
		}
		e.Empty(t)
	})
}

// stubborn is a stream that ends when it wants to, whoever closes it.
type stubborn struct{ goOn chan struct{} }

func (s *stubborn) Read([]byte) (int, error) {
	<-s.goOn
	return 0, io.ErrUnexpectedEOF
}

func (s *stubborn) Write(p []byte) (int, error) {
	<-s.goOn
	return len(p), nil
}

func (*stubborn) Close() error { return nil }

// Nothing is wiped under the hands of whoever still uses it.
func TestI9_DeleteWaitsForWhoeverUsesTheFiles(t *testing.T) {
	for rule, begin := range map[string]func(*testing.T, *coretest.Enclave, *stubborn) (*core.Job, error){
		"an upload": func(t *testing.T, e *coretest.Enclave, s *stubborn) (*core.Job, error) {
			j := e.Begin(t, coretest.Simple("job", "allow"))
			_, _, err := j.Admission(t.Context())
			go func() { _ = j.PutAsset(context.Background(), "application", s) }()
			return j, err
		},
		"a release": func(t *testing.T, e *coretest.Enclave, s *stubborn) (*core.Job, error) {
			j, _ := e.Run(t, coretest.Simple("job", "allow"))
			_, err := j.Receipt()
			go func() { _ = j.Release(context.Background(), result, s) }()
			return j, err
		},
	} {
		t.Run(rule, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := allowing(t, writes(0))
				s := &stubborn{goOn: make(chan struct{})}
				j, err := begin(t, e, s)
				if err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				deleted := make(chan error, 1)
				go func() { deleted <- j.Delete() }()
				synctest.Wait()
				select {
				case err := <-deleted:
					t.Errorf("it is deleted already: %v", err)
				default:
				}
				if _, err := os.Lstat(filepath.Join(e.Dir, "job")); err != nil {
					t.Errorf("the files are gone already: %v", err)
				}
				close(s.goOn)
				if err := <-deleted; err != nil {
					t.Error(err)
				}
				e.Empty(t)
			})
		})
	}
}

func TestAClockThatIsStoppedStaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := core.NewPatience(time.Minute, func() { t.Error("it rang") })
		p.Hold()
		p.Stop()
		p.Resume() // the last asset has arrived, and the job goes on by itself
		time.Sleep(time.Hour)
	})
}

// TestResultsWaitAsLongAsTheJobSays: and not a moment longer, nor longer than the enclave keeps anything.
func TestResultsWaitAsLongAsTheJobSays(t *testing.T) {
	for _, test := range []struct{ asked, most, want time.Duration }{
		{20 * time.Minute, time.Hour, 20 * time.Minute}, {24 * time.Hour, time.Hour, time.Hour},
	} {
		synctest.Test(t, func(t *testing.T) {
			e := allowing(t, writes(0), timed(time.Minute, test.most))
			spec := coretest.Simple("job", "allow")
			spec.Spec.Keep = test.asked
			job, r := e.Run(t, spec)
			if r.Outcome != receipt.Succeeded {
				t.Fatalf("%+v", r)
			}
			time.Sleep(test.want - time.Second)
			if _, err := e.Job("job", job.Token()); err != nil {
				t.Errorf("after %v of %v: %v", test.want-time.Second, test.asked, err)
			}
			time.Sleep(2 * time.Second)
			synctest.Wait()
			if _, err := e.Job("job", job.Token()); err == nil {
				t.Errorf("after %v of %v it is still there", test.want+time.Second, test.asked)
			}
			e.Empty(t)
		})
	}
}
