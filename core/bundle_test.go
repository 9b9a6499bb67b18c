package core_test

import (
	"bytes"
	"context"
	"crypto/sha512"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/cloister-run/cloister/core"
	"github.com/cloister-run/cloister/core/coretest"
	"github.com/cloister-run/cloister/core/receipt"
	"github.com/cloister-run/cloister/enclave/envelope"
	"github.com/cloister-run/cloister/plugins/executor"
	"github.com/cloister-run/cloister/policies/abi"
)

// edit is a bundle that is not the admitted one, or not whole.
type edit struct {
	content []byte
	// open says that the difference is in what stands in the open: no key is asked for then.
	open bool
}

func edits(t testing.TB, e *coretest.Enclave, good []byte) map[string]edit {
	t.Helper()
	flip := func(at int) []byte {
		b := bytes.Clone(good)
		b[at] ^= 1
		return b
	}
	front := len(coretest.Front(t, good))
	payload := front + sha512.Size384 // behind the MAC
	other := one(t, e, "other", "strict").Sealed["inputs.data"]
	twin := one(t, e, "other", "allow").Sealed["inputs.data"]
	return map[string]edit{
		"nothing":                  {nil, true},
		"no bundle":                {coretest.Tar(t, map[string]string{"data.csv": "1,2,3\n"}), true},
		"another bundle":           {twin, true},
		"another policy":           {other, true},
		"another bundle's policy":  {append(bytes.Clone(coretest.Front(t, other)), good[front:]...), true},
		"its policy changed":       {flip(front - 1), true},
		"cut in the header":        {good[:40], true},
		"cut in the policy":        {good[:front-1], true},
		"another bundle's payload": {append(bytes.Clone(good[:front]), twin[len(coretest.Front(t, twin)):]...), false},
		"its MAC changed":          {flip(front), false},
		"its salt changed":         {flip(payload + 1), false},
		"its first byte changed":   {flip(payload + 40), false},
		"its last byte changed":    {flip(len(good) - 1), false},
		"a byte more":              {append(bytes.Clone(good), 0), false},
		"a byte less":              {good[:len(good)-1], false},
		"cut after the policy":     {good[:front], false},
		"cut in the MAC":           {good[:payload-1], false},
		"cut after the MAC":        {good[:payload], false},
		"cut in the payload":       {good[:payload+60], false},
	}
}

// A bundle that is not the admitted one in any byte does not open: nothing of it reaches the
// sandbox, no application runs, and the sender is told.
func TestI3_WhatIsNotTheAdmittedBundleDoesNotOpen(t *testing.T) {
	maker := allowing(t, writes(0))
	maker.Policies.Known["strict"] = &coretest.Policy{}
	names := slices.Sorted(maps.Keys(edits(t, maker, one(t, maker, "any", "allow").Sealed["inputs.data"])))
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			ran := false
			e := allowing(t, coretest.Session{Run: func(context.Context, *coretest.Running, executor.Task) (executor.Result, error) {
				ran = true
				return executor.Result{}, nil
			}})
			e.Policies.Known["strict"] = &coretest.Policy{}
			j := one(t, e, "job", "allow")
			job := e.Begin(t, j)
			if _, over, err := job.Admission(t.Context()); over || err != nil {
				t.Fatal(over, err)
			}
			if err := job.PutCredentials(t.Context(), []byte(coretest.Credentials)); err != nil {
				t.Fatal(err)
			}
			changed := edits(t, e, j.Sealed["inputs.data"])[name]
			err := job.PutAsset(t.Context(), "inputs.data", coretest.Stream(changed.content))
			is(t, err, core.ErrInvalid)
			if !strings.Contains(err.Error(), "inputs.data") {
				t.Errorf("%v", err)
			}
			r, err := job.Result(t.Context())
			if err != nil || r.Outcome != receipt.Cancelled || ran {
				t.Errorf("%+v, %v, ran %v", r, err, ran)
			}
			nothing(t, job)
			gone(t, e, "job")
			if changed.open && len(e.Keys.Asked()) > 0 {
				t.Error("a data key was asked for what was not admitted")
			}
		})
	}
}

// A front that is not what the job says ends the job before any policy is asked.
func TestAFrontThatDoesNotFitEndsTheJob(t *testing.T) {
	picky := &coretest.Policy{Config: func(json.RawMessage) error { return errors.New("no such setting") }}
	coded := &coretest.Policy{Codes: []abi.Code{{Code: "too-small", Hint: "ask for more"}}}
	for name, test := range map[string]struct {
		change func(*coretest.Enclave, *coretest.Job, *core.Submission)
		says   string
	}{
		"another bundle's": {func(e *coretest.Enclave, j *coretest.Job, _ *core.Submission) {
			e.Seal(t, j, "inputs.data", "b", "allow")
		}, "not the bundle that the job claims"},
		"a byte more": {func(_ *coretest.Enclave, j *coretest.Job, _ *core.Submission) {
			j.Sealed["inputs.data"] = append(coretest.Front(t, j.Sealed["inputs.data"]), 0)
		}, "not the bundle that the job claims"},
		"another size":   {func(_ *coretest.Enclave, _ *coretest.Job, s *core.Submission) { s.Assets[1].Bytes++ }, "another form or size"},
		"another form":   {func(_ *coretest.Enclave, _ *coretest.Job, s *core.Submission) { s.Assets[1].Form = "tree" }, "another form or size"},
		"more entries":   {func(_ *coretest.Enclave, _ *coretest.Job, s *core.Submission) { s.Assets[1].Entries++ }, "another form or size"},
		"configuration":  {func(e *coretest.Enclave, _ *coretest.Job, _ *core.Submission) { e.Policies.Known["allow"] = picky }, "no such setting"},
		"codes":          {func(e *coretest.Enclave, _ *coretest.Job, _ *core.Submission) { e.Policies.Known["allow"] = coded }, "codes"},
		"unknown policy": {func(e *coretest.Enclave, _ *coretest.Job, _ *core.Submission) { delete(e.Policies.Known, "allow") }, "no policy"},
		"limits of its own": {func(e *coretest.Enclave, j *coretest.Job, s *core.Submission) {
			e.Seal(t, j, "inputs.data", "b", "allow", func(spec *envelope.Spec) { spec.Limits.MemoryBytes = 16 << 20 })
			*s = j.Submission(t)
		}, "asks for limits of its own"},
	} {
		t.Run(name, func(t *testing.T) {
			e := allowing(t, writes(0))
			j := one(t, e, "job", "allow")
			s := j.Submission(t)
			test.change(e, &j, &s)
			job, err := e.Submit(s)
			if err != nil {
				t.Fatal(err)
			}
			front := j.Sealed["inputs.data"]
			if name != "a byte more" {
				front = coretest.Front(t, front)
			}
			err = job.PutFront(t.Context(), "inputs.data", front)
			is(t, err, core.ErrInvalid)
			if !strings.Contains(err.Error(), "inputs.data: ") || !strings.Contains(err.Error(), test.says) {
				t.Errorf("%v", err)
			}
			r, err := job.Result(t.Context())
			if err != nil || r.Outcome != receipt.Cancelled {
				t.Errorf("%+v, %v", r, err)
			}
			nothing(t, job)
		})
	}
}

// A sealed application runs by the command that was sealed with it and by no other.
func TestI3_TheCommandOfASealedApplicationIsTheBundles(t *testing.T) {
	for name, change := range map[string]func(*coretest.Job){
		"entrypoint": func(j *coretest.Job) { j.Spec.Command.Entrypoint = "other.py" },
		"arguments":  func(j *coretest.Job) { j.Spec.Command.Args = append(j.Spec.Command.Args, "--dump") },
		"environment": func(j *coretest.Job) {
			j.Spec.Command.Env = map[string]string{"DEBUG": "1"}
		},
		"outputs": func(j *coretest.Job) { j.Spec.Command.Outputs = map[string]string{"result": "model.bin"} },
	} {
		t.Run(name, func(t *testing.T) {
			e := allowing(t, writes(0))
			j := coretest.Simple("job")
			e.Seal(t, &j, "application", "a", "allow")
			change(&j)
			job, err := e.Submit(j.Submission(t))
			if err != nil {
				t.Fatal(err)
			}
			is(t, job.PutFront(t.Context(), "application", coretest.Front(t, j.Sealed["application"])), core.ErrInvalid)
			nothing(t, job)
		})
	}
	t.Run("a model is no application", func(t *testing.T) {
		e := allowing(t, writes(0))
		j := coretest.Simple("job")
		j.Assets["inputs.data"] = j.Assets["application"]
		model := one(t, e, "other", "allow")
		j.Sealed = map[string][]byte{"application": model.Sealed["inputs.data"]}
		job, err := e.Submit(j.Submission(t))
		if err != nil {
			t.Fatal(err)
		}
		err = job.PutFront(t.Context(), "application", coretest.Front(t, j.Sealed["application"]))
		is(t, err, core.ErrInvalid)
		nothing(t, job)
	})
}

// An application is no input: the job would show its code to another one.
func TestI3_AnApplicationIsNoInput(t *testing.T) {
	e := allowing(t, writes(0))
	files := map[string]string{"main.py": "print()", "lib.py": ""}
	owner, j := coretest.Simple("owner"), coretest.Simple("job")
	owner.Assets["application"], j.Assets["inputs.data"] = files, files
	e.Seal(t, &owner, "application", "a", "allow")
	j.Sealed = map[string][]byte{"inputs.data": owner.Sealed["application"]}
	job, err := e.Submit(j.Submission(t))
	if err != nil {
		t.Fatal(err)
	}
	err = job.PutFront(t.Context(), "inputs.data", coretest.Front(t, j.Sealed["inputs.data"]))
	if !errors.Is(err, core.ErrInvalid) || !strings.Contains(err.Error(), "its kind is application") {
		t.Fatalf("%v", err)
	}
	nothing(t, job)
}
