package core_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/cloister-run/cloister/core"
	"github.com/cloister-run/cloister/core/border"
	"github.com/cloister-run/cloister/core/coretest"
	"github.com/cloister-run/cloister/core/receipt"
	"github.com/cloister-run/cloister/plugins/executor"
	"github.com/cloister-run/cloister/policies/abi"
)

// grudging consents to some channels, and denies at egress.
func grudging(e *coretest.Enclave, channels ...abi.Channel) {
	e.Policies.Known["grudging"] = &coretest.Policy{At: map[abi.Point]func(context.Context, abi.Request, abi.Files) (abi.Decision, error){
		abi.Admit: func(context.Context, abi.Request, abi.Files) (abi.Decision, error) {
			return abi.Decision{Allow: true, Channels: channels}, nil
		},
		abi.Egress: func(context.Context, abi.Request, abi.Files) (abi.Decision, error) { return abi.Decision{}, nil },
	}}
}

// I1: a log without consent is shown in an image for rehearsals, whose record says so; in no other is one shown
// that was consented to, collected, and then denied.
func TestI1_OnlyARehearsalShowsLogsThatNobodyJudged(t *testing.T) {
	for _, rehearsal := range []bool{false, true} {
		e := allowing(t, writes(0), func(cfg *core.Config) { cfg.Rehearsal = rehearsal })
		if grudging(e, result); !rehearsal {
			grudging(e, result, abi.Stdout, abi.Stderr)
		}
		job, r := e.Run(t, coretest.Simple("job", "grudging"))
		if r.Outcome != receipt.Denied || record(t, job).Enclave.Rehearsal != rehearsal {
			t.Fatalf("%+v", r)
		}
		for ch, want := range map[abi.Channel]string{abi.Stdout: "out " + secret, abi.Stderr: "err " + secret} {
			switch log, err := job.Rehearsed(ch); {
			case rehearsal && (err != nil || string(log) != want):
				t.Errorf("%s: %q, %v", ch, log, err)
			case !rehearsal && (!errors.Is(err, border.ErrNotCleared) || log != nil):
				t.Errorf("%s leaves: %q, %v", ch, log, err)
			}
		}
		if _, err := job.Rehearsed(result); !errors.Is(err, border.ErrNotCleared) {
			t.Errorf("an output leaves: %v", err)
		}
		nothing(t, job)
	}
}

// TestARehearsalTakesWhatStandsInThePlaceOfALog: of a log that is none it shows nothing, and of a huge one the
// beginning.
func TestARehearsalTakesWhatStandsInThePlaceOfALog(t *testing.T) {
	for rule, test := range map[string]struct {
		lay  func(log string) error
		want int
	}{
		"a link":   {func(log string) error { return os.Symlink("/etc/passwd", log) }, 0},
		"a pipe":   {func(log string) error { return syscall.Mkfifo(log, 0o600) }, 0},
		"a folder": {func(log string) error { return os.Mkdir(log, 0o700) }, 0},
		"nothing":  {func(string) error { return nil }, 0},
		"huge":     {func(log string) error { return os.WriteFile(log, []byte(strings.Repeat("x", 3<<20)), 0o600) }, 1 << 20},
	} {
		e := allowing(t, coretest.Session{Run: func(_ context.Context, s *coretest.Running, task executor.Task) (executor.Result, error) {
			return executor.Result{Status: 1}, test.lay(s.Path(task.Stdout))
		}}, func(cfg *core.Config) { cfg.Rehearsal = true })
		grudging(e, result)
		job, _ := e.Run(t, coretest.Simple("job", "grudging"))
		if log, err := job.Rehearsed(abi.Stdout); len(log) != test.want || (err == nil) != (test.want > 0) {
			t.Errorf("%s: %d bytes, %v", rule, len(log), err)
		}
	}
}
