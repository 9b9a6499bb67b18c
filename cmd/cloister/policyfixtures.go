package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/cloister-run/cloister/policies/abi"
	"github.com/cloister-run/cloister/policies/policytest"
)

// fixtureResult is one fixture, and what came of it.
type fixtureResult struct {
	Name string `json:"name"`
	Pass bool   `json:"pass"`
	// Problem says how the answer differs from the one that is expected.
	Problem  string        `json:"problem,omitempty"`
	Decision *abi.Decision `json:"decision,omitempty"`
	Took     float64       `json:"ms"`
}

// testReport is what `policy test --json` prints.
type testReport struct {
	Status   status          `json:"status"`
	Passed   int             `json:"passed"`
	Failed   int             `json:"failed"`
	Fixtures []fixtureResult `json:"fixtures"`
}

func (a *app) testPolicy(ctx context.Context, path, dir string, verbose bool) error {
	fixtures, err := loadFixtures(dir)
	if err != nil {
		return err
	}
	return withPolicies(ctx, []string{path}, func(all []tried) error {
		r := testReport{Fixtures: []fixtureResult{}}
		for _, f := range fixtures {
			result := ask(ctx, all[0], f)
			if err := context.Cause(ctx); err != nil {
				return err
			}
			if r.Fixtures = append(r.Fixtures, result); result.Pass {
				r.Passed++
			} else {
				r.Failed++
			}
		}
		a.printTest(&r, verbose)
		if r.Failed == 0 {
			return nil
		}
		r.Status = statusFailed
		return &failure{status: statusFailed, message: fmt.Sprintf("%d of %d fixtures fail", r.Failed, len(fixtures)),
			hint: "the policy or the fixture is wrong; cloister policy test -v prints every decision", report: r}
	})
}

// ask asks a policy one fixture.
func ask(ctx context.Context, p tried, f policytest.Fixture) fixtureResult {
	answer, took := p.ask(ctx, f)
	r := fixtureResult{Name: f.Name, Took: float64(took.Microseconds()) / 1000}
	if wrong := f.Check(answer, p.policy.Manifest()); wrong != nil {
		r.Problem = wrong.Error()
	}
	r.Pass = r.Problem == ""
	if answer.Err == nil {
		r.Decision = &answer.Decision
	}
	return r
}

// ask puts a fixture to the policy, and says how long the decision took.
func (p tried) ask(ctx context.Context, f policytest.Fixture) (answer policytest.Answer, took time.Duration) {
	answer = f.Ask(func(request abi.Request, files abi.Files) (abi.Decision, error) {
		start := time.Now()
		defer func() { took = time.Since(start) }()
		return p.policy.Decide(ctx, request, files)
	})
	return answer, took
}

func (a *app) printTest(r *testReport, verbose bool) {
	if a.json {
		if r.Failed == 0 {
			printJSON(a.stdout, r)
		}
		return
	}
	for _, f := range r.Fixtures {
		switch {
		case !f.Pass:
			say(a.stdout, "FAIL  %s\n      %s\n", line(f.Name), indented(f.Problem))
		case verbose:
			say(a.stdout, "ok    %s, %.2f ms\n", line(f.Name), f.Took)
		}
		if verbose && f.Decision != nil {
			say(a.stdout, "      %s\n", line(compact(f.Decision)))
		}
	}
	say(a.stdout, "%d passed, %d failed\n", r.Passed, r.Failed)
}

// benchReport is what `policy bench --json` prints.
type benchReport struct {
	Status   status  `json:"status"`
	LoadMS   float64 `json:"load_ms"`
	Rounds   int     `json:"rounds"`
	DecideUS float64 `json:"decide_us_median"`
	WorstUS  float64 `json:"decide_us_worst"`
	MBPerS   float64 `json:"artifacts_mb_per_s"`
}

func (a *app) benchPolicy(ctx context.Context, path, dir string, rounds int) error {
	if rounds < 1 || rounds > 100_000 {
		return usage("a number from 1 to 100000", "--rounds %d", rounds)
	}
	fixtures, err := loadFixtures(dir)
	if err != nil {
		return err
	}
	return withPolicies(ctx, []string{path}, func(all []tried) error {
		r := benchReport{LoadMS: float64(all[0].took.Microseconds()) / 1000, Rounds: rounds}
		var took []time.Duration
		var total time.Duration
		var carried int64
		for range rounds {
			for _, f := range fixtures {
				_, d := all[0].ask(ctx, f) // a fixture may expect a failure
				if err := context.Cause(ctx); err != nil {
					return err
				}
				took, total = append(took, d), total+d
				for _, artifact := range f.Request().Artifacts {
					carried += artifact.Bytes
				}
			}
		}
		slices.Sort(took)
		r.DecideUS = float64(took[len(took)/2].Nanoseconds()) / 1000
		r.WorstUS = float64(took[len(took)-1].Nanoseconds()) / 1000
		r.MBPerS = float64(carried) / total.Seconds() / 1e6
		if a.json {
			printJSON(a.stdout, r)
			return nil
		}
		say(a.stdout, "load      %.1f ms, above all compiling\n", r.LoadMS)
		say(a.stdout, "decide    %.0f µs in the median, %.0f µs at worst, a fresh instance each: %d decisions\n", r.DecideUS, r.WorstUS, len(took))
		say(a.stdout, "artifacts %.1f MB/s of what the fixtures hold\n", r.MBPerS)
		return nil
	})
}

// changedVerdict is a question that two policies answer differently.
type changedVerdict struct {
	Name   string `json:"name"`
	Before string `json:"before"`
	After  string `json:"after"`
}

// diffReport is what `policy diff --json` prints.
type diffReport struct {
	Status  status           `json:"status"`
	Same    int              `json:"same"`
	Changed []changedVerdict `json:"changed"`
}

func (a *app) diffPolicies(ctx context.Context, before, after, dir string) error {
	fixtures, err := loadFixtures(dir)
	if err != nil {
		return err
	}
	return withPolicies(ctx, []string{before, after}, func(all []tried) error {
		r := diffReport{Changed: []changedVerdict{}}
		for _, f := range fixtures {
			one, two := answer(ctx, all[0], f), answer(ctx, all[1], f)
			if err := context.Cause(ctx); err != nil {
				return err
			}
			if one == two {
				r.Same++
				continue
			}
			r.Changed = append(r.Changed, changedVerdict{f.Name, one, two})
		}
		if len(r.Changed) > 0 {
			r.Status = statusFailed
		}
		if !a.json {
			for _, c := range r.Changed {
				say(a.stdout, "%s\n  - %s\n  + %s\n", line(c.Name), indented(c.Before), indented(c.After))
			}
			say(a.stdout, "%d the same, %d changed\n", r.Same, len(r.Changed))
		}
		if len(r.Changed) > 0 {
			return &failure{status: statusFailed, message: fmt.Sprintf("%d of %d verdicts change", len(r.Changed), len(fixtures)), report: r}
		}
		if a.json {
			printJSON(a.stdout, r)
		}
		return nil
	})
}

// answer is a verdict in one line, with a digest of what the policy wrote.
func answer(ctx context.Context, p tried, f policytest.Fixture) string {
	answer, _ := p.ask(ctx, f)
	if answer.Err != nil {
		return "no valid answer, which denies"
	}
	said := compact(answer.Decision)
	if redaction := answer.Redaction(); redaction != "" {
		said += ", and what it wrote is " + redaction
	}
	return said
}
