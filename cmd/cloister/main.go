// Command cloister is the operator's command: it reads job files, starts local enclaves, sends
// jobs and lands what may leave. It is not measured, and nothing in an enclave trusts it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/jobspec"
)

func main() {
	ctx, stop := interruptible(context.Background())
	status := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

// errInterrupted is the cause of a context that Ctrl-C or a signal ended.
var errInterrupted = errors.New("interrupted")

// interruptible ends the context at the first interrupt, and the process at the second.
func interruptible(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, unix.SIGTERM, unix.SIGHUP)
	go func() {
		<-signals
		cancel(errInterrupted)
		<-signals
		os.Exit(int(statusCancelled)) // a local enclave ends with this process and leaves nothing
	}()
	return ctx, func() { signal.Stop(signals); cancel(nil) }
}

// run is the command without its process: what args ask for, and the exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRoot(stdout, stderr)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return int(statusDone)
	}
	failure := asFailure(ctx, err)
	failure.print(stdout, stderr, wantsJSON(args))
	return int(failure.status)
}

// status is an exit status.
type status int

// The exit statuses, the same for every command.
const (
	statusDone        status = 0
	statusFailed      status = 1
	statusUsage       status = 2
	statusDenied      status = 3
	statusAttestation status = 4
	statusUnavailable status = 5
	statusTimedOut    status = 6
	statusCancelled   status = 130
)

// failure is an error with an exit status and, where there is one, a cure.
type failure struct {
	status  status
	message string
	hint    string
	// problems are those of a job file; each prints with a cure of its own.
	problems jobspec.Problems
	// report, if not nil, is what --json prints in place of the message.
	report any
}

func (f *failure) Error() string { return f.message }

// usage is a failure of the command line or of a file.
func usage(hint, format string, args ...any) *failure {
	return &failure{status: statusUsage, message: fmt.Sprintf(format, args...), hint: hint}
}

func (f *failure) print(stdout, stderr io.Writer, asJSON bool) {
	if asJSON {
		report := f.report
		if report == nil {
			report = errorReport{Status: f.status, Error: f.message, Hint: f.hint, Problems: f.problems}
		}
		printJSON(stdout, report)
		return
	}
	for _, p := range f.problems {
		say(stderr, "cloister: error: %s\n", firstLine(p))
		if p.Hint != "" {
			say(stderr, "cloister: hint: %s\n", indented(p.Hint))
		}
	}
	if len(f.problems) > 0 {
		return
	}
	say(stderr, "cloister: error: %s\n", indented(f.message))
	if f.hint != "" {
		say(stderr, "cloister: hint: %s\n", indented(f.hint))
	}
}

// errorReport is what --json prints of a command that failed.
type errorReport struct {
	Status   status           `json:"status"`
	Error    string           `json:"error,omitempty"`
	Hint     string           `json:"hint,omitempty"`
	Problems jobspec.Problems `json:"problems,omitempty"`
}

func (r errorReport) failure() *failure {
	return &failure{status: r.Status, message: r.Error, hint: r.Hint, problems: r.Problems}
}
