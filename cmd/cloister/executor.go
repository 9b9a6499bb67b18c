package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cloister-run/cloister/enclave/client"
	"github.com/cloister-run/cloister/plugins/executor"
	"github.com/cloister-run/cloister/plugins/executor/executortest"
	"github.com/cloister-run/cloister/plugins/host"
	"github.com/cloister-run/cloister/plugins/host/hosttest"
	"github.com/cloister-run/cloister/plugins/proto"
)

const aboutExecutorTest = `Test holds an executor plugin against the rules of docs/executors.md: over real gRPC and mutual TLS, through
the host that an enclave has, and without walls, so that it shows what the plugin does by itself.

EXECUTABLE is the plugin, or its manifest.json. --probe is a program for its runtime that does what the page
says of the probe: FOLDER/ENTRYPOINT, where FOLDER is the application. Exit status: 0 all kept · 1 one is not`

const exampleExecutorTest = `  cloister executor test ./my-executor --name ruby --version 0.1.0 --probe probe/probe.rb
  cloister executor test executors/ruby/manifest.json --probe probe/probe.rb`

func (a *app) executorCommand() *cobra.Command {
	group := &cobra.Command{Use: "executor", Short: "List executors, start one of your own, and test it", Args: cobra.ArbitraryArgs, RunE: a.needsCommand}
	list := &cobra.Command{
		Use: "list", Short: "List the executors of a local enclave", Args: takes("cloister executor list", 0),
		RunE: func(*cobra.Command, []string) error { return a.listExecutors() },
	}
	var trial executorTrial
	test := &cobra.Command{
		Use: "test EXECUTABLE --probe FOLDER/ENTRYPOINT", Short: "Hold an executor against the rules", Long: aboutExecutorTest,
		Example: exampleExecutorTest, Args: takes("cloister executor test EXECUTABLE --probe FOLDER/ENTRYPOINT", 1),
		RunE: func(c *cobra.Command, args []string) error { return a.testExecutor(c.Context(), args[0], trial) },
	}
	test.Flags().StringVar(&trial.probe, "probe", "", "the probe: FOLDER/ENTRYPOINT (required)")
	test.Flags().StringVar(&trial.name, "name", "", "the name that it describes itself as, for an executable without a manifest")
	test.Flags().StringVar(&trial.version, "version", "", "the version that it describes itself as, for the same")
	test.Flags().StringArrayVar(&trial.args, "arg", nil, "an argument that it is started with, for the same")
	test.Flags().BoolVar(&trial.alone, "alone", false, "its programs are one process and know no other, as in WebAssembly")
	test.Flags().BoolVarP(&trial.verbose, "verbose", "v", false, "print every rule")
	group.AddCommand(list, a.executorNewCommand(), test)
	return group
}

// listedExecutor is one executor of `executor list --json`.
type listedExecutor struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Digest  string `json:"digest"`
}

func (a *app) listExecutors() error {
	beside, err := here()
	if err != nil {
		return err
	}
	h, err := hosttest.Open(host.Config{Dir: filepath.Join(beside, "enclave", "executors")})
	if errors.Is(err, fs.ErrNotExist) {
		return usage("build it with make", "there is no local enclave beside this command")
	}
	if err != nil {
		return usage("build it again with make", "%v", err)
	}
	defer h.Close()
	all := []listedExecutor{}
	for _, e := range h.List() {
		all = append(all, listedExecutor(e))
	}
	if a.json {
		printJSON(a.stdout, map[string]any{"status": statusDone, "executors": all})
		return nil
	}
	for _, e := range all {
		say(a.stdout, "%-9s %s, %s\n", e.Name, line(e.Version), e.Digest)
	}
	return nil
}

// executorTrial is what is known of an executor that is tested.
type executorTrial struct {
	probe, name, version string
	args                 []string
	alone, verbose       bool
}

// executorReport is what `executor test --json` prints.
type executorReport struct {
	Status  status     `json:"status"`
	Name    string     `json:"name"`
	Version string     `json:"version"`
	Kept    int        `json:"kept"`
	Broken  int        `json:"broken"`
	Skipped int        `json:"skipped"`
	Rules   []keptRule `json:"rules"`
}

type keptRule struct {
	Rule     string   `json:"rule"`
	Skipped  string   `json:"skipped,omitempty"`
	Problems []string `json:"problems,omitempty"`
	Took     float64  `json:"ms"`
}

func (a *app) testExecutor(ctx context.Context, path string, trial executorTrial) (err error) {
	m, err := trial.manifest(path)
	if err != nil {
		return err
	}
	application, probe := filepath.Split(trial.probe)
	if info, err := os.Stat(trial.probe); trial.probe == "" || application == "" || err != nil || !info.Mode().IsRegular() {
		return usage("--probe FOLDER/ENTRYPOINT names a program for the executor's runtime; docs/executors.md says what it does",
			"--probe %q: no file in a folder", trial.probe)
	}
	dir, err := os.MkdirTemp("", "cloister-executor")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := hosttest.Write(dir, m); err != nil {
		return usage("docs/executors.md says what a manifest holds", "%s: %v", path, err)
	}
	h, err := hosttest.Open(host.Config{Dir: dir})
	if err != nil {
		return usage("docs/executors.md says what an executor is", "%s: %v", path, err)
	}
	defer func() { err = errors.Join(err, h.Close()) }()

	r := executorReport{Name: m.Name, Version: m.Version, Rules: []keptRule{}}
	executortest.Check(executortest.Config{
		Launch: func(_ context.Context, place executor.Place) (executortest.Session, error) {
			return h.Launch(ctx, m.Name, place)
		},
		Description: executor.Description{Name: m.Name, Version: m.Version},
		Application: application, Probe: probe, Alone: trial.alone,
	}, func(result executortest.Result) { a.tellRule(&r, result, trial.verbose) })
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if !a.json {
		say(a.stdout, "%d rules kept, %d broken, %d not looked at\n", r.Kept, r.Broken, r.Skipped)
	}
	if r.Broken > 0 {
		r.Status = statusFailed
		return &failure{status: statusFailed, message: fmt.Sprintf("%s breaks %d of %d rules", m.Name, r.Broken, len(r.Rules)),
			hint: "docs/executors.md says what each is about", report: r}
	}
	if a.json {
		printJSON(a.stdout, r)
	}
	return nil
}

func (a *app) tellRule(r *executorReport, result executortest.Result, verbose bool) {
	rule := keptRule{Rule: result.Rule, Skipped: result.Skipped, Problems: result.Problems, Took: float64(result.Took.Microseconds()) / 1000}
	r.Rules = append(r.Rules, rule)
	word := "ok   "
	switch {
	case len(result.Problems) > 0:
		r.Broken++
		word = "FAIL "
	case result.Skipped != "":
		r.Skipped++
		word = "skip "
	default:
		r.Kept++
	}
	if a.json || word == "ok   " && !verbose {
		return
	}
	say(a.stdout, "%s %s\n", word, line(result.Rule))
	for _, problem := range slices.Concat(result.Problems, []string{result.Skipped}) {
		if problem != "" {
			say(a.stdout, "      %s\n", indented(problem))
		}
	}
}

// manifest is the one at path, or one for the executable at path.
func (t executorTrial) manifest(path string) (proto.Manifest, error) {
	absolute, err := filepath.Abs(path)
	if err != nil {
		return proto.Manifest{}, err
	}
	if filepath.Base(path) != "manifest.json" {
		if t.name == "" || t.version == "" {
			return proto.Manifest{}, usage("or name its manifest.json", "--name and --version say what %s describes itself as", path)
		}
		if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() {
			return proto.Manifest{}, usage("name the plugin's executable", "%s: no regular file", path)
		}
		return proto.Manifest{Name: t.name, Version: t.version, Protocol: proto.Version, Executable: absolute, Args: t.args}, nil
	}
	if t.name != "" || t.version != "" || len(t.args) > 0 {
		return proto.Manifest{}, usage("remove them", "--name, --version and --arg are in %s", path)
	}
	raw, err := client.ReadBounded(path, proto.MaxManifest)
	if err != nil {
		return proto.Manifest{}, usage("name a manifest.json", "%s: %v", path, err)
	}
	var m proto.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return proto.Manifest{}, usage("docs/executors.md says what a manifest holds", "%s: %v", path, err)
	}
	if !filepath.IsAbs(m.Executable) { // it is a path inside the folder of executors, which holds the manifest's
		m.Executable = filepath.Join(filepath.Dir(filepath.Dir(absolute)), filepath.FromSlash(m.Executable))
	}
	m.SHA256 = strings.Repeat("0", 64) // it is taken again
	return m, nil
}
