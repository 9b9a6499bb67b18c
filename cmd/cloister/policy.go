package main

import (
	"github.com/spf13/cobra"

	"github.com/cloister-run/cloister/policies"
	"github.com/cloister-run/cloister/policies/worker/inside"
)

const aboutPack = `Pack puts a policy's manifest into its module: its name, its denial codes and the schema of
its configuration. A module without one is no policy. docs/policy-abi.md says what is in it. Of a bundle
of OPA, the bundle.tar.gz of "opa build -t wasm", it takes the module and the data.`

func (a *app) policyCommand() *cobra.Command {
	policy := &cobra.Command{Use: "policy", Short: "Make policies", Args: cobra.ArbitraryArgs, RunE: a.needsCommand}
	var out string
	pack := &cobra.Command{
		Use: "pack MODULE.wasm MANIFEST.json -o POLICY.wasm", Short: "Put a manifest into a module", Long: aboutPack,
		Example: "  GOOS=wasip1 GOARCH=wasm go build -o mine.wasm .\n  cloister policy pack mine.wasm manifest.json -o mine.wasm",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 2 || out == "" {
				return usage("cloister policy pack MODULE.wasm MANIFEST.json -o POLICY.wasm", "a module, a manifest and -o are needed")
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			if err := policies.PackFile(args[0], args[1], out); err != nil {
				return usage("docs/policy-abi.md says what a module and a manifest hold", "%v", err)
			}
			if a.json {
				printJSON(a.stdout, map[string]any{"status": statusDone, "policy": out})
			}
			return nil
		},
	}
	pack.Flags().StringVarP(&out, "out", "o", "", "the file to write; may be the module itself")
	policy.AddCommand(a.policyNewCommand(), a.policyBuildCommand(), pack, a.policyCheckCommand(), a.policyTestCommand(), a.policyEvalCommand(), a.policyBenchCommand(), a.policyDiffCommand(), policyWorkerCommand())
	return policy
}

// policyWorkerCommand is what the others start for each policy.
func policyWorkerCommand() *cobra.Command {
	return &cobra.Command{Use: "worker", Hidden: true, Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error {
		if status := inside.Main(); status != 0 {
			return usage("the other commands start it by themselves", "policy worker is of no use by hand")
		}
		return nil
	}}
}

const aboutCheck = `Check loads a policy as an enclave does, and prints what it is: size, imports, exports, the codes
that it can answer, and whether it takes a configuration. --config holds one against its schema. With
--fixtures it asks every fixture of a folder twice, in two processes, and compares the answers.
Exit status: 0 an enclave takes it · 2 it does not`

func (a *app) policyCheckCommand() *cobra.Command {
	var config, fixtures string
	c := &cobra.Command{
		Use: "check POLICY.wasm", Short: "Say what a policy is, and whether an enclave takes it", Long: aboutCheck,
		Example: "  cloister policy check mine.wasm --config config.json --fixtures fixtures/",
		Args:    takes("cloister policy check POLICY.wasm", 1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.checkPolicy(c.Context(), args[0], config, fixtures)
		},
	}
	c.Flags().StringVar(&config, "config", "", "a configuration to check: JSON, or a file that holds it")
	c.Flags().StringVar(&fixtures, "fixtures", "", "a folder of fixtures to ask twice")
	return c
}

const aboutTest = `Test asks a policy every fixture of a folder, and holds each answer against the one that the fixture
expects. docs/policy-abi.md says what a fixture is. Exit status: 0 all pass · 1 one fails`

func (a *app) policyTestCommand() *cobra.Command {
	var verbose bool
	c := &cobra.Command{
		Use: "test POLICY.wasm FIXTURES", Short: "Hold a policy against fixtures", Long: aboutTest,
		Example: "  cloister policy test mine.wasm fixtures/",
		Args:    takes("cloister policy test POLICY.wasm FIXTURES", 2),
		RunE: func(c *cobra.Command, args []string) error {
			return a.testPolicy(c.Context(), args[0], args[1], verbose)
		},
	}
	c.Flags().BoolVarP(&verbose, "verbose", "v", false, "print every fixture and every decision")
	return c
}

const aboutEval = `Eval asks a policy one request, as JSON, and prints its decision. --artifacts is a folder that holds a
file or a folder for each channel, as a policy finds them under /artifact; --self holds the assets of its
owner. At redact, what the policy writes goes to the new folder --redacted.
Exit status: 0 it allows · 3 it denies, or gives no valid answer`

func (a *app) policyEvalCommand() *cobra.Command {
	var request string
	var around surroundings
	c := &cobra.Command{
		Use: "eval POLICY.wasm --request REQUEST.json", Short: "Ask a policy one request", Long: aboutEval,
		Example: "  cloister policy eval mine.wasm --request request.json --artifacts out/",
		Args:    takes("cloister policy eval POLICY.wasm --request REQUEST.json", 1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.evalPolicy(c.Context(), args[0], request, around)
		},
	}
	c.Flags().StringVar(&request, "request", "", "the file that holds the request (required)")
	c.Flags().StringVar(&around.artifacts, "artifacts", "", "the folder that holds the artifacts")
	c.Flags().StringVar(&around.own, "self", "", "the folder that holds the assets of the policy's owner")
	c.Flags().StringVar(&around.redacted, "redacted", "", "a new folder for what the policy writes")
	return c
}

const aboutBench = `Bench measures how long a policy takes to load and to decide, each decision in a fresh instance as in
an enclave, over the fixtures of a folder. Figures of a busy machine are noisy.`

func (a *app) policyBenchCommand() *cobra.Command {
	var rounds int
	c := &cobra.Command{
		Use: "bench POLICY.wasm FIXTURES", Short: "Measure a policy over fixtures", Long: aboutBench,
		Example: "  cloister policy bench mine.wasm fixtures/ --rounds 100",
		Args:    takes("cloister policy bench POLICY.wasm FIXTURES", 2),
		RunE: func(c *cobra.Command, args []string) error {
			return a.benchPolicy(c.Context(), args[0], args[1], rounds)
		},
	}
	c.Flags().IntVar(&rounds, "rounds", 20, "how often every fixture is asked")
	return c
}

const aboutDiff = `Diff asks two policies every fixture of a folder and prints which answers change, whatever the fixtures
expect. Exit status: 0 none · 1 one changes`

func (a *app) policyDiffCommand() *cobra.Command {
	return &cobra.Command{
		Use: "diff BEFORE.wasm AFTER.wasm FIXTURES", Short: "Say which verdicts change between two policies", Long: aboutDiff,
		Example: "  cloister policy diff old.wasm new.wasm fixtures/",
		Args:    takes("cloister policy diff BEFORE.wasm AFTER.wasm FIXTURES", 3),
		RunE: func(c *cobra.Command, args []string) error {
			return a.diffPolicies(c.Context(), args[0], args[1], args[2])
		},
	}
}

// takes asks for n arguments.
func takes(line string, n int) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) != n {
			return usage(line, "%d arguments are given, %d are needed", len(args), n)
		}
		return nil
	}
}
