package core_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/cloister-run/cloister/core"
	"github.com/cloister-run/cloister/core/coretest"
	"github.com/cloister-run/cloister/core/receipt"
	"github.com/cloister-run/cloister/enclave/attest"
	"github.com/cloister-run/cloister/plugins/executor"
	"github.com/cloister-run/cloister/policies/abi"
)

// both seals the application of a simple job for owner a and its input for owner b.
func both(t testing.TB, e *coretest.Enclave, id string, own ...string) coretest.Job {
	t.Helper()
	j := coretest.Simple(id, own...)
	e.Seal(t, &j, "application", "a", "allow")
	e.Seal(t, &j, "inputs.data", "b", "allow")
	return j
}

// one seals the input of a simple job for owner b.
func one(t testing.TB, e *coretest.Enclave, id, policy string) coretest.Job {
	t.Helper()
	j := coretest.Simple(id)
	e.Seal(t, &j, "inputs.data", "b", policy)
	return j
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(s[:])
}

// A sealed application and a sealed input of two owners: the application finds them as it would find
// plain ones, and the receipt says whose they were and which keys opened them.
func TestSealedAssetsOfTwoOwners(t *testing.T) {
	var found map[string]string
	e := allowing(t, coretest.Session{Run: func(_ context.Context, s *coretest.Running, task executor.Task) (executor.Result, error) {
		found = map[string]string{}
		for name, inside := range map[string]string{"application": task.Application + "/" + task.Entrypoint, "data": task.Args[0]} {
			raw, err := os.ReadFile(s.Path(inside))
			found[name] = string(raw)
			if err != nil {
				return executor.Result{}, err
			}
		}
		return executor.Result{}, errors.Join(s.Write("result.txt", secret), s.Log(task.Stdout, ""), s.Log(task.Stderr, ""))
	}})
	e.Policies.Known["own"] = &coretest.Policy{}
	j := both(t, e, "job", "own")
	job, r := e.Run(t, j)
	if r.Outcome != receipt.Succeeded {
		t.Fatalf("%+v", r)
	}
	if found["application"] != "print()" || found["data"] != "1,2,3\n" {
		t.Errorf("the application found %q", found)
	}
	raw, err := job.Receipt()
	if err != nil {
		t.Fatal(err)
	}
	v := coretest.Verify(t, raw)
	run := v.Statement.Predicate
	for i, owner := range []string{"a", "b"} {
		name := []string{"application", "inputs.data"}[i]
		a := run.Assets[i]
		if a.Name != name || !a.Sealed || !a.Verified || a.Owner != coretest.OwnerKey(owner) || a.Digest != sum(j.Sealed[name]) {
			t.Errorf("%+v", a)
		}
		if p := run.Policies[i]; p.Owner != a.Owner || p.Asset != name || p.Module != coretest.Digest("allow") || p.Config != sum([]byte("null")) {
			t.Errorf("%+v", p)
		}
		if k := run.Keys[i]; k.Asset != name || k.Key != a.Owner || k.RequestID == "" {
			t.Errorf("%+v", k)
		}
	}
	if p := run.Policies[2]; p.Owner != "" || p.Module != coretest.Digest("own") || len(run.Policies) != 3 || len(run.Keys) != 2 {
		t.Errorf("%+v, %d keys", p, len(run.Keys))
	}
	if used := (attest.PCR{}).Extend([]byte("used")); v.Document.PCRs[16] != used {
		t.Error("the document does not say that the enclave was used")
	}
	if got := released(t, job); got[result] != secret {
		t.Errorf("%q", got)
	}
}

// No data key is asked for before every policy admitted the job: neither where one denies, nor by a
// caller who does not wait.
func TestI4_NoDataKeyBeforeAdmission(t *testing.T) {
	deny := func(context.Context, abi.Request, abi.Files) (abi.Decision, error) { return abi.Decision{}, nil }
	for _, who := range []string{"owner", "operator"} {
		t.Run(who+" denies", func(t *testing.T) {
			e := allowing(t, writes(0))
			e.Policies.Known["deny"] = at(abi.Admit, deny)
			j := coretest.Simple("job", "allow")
			if who == "operator" {
				j.Modules = []string{"deny"}
				e.Seal(t, &j, "inputs.data", "b", "allow")
			} else {
				e.Seal(t, &j, "inputs.data", "b", "deny")
			}
			job, r := e.Run(t, j)
			if r.Outcome != receipt.Denied || r.Denial == nil || r.Denial.Point != abi.Admit {
				t.Errorf("%+v", r)
			}
			if asked := e.Keys.Asked(); len(asked) > 0 {
				t.Errorf("asked for %v", asked)
			}
			nothing(t, job)
		})
	}
	t.Run("a caller who does not wait", func(t *testing.T) {
		e := allowing(t, writes(0))
		deciding, decide := make(chan struct{}), make(chan struct{})
		e.Policies.Known["slow"] = at(abi.Admit, func(_ context.Context, r abi.Request, _ abi.Files) (abi.Decision, error) {
			close(deciding)
			<-decide
			return coretest.Allow(r), nil
		})
		j := one(t, e, "job", "slow")
		job := e.Begin(t, j)
		<-deciding
		is(t, job.PutCredentials(t.Context(), []byte(coretest.Credentials)), core.ErrOrder)
		is(t, job.PutAsset(t.Context(), "inputs.data", coretest.Stream(j.Sealed["inputs.data"])), core.ErrOrder)
		if asked := e.Keys.Asked(); len(asked) > 0 {
			t.Errorf("asked for %v", asked)
		}
		close(decide)
		if !e.Send(t, job, j) {
			t.Error("a call that came too early ended the job")
		}
	})
}

// What was unsealed is where no sandbox sees it until every policy allowed ingress, on facts.
func TestI4_NoSealedAssetReachesTheSandboxBeforeIngress(t *testing.T) {
	for _, allow := range []bool{true, false} {
		e := allowing(t, writes(0))
		var seen []string
		var facts abi.Asset
		e.Policies.Known["owner"] = at(abi.Ingress, func(_ context.Context, r abi.Request, _ abi.Files) (abi.Decision, error) {
			seen = files(t, filepath.Join(e.Dir, "job", "assets", "job"))
			facts = r.Assets[1]
			return abi.Decision{Allow: allow}, nil
		})
		j := one(t, e, "job", "owner")
		job, r := e.Run(t, j)
		if (r.Outcome == receipt.Succeeded) != allow {
			t.Errorf("%+v", r)
		}
		if len(seen) > 0 {
			t.Errorf("before ingress the sandbox saw %v", seen)
		}
		if !facts.Verified || facts.Owner != coretest.OwnerKey("b") || facts.Digest != sum(j.Sealed["inputs.data"]) || facts.Kind != "model" || facts.Bytes != 6 {
			t.Errorf("ingress was asked about %+v", facts)
		}
		if !allow {
			nothing(t, job)
		}
		if claims := e.Policies.Known["owner"].Asked(abi.Admit)[0].Assets[1]; claims.Verified || claims.Digest != "" || !claims.Sealed {
			t.Errorf("admit was asked about %+v", claims)
		}
	}
}

// What a KMS does not give ends the job, and says who refused what.
func TestWithoutADataKeyThereIsNoRun(t *testing.T) {
	for name, test := range map[string]struct {
		err     error
		outcome receipt.Outcome
		fault   core.Fault
		says    string
	}{
		"refused":     {&core.KeyError{Refused: true, Reason: "AccessDeniedException"}, receipt.KeyRefused, "", "inputs.data: AccessDeniedException"},
		"unavailable": {&core.KeyError{Reason: "ThrottlingException"}, receipt.Broken, core.FaultKMS, "inputs.data: ThrottlingException"},
		"broken":      {errors.New("no document"), receipt.Cancelled, "", "no document"},
	} {
		t.Run(name, func(t *testing.T) {
			e := allowing(t, writes(0))
			e.Keys.Unwrapping = func(context.Context, string) error { return test.err }
			job, r := e.Run(t, one(t, e, "job", "allow"))
			if r.Outcome != test.outcome || r.Fault != test.fault || !strings.Contains(r.Detail, test.says) {
				t.Errorf("%+v", r)
			}
			nothing(t, job)
			if run := record(t, job); len(run.Keys) > 0 || run.Outcome != test.outcome {
				t.Errorf("%+v", run)
			}
		})
	}
	t.Run("after another key was given", func(t *testing.T) {
		e := allowing(t, writes(0))
		e.Keys.Unwrapping = func(_ context.Context, key string) error {
			if key == coretest.OwnerKey("b") {
				return &core.KeyError{Refused: true, Reason: "AccessDeniedException"}
			}
			return nil
		}
		job, _ := e.Run(t, both(t, e, "job"))
		raw, err := job.Receipt()
		if err != nil {
			t.Fatal(err)
		}
		run := coretest.Verify(t, raw).Statement.Predicate
		if len(run.Keys) != 1 || run.Keys[0].Asset != "application" || run.Outcome != receipt.KeyRefused {
			t.Errorf("%+v", run)
		}
		nothing(t, job)
	})
	t.Run("another bundle's wrapped key", func(t *testing.T) {
		e := allowing(t, writes(0))
		j := one(t, e, "job", "allow")
		e.Keys.Unwrapping = func(context.Context, string) error { return nil }
		stranger := allowing(t, writes(0)) // has another KMS, which knows none of these keys
		job, r := stranger.Run(t, j)
		if r.Outcome != receipt.KeyRefused {
			t.Errorf("%+v", r)
		}
		nothing(t, job)
	})
}

// However an application ends that saw somebody else's asset, the operator is told one of two things.
func TestI7_HowAnApplicationEndsIsOneBit(t *testing.T) {
	for name, session := range map[string]coretest.Session{
		"another status": {Run: func(context.Context, *coretest.Running, executor.Task) (executor.Result, error) {
			return executor.Result{Status: 7}, nil
		}},
		"without its output": {Run: func(_ context.Context, s *coretest.Running, task executor.Task) (executor.Result, error) {
			return executor.Result{}, errors.Join(s.Log(task.Stdout, ""), s.Log(task.Stderr, ""))
		}},
		"a link for an output": {Run: func(_ context.Context, s *coretest.Running, task executor.Task) (executor.Result, error) {
			err := os.Symlink("/etc/passwd", filepath.Join(s.Place.Work, "outputs", "result.txt"))
			return executor.Result{}, errors.Join(err, s.Log(task.Stdout, ""), s.Log(task.Stderr, ""))
		}},
		"a status that is none": {Run: func(context.Context, *coretest.Running, executor.Task) (executor.Result, error) {
			return executor.Result{Status: 1000}, nil
		}},
		"an entrypoint that is none": {Run: func(context.Context, *coretest.Running, executor.Task) (executor.Result, error) {
			return executor.Result{}, executor.ErrEntrypoint
		}},
		"a broken runtime": {Run: func(context.Context, *coretest.Running, executor.Task) (executor.Result, error) {
			return executor.Result{}, executor.ErrRuntime
		}},
		"a dead executor": {Run: func(context.Context, *coretest.Running, executor.Task) (executor.Result, error) {
			return executor.Result{}, executor.ErrGone
		}},
	} {
		t.Run(name, func(t *testing.T) {
			e := allowing(t, session)
			e.Policies.Known["silent"] = at(abi.Admit, func(context.Context, abi.Request, abi.Files) (abi.Decision, error) {
				return abi.Decision{Allow: true, Channels: []abi.Channel{result}}, nil
			})
			job, r := e.Run(t, one(t, e, "job", "silent"))
			if !reflect.DeepEqual(r, core.Result{Outcome: receipt.Failed}) {
				t.Errorf("%+v", r)
			}
			if run := record(t, job); run.Outcome != receipt.Failed || len(run.Released) > 0 {
				t.Errorf("%+v", run)
			}
			if got := released(t, job); len(got) > 0 {
				t.Errorf("%q", got)
			}
		})
	}
}

// Where the enclave breaks after every policy allowed, nothing leaves, though the operator is told no more
// than that the application failed.
func TestI2_AnEnclaveThatBreaksLateReleasesNothing(t *testing.T) {
	e := allowing(t, writes(1))
	e.Policies.Known["last"] = at(abi.Egress, func(context.Context, abi.Request, abi.Files) (abi.Decision, error) {
		assets := filepath.Join(e.Dir, "job", "assets") // they can be dropped no more
		return abi.Decision{Allow: true}, errors.Join(os.RemoveAll(assets), os.WriteFile(assets, nil, 0o600))
	})
	job, r := e.Run(t, one(t, e, "job", "last"))
	if r.Outcome != receipt.Failed {
		t.Errorf("%+v", r)
	}
	if got := released(t, job); len(got) > 0 {
		t.Errorf("%q", got)
	}
	if run := record(t, job); len(run.Released) > 0 {
		t.Errorf("%+v", run.Released)
	}
}

// Of several owners who deny nobody is named, and no code is told.
func TestI7_TwoOwnersWhoDenyTellNoCode(t *testing.T) {
	e := allowing(t, writes(0))
	deny := func(context.Context, abi.Request, abi.Files) (abi.Decision, error) {
		return abi.Decision{Code: "too-small"}, nil
	}
	e.Policies.Known["first"], e.Policies.Known["second"] = at(abi.Egress, deny), at(abi.Egress, deny)
	asked := false
	e.Policies.Known["own"] = at(abi.Egress, func(context.Context, abi.Request, abi.Files) (abi.Decision, error) {
		asked = true
		return abi.Decision{Allow: true}, nil
	})
	j := coretest.Simple("job", "own")
	e.Seal(t, &j, "application", "a", "first")
	e.Seal(t, &j, "inputs.data", "b", "second")
	job, r := e.Run(t, j)
	if r.Outcome != receipt.Denied || r.Denial.Code != "" || r.Denial.Policy != nil || asked {
		t.Errorf("%+v, own policy asked: %v", r.Denial, asked)
	}
	nothing(t, job)
	e.Policies.Known["second"] = &coretest.Policy{Codes: []abi.Code{{Code: "too-small", Hint: "ask for more"}}}
	j.ID = "again"
	job, r = e.Run(t, j)
	if r.Outcome != receipt.Denied || r.Denial.Code != "too-small" || asked {
		t.Errorf("%+v, own policy asked: %v", r.Denial, asked)
	}
	nothing(t, job)
}

// The receipt comes before the first byte. Without one nothing leaves.
func TestI1_WithoutAnAttestedReceiptNothingLeaves(t *testing.T) {
	e := allowing(t, writes(0))
	e.NSM.Break("Attest", errors.New("no answer"))
	job, r := e.Run(t, coretest.Simple("job", "allow"))
	if r.Outcome != receipt.Broken || r.Fault != core.FaultMachine {
		t.Errorf("%+v", r)
	}
	if _, err := job.Receipt(); !errors.Is(err, core.ErrOrder) {
		t.Errorf("%v", err)
	}
	nothing(t, job)
}

// The same job with another bundle is another job.
func TestTwoJobsWithOneIDAndOtherBundles(t *testing.T) {
	e := allowing(t, writes(0))
	j := one(t, e, "job", "allow")
	first, err := e.Submit(j.Submission(t))
	if err != nil {
		t.Fatal(err)
	}
	if again, err := e.Submit(j.Submission(t)); err != nil || again != first {
		t.Errorf("%v", err)
	}
	other := one(t, e, "job", "allow")
	_, err = e.Submit(other.Submission(t))
	is(t, err, core.ErrConflict)
	plain := coretest.Simple("job")
	_, err = e.Submit(plain.Submission(t))
	is(t, err, core.ErrConflict)
}

// Whoever reads a bundle slowly is asked for a key only when all that stands in the open is there.
func TestI4_NoDataKeyBeforeTheFrontArrived(t *testing.T) {
	e := allowing(t, writes(0))
	j := one(t, e, "job", "allow")
	bundle := j.Sealed["inputs.data"]
	front := len(coretest.Front(t, bundle))
	job := e.Begin(t, j)
	if _, over, err := job.Admission(t.Context()); over || err != nil {
		t.Fatal(over, err)
	}
	if err := job.PutCredentials(t.Context(), []byte(coretest.Credentials)); err != nil {
		t.Fatal(err)
	}
	r, w := io.Pipe()
	put := make(chan error, 1)
	go func() { put <- job.PutAsset(t.Context(), "inputs.data", r) }()
	if _, err := w.Write(bundle[:front-1]); err != nil {
		t.Fatal(err)
	}
	if len(e.Keys.Asked()) > 0 {
		t.Error("a key was asked for before the front was there")
	}
	if err := w.CloseWithError(io.ErrUnexpectedEOF); err != nil {
		t.Fatal(err)
	}
	if err := <-put; err == nil || len(e.Keys.Asked()) > 0 {
		t.Errorf("%v, %v", err, e.Keys.Asked())
	}
}
