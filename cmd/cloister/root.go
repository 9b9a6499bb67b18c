package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/jobspec"
)

// app is what every command has.
type app struct {
	stdout, stderr io.Writer
	json           bool
	// enclave is the name of the enclave to use.
	enclave string
}

const about = `Cloister runs jobs over code, models and data that their owners will not show each
other, inside an enclave. WebAssembly policies decide what may leave it.

A first run:

  cloister run --enclave local job.yaml

Exit status: 0 done · 1 the application failed · 2 usage or invalid file · 3 denied by a
policy · 4 attestation or key release refused · 5 enclave unavailable · 6 timed out ·
130 cancelled`

func newRoot(stdout, stderr io.Writer) *cobra.Command {
	a := &app{stdout: stdout, stderr: stderr}
	root := &cobra.Command{
		Use: "cloister", Short: "Run jobs over things that their owners will not show each other", Long: about,
		SilenceErrors: true, SuggestionsMinimumDistance: 2, SilenceUsage: true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
		Args:              cobra.ArbitraryArgs, RunE: a.needsCommand,
	}
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usage(c.CommandPath()+" --help says how to call it", "%v", err)
	})
	root.PersistentFlags().BoolVar(&a.json, "json", false, "print one JSON document instead of text")
	root.AddCommand(a.runCommand(), a.planCommand(), a.schemaCommand(), a.doctorCommand(), a.versionCommand(), a.policyCommand(), a.executorCommand(), a.envCommand(), a.imageCommand(), a.enclaveCommand(), a.attestCommand(),
		a.sealCommand(), a.inspectCommand(), a.keyPolicyCommand(), a.devCommand(), a.receiptCommand())
	root.AddCommand(a.jobsCommands()...)
	return root
}

// needsCommand is what a command does that only holds others: it says which there are.
func (a *app) needsCommand(c *cobra.Command, args []string) error {
	help := c.CommandPath() + " --help says which there are"
	if len(args) > 0 {
		if near := c.SuggestionsFor(args[0]); len(near) > 0 {
			help = "did you mean " + c.CommandPath() + " " + near[0] + "?"
		}
		return usage(help, "there is no command %q", c.CommandPath()+" "+args[0])
	}
	if a.json {
		return usage(help, "no command is named")
	}
	return c.Help()
}

// addEnclave adds the flag that names an enclave. There is no default: where a job runs is
// never a guess.
func (a *app) addEnclave(c *cobra.Command) {
	c.Flags().StringVar(&a.enclave, "enclave", "", `the enclave to use: "local" is a SIMULATED one for this command, "rehearsal" one that shows logs, others are started by cloister enclave start (required)`)
}

func (a *app) checkEnclave() error {
	switch {
	case isBrief(a.enclave):
		return nil
	case a.enclave == "":
		return usage("--enclave local runs the job in a simulated enclave on this machine", "no enclave is named")
	}
	_, err := findStanding(a.enclave)
	return err
}

// oneFile is the argument of commands that take a job file.
func oneFile(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return usage("name one, as in: "+c.CommandPath()+" --enclave local job.yaml", "no job file is named")
	}
	if len(args) > 1 {
		return usage("name one job file, as in: "+c.CommandPath()+" --enclave local job.yaml", "%d job files are named", len(args))
	}
	return nil
}

// readJob reads and parses a job file.
func readJob(name string) (*jobspec.Job, string, error) {
	path, err := filepath.Abs(name)
	if err != nil {
		return nil, "", usage("", "%s: %v", name, err)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a FIFO that nobody writes must not hold this up
	if err != nil {
		return nil, "", usage("name a job file; docs/job-file.md says what is in one", "%s: %v", name, errors.Unwrap(err))
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || info.IsDir() {
		return nil, "", usage("name the job file in it", "%s: is a folder", name)
	}
	data, err := io.ReadAll(io.LimitReader(f, jobspec.MaxFile+1))
	if err != nil {
		return nil, "", usage("", "%s: %v", name, err)
	}
	job, err := jobspec.Parse(path, data)
	if problems, ok := errors.AsType[*jobspec.Problems](err); ok {
		return nil, "", named(problems, name)
	}
	return job, filepath.Dir(path), err
}

// named gives problems the name that the operator used for the file.
func named(problems *jobspec.Problems, name string) *jobspec.Problems {
	for i := range *problems {
		(*problems)[i].File = name
	}
	return problems
}

func dirOf(exe string) (string, error) {
	real, err := filepath.EvalSymlinks(exe)
	if err != nil {
		return "", fmt.Errorf("finding the folder of this command: %w", err)
	}
	return filepath.Dir(real), nil
}
