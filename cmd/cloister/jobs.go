package main

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cloister-run/cloister/core"
	"github.com/cloister-run/cloister/core/receipt"
	"github.com/cloister-run/cloister/enclave/client"
	"github.com/cloister-run/cloister/enclave/wire"
)

const aboutSubmit = `Submit sends a job and everything that it names into an enclave that stays (cloister enclave start), and leaves it
to run: from then on it outlives this terminal. Where there is no room yet it waits first, as long as limits.queue says. It prints the job's id; cloister results ID lands what may leave. The enclave keeps
results as long as the job file says, 15 minutes unless it says something else.`

const aboutResults = `Results waits for the end of a job that was submitted and writes what every policy allowed to leave, where the job
file said: everything or nothing. Then the enclave wipes the job. Ctrl-C stops the waiting, and not the job. Where
something cannot be written, results may be called again.`

func (a *app) submitCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "submit --enclave NAME JOB.yaml", Short: "Send a job and leave it to run", Long: aboutSubmit,
		Example: "  cloister enclave start dev\n  id=$(cloister submit --enclave dev job.yaml)\n  cloister results $id", Args: oneFile,
		RunE: func(c *cobra.Command, args []string) error { return a.submit(c.Context(), args[0]) },
	}
	a.addEnclave(c)
	return c
}

func (a *app) jobsCommands() []*cobra.Command {
	var receiptTo string
	results := &cobra.Command{
		Use: "results ID", Short: "Wait for a submitted job and land its outputs", Long: aboutResults,
		Example: "  cloister results 3f1c… --receipt receipt.json", Args: takes("cloister results ID", 1),
		RunE: func(c *cobra.Command, args []string) error { return a.results(c.Context(), args[0], receiptTo) },
	}
	results.Flags().StringVar(&receiptTo, "receipt", "", "write the receipt of the run to this file")
	return []*cobra.Command{
		a.submitCommand(), results,
		{
			Use: "logs ID", Short: "Wait for a submitted job and print its logs", Long: aboutLogs, Example: "  cloister logs 3f1c… >stdout.log 2>stderr.log",
			Args: takes("cloister logs ID", 1),
			RunE: func(c *cobra.Command, args []string) error { return a.logs(c.Context(), args[0]) },
		},
		{
			Use: "ps", Short: "List the jobs that were submitted", Args: takes("cloister ps", 0),
			RunE: func(c *cobra.Command, _ []string) error { return a.listJobs(c.Context()) },
		},
		{
			Use: "cancel ID", Short: "Cancel a submitted job", Args: takes("cloister cancel ID", 1),
			RunE: func(c *cobra.Command, args []string) error { return a.cancelJob(c.Context(), args[0]) },
		},
	}
}

// submitted is a job that was sent, as this user's state holds it. The ticket in it is a secret.
type submitted struct {
	Enclave string         `json:"enclave"`
	At      string         `json:"at"`
	Ticket  *client.Ticket `json:"ticket"`
}

func jobFile(id string) (string, error) {
	dir, err := stateDir("jobs")
	return filepath.Join(dir, id+".json"), err
}

func (a *app) submit(ctx context.Context, file string) error {
	if isBrief(a.enclave) {
		return usage("start one that stays: cloister enclave start dev; then --enclave dev", "a local enclave ends with this command, and the job with it")
	}
	if _, err := stateDir("jobs"); err != nil {
		return err
	}
	var ticket *client.Ticket
	err := a.withEnclave(ctx, file, "", func(c *client.Client, p *client.Package) (err error) {
		show := a.newProgress()
		defer show.stop()
		ticket, err = c.Send(ctx, p, client.Observer{Phase: show.phase, Sending: show.sending})
		if err != nil {
			return err
		}
		if err := rememberJob(submitted{Enclave: a.enclave, At: time.Now().UTC().Format(time.RFC3339), Ticket: ticket}); err != nil {
			return errors.Join(err, c.Cancel(ctx, ticket)) // nobody could come back to it
		}
		return nil
	})
	if err != nil {
		return err
	}
	if a.json {
		printJSON(a.stdout, map[string]any{"status": statusDone, "id": ticket.ID, "job": ticket.Digest})
		return nil
	}
	say(a.stdout, "%s\n", ticket.ID)
	return nil
}

// rememberJob writes a job's record, whole or not at all.
func rememberJob(job submitted) error {
	path, err := jobFile(job.Ticket.ID)
	if err != nil {
		return err
	}
	raw, err := json.Marshal(job)
	if err != nil {
		return err
	}
	next := path + ".new"
	if err := os.WriteFile(next, raw, 0o600); err != nil {
		return errors.Join(err, os.RemoveAll(next))
	}
	return os.Rename(next, path)
}

// openJob is findJob for a command that is about this job alone. One that is lost is forgotten.
func (a *app) openJob(ctx context.Context, id string) (submitted, *client.Client, error) {
	job, c, err := a.findJob(ctx, id)
	if errors.Is(err, errEnded) {
		err = errors.Join(forgetJob(id), err)
	}
	return job, c, err
}

// findJob reads a job's record, and opens its enclave.
func (a *app) findJob(ctx context.Context, id string) (submitted, *client.Client, error) {
	if !regexp.MustCompile(`^[0-9a-f]{32}$`).MatchString(id) {
		return submitted{}, nil, usage("cloister ps lists jobs", "%q is no id of a job", id)
	}
	job, err := readJobRecord(id)
	if err != nil {
		return submitted{}, nil, err
	}
	s, err := findRunning(ctx, job.Enclave)
	if errors.Is(err, errEnded) {
		return job, nil, errors.Join(errEnded, &failure{
			status: statusUnavailable, message: "the enclave " + printable(job.Enclave) + " has ended, and job " + id + " with it",
			hint: "submit it again",
		})
	}
	if err != nil {
		return job, nil, err
	}
	c, err := s.client()
	return job, c, err
}

func readJobRecord(id string) (submitted, error) {
	path, err := jobFile(id)
	if err != nil {
		return submitted{}, err
	}
	raw, err := client.ReadBounded(path, 1<<20)
	if errors.Is(err, fs.ErrNotExist) {
		return submitted{}, usage("cloister ps lists jobs", "there is no job %s", id)
	}
	if err != nil {
		return submitted{}, err
	}
	var job submitted
	if err := json.Unmarshal(raw, &job); err != nil || job.Ticket == nil {
		return submitted{}, usage("remove it", "%s: no record of a job", path)
	}
	return job, nil
}

// forgetJob removes a job's record.
func forgetJob(id string) error {
	path, err := jobFile(id)
	if err != nil {
		return err
	}
	return os.Remove(path)
}

func (a *app) results(ctx context.Context, id, receiptTo string) error {
	job, c, err := a.openJob(ctx, id)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := checkReceipt(job.Ticket, receiptTo); err != nil {
		return err
	}
	if err := a.sayEnclave(job.Enclave); err != nil {
		return err
	}
	show := a.newProgress()
	report, err := c.Collect(ctx, job.Ticket, client.Observer{Phase: show.phase}, func(r *client.Report) error {
		if receiptTo == "" || r.Receipt == nil {
			return nil
		}
		return client.WriteAtomically(receiptTo, r.Receipt)
	})
	show.stop()
	switch {
	case err != nil && ctx.Err() != nil:
		return stoppedWaiting(id)
	case isGone(err):
		return goneFromEnclave(id)
	case err != nil:
		return err
	}
	if err := forgetJob(id); err != nil {
		return err
	}
	return a.conclude(report, job.Ticket.Channels())
}

func stoppedWaiting(id string) error {
	return &failure{status: statusCancelled, message: "stopped waiting; nothing was written",
		hint: "the job goes on: cloister results " + id + " waits for it again, cloister cancel " + id + " ends it"}
}

// isGone says that an enclave knows no such job.
func isGone(err error) bool {
	e, ok := errors.AsType[*wire.Error](err)
	return ok && e.Code == wire.NotFound
}

func goneFromEnclave(id string) error {
	return errors.Join(forgetJob(id), &failure{
		status: statusUnavailable, message: "the enclave has wiped job " + id,
		hint: "it keeps results as long as the job file says (keep), and once they were fetched no longer; submit the job again",
	})
}

// jobReport is one job of `ps --json`.
type jobReport struct {
	ID      string          `json:"id"`
	Name    string          `json:"name"`
	Enclave string          `json:"enclave"`
	State   string          `json:"state"`
	Outcome receipt.Outcome `json:"outcome,omitempty"`
	// At is when it was submitted, Bytes what was sent, Seconds how long it has been in its state.
	At      string  `json:"at"`
	Bytes   int64   `json:"bytes"`
	Seconds float64 `json:"seconds,omitempty"`
}

func (a *app) listJobs(ctx context.Context) error {
	dir, err := stateDir("jobs")
	if err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return err
	}
	all := []jobReport{}
	for _, file := range files {
		r, err := a.describeJob(ctx, strings.TrimSuffix(filepath.Base(file), ".json"))
		if err != nil {
			return err
		}
		all = append(all, r)
	}
	if a.json {
		printJSON(a.stdout, map[string]any{"status": statusDone, "jobs": all})
		return nil
	}
	for _, r := range all {
		state := r.State
		if r.Outcome != "" {
			state = string(r.Outcome)
		}
		if r.State != "gone" && r.State != "unreachable" {
			state += ", " + (time.Duration(r.Seconds) * time.Second).String()
		}
		say(a.stdout, "%s %-16s %s, %s sent to %s at %s\n", r.ID, state, line(r.Name), bytesOf(r.Bytes), r.Enclave, r.At)
	}
	return nil
}

// statusTimeout bounds how long one enclave holds up a list of jobs.
const statusTimeout = 5 * time.Second

// describeJob says where a job is. One whose enclave has ended, or wiped it, is gone.
func (a *app) describeJob(ctx context.Context, id string) (jobReport, error) {
	job, c, err := a.findJob(ctx, id)
	if job.Ticket == nil {
		return jobReport{}, err
	}
	r := jobReport{ID: id, Name: job.Ticket.Name, Enclave: job.Enclave, At: job.At, State: "gone"}
	for _, sum := range job.Ticket.Sent {
		r.Bytes += sum.Bytes
	}
	if errors.Is(err, errEnded) {
		return r, nil
	}
	if err != nil {
		return r, err
	}
	defer c.Close()
	brief, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	p, err := c.Status(brief, job.Ticket)
	switch {
	case isGone(err):
		return r, nil
	case ctx.Err() != nil:
		return r, context.Cause(ctx)
	case err != nil: // the other jobs are listed all the same
		r.State = "unreachable"
		return r, nil
	}
	r.State, r.Seconds = string(p.Phase), p.Seconds
	if p.Result != nil && p.Phase == core.Done {
		r.Outcome = p.Result.Outcome
	}
	return r, nil
}

func (a *app) cancelJob(ctx context.Context, id string) error {
	job, c, err := a.openJob(ctx, id)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.Cancel(ctx, job.Ticket); err != nil && !isGone(err) {
		return err
	}
	if err := forgetJob(id); err != nil {
		return err
	}
	if a.json {
		printJSON(a.stdout, map[string]any{"status": statusDone, "id": id})
		return nil
	}
	say(a.stdout, "cancelled %s\n", id)
	return nil
}
