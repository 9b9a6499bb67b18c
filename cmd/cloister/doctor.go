package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cloister-run/cloister/core"
	"github.com/cloister-run/cloister/core/receipt"
	"github.com/cloister-run/cloister/enclave/client"
	"github.com/cloister-run/cloister/jobspec"
)

const aboutDoctor = `Doctor says whether this machine can run jobs in a local enclave, and how to cure what is
missing. It starts an enclave and runs an empty Python script in it, with nothing of yours.`

func (a *app) doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use: "doctor", Short: "Say whether this machine can run jobs", Long: aboutDoctor, Args: noArguments,
		RunE: func(c *cobra.Command, _ []string) error { return a.doctor(c.Context()) },
	}
}

// finding is one thing that doctor looked at.
type finding struct {
	What string `json:"what"`
	OK   bool   `json:"ok"`
	Says string `json:"says"`
	Cure string `json:"cure,omitempty"`
}

func (a *app) doctor(ctx context.Context) error {
	findings, err := examine(ctx)
	if err != nil {
		return err
	}
	ill := 0
	for _, f := range findings {
		if !f.OK {
			ill++
		}
	}
	report := map[string]any{"status": statusDone, "findings": findings}
	var failed *failure
	if ill > 0 {
		failed = &failure{status: statusUnavailable, message: "this machine cannot run jobs yet", hint: "see above", report: report}
		report["status"] = failed.status
	}
	if !a.json {
		for _, f := range findings {
			a.print(f)
		}
	} else if failed == nil {
		printJSON(a.stdout, report)
	}
	if failed != nil {
		return failed
	}
	return nil
}

func (a *app) print(f finding) {
	mark := "ok     "
	if !f.OK {
		mark = "MISSING"
	}
	say(a.stdout, "%s %-8s %s\n", mark, f.What, indented(f.Says))
	if f.Cure != "" {
		say(a.stdout, "        cure:    %s\n", indented(f.Cure))
	}
}

// examine looks at everything in the order in which a job needs it, and stops where the rest
// can no longer be seen.
func examine(ctx context.Context) ([]finding, error) {
	beside, err := here()
	if err != nil {
		return nil, err
	}
	image := filepath.Join(beside, "enclave")
	if _, err := os.Stat(filepath.Join(image, "cloisterd")); err != nil {
		return []finding{{What: "image", Says: "there is none at " + image, Cure: "make build"}}, nil
	}
	found := []finding{{What: "image", OK: true, Says: image}, library(beside)}
	c, stop, err := startLocal(ctx, image)
	if err != nil {
		f := asFailure(ctx, err)
		if f.status == statusCancelled {
			return nil, err
		}
		return append(found, finding{What: "enclave", Says: f.message, Cure: f.hint}), nil
	}
	defer func() { _ = stop() }() // what it says is no finding any more
	info, err := c.Enclave(ctx)
	if err != nil {
		return nil, err
	}
	found = append(found, finding{What: "enclave", OK: true, Says: fmt.Sprintf("version %s, realm %s (SIMULATED), %s of memory",
		info.Version, info.Realm, bytesOf(info.Memory.Size))})
	found = append(found, tryPython(ctx, c)...)
	return found, context.Cause(ctx)
}

func library(beside string) finding {
	files, _ := filepath.Glob(filepath.Join(beside, "library", "*.wasm")) // the pattern is well formed
	if len(files) == 0 {
		return finding{What: "library", Says: "no ready-made policies in " + filepath.Join(beside, "library"), Cure: "make build"}
	}
	for i, f := range files {
		files[i] = strings.TrimSuffix(filepath.Base(f), ".wasm")
	}
	return finding{What: "library", OK: true, Says: strings.Join(files, ", ")}
}

const emptyJob = `version: 1
name: doctor
application: {from: ., command: {entrypoint: main.py}}
limits: {memory: 256MiB, disk: 16MiB, run: 1m}
`

// tryPython runs an empty script.
func tryPython(ctx context.Context, c *client.Client) []finding {
	result, run, err := runEmpty(ctx, c)
	if err != nil {
		return []finding{{What: "python", Says: err.Error(), Cure: asFailure(ctx, err).hint}}
	}
	if f := outcome(result); f != nil {
		return []finding{{What: "python", Says: f.message, Cure: f.hint}}
	}
	return []finding{
		{What: "python", OK: true, Says: run.Executor.Runtime},
		{What: "limits", OK: true, Says: strings.Join(run.Executor.Walls, ", ")},
	}
}

func runEmpty(ctx context.Context, c *client.Client) (result core.Result, run receipt.Run, err error) {
	dir, err := os.MkdirTemp("", "cloister-doctor-")
	if err != nil {
		return result, run, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := os.WriteFile(filepath.Join(dir, "main.py"), nil, 0o600); err != nil {
		return result, run, err
	}
	job, err := jobspec.Parse("doctor", []byte(emptyJob))
	if err != nil {
		return result, run, err
	}
	p, err := client.Prepare(job, client.Options{Dir: dir})
	if err != nil {
		return result, run, err
	}
	defer p.Close()
	report, err := c.Run(ctx, p, client.Observer{}, func(*client.Report) error { return nil })
	if err != nil {
		return result, run, err
	}
	if report.Statement != nil {
		run = report.Statement.Predicate
	}
	return report.Result, run, nil
}
