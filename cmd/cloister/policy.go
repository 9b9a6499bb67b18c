package main

import (
	"github.com/spf13/cobra"

	"github.com/cloister-run/cloister/policies"
)

const aboutPack = `Pack puts a policy's manifest into its module: its name, its denial codes and the schema of
its configuration. A module without one is no policy. docs/policy-abi.md says what is in it.`

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
	policy.AddCommand(pack)
	return policy
}
