package policies_test

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/util"

	"github.com/cloister-run/cloister/policies"
	"github.com/cloister-run/cloister/policies/abi"
	own "github.com/cloister-run/cloister/policies/rego"
	"github.com/cloister-run/cloister/policies/rego/build"
)

const inRego = "../examples/policies/csv-groups-rego"

// overRows is a policy that looks at every value once, in a way that takes both sides time in proportion.
const overRows = `package cloister

decision := {"allow": true} if {
	some artifact in input.artifacts
	artifact.content.columns == ["id", "digit"]
	every row in artifact.content.rows {
		count(row) == 2
		to_number(row[1]) < 5
	}
}`

// BenchmarkRego is a policy in Rego in a fresh instance for each decision, beside OPA's evaluation in Go of
// the same policy over the same input, which begins with its JSON as well. Medians, and of csv-groups, which
// OPA in Go evaluates in time that grows with the square of the rows, ours alone.
func BenchmarkRego(b *testing.B) {
	example, err := os.ReadFile(inRego + "/policy.rego")
	if err != nil {
		b.Fatal(err)
	}
	const megabyte = 1 << 20 / len(`["00000000","0"],`)
	for _, row := range []struct {
		name, source string
		rows         int
		alone        bool
	}{
		{"groups-small", string(example), 10, false},
		{"groups-1MB", string(example), megabyte, true},
		{"rows-small", overRows, 10, false},
		{"rows-1MB", overRows, megabyte, false},
	} {
		b.Run(row.name, func(b *testing.B) {
			req, files := table(row.rows)
			ask := inEngine(b, row.source, req, files)
			inGo := inOPA(b, row.source, req, files)
			var ours, theirs []time.Duration
			for b.Loop() {
				ours = append(ours, timed(b, ask))
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(float64(median(ours).Microseconds()), "µs/decision")
			if row.alone {
				return
			}
			for range ours {
				theirs = append(theirs, timed(b, inGo))
			}
			b.ReportMetric(float64(median(theirs).Microseconds()), "µs/opa")
			b.ReportMetric(float64(median(ours))/float64(median(theirs)), "times-opa")
		})
	}
}

// table asks at egress about one artifact of so many rows of 11 bytes.
func table(rows int) (abi.Request, fstest.MapFS) {
	var text strings.Builder
	text.WriteString("id,digit\n")
	for i := range rows {
		fmt.Fprintf(&text, "%08d,%d\n", i, i%5)
	}
	req := request(abi.Egress, `{"columns": ["id", "digit"], "group_by": "digit", "min_group": 2}`, "outputs.a")
	req.Artifacts = []abi.Artifact{{Channel: "outputs.a", Kind: "file", Bytes: int64(text.Len()), Files: 1}}
	return req, fstest.MapFS{"outputs.a": {Data: []byte(text.String()), Mode: 0o444}}
}

func timed(b *testing.B, do func() error) time.Duration {
	b.Helper()
	began := time.Now()
	if err := do(); err != nil {
		b.Fatal(err)
	}
	return time.Since(began)
}

func median(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)/2]
}

// inEngine asks a policy that must allow.
func inEngine(b *testing.B, source string, req abi.Request, files fstest.MapFS) func() error {
	b.Helper()
	wasm, _, err := build.Compile(b.Context(), fstest.MapFS{"policy.rego": {Data: []byte(source)}}, nil)
	if err != nil {
		b.Fatal(err)
	}
	packed, err := policies.Pack(wasm, abi.Manifest{ABI: 1, Name: "bench", Codes: []abi.Code{{Code: "not-csv", Hint: "no table"}}})
	if err != nil {
		b.Fatal(err)
	}
	policy := load(b, newEngine(b, policies.Limits{}), packed)
	return func() error {
		decision, err := policy.Decide(b.Context(), req, abi.Files{Artifacts: files})
		if err == nil && !decision.Allow {
			err = fmt.Errorf("answered %+v", decision)
		}
		return err
	}
}

// inOPA evaluates the same with OPA's library.
func inOPA(b *testing.B, source string, req abi.Request, files fstest.MapFS) func() error {
	b.Helper()
	question, err := json.Marshal(req)
	if err != nil {
		b.Fatal(err)
	}
	input, _, err := own.Input(question, files)
	if err != nil {
		b.Fatal(err)
	}
	query, err := rego.New(rego.Query("data.cloister.decision"), rego.Module("policy.rego", source)).PrepareForEval(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	return func() error {
		var parsed any
		if err := util.UnmarshalJSON(input, &parsed); err != nil {
			return err
		}
		results, err := query.Eval(b.Context(), rego.EvalInput(parsed))
		if err == nil && (len(results) != 1 || results[0].Expressions[0].Value.(map[string]any)["allow"] != true) {
			err = fmt.Errorf("answered %v", results)
		}
		return err
	}
}
