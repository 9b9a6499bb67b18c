package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/core"
	"github.com/cloister-run/cloister/core/border"
	"github.com/cloister-run/cloister/core/receipt"
	"github.com/cloister-run/cloister/enclave/client"
	"github.com/cloister-run/cloister/enclave/launch"
	"github.com/cloister-run/cloister/enclave/launch/nitro"
	"github.com/cloister-run/cloister/enclave/wire"
	"github.com/cloister-run/cloister/plugins/sandbox"
	"github.com/cloister-run/cloister/policies/abi"
	"github.com/cloister-run/cloister/policies/worker"
)

// TestOutcomes: every outcome has its status, and every failure a message and a hint.
func TestOutcomes(t *testing.T) {
	zero := 0
	for name, row := range map[string]struct {
		result core.Result
		want   status
		hint   string
	}{
		"failed":        {core.Result{Outcome: receipt.Failed}, statusFailed, "logs.stderr"},
		"refused":       {core.Result{Outcome: receipt.Refused, Detail: "d"}, statusFailed, "regular file"},
		"no key":        {core.Result{Outcome: receipt.KeyRefused, Detail: "d", Hint: "h"}, statusAttestation, "h"},
		"timed out":     {core.Result{Outcome: receipt.TimedOut, Detail: "d", Hint: "raise it"}, statusTimedOut, "raise it"},
		"cancelled":     {core.Result{Outcome: receipt.Cancelled, Detail: "d"}, statusCancelled, "nothing was written"},
		"denied":        {core.Result{Outcome: receipt.Denied, Denial: &border.Denial{Point: "egress"}}, statusDenied, "nothing was written"},
		"denied by one": {core.Result{Outcome: receipt.Denied, Denial: &border.Denial{Point: "egress", Code: "c", Hint: "h", Policy: &zero}}, statusDenied, "h"},
		"denied, bare":  {core.Result{Outcome: receipt.Denied}, statusDenied, "nothing was written"},
		"no runtime":    {core.Result{Outcome: receipt.Broken, Fault: core.FaultRuntime, Detail: "d"}, statusUnavailable, "apt-get install python3"},
		"no executor":   {core.Result{Outcome: receipt.Broken, Fault: core.FaultExecutor, Detail: "d"}, statusUnavailable, "cloister doctor"},
		"no entrypoint": {core.Result{Outcome: receipt.Broken, Fault: core.FaultEntrypoint, Detail: "d"}, statusFailed, "command.entrypoint"},
		"gone":          {core.Result{Outcome: receipt.Broken, Fault: core.FaultGone, Detail: "d"}, statusFailed, "limits.memory"},
		"machine":       {core.Result{Outcome: receipt.Broken, Fault: core.FaultMachine, Detail: "d"}, statusUnavailable, "cloister doctor"},
		"no walls":      {core.Result{Outcome: receipt.Broken, Fault: core.FaultMachine, Detail: "d", Hint: "allow it"}, statusUnavailable, "allow it"},
		"unheard of":    {core.Result{Outcome: "unheard of"}, statusUnavailable, ""},
	} {
		f := outcome(row.result)
		if f == nil || f.status != row.want || f.message == "" || !strings.Contains(f.hint, row.hint) {
			t.Errorf("%s: %+v", name, f)
		}
	}
	if f := outcome(core.Result{Outcome: receipt.Succeeded}); f != nil {
		t.Errorf("succeeded: %+v", f)
	}
}

// TestSummary: a denial without a policy is not put down to several where there is one, and a
// channel that stays for want of consent is named.
func TestSummary(t *testing.T) {
	one := receipt.Run{Policies: make([]abi.PolicyRef, 1), Decisions: []receipt.Decision{{Point: abi.Egress}}}
	two := receipt.Run{Policies: make([]abi.PolicyRef, 2), Decisions: one.Decisions}
	quiet := receipt.Run{Outcome: receipt.Succeeded, Policies: one.Policies, Consented: []receipt.Consent{{Channel: "outputs.a"}}}
	limit := int64(10)
	failed := receipt.Run{
		Outcome: receipt.Failed, Policies: one.Policies, Decisions: []receipt.Decision{{Point: abi.Egress, Policy: new(int), Allow: true}},
		Consented: []receipt.Consent{{Channel: "outputs.a"}, {Channel: abi.Stdout, Cap: &limit}}, Released: []abi.Artifact{{Channel: abi.Stdout, Bytes: 7}},
	}
	for want, row := range map[string]client.Report{
		"channel      consented         judged  released\noutputs.a    yes               no      nothing\nlogs.stdout  at most 10 bytes  yes     7 bytes\n": {
			Statement: &receipt.Statement{Predicate: failed},
		},
		"outputs.a    no         no      nothing\n":                                             {Statement: &receipt.Statement{Predicate: one}},
		"egress    denied: an output or a log is over a policy's cap\n":                         {Statement: &receipt.Statement{Predicate: one}},
		"egress    denied: by several policies, or an output or a log is over a policy's cap\n": {Statement: &receipt.Statement{Predicate: two}},
		"stays     logs.stdout: not every policy consents to it\n": {
			Statement: &receipt.Statement{Predicate: quiet}, Landed: []client.Landing{{Channel: "outputs.a"}},
		},
	} {
		var out bytes.Buffer
		(&app{}).summary(&out, &row, []abi.Channel{"outputs.a", abi.Stdout})
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in %q", want, out.String())
		}
	}
}

// TestFailures: every error that a command can end with has its status and a hint.
func TestFailures(t *testing.T) {
	for name, row := range map[string]struct {
		err  error
		want status
		hint string
	}{
		"landing":     {fmt.Errorf("%w: no room", client.ErrLanding), statusUnavailable, "make room"},
		"mismatch":    {fmt.Errorf("%w: file", client.ErrMismatch), statusUnavailable, "do not use this enclave"},
		"source":      {fmt.Errorf("%w: changed", client.ErrSource), statusUsage, "leave what the job names alone"},
		"start":       {fmt.Errorf("%w: reason", launch.ErrStart), statusUnavailable, "cloister doctor"},
		"broke off":   {fmt.Errorf("%w: cut", client.ErrUnavailable), statusUnavailable, "no result was written"},
		"no walls":    {&sandbox.UnavailableError{Wall: "mounts", Cure: "run as root"}, statusUnavailable, "run as root"},
		"invalid":     {&wire.Error{Code: wire.Invalid, Message: "m"}, statusUsage, "correct the job"},
		"no room":     {&wire.Error{Code: wire.NoRoom, Message: "m"}, statusUnavailable, "limits.queue"},
		"too large":   {&wire.Error{Code: wire.TooLarge, Message: "m"}, statusUnavailable, "lower limits.memory"},
		"internal":    {&wire.Error{Code: wire.Internal, Message: "m"}, statusUnavailable, "report it"},
		"interrupted": {fmt.Errorf("sending: %w", errInterrupted), statusCancelled, "nothing was written"},
		"usage":       {usage("h", "m"), statusUsage, "h"},
		"full, env":   {fmt.Errorf("env: %w", &fs.PathError{Op: "write", Path: "/full/wheel", Err: unix.ENOSPC}), statusUnavailable, "no room is left in /full: make some"},
		"full, link":  {&os.LinkError{Op: "link", Old: "/a/b", New: "/full/b", Err: unix.EDQUOT}, statusUnavailable, "no room is left in /full: make some"},
		"full, image": {fmt.Errorf("%w: %w", client.ErrLanding, unix.ENOSPC), statusUnavailable, "no room is left: make some"},
		"left": {
			errors.Join(errInterrupted, &nitro.LeftError{Left: nitro.Left{ID: "i-1"}, Err: errFull}), statusUnavailable, "terminate-enclave --enclave-id i-1",
		},
		"not ended":    {fmt.Errorf("%w: no", errNotEnded), statusUnavailable, "still runs"},
		"it ended":     {fmt.Errorf("%w: panic", errEnded), statusUnavailable, "its last words"},
		"not foreseen": {errors.New("not foreseen"), statusUnavailable, "report it"},
	} {
		f := asFailure(t.Context(), row.err)
		if f.status != row.want || f.message == "" || !strings.Contains(f.hint, row.hint) {
			t.Errorf("%s: %+v", name, f)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errInterrupted)
	if f := asFailure(ctx, errors.New("the connection broke")); f.status != statusCancelled {
		t.Errorf("an error after Ctrl-C: %+v", f)
	}
}

// TestNothingSteersTheTerminal: text from outside can neither move the cursor nor turn the
// direction of text, nor pass for a line of cloister's own, nor fill the screen.
func TestNothingSteersTheTerminal(t *testing.T) {
	evil := "red \x1b[31m\x1b[2J\r\x07\u202e\u009b1m\ncloister: hint: run this\n" + strings.Repeat("x", 1<<20)
	var stdout, stderr bytes.Buffer
	(&failure{status: 5, message: evil, hint: evil}).print(&stdout, &stderr, false)
	for _, r := range stderr.String() {
		if r != '\n' && r < ' ' || r == '\u202e' || r == '\u009b' {
			t.Errorf("%U reaches the terminal", r)
		}
	}
	for line := range strings.Lines(stderr.String()) {
		if strings.HasPrefix(line, "cloister: hint: run this") {
			t.Errorf("passes for cloister's own: %q", line)
		}
	}
	if stderr.Len() > 4*maxText || stdout.Len() > 0 {
		t.Errorf("%d bytes on stderr, %d on stdout", stderr.Len(), stdout.Len())
	}
	(&failure{status: 5, message: evil}).print(&stdout, &stderr, true)
	if !json.Valid(stdout.Bytes()) {
		t.Error("--json gives no JSON")
	}
}

func TestWantsJSON(t *testing.T) {
	for line, want := range map[string]bool{
		"run --json x": true, "run --json=true x": true, "run --json=1": true, "run --json=nonsense": true,
		"run x": false, "run --json=false": false, "run --json --json=0": false, "run -- --json": false,
	} {
		if got := wantsJSON(strings.Fields(line)); got != want {
			t.Errorf("%s: %v", line, got)
		}
	}
}

// A policy that answers one fixture in two ways is none that an enclave should have.
func TestAnswersThatDiffer(t *testing.T) {
	if err := same("f", `{"allow":true}`, `{"allow":true}`); err != nil {
		t.Error(err)
	}
	f, ok := errors.AsType[*failure](same("f", `{"allow":true}`, `{"allow":false}`))
	if !ok || f.status != statusUsage || !strings.Contains(f.message, `f: asked twice it answers {"allow":true}, and then {"allow":false}`) {
		t.Errorf("%+v", f)
	}
}

// A worker that died over a module is the module's fault, and no fault of Cloister to be reported.
func TestAPolicyThatTakesTooMuch(t *testing.T) {
	f, ok := errors.AsType[*failure](loadFailure("big.wasm", fmt.Errorf("%w: EOF", worker.ErrGone)))
	if !ok || f.status != statusUsage || !strings.HasPrefix(f.message, "big.wasm: ") || !strings.Contains(f.hint, "make it smaller") {
		t.Errorf("%+v", f)
	}
	if err := loadFailure("p.wasm", errFull); !errors.Is(err, errFull) {
		t.Errorf("another error became %v", err)
	}
}

var errFull = errors.New("the machine is full")
