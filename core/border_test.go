package core_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cloister-run/cloister/core"
	"github.com/cloister-run/cloister/core/coretest"
	"github.com/cloister-run/cloister/core/receipt"
	"github.com/cloister-run/cloister/core/space"
	"github.com/cloister-run/cloister/jobspec"
	"github.com/cloister-run/cloister/plugins/executor"
	"github.com/cloister-run/cloister/policies/abi"
)

// deny denies at a point, with a code unless it is empty.
func deny(point abi.Point, code string) *coretest.Policy {
	return at(point, func(context.Context, abi.Request, abi.Files) (abi.Decision, error) {
		return abi.Decision{Code: code}, nil
	})
}

func at(point abi.Point, f func(context.Context, abi.Request, abi.Files) (abi.Decision, error)) *coretest.Policy {
	return &coretest.Policy{
		Codes: []abi.Code{{Code: "too-small", Hint: "ask for more"}},
		At:    map[abi.Point]func(context.Context, abi.Request, abi.Files) (abi.Decision, error){point: f},
	}
}

func TestI1_WhatLeavesIsWhatWasJudged(t *testing.T) {
	e := allowing(t, writes(0))
	judged := map[abi.Channel]string{}
	e.Policies.Known["watch"] = at(abi.Egress, func(_ context.Context, r abi.Request, files abi.Files) (abi.Decision, error) {
		for _, a := range r.Artifacts {
			raw, err := fs.ReadFile(files.Artifacts, string(a.Channel))
			if err != nil {
				return abi.Decision{}, err
			}
			judged[a.Channel] = string(raw)
		}
		return coretest.Allow(r), nil
	})
	j, r := e.Run(t, coretest.Simple("job", "watch", "allow"))
	if r.Outcome != receipt.Succeeded {
		t.Fatalf("%+v", r)
	}
	if early := released(t, j); len(early) > 0 {
		t.Errorf("released before the record: %v", early)
	}
	run := record(t, j)
	got := released(t, j)
	if len(got) != 4 || got[result] != secret || got[abi.Exit] != "0\n" {
		t.Errorf("released %q", got)
	}
	for ch, content := range got {
		if content != judged[ch] {
			t.Errorf("%s: released %q, judged %q", ch, content, judged[ch])
		}
	}
	for _, a := range run.Released {
		if a.Digest != coretest.Digest(got[a.Channel]) || a.Bytes != int64(len(got[a.Channel])) {
			t.Errorf("%s: the record says %+v of %q", a.Channel, a, got[a.Channel])
		}
	}
}

func TestI1_DeniedNoByteLeaves(t *testing.T) {
	for _, point := range []abi.Point{abi.Admit, abi.Ingress, abi.Egress} {
		t.Run(string(point), func(t *testing.T) {
			e := allowing(t, writes(0))
			e.Policies.Known["deny"] = deny(point, "too-small")
			j, r := e.Run(t, coretest.Simple("job", "allow", "deny"))
			if r.Outcome != receipt.Denied || r.Denial == nil || r.Denial.Code != "too-small" || r.Denial.Point != point {
				t.Fatalf("%+v", r)
			}
			nothing(t, j)
			run := record(t, j)
			if run.Outcome != receipt.Denied || len(run.Released) != 0 {
				t.Errorf("%+v", run)
			}
			gone(t, e, "job")
		})
	}
}

func TestI1_WithoutConsentALogIsNotEvenWritten(t *testing.T) {
	e := allowing(t, coretest.Session{})
	e.Policies.Known["only"] = at(abi.Admit, func(context.Context, abi.Request, abi.Files) (abi.Decision, error) {
		return abi.Decision{Allow: true, Channels: []abi.Channel{result}}, nil
	})
	var task executor.Task
	next(e, coretest.Session{Run: func(_ context.Context, s *coretest.Running, got executor.Task) (executor.Result, error) {
		task = got
		return executor.Result{}, s.Write("result.txt", secret)
	}})
	j, r := e.Run(t, coretest.Simple("job", "allow", "only"))
	if r.Outcome != receipt.Succeeded || task.Stdout != "" || task.Stderr != "" {
		t.Fatalf("%+v, %+v", r, task)
	}
	record(t, j)
	if got := released(t, j); len(got) != 1 || got[result] != secret {
		t.Errorf("released %q", got)
	}
}

func TestI1_WithoutPoliciesEverythingDeclaredLeaves(t *testing.T) {
	e := allowing(t, writes(0))
	j, r := e.Run(t, coretest.Simple("job"))
	if r.Outcome != receipt.Succeeded {
		t.Fatalf("%+v", r)
	}
	if run := record(t, j); len(run.Policies) != 0 || len(run.Released) != 4 {
		t.Errorf("%+v", run)
	}
	if got := released(t, j); len(got) != 4 {
		t.Errorf("released %q", got)
	}
}

func TestI2_OfAFailedApplicationOnlyLogsAndExitAreJudged(t *testing.T) {
	e := allowing(t, writes(3))
	p := e.Policies.Known["allow"]
	j, r := e.Run(t, coretest.Simple("job", "allow"))
	if r.Outcome != receipt.Failed || r.Detail != "" {
		t.Fatalf("%+v", r)
	}
	record(t, j)
	got := released(t, j)
	if len(got) != 3 || got[abi.Exit] != "3\n" || got[abi.Stdout] != "out "+secret {
		t.Errorf("released %q", got)
	}
	for _, a := range p.Asked(abi.Egress)[0].Artifacts {
		if a.Channel == result {
			t.Error("the output of a failed application was judged")
		}
	}
}

func TestI4_NoUploadBeforeAdmission(t *testing.T) {
	e := allowing(t, writes(0))
	asked, answer := make(chan struct{}), make(chan struct{})
	e.Policies.Known["slow"] = at(abi.Admit, func(_ context.Context, r abi.Request, _ abi.Files) (abi.Decision, error) {
		close(asked)
		<-answer
		return coretest.Allow(r), nil
	})
	spec := coretest.Simple("job", "slow")
	job, err := e.Submit(spec.Submission(t))
	if err != nil {
		t.Fatal(err)
	}
	app := coretest.Tar(t, spec.Assets["application"])
	is(t, job.PutAsset(t.Context(), "application", coretest.Stream(app)), core.ErrOrder)
	if err := job.PutModule(t.Context(), coretest.Digest("slow"), []byte("slow")); err != nil {
		t.Fatal(err)
	}
	<-asked
	is(t, job.PutAsset(t.Context(), "application", coretest.Stream(app)), core.ErrOrder)
	gone(t, e, "job") // there is not even a place for assets
	close(answer)
	if !e.Send(t, job, spec) {
		t.Error("a refused upload ended the job")
	}
	if r, _ := job.Result(t.Context()); r.Outcome != receipt.Succeeded {
		t.Errorf("%+v", r)
	}
	is(t, job.PutAsset(t.Context(), "application", coretest.Stream(app)), core.ErrOver)
}

func TestI4_NoAssetReachesTheSandboxBeforeIngress(t *testing.T) {
	e := allowing(t, coretest.Session{})
	prepared := make(chan struct{})
	var atPrepare, atIngress, atRun []string
	next(e, coretest.Session{
		Prepare: func(_ context.Context, s *coretest.Running) (executor.Runtime, error) {
			defer close(prepared)
			atPrepare = files(t, s.Place.Assets)
			return executor.Runtime{Name: "CPython", Version: "3"}, nil
		},
		Run: func(_ context.Context, s *coretest.Running, task executor.Task) (executor.Result, error) {
			atRun = files(t, s.Place.Assets)
			raw, err := os.ReadFile(s.Path(task.Args[0]))
			if err != nil || string(raw) != "1,2,3\n" {
				t.Errorf("the input is %q, %v", raw, err)
			}
			return executor.Result{}, s.Write("result.txt", secret)
		},
	})
	e.Policies.Known["look"] = at(abi.Ingress, func(_ context.Context, r abi.Request, _ abi.Files) (abi.Decision, error) {
		<-prepared
		atIngress = files(t, e.Executors.Launched()[0].Place.Assets)
		return coretest.Allow(r), nil
	})
	spec := coretest.Simple("job", "look")
	spec.Spec.Logs, spec.Spec.Exit = jobspec.CanonicalLogs{}, false
	if _, r := e.Run(t, spec); r.Outcome != receipt.Succeeded {
		t.Fatalf("%+v", r)
	}
	if len(atPrepare) != 0 || len(atIngress) != 0 || len(atRun) != 2 {
		t.Errorf("seen at prepare %v, at ingress %v, at run %v", atPrepare, atIngress, atRun)
	}
}

// An executor that is slow to start must not prepare with the assets in its view: what it says of
// its runtime goes into the record, by no policy's leave.
func TestI4_AnExecutorThatIsSlowSeesNothingAsItPrepares(t *testing.T) {
	e := allowing(t, coretest.Session{})
	allowed := make(chan struct{})
	e.Policies.Known["last"] = at(abi.Ingress, func(_ context.Context, r abi.Request, _ abi.Files) (abi.Decision, error) {
		close(allowed)
		return coretest.Allow(r), nil
	})
	next(e, coretest.Session{
		Prepare: func(ctx context.Context, s *coretest.Running) (executor.Runtime, error) {
			<-allowed
			for range 200 { // long enough for whoever would publish now
				if seen := files(t, s.Place.Assets); len(seen) > 0 {
					return executor.Runtime{Name: "leaks", Version: filepath.Base(seen[0])}, nil
				}
			}
			return executor.Runtime{Name: "CPython", Version: "3"}, nil
		},
		Run: writes(0).Run,
	})
	j, r := e.Run(t, coretest.Simple("job", "last"))
	if r.Outcome != receipt.Succeeded {
		t.Fatalf("%+v", r)
	}
	if got := record(t, j).Executor.Runtime; got != "CPython 3" {
		t.Errorf("runtime %q", got)
	}
}

func TestI4_IngressSeesWhatArrived(t *testing.T) {
	e := allowing(t, writes(0))
	p := e.Policies.Known["allow"]
	spec := coretest.Simple("job", "allow")
	spec.Claims = map[string]int64{"application": 1000}
	j, r := e.Run(t, spec)
	if r.Outcome != receipt.Succeeded {
		t.Fatalf("%+v", r)
	}
	claimed, found := p.Asked(abi.Admit)[0].Assets[0], p.Asked(abi.Ingress)[0].Assets[0]
	if claimed.Bytes != 1000 || claimed.Verified || claimed.Digest != "" {
		t.Errorf("admit was told %+v", claimed)
	}
	if found.Bytes != int64(len("print()")) || !found.Verified || !strings.HasPrefix(found.Digest, "sha256:") {
		t.Errorf("ingress was told %+v", found)
	}
	if kept := record(t, j).Assets[0]; kept != found {
		t.Errorf("the record says %+v", kept)
	}
}

func TestUploadsThatAreRefusedEndTheJob(t *testing.T) {
	for _, test := range []struct {
		rule, asset string
		claim       int64
		content     func(t *testing.T) []byte
		want        error
	}{
		{"more bytes than claimed", "application", 3, nil, core.ErrInvalid},
		{"more files than claimed", "application", -1, func(t *testing.T) []byte {
			return coretest.Tar(t, map[string]string{"main.py": "", "a": "", "b/c": ""})
		}, core.ErrInvalid},
		{"no tar", "application", -1, func(*testing.T) []byte { return []byte(strings.Repeat("x", 2048)) }, core.ErrInvalid},
		{"cut short", "application", -1, func(t *testing.T) []byte {
			return coretest.Tar(t, map[string]string{"main.py": "print()"})[:515]
		}, core.ErrInvalid},
		{"a name that leaves", "application", -1, func(t *testing.T) []byte {
			return coretest.Tar(t, map[string]string{"../main.py": "print()"})
		}, core.ErrInvalid},
		{"two files where one is claimed", "inputs.data", -1, func(t *testing.T) []byte {
			return coretest.Tar(t, map[string]string{"a": "1", "b": "2"})
		}, core.ErrInvalid},
		{"a folder where a file is claimed", "inputs.data", -1, func(t *testing.T) []byte {
			return coretest.Tar(t, map[string]string{"a/b": "1"})
		}, core.ErrInvalid},
	} {
		t.Run(test.rule, func(t *testing.T) {
			e := allowing(t, writes(0))
			spec := coretest.Simple("job", "allow")
			if test.claim >= 0 {
				spec.Claims = map[string]int64{test.asset: test.claim}
			}
			content := coretest.Tar(t, spec.Assets[test.asset])
			if test.content != nil {
				content = test.content(t)
			}
			job := e.Begin(t, spec)
			if _, _, err := job.Admission(t.Context()); err != nil {
				t.Fatal(err)
			}
			is(t, job.PutAsset(t.Context(), test.asset, coretest.Stream(content)), test.want)
			r, err := job.Result(t.Context())
			if err != nil || r.Outcome != receipt.Cancelled || !strings.Contains(r.Detail, test.asset) {
				t.Errorf("%+v, %v", r, err)
			}
			nothing(t, job)
			gone(t, e, "job")
		})
	}
}

// Room that a job claims for more makes no file of what is none.
func TestWhatIsNoFileIsNotTakenForOne(t *testing.T) {
	for rule, files := range map[string]map[string]string{
		"nothing":            {},
		"two files":          {"a": "1", "b": "2"},
		"a file in a folder": {"a/b": "1"},
	} {
		t.Run(rule, func(t *testing.T) {
			e := allowing(t, writes(0))
			s := coretest.Simple("job").Submission(t)
			s.Assets[1].Entries = 10
			job, err := e.Submit(s)
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := job.Admission(t.Context()); err != nil {
				t.Fatal(err)
			}
			err = job.PutAsset(t.Context(), "inputs.data", coretest.Stream(coretest.Tar(t, files)))
			if is(t, err, core.ErrInvalid); err == nil || !strings.Contains(err.Error(), "inputs.data: claimed to be a file") {
				t.Fatal(err)
			}
			if r, err := job.Result(t.Context()); err != nil || r.Outcome != receipt.Cancelled {
				t.Errorf("%+v, %v", r, err)
			}
			nothing(t, job)
			gone(t, e, "job")
		})
	}
}

func TestUploadsOutOfTurnDoNotEndTheJob(t *testing.T) {
	e := allowing(t, writes(0))
	spec := coretest.Simple("job", "allow")
	job, err := e.Submit(spec.Submission(t))
	if err != nil {
		t.Fatal(err)
	}
	is(t, job.PutModule(t.Context(), coretest.Digest("x"), []byte("y")), core.ErrInvalid) // not its digest
	is(t, job.PutModule(t.Context(), coretest.Digest("x"), []byte("x")), core.ErrInvalid) // not the job's
	if err := job.PutModule(t.Context(), coretest.Digest("allow"), []byte("allow")); err != nil {
		t.Fatal(err)
	}
	is(t, job.PutModule(t.Context(), coretest.Digest("allow"), []byte("allow")), core.ErrConflict)
	if _, _, err := job.Admission(t.Context()); err != nil {
		t.Fatal(err)
	}
	is(t, job.PutAsset(t.Context(), "inputs.other", coretest.Stream(nil)), core.ErrInvalid)
	is(t, job.PutAsset(t.Context(), "../own", coretest.Stream(nil)), core.ErrInvalid)
	r, w := io.Pipe()
	first := make(chan error, 1)
	go func() { first <- job.PutAsset(t.Context(), "application", r) }()
	content := coretest.Tar(t, spec.Assets["application"])
	if _, err := w.Write(content[:100]); err != nil { // it is being received now
		t.Fatal(err)
	}
	is(t, job.PutAsset(t.Context(), "application", coretest.Stream(content)), core.ErrConflict)
	if _, err := w.Write(content[100:]); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Close(), <-first); err != nil {
		t.Fatal(err)
	}
	is(t, job.PutAsset(t.Context(), "application", coretest.Stream(content)), core.ErrConflict)
	if err := job.PutAsset(t.Context(), "inputs.data", coretest.Stream(coretest.Tar(t, spec.Assets["inputs.data"]))); err != nil {
		t.Fatal(err)
	}
	if r, _ := job.Result(t.Context()); r.Outcome != receipt.Succeeded {
		t.Errorf("%+v", r)
	}
}

func TestTwoJobsShareNothing(t *testing.T) {
	e := allowing(t, coretest.Session{})
	running, goOn := make(chan struct{}, 2), make(chan struct{})
	next(e, coretest.Session{Run: func(_ context.Context, s *coretest.Running, task executor.Task) (executor.Result, error) {
		running <- struct{}{}
		<-goOn
		raw, err := os.ReadFile(s.Path(task.Args[0]))
		return executor.Result{}, errors.Join(err, s.Write("result.txt", "of "+string(raw)))
	}})
	p := e.Policies.Known["allow"]
	jobs := map[string]*core.Job{}
	for _, id := range []string{"a", "b"} {
		spec := coretest.Simple(id, "allow")
		spec.Spec.Logs.Stdout, spec.Spec.Logs.Stderr = false, false
		spec.Assets["inputs.data"] = map[string]string{"data": id}
		jobs[id] = e.Begin(t, spec)
		if !e.Send(t, jobs[id], spec) {
			t.Fatal("refused")
		}
	}
	<-running
	<-running
	close(goOn)
	for id, j := range jobs {
		if r, _ := j.Result(t.Context()); r.Outcome != receipt.Succeeded {
			t.Fatalf("%+v", r)
		}
		record(t, j)
		if got := released(t, j)[result]; got != "of "+id {
			t.Errorf("job %s released %q", id, got)
		}
	}
	places := e.Executors.Launched()
	for _, dir := range []func(executor.Place) string{
		func(p executor.Place) string { return p.Assets },
		func(p executor.Place) string { return p.Work },
		func(p executor.Place) string { return p.Socket },
	} {
		if dir(places[0].Place) == dir(places[1].Place) {
			t.Errorf("both jobs have %s", dir(places[0].Place))
		}
	}
	if asked := p.Asked(abi.Egress); asked[0].Sharing != 1 {
		t.Errorf("the first egress was told of %d other jobs", asked[0].Sharing)
	}
}

func TestOutputsThatAreRefused(t *testing.T) {
	for _, test := range []struct {
		rule string
		run  func(s *coretest.Running) error
		want string
	}{
		{"missing", func(*coretest.Running) error { return nil }, "outputs.result: the application did not write it"},
		{"a link", func(s *coretest.Running) error {
			return os.Symlink("/etc/passwd", filepath.Join(s.Place.Work, space.Outputs, "result.txt"))
		}, "symbolic link"},
		{"a folder", func(s *coretest.Running) error { return s.Write("result.txt/x", "") }, "a file where a folder is declared"},
	} {
		t.Run(test.rule, func(t *testing.T) {
			e := allowing(t, coretest.Session{Run: func(_ context.Context, s *coretest.Running, task executor.Task) (executor.Result, error) {
				return executor.Result{}, errors.Join(s.Log(task.Stdout, secret), s.Log(task.Stderr, ""), test.run(s))
			}})
			j, r := e.Run(t, coretest.Simple("job", "allow"))
			if r.Outcome != receipt.Refused || !strings.Contains(r.Detail, test.want) {
				t.Errorf("%+v", r)
			}
			nothing(t, j)
			gone(t, e, "job")
		})
	}
}
