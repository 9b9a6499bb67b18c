package core_test

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"weak"

	"github.com/cloister-run/cloister/core"
	"github.com/cloister-run/cloister/core/coretest"
	"github.com/cloister-run/cloister/core/receipt"
	"github.com/cloister-run/cloister/plugins/executor"
)

// login counts the objects that hold a job's credentials.
type login struct {
	core.Keys
	made chan weak.Pointer[session]
}

type session struct{ core.Unwrapper }

func (l *login) Login(credentials []byte) (core.Unwrapper, error) {
	u, err := l.Keys.Login(credentials)
	if err != nil {
		return nil, err
	}
	s := &session{u}
	l.made <- weak.Make(s)
	return s, nil
}

// counting has an enclave count them.
func counting() (*login, func(*core.Config)) {
	l := &login{made: make(chan weak.Pointer[session], 1)}
	return l, func(c *core.Config) { l.Keys, c.Keys = c.Keys, l }
}

// held reports whether anything holds the credentials that were sent.
func (l *login) held() bool {
	p := <-l.made
	for range 10 {
		runtime.GC()
		if p.Value() == nil {
			return false
		}
	}
	return true
}

// When the application runs nothing holds the credentials any more.
func TestCredentialsAreDroppedAfterUnsealing(t *testing.T) {
	held := true
	keys, count := counting()
	e := allowing(t, coretest.Session{Run: func(_ context.Context, s *coretest.Running, task executor.Task) (executor.Result, error) {
		held = keys.held()
		return executor.Result{}, errors.Join(s.Write("result.txt", ""), s.Log(task.Stdout, ""), s.Log(task.Stderr, ""))
	}}, count)
	_, r := e.Run(t, one(t, e, "job", "allow"))
	if r.Outcome != receipt.Succeeded || held {
		t.Errorf("%+v; the credentials are still held: %v", r, held)
	}
}

// Nor does anything hold them of a job that ended before its last asset came, as long as it is kept.
func TestCredentialsAreDroppedWhenAJobEndsEarly(t *testing.T) {
	keys, count := counting()
	e := allowing(t, writes(0), count)
	job := e.Begin(t, one(t, e, "job", "allow"))
	if _, over, err := job.Admission(t.Context()); over || err != nil {
		t.Fatal(over, err)
	}
	if err := job.PutCredentials(t.Context(), []byte(coretest.Credentials)); err != nil {
		t.Fatal(err)
	}
	job.Cancel()
	if r, err := job.Result(t.Context()); err != nil || r.Outcome != receipt.Cancelled {
		t.Errorf("%+v, %v", r, err)
	}
	if keys.held() {
		t.Error("the credentials are still held")
	}
	runtime.KeepAlive(job)
}

func TestCredentialsComeOnceAndWhereTheyAreNeeded(t *testing.T) {
	e := allowing(t, writes(0))
	j := one(t, e, "job", "allow")
	job := e.Begin(t, j)
	if _, over, err := job.Admission(t.Context()); over || err != nil {
		t.Fatal(over, err)
	}
	is(t, job.PutAsset(t.Context(), "inputs.data", coretest.Stream(j.Sealed["inputs.data"])), core.ErrOrder)
	is(t, job.PutCredentials(t.Context(), []byte("others")), core.ErrInvalid)
	if err := job.PutCredentials(t.Context(), []byte(coretest.Credentials)); err != nil {
		t.Fatal(err)
	}
	is(t, job.PutCredentials(t.Context(), []byte(coretest.Credentials)), core.ErrConflict)
	for name, content := range map[string][]byte{"inputs.data": j.Sealed["inputs.data"], "application": coretest.Tar(t, j.Assets["application"])} {
		if err := job.PutAsset(t.Context(), name, coretest.Stream(content)); err != nil {
			t.Errorf("a refused call ended the job: %v", err)
		}
	}
	plain := e.Begin(t, coretest.Simple("plain", "allow"))
	if _, over, err := plain.Admission(t.Context()); over || err != nil {
		t.Fatal(over, err)
	}
	is(t, plain.PutCredentials(t.Context(), []byte(coretest.Credentials)), core.ErrInvalid)
}
