package core_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/cloister-run/cloister/core/coretest"
	"github.com/cloister-run/cloister/core/receipt"
	"github.com/cloister-run/cloister/policies/abi"
)

// What a policy redacted is what leaves and what the receipt names; and each owner's policy finds
// its owner's own asset, which is still there when outputs are judged.
func TestAJobsOutputIsRedacted(t *testing.T) {
	e := allowing(t, writes(0))
	found := map[string]string{}
	e.Policies.Known["redact"] = &coretest.Policy{
		Redacts: []abi.Channel{abi.AnyOutput},
		At: map[abi.Point]func(context.Context, abi.Request, abi.Files) (abi.Decision, error){
			abi.Redact: func(_ context.Context, r abi.Request, files abi.Files) (abi.Decision, error) {
				entries, err := fs.ReadDir(files.Own, ".")
				if err != nil || len(entries) != 1 {
					return abi.Decision{}, fmt.Errorf("finds %v, %w", entries, err)
				}
				name := entries[0].Name()
				if entries[0].IsDir() {
					name += "/main.py"
				}
				raw, err := fs.ReadFile(files.Own, name)
				found[r.Policies[r.Self].Asset] = string(raw)
				old, err2 := fs.ReadFile(files.Artifacts, string(result))
				out, err3 := files.Redacted.Create(string(result))
				if err := errors.Join(err, err2, err3); err != nil {
					return abi.Decision{}, err
				}
				_, err = io.WriteString(out, string(old)+"+")
				return abi.Decision{Allow: true, Redacted: []abi.Channel{result}}, err
			},
		},
	}
	j := coretest.Simple("job", "allow")
	e.Seal(t, &j, "application", "a", "redact")
	e.Seal(t, &j, "inputs.data", "b", "redact")
	job, r := e.Run(t, j)
	if r.Outcome != receipt.Succeeded {
		t.Fatalf("%+v", r)
	}
	run := record(t, job)
	if got := released(t, job); got[result] != secret+"++" || run.Released[len(run.Released)-1].Digest != coretest.Digest(secret+"++") {
		t.Errorf("released %q, the record says %+v", got, run.Released)
	}
	if found["application"] != "print()" || found["inputs.data"] != "1,2,3\n" {
		t.Errorf("found %q", found)
	}
}

// A machine that has no folder for replacements releases nothing.
func TestI2_WithoutRoomForReplacementsNothingLeaves(t *testing.T) {
	e := allowing(t, writes(0))
	e.Policies.Known["redact"] = &coretest.Policy{
		Redacts: []abi.Channel{abi.AnyOutput},
		At: map[abi.Point]func(context.Context, abi.Request, abi.Files) (abi.Decision, error){
			abi.Ingress: func(context.Context, abi.Request, abi.Files) (abi.Decision, error) {
				return abi.Decision{Allow: true}, os.RemoveAll(filepath.Join(e.Dir, "job", "disk", "redacted"))
			},
		},
	}
	job, r := e.Run(t, coretest.Simple("job", "redact"))
	if r.Outcome == receipt.Succeeded {
		t.Fatalf("%+v", r)
	}
	nothing(t, job)
}
