package core_test

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/cloister-run/cloister/core"
	"github.com/cloister-run/cloister/core/coretest"
	"github.com/cloister-run/cloister/core/receipt"
	"github.com/cloister-run/cloister/plugins/executor"
	"github.com/cloister-run/cloister/policies/abi"
)

// inEnvironment gives a job an environment.
func inEnvironment(j coretest.Job) coretest.Job {
	j.Spec.Environment = true
	j.Assets["environment"] = map[string]string{
		"environment.json":       `{"version": 1, "executor": "python", "runtime": "CPython 3", "platform": "any", "packages": []}`,
		"site-packages/numpy.py": "x = 1\n",
	}
	return j
}

// TestAnEnvironmentIsAnAsset: the task says where it is, and policies and the receipt know its digest.
func TestAnEnvironmentIsAnAsset(t *testing.T) {
	var found string
	e := allowing(t, coretest.Session{Run: func(_ context.Context, s *coretest.Running, task executor.Task) (executor.Result, error) {
		raw, err := os.ReadFile(s.Path(task.Environment + "/site-packages/numpy.py"))
		found = string(raw)
		if err != nil {
			return executor.Result{}, err
		}
		return writes(0).Run(t.Context(), s, task)
	}})
	job, r := e.Run(t, inEnvironment(coretest.Simple("job", "allow")))
	if r.Outcome != receipt.Succeeded || found != "x = 1\n" {
		t.Fatalf("%+v, found %q", r, found)
	}
	asked := e.Policies.Known["allow"].Asked(abi.Ingress)[0].Assets[1]
	if asked.Name != "environment" || asked.Kind != "environment" || !asked.Verified || !strings.HasPrefix(asked.Digest, "sha256:") {
		t.Errorf("the policy was told %+v", asked)
	}
	if got := record(t, job).Assets[1]; got != asked {
		t.Errorf("the receipt says %+v", got)
	}
}

// TestAnApplicationChoosesItsEnvironments: one that names some runs in no other, and a sealed one that
// names none runs in none, for whatever is in the environment can do what the application can.
func TestAnApplicationChoosesItsEnvironments(t *testing.T) {
	digest := func(t *testing.T) string {
		e := allowing(t, writes(0))
		job, _ := e.Run(t, inEnvironment(coretest.Simple("job", "allow")))
		return record(t, job).Assets[1].Digest
	}(t)
	other := "sha256:" + strings.Repeat("e", 64)
	for _, test := range []struct {
		rule   string
		sealed bool
		names  []string
		want   receipt.Outcome
	}{
		{"a plain one that names it", false, []string{other, digest}, receipt.Succeeded},
		{"a plain one that names another", false, []string{other}, receipt.Cancelled},
		{"a sealed one that names it", true, []string{digest}, receipt.Succeeded},
		{"a sealed one that names another", true, []string{other}, receipt.Cancelled},
		{"a sealed one that names none", true, nil, receipt.Cancelled},
	} {
		t.Run(test.rule, func(t *testing.T) {
			e := allowing(t, writes(0))
			j := inEnvironment(coretest.Simple("job", "allow"))
			j.Spec.Command.Environments = test.names
			if test.sealed {
				e.Seal(t, &j, "application", "a", "allow")
			}
			job, err := e.Submit(j.Submission(t))
			if err != nil {
				t.Fatal(err)
			}
			if test.sealed {
				_ = job.PutFront(t.Context(), "application", coretest.Front(t, j.Sealed["application"]))
			}
			_, r := e.Finish(t, job, j)
			if r.Outcome != test.want || r.Outcome == receipt.Cancelled && !strings.Contains(r.Detail, "environment") {
				t.Errorf("%+v", r)
			}
		})
	}
}

func TestAnEnvironmentIsAPlainFolder(t *testing.T) {
	e := allowing(t, writes(0))
	for rule, change := range map[string]func(*core.Claim){
		"sealed": func(c *core.Claim) { c.Front = "sha384:" + strings.Repeat("a", 96) },
		"a file": func(c *core.Claim) { c.Form = "file" },
	} {
		s := inEnvironment(coretest.Simple("job")).Submission(t)
		change(&s.Assets[1])
		_, err := e.Submit(s)
		if is(t, err, core.ErrInvalid); err == nil {
			t.Error(rule)
		}
	}
	without := coretest.Simple("job")
	without.Spec.Environment = true
	_, err := e.Submit(without.Submission(t))
	is(t, err, core.ErrInvalid)
}

// TestAnEnvironmentOfAnotherRuntime is found before the application runs or sees anything, so that its owner's
// policies keep nobody from learning what is wrong.
func TestAnEnvironmentOfAnotherRuntime(t *testing.T) {
	for change, want := range map[string]string{
		`"python"`:    "it is for the executor ruby, and the application runs on python",
		`"CPython 3"`: "it is for ruby, and this is CPython 3",
		`"any"`:       "it is for ruby, and this is ",
		`1`:           "version",
	} {
		e := allowing(t, writes(0))
		j := inEnvironment(coretest.Simple("job", "allow"))
		j.Assets["environment"]["environment.json"] = strings.Replace(j.Assets["environment"]["environment.json"], change, `"ruby"`, 1)
		e.Seal(t, &j, "inputs.data", "b", "knowing")
		_, r := e.Run(t, j)
		if r.Outcome != receipt.Broken || r.Fault != core.FaultEnvironment || !strings.Contains(r.Detail, want) {
			t.Errorf("%s: %+v", change, r)
		}
	}
}

// A policy of an owner that does not know environments cannot have looked at this one.
func TestAPolicyMustKnowEnvironments(t *testing.T) {
	for policy, want := range map[string]receipt.Outcome{"allow": receipt.Cancelled, "knowing": receipt.Succeeded} {
		e := allowing(t, writes(0))
		j := inEnvironment(coretest.Simple("job"))
		e.Seal(t, &j, "inputs.data", "b", policy)
		job, err := e.Submit(j.Submission(t))
		if err != nil {
			t.Fatal(err)
		}
		_ = job.PutFront(t.Context(), "inputs.data", coretest.Front(t, j.Sealed["inputs.data"])) // the result says what is wrong
		_, r := e.Finish(t, job, j)
		if r.Outcome != want || want == receipt.Cancelled && !strings.Contains(r.Detail, "its policy says nothing of environments") {
			t.Errorf("%s: %+v", policy, r)
		}
	}
}

// TestAnEnvironmentThatDoesNotFit has a fault of its own.
func TestAnEnvironmentThatDoesNotFit(t *testing.T) {
	e := allowing(t, coretest.Session{Run: func(context.Context, *coretest.Running, executor.Task) (executor.Result, error) {
		return executor.Result{}, executor.ErrEnvironment
	}})
	_, r := e.Run(t, inEnvironment(coretest.Simple("job", "allow")))
	if r.Outcome != receipt.Broken || r.Fault != core.FaultEnvironment || !strings.Contains(r.Detail, "environment") {
		t.Errorf("%+v", r)
	}
}
