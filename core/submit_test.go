package core_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"weak"

	"github.com/cloister-run/cloister/core"
	"github.com/cloister-run/cloister/core/border"
	"github.com/cloister-run/cloister/core/coretest"
	"github.com/cloister-run/cloister/core/queue"
	"github.com/cloister-run/cloister/core/receipt"
	"github.com/cloister-run/cloister/enclave/envelope"
	"github.com/cloister-run/cloister/plugins/executor"
)

func TestSubmitRefuses(t *testing.T) {
	e := allowing(t, writes(0))
	for _, test := range []struct {
		rule   string
		change func(*core.Submission)
		want   error
	}{
		{"no id", func(s *core.Submission) { s.ID = "" }, core.ErrInvalid},
		{"an id of 65 bytes", func(s *core.Submission) { s.ID = strings.Repeat("a", 65) }, core.ErrInvalid},
		{"an id with a dot", func(s *core.Submission) { s.ID = ".." }, core.ErrInvalid},
		{"an id with a slash", func(s *core.Submission) { s.ID = "a/b" }, core.ErrInvalid},
		{"an id in capitals", func(s *core.Submission) { s.ID = "A" }, core.ErrInvalid},
		{"an id with a NUL", func(s *core.Submission) { s.ID = "a\x00" }, core.ErrInvalid},
		{"no job", func(s *core.Submission) { s.Job = nil }, core.ErrInvalid},
		{"a job in another spelling", func(s *core.Submission) { s.Job = append(s.Job, ' ') }, core.ErrInvalid},
		{"no application", func(s *core.Submission) { s.Assets = s.Assets[1:] }, core.ErrInvalid},
		{"a missing input", func(s *core.Submission) { s.Assets = s.Assets[:1] }, core.ErrInvalid},
		{"an input too many", func(s *core.Submission) {
			s.Assets = append(s.Assets, core.Claim{Name: "inputs.zzz", Form: "tree"})
		}, core.ErrInvalid},
		{"inputs out of order", func(s *core.Submission) { slices.Reverse(s.Assets) }, core.ErrInvalid},
		{"a negative size", func(s *core.Submission) { s.Assets[0].Bytes = -1 }, core.ErrInvalid},
		{"an unknown form", func(s *core.Submission) { s.Assets[1].Form = "link" }, core.ErrInvalid},
		{"an application that is a file", func(s *core.Submission) { s.Assets[0].Form = "file" }, core.ErrInvalid},
		{"a front that is no digest", func(s *core.Submission) { s.Assets[1].Front = "sha384:" + strings.Repeat("A", 96) }, core.ErrInvalid},
		{"a front of another hash", func(s *core.Submission) { s.Assets[1].Front = "sha256:" + strings.Repeat("a", 64) }, core.ErrInvalid},
		{"sizes that overflow", func(s *core.Submission) {
			s.Assets[0].Bytes, s.Assets[1].Bytes = 1<<63-1, 1<<63-1
		}, queue.ErrTooLarge},
		{"more than there is", func(s *core.Submission) { s.Assets[0].Bytes = coretest.Memory }, queue.ErrTooLarge},
	} {
		t.Run(test.rule, func(t *testing.T) {
			s := coretest.Simple("job").Submission(t)
			test.change(&s)
			_, err := e.Submit(s)
			is(t, err, test.want)
		})
	}
	unknown := coretest.Simple("job")
	unknown.Spec.Command.Executor = "cobol"
	_, err := e.Submit(unknown.Submission(t))
	is(t, err, core.ErrInvalid)
	e.Empty(t)
}

func TestSubmitTakesEveryLegalID(t *testing.T) {
	e := allowing(t, writes(0))
	for _, id := range []string{"a", "0", "-", "--", strings.Repeat("z", 64)} {
		if _, err := e.Submit(coretest.Simple(id).Submission(t)); err != nil {
			t.Errorf("%q: %v", id, err)
		}
	}
}

func TestSubmitIsIdempotent(t *testing.T) {
	e := allowing(t, writes(0))
	first, err := e.Submit(coretest.Simple("job").Submission(t))
	if err != nil {
		t.Fatal(err)
	}
	promised := e.Balance()
	again, err := e.Submit(coretest.Simple("job").Submission(t))
	if err != nil || again != first || again.Token() != first.Token() {
		t.Errorf("the same submission gave another job: %v", err)
	}
	if e.Balance() != promised {
		t.Error("the same submission was promised memory twice")
	}
	other := coretest.Simple("job")
	other.Spec.Name = "other"
	_, err = e.Submit(other.Submission(t))
	is(t, err, core.ErrConflict)
	sized := coretest.Simple("job")
	sized.Claims = map[string]int64{"application": 1 << 20}
	_, err = e.Submit(sized.Submission(t))
	is(t, err, core.ErrConflict)
}

func TestAnIDIsFreeAfterDelete(t *testing.T) {
	e := allowing(t, writes(0))
	j, _ := e.Run(t, coretest.Simple("job", "allow"))
	if err := j.Delete(); err != nil {
		t.Fatal(err)
	}
	again, r := e.Run(t, coretest.Simple("job", "allow"))
	if r.Outcome != "succeeded" || again.Token() == j.Token() {
		t.Errorf("outcome %s, or the token of the job before", r.Outcome)
	}
	_, err := e.Job("job", j.Token())
	is(t, err, core.ErrNotFound)
}

func TestTokensOpenTheirOwnJobAlone(t *testing.T) {
	e := allowing(t, writes(0))
	a, err := e.Submit(coretest.Simple("a").Submission(t))
	if err != nil {
		t.Fatal(err)
	}
	b, err := e.Submit(coretest.Simple("b").Submission(t))
	if err != nil {
		t.Fatal(err)
	}
	if len(a.Token()) != 64 || a.Token() == b.Token() {
		t.Errorf("tokens %q and %q", a.Token(), b.Token())
	}
	for _, test := range []struct {
		rule, id, token string
		want            *core.Job
	}{
		{"own", "a", a.Token(), a},
		{"foreign", "a", b.Token(), nil},
		{"none", "a", "", nil},
		{"shortened", "a", a.Token()[:63], nil},
		{"longer", "a", a.Token() + "0", nil},
		{"in capitals", "a", strings.ToUpper(a.Token()), nil},
		{"of a job that is not", "c", a.Token(), nil},
	} {
		got, err := e.Job(test.id, test.token)
		if got != test.want || (test.want == nil && !errors.Is(err, core.ErrNotFound)) {
			t.Errorf("%s: %v, %v", test.rule, got, err)
		}
	}
}

func TestTooManyJobs(t *testing.T) {
	e := allowing(t, writes(0))
	small := func(i int) core.Submission {
		j := coretest.Simple(fmt.Sprintf("job-%d", i))
		j.Spec.Limits.Memory, j.Spec.Limits.Disk = 1<<20, 1<<20
		return j.Submission(t)
	}
	for i := range 1024 {
		if _, err := e.Submit(small(i)); err != nil {
			t.Fatal(err)
		}
	}
	_, err := e.Submit(small(1024))
	is(t, err, queue.ErrNoRoom)
	if _, err := e.Submit(small(7)); err != nil {
		t.Errorf("a job that is known: %v", err)
	}
}

func TestAfterCloseNoJobBegins(t *testing.T) {
	e := allowing(t, writes(0))
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := e.Submit(coretest.Simple("job").Submission(t))
	is(t, err, core.ErrClosed)
}

func TestMemoryIsGivenBackAsSoonAsItIsFree(t *testing.T) {
	e := allowing(t, writes(0))
	spec := coretest.Simple("job", "allow")
	j, _ := e.Run(t, spec)
	if got := e.Balance().Reserved; got != spec.Spec.Limits.Disk {
		t.Errorf("done: %d promised, want what its outputs may take: %d", got, spec.Spec.Limits.Disk)
	}
	if err := j.Delete(); err != nil {
		t.Fatal(err)
	}
	e.Empty(t)
	next(e, writes(1))
	quiet := coretest.Simple("quiet", "allow")
	quiet.Modules = []string{"deny"}
	e.Policies.Known["deny"] = deny("egress", "")
	_, r := e.Run(t, quiet)
	if r.Outcome != "denied" {
		t.Fatal(r.Outcome)
	}
	e.Empty(t) // nothing may leave, so nothing is kept, though the job is still known
}

// TestTheEnclavesNotesCountAsMemory: the modules of policies while the job runs, and the names in outputs that are
// folders until they have left.
func TestTheEnclavesNotesCountAsMemory(t *testing.T) {
	e := allowing(t, coretest.Session{Run: func(_ context.Context, s *coretest.Running, task executor.Task) (executor.Result, error) {
		return executor.Result{}, errors.Join(s.Write("many/a", ""), s.Log(task.Stdout, ""), s.Log(task.Stderr, ""))
	}})
	spec := coretest.Simple("job", "allow")
	spec.Spec.Command.Outputs["result"] = "many/"
	j, r := e.Run(t, spec)
	if r.Outcome != receipt.Succeeded {
		t.Fatalf("%+v", r)
	}
	if got := j.Need().Notes; got != envelope.MaxModule+border.NotesBytes {
		t.Errorf("%d bytes of notes", got)
	}
	if got := e.Balance().Reserved; got != spec.Spec.Limits.Disk+border.NotesBytes {
		t.Errorf("done: %d promised", got)
	}
}

// TestModulesAreBoundedTogether: one that is over what was promised for all ends the job.
func TestModulesAreBoundedTogether(t *testing.T) {
	e := allowing(t, writes(0))
	var modules []string
	for i := range 5 {
		modules = append(modules, fmt.Sprint(i)+strings.Repeat("m", envelope.MaxModule-1))
		e.Policies.Known[modules[i]] = &coretest.Policy{}
	}
	j, err := e.Submit(coretest.Simple("job", modules...).Submission(t))
	if err != nil {
		t.Fatal(err)
	}
	if got := j.Need().Notes; got != 4*envelope.MaxModule {
		t.Errorf("%d bytes of notes", got)
	}
	for i, m := range modules {
		err := j.PutModule(t.Context(), coretest.Digest(m), []byte(m))
		if (err == nil) != (i < 4) || err != nil && (!errors.Is(err, core.ErrInvalid) || !strings.Contains(err.Error(), "over 64 MiB together")) {
			t.Errorf("module %d: %v", i, err)
		}
	}
	if r, err := j.Result(t.Context()); err != nil || r.Outcome != receipt.Cancelled {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestAJobThatIsDoneHoldsNoPolicy: nobody counts its module then.
func TestAJobThatIsDoneHoldsNoPolicy(t *testing.T) {
	e := allowing(t, writes(0))
	own, owners := &coretest.Policy{}, &coretest.Policy{}
	e.Policies.Known["own"], e.Policies.Known["owner's"] = own, owners
	held := []weak.Pointer[coretest.Policy]{weak.Make(own), weak.Make(owners)}
	spec := coretest.Simple("job", "own")
	e.Seal(t, &spec, "inputs.data", "b", "owner's")
	j, r := e.Run(t, spec)
	if r.Outcome != receipt.Succeeded {
		t.Fatalf("%+v", r)
	}
	delete(e.Policies.Known, "own")
	delete(e.Policies.Known, "owner's")
	runtime.GC()
	for i, p := range held {
		if p.Value() != nil {
			t.Errorf("policy %d is held", i)
		}
	}
	record(t, j)
	if got := released(t, j); got[result] != secret {
		t.Errorf("released %q", got)
	}
}

// TestEntriesCountAsMemory: a file takes memory even where it has no content.
func TestEntriesCountAsMemory(t *testing.T) {
	need := func(files map[string]string) int64 {
		e := allowing(t, writes(0))
		spec := coretest.Simple("job", "allow")
		spec.Assets["application"] = files
		return e.Begin(t, spec).Need().Assets
	}
	few, many := need(map[string]string{"main.py": ""}), need(map[string]string{"main.py": "", "a": "", "b": ""})
	if many-few < 2*4096 {
		t.Errorf("two files more take %d bytes more", many-few)
	}
	e := allowing(t, writes(0))
	sealed, plain := one(t, e, "sealed", "allow").Submission(t), coretest.Simple("plain").Submission(t)
	needs := map[string]int64{}
	for _, s := range []core.Submission{sealed, plain} {
		j, err := e.Submit(s)
		if err != nil {
			t.Fatal(err)
		}
		needs[s.ID] = j.Need().Assets
	}
	if more := needs["sealed"] - needs["plain"]; more < envelope.MaxModule+envelope.MaxHeader {
		t.Errorf("a sealed asset takes %d bytes more", more)
	}
}

// TestAJobLoadsOnePolicyAtATime: all jobs share the processes that load, so one with many modules takes no
// more of them at once than one with two.
func TestAJobLoadsOnePolicyAtATime(t *testing.T) {
	e := allowing(t, writes(0))
	entered, proceed := make(chan string), make(chan struct{})
	e.Policies.Loading = func(_ context.Context, module string) error {
		entered <- module
		<-proceed
		return nil
	}
	e.Policies.Known["first"], e.Policies.Known["second"] = &coretest.Policy{}, &coretest.Policy{}
	j, err := e.Submit(coretest.Simple("job", "first", "second").Submission(t))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	put := func(module string) { done <- j.PutModule(t.Context(), coretest.Digest(module), []byte(module)) }
	go put("first")
	if got := <-entered; got != "first" {
		t.Fatalf("loads %s", got)
	}
	go put("second")
	select {
	case <-entered:
		t.Error("a second one is loaded meanwhile")
	case <-time.After(50 * time.Millisecond):
	}
	proceed <- struct{}{}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got := <-entered; got != "second" {
		t.Errorf("loads %s", got)
	}
	close(proceed)
	if err := <-done; err != nil {
		t.Error(err)
	}
}
