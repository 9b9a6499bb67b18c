package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/cloister-run/cloister/core"
	"github.com/cloister-run/cloister/core/receipt"
	"github.com/cloister-run/cloister/enclave/client"
	"github.com/cloister-run/cloister/enclave/keys"
	"github.com/cloister-run/cloister/jobspec"
	"github.com/cloister-run/cloister/policies/abi"
)

const aboutRun = `Run sends a job and everything that it names into an enclave, waits for its end, and
writes what every policy allowed to leave: everything or nothing.

Outputs land where the job file says, relative to it. Ctrl-C cancels the job; nothing of it
is left then. The receipt says what ran, what every policy decided and what left; cloister receipt
verify holds it against the image that you expect.

A job with sealed assets needs AWS credentials of yours: the enclave asks the owners' KMS with them.

With --rehearse the job runs in a SIMULATED enclave of another image, which shows you the application's logs whatever the
policies say, and whose receipts say REHEARSAL. Owners let it unseal stand-ins (toy weights, made-up rows), so that you can
develop against those; what is sealed for other images does not open in it.`

const exampleRun = `  cloister run --enclave local job.yaml
  cloister run --enclave local --receipt receipt.json job.yaml
  cloister run --enclave local --json job.yaml | jq .landed
  cloister run --rehearse job.yaml`

func (a *app) runCommand() *cobra.Command {
	var receiptTo string
	var rehearse bool
	c := &cobra.Command{
		Use: "run --enclave NAME JOB.yaml", Short: "Run a job and land its outputs",
		Long: aboutRun, Example: exampleRun, Args: oneFile,
		RunE: func(c *cobra.Command, args []string) error {
			if rehearse && a.enclave != "" && a.enclave != "rehearsal" {
				return usage("leave --enclave out", "--rehearse has an enclave of its own")
			}
			if rehearse {
				a.enclave = "rehearsal"
			}
			return a.run(c.Context(), args[0], receiptTo)
		},
	}
	a.addEnclave(c)
	c.Flags().StringVar(&receiptTo, "receipt", "", "write the receipt of the run to this file, unless you cancel it")
	c.Flags().BoolVar(&rehearse, "rehearse", false, "run with stand-ins in a SIMULATED enclave that shows all logs: --enclave rehearsal")
	return c
}

func (a *app) run(ctx context.Context, file, receiptTo string) error {
	var report *client.Report
	var asked []abi.Channel
	err := a.withEnclave(ctx, file, receiptTo, func(c *client.Client, p *client.Package) (err error) {
		asked = p.Channels()
		show := a.newProgress()
		defer show.stop()
		report, err = c.Run(ctx, p, client.Observer{Phase: show.phase, Sending: show.sending}, func(r *client.Report) error {
			if receiptTo == "" || r.Receipt == nil {
				return nil
			}
			return client.WriteAtomically(receiptTo, r.Receipt)
		})
		return err
	})
	if err != nil {
		return err
	}
	return a.conclude(report, asked)
}

// withEnclave reads a job and everything that it names, starts the enclave, and ends it
// whatever happens. Everything that can be wrong with files is found before anything starts.
func (a *app) withEnclave(ctx context.Context, file, receiptTo string, use func(*client.Client, *client.Package) error) (err error) {
	if err := a.checkEnclave(); err != nil {
		return err
	}
	beside, err := here()
	if err != nil {
		return err
	}
	job, dir, err := readJob(file)
	if err != nil {
		return err
	}
	p, err := client.Prepare(job, client.Options{Dir: dir, Library: filepath.Join(beside, "library")})
	if problems, ok := errors.AsType[*jobspec.Problems](err); ok {
		return named(problems, file)
	}
	if err != nil {
		return err
	}
	defer p.Close()
	if err := checkReceipt(p, receiptTo); err != nil {
		return err
	}
	if err := a.checkPartition(p); err != nil {
		return err
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if err := a.sayEnclave(a.enclave); err != nil {
		return err
	}
	c, stop, err := a.open(ctx, beside, len(p.Sealed()) > 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	return use(c, p)
}

// receiptChecker is a job that is to be sent, or was.
type receiptChecker interface {
	CheckReceipt(path string) (message, hint string)
}

// checkReceipt finds out before anything runs whether the receipt of a job can be written.
func checkReceipt(p receiptChecker, receiptTo string) error {
	if receiptTo == "" {
		return nil
	}
	path, err := filepath.Abs(receiptTo)
	if err != nil {
		return usage("", "--receipt %s: %v", receiptTo, err)
	}
	if message, hint := p.CheckReceipt(path); message != "" {
		return usage(hint, "--receipt: %s", message)
	}
	return nil
}

// checkPartition finds out before anything runs whether the enclave can open what is sealed.
func (a *app) checkPartition(p *client.Package) error {
	simulated := true
	if !isBrief(a.enclave) {
		s, err := findStanding(a.enclave)
		if err != nil {
			return err
		}
		simulated = s.simulated()
	}
	for _, s := range p.Sealed() {
		switch dev := strings.HasPrefix(s.Key, "arn:"+keys.PartitionDev+":"); {
		case simulated && !dev:
			return usage("a SIMULATED enclave opens what is sealed under keys of cloister dev key; have a copy sealed for development",
				"%s: it is sealed under %s, which answers genuine enclaves alone", s.Asset, printable(s.Key))
		case !simulated && dev:
			return usage("a genuine enclave opens what is sealed under keys of AWS; have it sealed under one",
				"%s: it is sealed under %s, which answers SIMULATED enclaves alone", s.Asset, printable(s.Key))
		}
	}
	return nil
}

// runReport is what --json prints of a run.
type runReport struct {
	Status status `json:"status"`
	core.Result
	Landed []client.Landing `json:"landed"`
	// Rehearsed holds the beginnings of the logs, of a rehearsal.
	Rehearsed map[abi.Channel]string `json:"rehearsed,omitempty"`
	Statement *receipt.Statement     `json:"statement,omitempty"`
}

// conclude prints how a run ended and gives the failure that its outcome is. The job asked for
// these channels.
func (a *app) conclude(r *client.Report, asked []abi.Channel) error {
	f := outcome(r.Result)
	if f != nil && r.Result.Outcome == receipt.KeyRefused && a.enclave != "" && !isBrief(a.enclave) {
		f.hint += "; cloister enclave restart " + a.enclave + " makes one that did not"
	}
	if f != nil && r.Result.Outcome == receipt.Failed {
		for _, l := range r.Landed {
			if l.Channel == abi.Stderr {
				f.hint = "its standard error says why: " + l.Path
			}
		}
	}
	report := runReport{Result: r.Result, Landed: r.Landed, Statement: r.Statement}
	for ch, log := range r.Rehearsed {
		if report.Rehearsed == nil {
			report.Rehearsed = map[abi.Channel]string{}
		}
		report.Rehearsed[ch] = string(log)
	}
	if !a.json {
		a.sayRehearsed(r)
	}
	if report.Landed == nil {
		report.Landed = []client.Landing{}
	}
	if f == nil {
		if a.json {
			printJSON(a.stdout, report)
			return nil
		}
		a.summary(a.stdout, r, asked)
		return nil
	}
	if !a.json {
		a.summary(a.stderr, r, asked)
	}
	report.Status = f.status
	f.report = report
	return f
}

// sayRehearsed shows the logs of a rehearsal.
func (a *app) sayRehearsed(r *client.Report) {
	for _, ch := range []abi.Channel{abi.Stdout, abi.Stderr} {
		if log := r.Rehearsed[ch]; len(log) > 0 {
			say(a.stderr, "REHEARSAL %s, which no policy judged:\n", ch)
			_, _ = (&harmlessWriter{to: a.stderr}).Write(append(bytes.TrimRight(log, "\n"), '\n')) // whoever is gone cannot be told
		}
	}
}

// summary says what every policy decided, what landed, and what stays for want of consent.
func (a *app) summary(w io.Writer, r *client.Report, asked []abi.Channel) {
	if r.Statement == nil {
		return
	}
	run := r.Statement.Predicate
	if run.Executor.Runtime != "" {
		say(w, "ran       %s, executor %s\n", line(run.Executor.Runtime), line(run.Executor.Name))
	}
	for _, a := range run.Assets {
		if a.Kind == "environment" && a.Verified {
			say(w, "in        the environment %s\n", line(a.Digest))
		}
	}
	if len(run.Policies) == 0 {
		say(w, "policies  none: everything that the job declares may leave\n")
	}
	for _, k := range run.Keys {
		say(w, "unsealed  %s, by a key that the KMS released in request %s\n", k.Asset, line(k.RequestID))
	}
	for _, d := range run.Decisions {
		say(w, "%-9s %s\n", d.Point, line(verdict(d, run.Policies)))
	}
	for _, l := range r.Landed {
		say(w, "released  %s, %d bytes%s, to %s\n", l.Channel, l.Bytes, conditions(&run, l.Channel), line(l.Path))
	}
	if run.Outcome != receipt.Succeeded {
		sayChannels(w, &run, asked)
		return
	}
	for _, ch := range asked {
		if run.Consent(ch) == nil {
			say(w, "stays     %s: not every policy consents to it\n", ch)
		}
	}
}

// sayChannels says of each channel that a job asked for how far it came. Of what was not released a record has
// no size, so neither has this.
func sayChannels(w io.Writer, run *receipt.Run, asked []abi.Channel) {
	if len(asked) == 0 {
		say(w, "released  nothing\n")
		return
	}
	egress := slices.ContainsFunc(run.Decisions, func(d receipt.Decision) bool { return d.Point == abi.Egress })
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	say(table, "channel\tconsented\tjudged\treleased\n")
	for _, ch := range asked {
		consented, judged, released := "no", "no", "nothing"
		if c := run.Consent(ch); c != nil {
			consented = "yes"
			if c.Cap != nil {
				consented = fmt.Sprintf("at most %d bytes", *c.Cap)
			}
			_, isOutput := ch.OutputName()
			if egress && (!isOutput || run.Outcome != receipt.Failed) {
				judged = "yes"
			}
		}
		if i := slices.IndexFunc(run.Released, func(a abi.Artifact) bool { return a.Channel == ch }); i >= 0 {
			released = fmt.Sprintf("%d bytes", run.Released[i].Bytes)
		}
		say(table, "%s\t%s\t%s\t%s\n", ch, consented, judged, released)
	}
	_ = table.Flush() // standard error that is gone has nobody to tell
}

// conditions says under which cap something left, and to whom it is sealed.
func conditions(run *receipt.Run, ch abi.Channel) string {
	var said string
	if consent := run.Consent(ch); consent != nil && consent.Cap != nil {
		said = fmt.Sprintf(" under a cap of %d", *consent.Cap)
	}
	for _, a := range run.Released {
		switch {
		case a.Channel != ch:
		case len(a.Recipients) == 1:
			said += ", sealed to " + line(abbreviated(a.Recipients[0]))
		case len(a.Recipients) > 1:
			said += fmt.Sprintf(", sealed to %d recipients", len(a.Recipients))
		}
	}
	return said
}

// abbreviated keeps the beginning of a recipient: a post-quantum one has 1,959 characters.
func abbreviated(recipient string) string {
	if len(recipient) <= 80 {
		return recipient
	}
	return recipient[:40] + "…"
}

// unnamed says what a denial without a policy can be: the record does not tell several policies
// from the border's own rules.
func unnamed(p abi.Point, policies int) string {
	rule := ""
	switch p {
	case abi.Admit:
		rule = "no channel has the consent of every policy"
	case abi.Egress:
		rule = "an output or a log is over a policy's cap"
	case abi.Ingress:
	}
	switch {
	case rule == "":
		return "by several policies"
	case policies < 2:
		return rule
	}
	return "by several policies, or " + rule
}

// outcome is the failure that a result is, or nil.
func outcome(r core.Result) *failure {
	f := &failure{message: r.Detail, hint: r.Hint}
	switch r.Outcome {
	case receipt.Succeeded:
		return nil
	case receipt.Failed:
		f.status, f.message = statusFailed, "the application failed"
		f.hint = "ask for logs.stderr in the job to see why; your policies must consent to it"
	case receipt.Denied:
		f.status, f.message, f.hint = statusDenied, "denied by a policy", ""
		if d := r.Denial; d != nil {
			f.message, f.hint = d.Error(), d.Hint
			if d.Detail != "" {
				f.message += ": " + d.Detail
			}
		}
		if f.hint == "" {
			f.hint = "nothing was written; hold the outputs and logs against each policy's configuration"
		}
	case receipt.KeyRefused:
		f.status = statusAttestation
		f.hint = "the owner's key policy must name you and this image (cloister key-policy print); it may ask for an enclave that ran nothing before"
	case receipt.Refused:
		f.status, f.message = statusFailed, "an output is not what the job declares: "+r.Detail
		if f.hint == "" {
			f.hint = "an output is a regular file, or where its place ends in / a folder of them"
		}
	case receipt.TimedOut:
		f.status = statusTimedOut
	case receipt.Cancelled:
		f.status = statusCancelled
		if f.hint == "" {
			f.hint = "nothing was written; run the job again"
		}
	case receipt.Broken:
		f.status = statusUnavailable
		if r.Fault == core.FaultEntrypoint || r.Fault == core.FaultGone || r.Fault == core.FaultEnvironment {
			f.status = statusFailed
		}
		if f.hint == "" {
			f.hint = cure(r.Fault)
		}
	default:
		f.status, f.message = statusUnavailable, fmt.Sprintf("the enclave reports the unknown outcome %.40q", r.Outcome)
	}
	return f
}

func cure(f core.Fault) string {
	switch f {
	case core.FaultRuntime:
		return "install the runtime; for Python: apt-get install python3. cloister doctor says what an enclave finds"
	case core.FaultExecutor:
		return "limits.memory is too small for the executor, or the executor does not work; cloister doctor says what is installed"
	case core.FaultEntrypoint:
		return "check command.entrypoint in the job"
	case core.FaultEnvironment:
		return "build it again for the enclave's runtime: cloister env build; cloister env inspect says what it is for"
	case core.FaultGone:
		return "the application ended its executor, or used more than its limits; raise limits.memory or limits.processes"
	case core.FaultKMS:
		return "nothing was written; for a local enclave start the simulated KMS: cloister dev kms"
	case core.FaultMachine:
		return "cloister doctor says what this machine lacks; or limits.memory is very small"
	}
	return ""
}
