package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cloister-run/cloister/enclave/image"
	"github.com/cloister-run/cloister/jobspec"
)

const aboutSchema = `Schema prints the JSON Schema of the job file, the bundle file or the image recipe, for editors. With the YAML
language server, write this on the first line of a job file:

  # yaml-language-server: $schema=./job.schema.json`

func (a *app) schemaCommand() *cobra.Command {
	return &cobra.Command{
		Use: "schema [job|bundle|image]", Short: "Print the JSON Schema of the job file, the bundle file or the image recipe", Long: aboutSchema,
		Example: "  cloister schema >job.schema.json\n  cloister schema bundle >bundle.schema.json",
		RunE: func(_ *cobra.Command, args []string) error {
			schemas := map[string]func() []byte{"job": jobspec.Schema, "bundle": jobspec.BundleSchema, "image": jobspec.RecipeSchema}
			if len(args) == 0 {
				args = []string{"job"}
			}
			schema, known := schemas[args[0]]
			if !known || len(args) > 1 {
				return usage(`there is "job", "bundle" and "image"`, "there is no schema %q", strings.Join(args, " "))
			}
			_, err := a.stdout.Write(schema())
			return err
		},
	}
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: noArguments,
		RunE: func(*cobra.Command, []string) error {
			if a.json {
				printJSON(a.stdout, map[string]any{"version": image.Version, "job_file": jobspec.Version})
				return nil
			}
			_, err := fmt.Fprintf(a.stdout, "cloister %s, job files of version %d\n", image.Version, jobspec.Version)
			return err
		},
	}
}

func noArguments(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usage(c.CommandPath()+" --help says how to call it", "%s takes no arguments", c.CommandPath())
	}
	return nil
}
