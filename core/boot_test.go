package core_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"filippo.io/age"

	"github.com/cloister-run/cloister/core"
	"github.com/cloister-run/cloister/core/coretest"
	"github.com/cloister-run/cloister/core/receipt"
	"github.com/cloister-run/cloister/plugins/executor"
	"github.com/cloister-run/cloister/policies/abi"
)

// marked is what the NSM is asked before the first application runs.
var marked = []string{"extend 16 by used", "lock 32"}

// meter tells when an application runs, and lets it end.
type meter struct {
	began chan string
	end   map[string]chan struct{}
}

func newMeter(jobs ...string) *meter {
	m := &meter{began: make(chan string, len(jobs)), end: map[string]chan struct{}{}}
	for _, id := range jobs {
		m.end[id] = make(chan struct{})
	}
	return m
}

// session is an application that runs until its job's end is closed. The job is known by its entrypoint.
func (m *meter) session() coretest.Session {
	return coretest.Session{Run: func(ctx context.Context, s *coretest.Running, task executor.Task) (executor.Result, error) {
		m.began <- task.Entrypoint
		select {
		case <-m.end[task.Entrypoint]:
		case <-ctx.Done():
			return executor.Result{}, ctx.Err()
		}
		return executor.Result{}, errors.Join(s.Write("result.txt", ""), s.Log(task.Stdout, ""), s.Log(task.Stderr, ""))
	}}
}

// known makes the entrypoint of a job its id.
func known(j coretest.Job) coretest.Job {
	j.Spec.Command.Entrypoint = j.ID
	return j
}

// The enclave is fresh when a key is asked for, and used before the first application runs.
func TestI5_AnEnclaveIsUsedBeforeAnApplicationRuns(t *testing.T) {
	var unsealing, running []string
	var e *coretest.Enclave
	e = allowing(t, coretest.Session{Run: func(_ context.Context, s *coretest.Running, task executor.Task) (executor.Result, error) {
		running = e.NSM.Calls()
		return executor.Result{}, errors.Join(s.Write("result.txt", ""), s.Log(task.Stdout, ""), s.Log(task.Stderr, ""))
	}})
	e.Keys.Unwrapping = func(context.Context, string) error {
		unsealing = e.NSM.Calls()
		return nil
	}
	if _, r := e.Run(t, one(t, e, "job", "allow")); r.Outcome != receipt.Succeeded {
		t.Fatalf("%+v", r)
	}
	if len(unsealing) > 0 || !slices.Equal(running, marked) {
		t.Errorf("when the key was asked for %q, when the application ran %q", unsealing, running)
	}
	if _, r := e.Run(t, one(t, e, "again", "allow")); r.Outcome != receipt.Succeeded || !slices.Equal(unsealing, marked) || !slices.Equal(e.NSM.Calls(), marked) {
		t.Errorf("%+v: %q", r, e.NSM.Calls())
	}
	if _, locked, err := e.NSM.DescribePCR(t.Context(), 31); err != nil || !locked {
		t.Errorf("PCR31 is not locked: %v", err)
	}
}

// A plain application uses the enclave up just the same.
func TestI5_APlainApplicationUsesAnEnclave(t *testing.T) {
	e := allowing(t, writes(0))
	e.Run(t, coretest.Simple("job"))
	if got := e.NSM.Calls(); !slices.Equal(got, marked) {
		t.Errorf("%q", got)
	}
}

// What cannot be marked runs nothing.
func TestI5_WhereTheMarkFailsNothingRuns(t *testing.T) {
	for _, call := range []string{"ExtendPCR", "LockPCRs"} {
		t.Run(call, func(t *testing.T) {
			ran := false
			e := allowing(t, coretest.Session{Run: func(context.Context, *coretest.Running, executor.Task) (executor.Result, error) {
				ran = true
				return executor.Result{}, nil
			}})
			e.NSM.Break(call, errors.New("no answer"))
			job, r := e.Run(t, coretest.Simple("job"))
			if r.Outcome != receipt.Broken || r.Fault != core.FaultMachine || ran {
				t.Errorf("%+v, ran %v", r, ran)
			}
			nothing(t, job)
			e.NSM.Break(call, nil)
			if _, r := e.Run(t, coretest.Simple("again")); r.Fault != "" || !ran || !slices.Contains(e.NSM.Calls(), "lock 32") {
				t.Errorf("%+v, %q", r, e.NSM.Calls())
			}
		})
	}
}

// While a job holds what it unsealed in a fresh enclave, no other application starts.
func TestI5_WhoUnsealedInAFreshEnclaveIsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMeter("owner", "stranger")
		e := allowing(t, m.session())
		sealed, plain := known(one(t, e, "owner", "allow")), known(coretest.Simple("stranger"))
		owner := e.Begin(t, sealed)
		if _, over, err := owner.Admission(t.Context()); over || err != nil {
			t.Fatal(over, err)
		}
		if err := owner.PutCredentials(t.Context(), []byte(coretest.Credentials)); err != nil {
			t.Fatal(err)
		}
		if err := owner.PutAsset(t.Context(), "inputs.data", coretest.Stream(sealed.Sealed["inputs.data"])); err != nil {
			t.Fatal(err)
		}
		stranger := e.Begin(t, plain)
		e.Send(t, stranger, plain)
		waits(t, e, m, stranger)
		if err := owner.PutAsset(t.Context(), "application", coretest.Stream(coretest.Tar(t, sealed.Assets["application"]))); err != nil {
			t.Fatal(err)
		}
		if first := <-m.began; first != "owner" {
			t.Fatalf("%s ran first", first)
		}
		synctest.Wait()
		if n := len(m.began); n > 0 {
			t.Error("the stranger's application started beside the owner's")
		}
		close(m.end["owner"])
		if second := <-m.began; second != "stranger" {
			t.Fatalf("%s ran second", second)
		}
		select {
		case <-done(t, owner):
		default:
			t.Error("the stranger's application started before the owner's job was over")
		}
		close(m.end["stranger"])
		if r, err := stranger.Result(t.Context()); err != nil || r.Outcome != receipt.Succeeded {
			t.Errorf("%+v, %v", r, err)
		}
	})
}

// waits holds that a job has done all that it may before its application runs, and that neither its application
// nor anybody's used the enclave.
func waits(t *testing.T, e *coretest.Enclave, m *meter, job *core.Job) {
	t.Helper()
	synctest.Wait()
	phases, err := job.Phases(t.Context(), 0)
	if err != nil || phases[len(phases)-1] != core.Ingress {
		t.Errorf("it came to %q: %v", phases, err)
	}
	if n, calls := len(m.began), e.NSM.Calls(); n > 0 || len(calls) > 0 {
		t.Errorf("%d applications began, the NSM was asked %q", n, calls)
	}
}

// done is closed if a job's application has ended by now: its assets are dropped before its result is there,
// so it is the phase after execution that counts.
func done(t *testing.T, job *core.Job) <-chan struct{} {
	t.Helper()
	c := make(chan struct{})
	phases, err := job.Phases(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if slices.Contains(phases, core.Egress) {
		close(c)
	}
	return c
}

// A job that ends without running leaves the enclave as fresh as it found it.
func TestI5_AJobThatNeverRanUsesNothing(t *testing.T) {
	e := allowing(t, writes(0))
	e.Keys.Unwrapping = func(context.Context, string) error { return &core.KeyError{Refused: true, Reason: "no"} }
	e.Run(t, one(t, e, "refused", "allow"))
	e.Keys.Unwrapping = nil
	var unsealing []string
	e.Keys.Unwrapping = func(context.Context, string) error {
		unsealing = e.NSM.Calls()
		return nil
	}
	if _, r := e.Run(t, one(t, e, "job", "allow")); r.Outcome != receipt.Succeeded || len(unsealing) > 0 {
		t.Errorf("%+v, %q", r, unsealing)
	}
}

// A second job that unseals meanwhile gives the promise up: its key is asked for in a used enclave.
func TestI5_ASecondJobThatUnsealsFindsAUsedEnclave(t *testing.T) {
	calls := map[string][]string{}
	m := newMeter("first", "second")
	e := allowing(t, m.session())
	e.Keys.Unwrapping = func(_ context.Context, key string) error {
		calls[key] = e.NSM.Calls()
		return nil
	}
	first := known(coretest.Simple("first"))
	e.Seal(t, &first, "inputs.data", "a", "allow")
	second := known(coretest.Simple("second"))
	e.Seal(t, &second, "inputs.data", "b", "allow")
	var jobs []*core.Job
	for _, j := range []coretest.Job{first, second} {
		job := e.Begin(t, j)
		jobs = append(jobs, job)
		if _, over, err := job.Admission(t.Context()); over || err != nil {
			t.Fatal(over, err)
		}
		err := job.PutCredentials(t.Context(), []byte(coretest.Credentials))
		if err = errors.Join(err, job.PutAsset(t.Context(), "inputs.data", coretest.Stream(j.Sealed["inputs.data"]))); err != nil {
			t.Fatal(err)
		}
	}
	if a, b := calls[coretest.OwnerKey("a")], calls[coretest.OwnerKey("b")]; len(a) > 0 || !slices.Equal(b, marked) {
		t.Errorf("the first asked after %q, the second after %q", a, b)
	}
	for i, j := range []coretest.Job{first, second} {
		if err := jobs[i].PutAsset(t.Context(), "application", coretest.Stream(coretest.Tar(t, j.Assets["application"]))); err != nil {
			t.Fatal(err)
		}
		if ran := <-m.began; ran != j.ID {
			t.Fatalf("%s ran", ran)
		}
		close(m.end[j.ID])
		if r, err := jobs[i].Result(t.Context()); err != nil || r.Outcome != receipt.Succeeded {
			t.Errorf("%+v, %v", r, err)
		}
	}
}

// All assets of one job are unsealed in the same fresh enclave.
func TestI5_EveryAssetOfAJobIsUnsealedInAFreshEnclave(t *testing.T) {
	var calls [][]string
	e := allowing(t, writes(0))
	e.Keys.Unwrapping = func(context.Context, string) error {
		calls = append(calls, e.NSM.Calls())
		return nil
	}
	if _, r := e.Run(t, both(t, e, "job")); r.Outcome != receipt.Succeeded || len(calls) != 2 || len(calls[0])+len(calls[1]) > 0 {
		t.Errorf("%+v, %q", r, calls)
	}
}

// In a used enclave nobody waits for anybody.
func TestAUsedEnclaveRunsJobsSideBySide(t *testing.T) {
	m := newMeter("one", "two")
	e := allowing(t, writes(0))
	e.Run(t, coretest.Simple("first"))
	next(e, m.session())
	var jobs []*core.Job
	for _, id := range []string{"one", "two"} {
		j := known(one(t, e, id, "allow"))
		job := e.Begin(t, j)
		e.Send(t, job, j)
		<-m.began
		jobs = append(jobs, job)
	}
	for i, id := range []string{"one", "two"} {
		close(m.end[id])
		if r, err := jobs[i].Result(t.Context()); err != nil || r.Outcome != receipt.Succeeded {
			t.Errorf("%+v, %v", r, err)
		}
	}
}

// What an application made of an owner's asset is gone before another application runs, but for what every policy
// let out: the copies that it keeps for itself, logs that nobody consented to, outputs that were sealed.
func TestI5_NothingThatWasMadeOfAnAssetIsThereForTheNextApplication(t *testing.T) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	var e *coretest.Enclave
	e = allowing(t, coretest.Session{Run: func(_ context.Context, s *coretest.Running, task executor.Task) (executor.Result, error) {
		if task.Entrypoint == "stranger" {
			left = holding(t, filepath.Join(e.Dir, "owner"), secret)
		}
		return executor.Result{}, errors.Join(
			os.WriteFile(s.Path(executor.WorkDir+"/tmp/unpacked"), []byte(secret), 0o600),
			os.WriteFile(s.Path(executor.WorkDir+"/logs/more"), []byte(secret), 0o600),
			s.Write("result.txt", secret), s.Log(task.Stdout, "let out, "+secret), s.Log(task.Stderr, ""))
	}})
	owner := one(t, e, "owner", "allow")
	owner.Spec.SealTo = map[string][]string{"result": {id.Recipient().String()}}
	job, r := e.Run(t, owner)
	if r.Outcome != receipt.Succeeded {
		t.Fatalf("%+v", r)
	}
	if _, r := e.Run(t, known(coretest.Simple("stranger", "allow"))); r.Outcome != receipt.Succeeded {
		t.Fatalf("%+v", r)
	}
	if want := []string{filepath.Join(e.Dir, "owner", "disk", "work", "logs", "stdout")}; !slices.Equal(left, want) {
		t.Errorf("%q is left, want %q", left, want)
	}
	record(t, job)
	if got := released(t, job); got[abi.Stdout] != "let out, "+secret || got[result] == "" {
		t.Errorf("%q", got)
	}
}

// holding are the files below a folder that hold a text.
func holding(t *testing.T, dir, text string) (found []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		raw, err := os.ReadFile(name)
		if strings.Contains(string(raw), text) {
			found = append(found, name)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	return found
}
