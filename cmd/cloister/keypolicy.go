package main

import (
	"context"
	"errors"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cloister-run/cloister/enclave/attest"
	"github.com/cloister-run/cloister/enclave/aws"
	"github.com/cloister-run/cloister/enclave/client"
	"github.com/cloister-run/cloister/enclave/keys"
)

const aboutKeyPolicy = `Print prints the key policy for a KMS key that assets are sealed under: data keys are released
to enclaves of one image, which have run nothing before, and to nothing and nobody else. The
PCRs are those of the image that you trust, never those that an operator tells you.

Whoever may replace the policy of a key (kms:PutKeyPolicy) can open every door: no policy closes
that one. Give it to few.`

const exampleKeyPolicy = `  cloister key-policy print --account 111122223333 --user 444455556666 --pcr0 2d15… --pcr1 72d7… --pcr2 4955… >policy.json
  aws kms put-key-policy --key-id 01234567-89ab-cdef-0123-456789abcdef --policy-name default --policy file://policy.json
  cloister key-policy print --enclave local --account 111122223333 --user 444455556666 >policy.json`

const aboutLint = `Lint names every door that a key policy leaves open: each is a way to a data key outside of the
enclave that is meant, or to the owner's name. A door counts as open unless the policy is sure
to close it.

It reads the policy alone: aws kms list-grants says whether there are grants. That those of your
own account who may replace the policy can open every door is no finding; no policy closes that.
Exit status: 0 nothing is open · 2 the file is no key policy · 4 a door is open`

const exampleLint = `  aws kms get-key-policy --key-id 01234567-89ab-cdef-0123-456789abcdef --query Policy --output text >policy.json
  cloister key-policy lint policy.json --account 111122223333`

func (a *app) keyPolicyCommand() *cobra.Command {
	group := &cobra.Command{Use: "key-policy", Short: "Write and judge the policies of KMS keys", Args: cobra.ArbitraryArgs, RunE: a.needsCommand}
	group.AddCommand(a.keyPolicyPrintCommand(), a.keyPolicyLintCommand())
	return group
}

func (a *app) keyPolicyPrintCommand() *cobra.Command {
	var spec aws.PolicySpec
	pcrs := map[string]*string{}
	var enclave, image string
	c := &cobra.Command{
		Use: "print --account ID --user ID --pcr0 HEX --pcr1 HEX --pcr2 HEX", Short: "Print the key policy to seal under",
		Long: aboutKeyPolicy, Example: exampleKeyPolicy, Args: noArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			return a.printKeyPolicy(c.Context(), spec, enclave, image, pcrs)
		},
	}
	flags := c.Flags()
	flags.StringVar(&enclave, "enclave", "", "\"local\", \"rehearsal\" or one that was started here: its PCRs, and for a SIMULATED one the partition")
	flags.StringVar(&image, "image", "", "an enclave image, FILE.eif: it is measured, and its PCRs are trusted")
	flags.StringVar(&spec.Partition, "partition", "aws", `the key's: "aws", "aws-cn", "aws-us-gov", or "cloister-dev" for the simulated KMS`)
	flags.StringVar(&spec.Account, "account", "", "your account, 12 digits (required)")
	flags.StringArrayVar(&spec.Users, "user", nil, "account, user or role of an operator whose enclaves may open what is sealed (required; can be repeated)")
	flags.StringVar(&spec.Admin, "admin", "", "user or role of your account who administers the key; by default whom IAM allows it")
	flags.StringArrayVar(&spec.Sealers, "sealer", nil, "account, user or role who may seal; by default whom IAM allows it in your account")
	flags.BoolVar(&spec.Shared, "shared", false, "also release to enclaves that ran jobs before: all jobs of one boot are a single trust domain then")
	for _, i := range []int{0, 1, 2, 3, 8} {
		name := strconv.Itoa(i)
		pcrs[name] = flags.String("pcr"+name, "", "the value of PCR"+name+", in hexadecimal")
	}
	return c
}

func (a *app) printKeyPolicy(ctx context.Context, spec aws.PolicySpec, enclave, image string, pcrs map[string]*string) (err error) {
	const help = "cloister key-policy print --help says what is needed"
	given := map[string]string{}
	for name, value := range pcrs {
		if *value != "" {
			given[name] = *value
		}
	}
	switch {
	case enclave != "" && len(given) == 0 && image == "":
		e, err := expectationOf(enclave)
		if err != nil {
			return err
		}
		if spec.PCRs = e.pcrs; e.realm == attest.RealmLocal {
			spec.Partition = keys.PartitionDev
		}
	case enclave != "":
		return usage("leave --image and --pcr0 … out, or --enclave", "--enclave %s says which PCRs are trusted", enclave)
	case image != "" && len(given) > 0:
		return usage("leave --pcr0 … out, or --image", "--image says which PCRs are trusted")
	case image != "":
		if spec.PCRs, err = measureImage(ctx, image); err != nil {
			return err
		}
	case len(given) > 0:
		if spec.PCRs, err = attest.ParsePCRSet(given); err != nil {
			return usage(help, "%s", strings.ReplaceAll(err.Error(), "\n", "; "))
		}
	}
	policy, err := aws.KeyPolicy(spec)
	if e, ok := errors.AsType[*aws.Error](err); ok {
		return usage(help, "%s", e.Detail)
	}
	if err != nil {
		return err
	}
	_, err = a.stdout.Write(policy)
	return err
}

func (a *app) keyPolicyLintCommand() *cobra.Command {
	var o aws.LintOptions
	c := &cobra.Command{
		Use: "lint FILE", Short: "Name the doors that a key policy leaves open",
		Long: aboutLint, Example: exampleLint,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usage("name one, as in: cloister key-policy lint policy.json", "%d key policies are named", len(args))
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error { return a.lintKeyPolicy(args[0], o) },
	}
	c.Flags().StringVar(&o.Account, "account", "", "your account, 12 digits: others are strangers")
	c.Flags().BoolVar(&o.Shared, "shared", false, "accept enclaves that ran jobs before")
	return c
}

// lintReport is what --json prints of a key policy.
type lintReport struct {
	Status   status        `json:"status"`
	Findings []aws.Finding `json:"findings"`
}

func (a *app) lintKeyPolicy(file string, o aws.LintOptions) error {
	text, err := client.ReadBounded(file, aws.MaxKeyPolicy)
	if err != nil {
		return usage("name the file that holds the key policy", "%s: %v", file, err)
	}
	found, err := aws.LintKeyPolicy(text, o)
	if e, ok := errors.AsType[*aws.Error](err); ok {
		return usage("aws kms get-key-policy --query Policy --output text prints a key's policy", "%s: %v: %s", file, e.Kind, e.Detail)
	}
	if err != nil {
		return err
	}
	report := lintReport{Findings: append([]aws.Finding{}, found...)}
	if len(found) == 0 {
		if a.json {
			printJSON(a.stdout, report)
			return nil
		}
		say(a.stdout, "closed    every door that a key policy can close\n")
		return nil
	}
	report.Status = statusAttestation
	if !a.json {
		for _, f := range found {
			say(a.stdout, "open      %s: %s (%s); cure: %s\n", f.Door, f.Message, indented(strings.Join(f.Statements, ", ")), f.Cure)
		}
	}
	noun := "doors are"
	if len(found) == 1 {
		noun = "door is"
	}
	return &failure{
		status: statusAttestation, message: file + ": " + strconv.Itoa(len(found)) + " " + noun + " open",
		hint: "cloister key-policy print writes a policy that leaves none open", report: report,
	}
}
