package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/cloister-run/cloister/core"
	"github.com/cloister-run/cloister/core/queue"
	"github.com/cloister-run/cloister/core/receipt"
	"github.com/cloister-run/cloister/enclave/client"
	"github.com/cloister-run/cloister/enclave/wire"
	"github.com/cloister-run/cloister/policies/abi"
)

const aboutPlan = `Plan checks a job file and everything that it names, and asks every policy in the enclave
whether it would admit the job and which channels it may ever release. Nothing is sent but the
job and its policies, and nothing runs.`

func (a *app) planCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "plan --enclave NAME JOB.yaml", Short: "Ask the policies about a job, without running it",
		Long: aboutPlan, Example: "  cloister plan --enclave local job.yaml", Args: oneFile,
		RunE: func(c *cobra.Command, args []string) error { return a.plan(c.Context(), args[0]) },
	}
	a.addEnclave(c)
	return c
}

// planReport is what --json prints of a plan.
type planReport struct {
	Status    status            `json:"status"`
	Job       string            `json:"job"`
	Consented []receipt.Consent `json:"consented"`
	Withheld  []abi.Channel     `json:"withheld"`
	Need      queue.Need        `json:"need"`
	Memory    queue.Balance     `json:"memory"`
	Result    *core.Result      `json:"result,omitempty"`
}

func (a *app) plan(ctx context.Context, file string) error {
	var (
		job       *client.Package
		admission wire.Admission
		result    core.Result
	)
	err := a.withEnclave(ctx, file, "", func(c *client.Client, p *client.Package) (err error) {
		job = p
		show := a.newProgress()
		defer show.stop()
		admission, result, err = c.Plan(ctx, p, client.Observer{Phase: show.phase})
		return err
	})
	if err != nil {
		return err
	}
	if f := outcome(result); result.Outcome != "" && f != nil {
		f.report = planReport{
			Status: f.status, Job: job.Digest(), Consented: []receipt.Consent{}, Withheld: job.Channels(), Result: &result,
		}
		return f
	}
	a.printPlan(job, admission)
	return nil
}

func (a *app) printPlan(p *client.Package, admission wire.Admission) {
	report := planReport{
		Job: p.Digest(), Consented: []receipt.Consent{}, Withheld: []abi.Channel{}, Need: admission.Need, Memory: admission.Memory,
	}
	for _, ch := range p.Channels() {
		if i := slices.IndexFunc(admission.Consented, func(c receipt.Consent) bool { return c.Channel == ch }); i >= 0 {
			report.Consented = append(report.Consented, admission.Consented[i])
		} else {
			report.Withheld = append(report.Withheld, ch)
		}
	}
	if a.json {
		printJSON(a.stdout, report)
		return
	}
	w := a.stdout
	say(w, "job       %s\n", report.Job)
	switch p.Policies() {
	case 0:
		say(w, "policies  none: everything that the job declares may leave\n")
	case 1:
		say(w, "admitted  by its one policy\n")
	default:
		say(w, "admitted  by all %d policies\n", p.Policies())
	}
	for _, consent := range report.Consented {
		say(w, "may leave %s", consent.Channel)
		if consent.Cap != nil {
			say(w, ", at most %d bytes", *consent.Cap)
		}
		if p.Policies() > 0 {
			say(w, ", if every policy allows its content")
		}
		say(w, "\n")
	}
	for _, ch := range report.Withheld {
		say(w, "stays     %s: not every policy consents to it\n", ch)
	}
	need := report.Need
	say(w, "memory    %s of %s: assets %s, limits.disk %s, ",
		bytesOf(need.Total()), bytesOf(report.Memory.Size), bytesOf(need.Assets), bytesOf(need.Disk))
	if need.Sealed > 0 {
		say(w, "sealed outputs %s, ", bytesOf(need.Sealed))
	}
	if need.Notes > 0 {
		say(w, "policies and names in outputs %s, ", bytesOf(need.Notes))
	}
	say(w, "limits.memory %s; %s are promised to other jobs\n", bytesOf(need.Memory), bytesOf(max(0, report.Memory.Reserved-need.Total())))
}

// bytesOf spells a number of bytes for a person.
func bytesOf(n int64) string {
	value := float64(n)
	for _, unit := range []string{"bytes", "KiB", "MiB", "GiB"} {
		if value < 1024 {
			return fmt.Sprintf("%.4g %s", value, unit)
		}
		value /= 1024
	}
	return fmt.Sprintf("%.4g TiB", value)
}
