package main

import (
	"errors"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cloister-run/cloister/core/receipt"
	"github.com/cloister-run/cloister/enclave/attest"
	"github.com/cloister-run/cloister/enclave/client"
	"github.com/cloister-run/cloister/policies/abi"
)

const aboutReceipt = `Verify checks a receipt against every rule of docs/receipt.md and prints what it says. It needs
no network and no enclave: a receipt is verified as of the time at which it was attested.

Without --pcr0, --pcr1 and --pcr2 the enclave's image is not checked: any enclave can attest
any receipt then. --output holds a file or a folder against what the receipt says was released.`

const exampleReceipt = `  cloister receipt verify receipt.json --pcr0 2d15… --pcr1 72d7… --pcr2 4955…
  cloister receipt verify receipt.json --output outputs.predictions=./predictions.csv
  cloister receipt verify receipt.json --realm local --root development-root.pem`

// receiptFlags are the expectations of `receipt verify`.
type receiptFlags struct {
	expectFlags
	outputs []string
}

func (a *app) receiptCommand() *cobra.Command {
	group := &cobra.Command{Use: "receipt", Short: "Look at receipts of jobs", Args: cobra.ArbitraryArgs, RunE: a.needsCommand}
	f := &receiptFlags{}
	verify := &cobra.Command{
		Use: "verify FILE", Short: "Verify a receipt, offline", Long: aboutReceipt, Example: exampleReceipt, Args: oneReceipt,
		RunE: func(c *cobra.Command, args []string) error { return a.verifyReceipt(c, args[0], f) },
	}
	f.add(verify)
	verify.Flags().StringArrayVar(&f.outputs, "output", nil, "NAME=PATH: compare a file or folder with what was released, as outputs.predictions=./out.csv")
	show := &cobra.Command{
		Use: "show FILE", Short: "Print what a receipt says, NOT VERIFIED",
		Long:    "Show prints what a receipt says and verifies nothing of it: anybody can write such a file.",
		Example: "  cloister receipt show receipt.json", Args: oneReceipt,
		RunE: func(_ *cobra.Command, args []string) error { return a.showReceipt(args[0]) },
	}
	group.AddCommand(verify, show)
	return group
}

func oneReceipt(c *cobra.Command, args []string) error {
	if len(args) != 1 {
		return usage(c.CommandPath()+" receipt.json", "%d receipts are named", len(args))
	}
	return nil
}

// receiptReport is what --json prints of a receipt that was verified.
type receiptReport struct {
	Status   status            `json:"status"`
	Verified bool              `json:"verified"`
	Realm    attest.Realm      `json:"realm"`
	ModuleID string            `json:"module_id"`
	Time     string            `json:"time"`
	PCRs     map[string]string `json:"pcrs"`
	// Image says that PCR0, PCR1 and PCR2 are those that were given.
	Image     bool               `json:"image_checked"`
	Outputs   []abi.Channel      `json:"outputs_checked"`
	Statement *receipt.Statement `json:"statement"`
}

// shownReport is what --json prints of a receipt that nobody verified.
type shownReport struct {
	Status    status             `json:"status"`
	Verified  bool               `json:"verified"`
	Statement *receipt.Statement `json:"statement"`
}

func (a *app) verifyReceipt(c *cobra.Command, file string, f *receiptFlags) error {
	expected, err := f.expected(c.Context())
	if err != nil {
		return err
	}
	outputs, err := parseOutputs(f.outputs)
	if err != nil {
		return err
	}
	data, err := readReceipt(file)
	if err != nil {
		return err
	}
	v, err := receipt.Verify(data, receipt.Expect{Root: expected.root, Realm: expected.realm, PCRs: expected.pcrs, Inspect: !expected.image})
	if err != nil {
		return notVerified(file, err)
	}
	report := receiptReport{
		Verified: true, Realm: v.Document.Realm, ModuleID: v.Document.ModuleID, Time: v.Document.Time.Format(time.RFC3339Nano),
		PCRs: v.Document.PCRs.Hex(), Image: expected.image, Outputs: []abi.Channel{}, Statement: v.Statement,
	}
	for _, o := range outputs {
		if err := o.check(c.Context(), v.Statement.Predicate.Released); err != nil {
			return err
		}
		report.Outputs = append(report.Outputs, o.channel)
	}
	if a.json {
		printJSON(a.stdout, report)
		return nil
	}
	a.printVerified(report, outputs)
	return nil
}

func (a *app) showReceipt(file string) error {
	data, err := readReceipt(file)
	if err != nil {
		return err
	}
	statement, _, err := receipt.Decode(data)
	if err != nil {
		return notVerified(file, err)
	}
	s, err := receipt.Read(statement)
	if err != nil {
		return noReceipt(file, err)
	}
	if a.json {
		printJSON(a.stdout, shownReport{Statement: s})
		return nil
	}
	say(a.stdout, "NOT VERIFIED: anybody can write what follows; cloister receipt verify checks it\n")
	printRun(a.stdout, &s.Predicate)
	return nil
}

func readReceipt(file string) ([]byte, error) {
	data, err := client.ReadBounded(file, receipt.MaxReceipt)
	if err != nil {
		return nil, noReceipt(file, err)
	}
	return data, nil
}

func noReceipt(file string, err error) error {
	return usage("name the receipt of a job; docs/receipt.md says what is in one", "%s: %v", file, err)
}

// notVerified is the failure that an error of receipt.Verify or receipt.Decode is.
func notVerified(file string, err error) error {
	violation, ok := errors.AsType[*attest.Violation](err)
	if !ok {
		return noReceipt(file, err)
	}
	hint := "believe nothing of this receipt; docs/receipt.md says what the rule requires"
	if strings.HasPrefix(string(violation.Rule), "pcr") {
		hint = "it is of another image than the one whose PCRs were given; believe nothing of this receipt"
	}
	return broken(violation, hint)
}
