package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cloister-run/cloister/enclave/attest"
	"github.com/cloister-run/cloister/enclave/client"
	"github.com/cloister-run/cloister/enclave/devkit"
)

// expectFlags say whose enclave is expected, and of which image.
type expectFlags struct {
	enclave     string
	image       string
	realm, root string
	pcrs        [attest.MaxPCRs]string
}

// expectation is what those flags stand for.
type expectation struct {
	root  attest.Root
	realm attest.Realm
	pcrs  attest.PCRSet
	// image says that PCR0, PCR1 and PCR2, and so the image, are among pcrs.
	image bool
}

func (f *expectFlags) add(c *cobra.Command) {
	flags := c.Flags()
	flags.StringVar(&f.enclave, "enclave", "", "\"local\", \"rehearsal\" or one that was started here: its root and its PCRs")
	flags.StringVar(&f.image, "image", "", "an enclave image, FILE.eif: it is measured, and its PCRs are expected")
	flags.StringVar(&f.realm, "realm", string(attest.RealmAWS), `whose enclave it must be: "aws", or "local" for a simulated one`)
	flags.StringVar(&f.root, "root", "", "a root certificate in PEM to trust in place of AWS's; for the realm local your own development root by default")
	for i := range f.pcrs {
		name := fmt.Sprintf("pcr%d", i)
		flags.StringVar(&f.pcrs[i], name, "", fmt.Sprintf("the value of PCR%d, in hexadecimal", i))
		if i > 2 {
			_ = flags.MarkHidden(name) // the flag is there
		}
	}
}

func (f *expectFlags) expected(ctx context.Context) (expectation, error) {
	e := expectation{realm: attest.Realm(f.realm)}
	if e.realm != attest.RealmAWS && e.realm != attest.RealmLocal {
		return e, usage(`the realms are "aws" and "local"`, "--realm: there is no realm %q", f.realm)
	}
	if f.enclave != "" {
		return f.named()
	}
	var err error
	if e.pcrs, e.image, err = f.registers(ctx); err != nil {
		return e, err
	}
	if f.root == "" {
		if e.realm == attest.RealmLocal {
			e.root, err = developmentRoot()
		}
		return e, err
	}
	pem, err := client.ReadBounded(f.root, attest.MaxDocument)
	if err == nil {
		e.root, err = attest.ParseRoot(pem)
	}
	if err != nil {
		return e, usage("name one certificate in PEM", "--root: %s: %v", f.root, err)
	}
	return e, nil
}

// registers are those that are expected, and whether the image is among them.
func (f *expectFlags) registers(ctx context.Context) (pcrs attest.PCRSet, image bool, err error) {
	expected := map[string]string{}
	for i, value := range f.pcrs {
		if value != "" {
			expected[strconv.Itoa(i)] = value
		}
	}
	switch {
	case f.image != "" && len(expected) > 0:
		return nil, false, usage("leave --pcr0 … out, or --image", "--image says which PCRs are expected")
	case f.image != "":
		pcrs, err = measureImage(ctx, f.image)
		return pcrs, true, err
	case len(expected) > 0:
		if pcrs, err = attest.ParsePCRSet(expected); err != nil {
			return nil, false, usage("a value is 96 hexadecimal digits", "--pcr: %v", err)
		}
	}
	return pcrs, !slices.Contains(f.pcrs[:3], ""), nil
}

// named is what an enclave of that name is known by.
func (f *expectFlags) named() (expectation, error) {
	if f.root != "" || f.image != "" || strings.Join(f.pcrs[:], "") != "" {
		return expectation{}, usage("leave --root, --image and --pcr0 … out, or --enclave", "--enclave %s says which root and PCRs are expected", f.enclave)
	}
	return expectationOf(f.enclave)
}

// expectationOf is what an enclave is known by: one for a command is of the image beside this command, and under
// this user's root.
func expectationOf(enclave string) (e expectation, err error) {
	if !isBrief(enclave) {
		s, err := findStanding(enclave)
		if err != nil {
			return e, err
		}
		return s.expectation()
	}
	e.realm, e.image = attest.RealmLocal, true
	if e.pcrs, err = measureLocal(enclave); err != nil {
		return e, err
	}
	e.root, err = developmentRoot()
	return e, err
}

// developmentRoot is this user's.
func developmentRoot() (attest.Root, error) {
	home, err := openDevHome("")
	if err != nil {
		return attest.Root{}, err
	}
	return home.CA().Root(), nil
}

// measureLocal measures the image of enclaves for one command, which is beside this command.
func measureLocal(enclave string) (attest.PCRSet, error) {
	beside, err := here()
	if err != nil {
		return nil, err
	}
	image, _ := imageOf(enclave, beside)
	pcrs, err := devkit.Measure(image)
	if err != nil {
		return nil, &failure{status: statusUnavailable, message: err.Error(), hint: "make build makes the image of local enclaves"}
	}
	return pcrs, nil
}

// ruleReport is what --json prints of what breaks a rule.
type ruleReport struct {
	Status status      `json:"status"`
	Rule   attest.Rule `json:"rule"`
	Error  string      `json:"error"`
	Hint   string      `json:"hint,omitempty"`
}

// broken is the failure of what breaks a rule. The hint is for rules that are not known here.
func broken(v *attest.Violation, hint string) *failure {
	f := &failure{status: statusAttestation, message: v.Error(), hint: hint}
	switch v.Rule {
	case attest.RuleRoot, attest.RuleRealm:
		f.hint = "if this is a simulated enclave, say so: --enclave local, or --realm local --root ROOT.pem"
	case attest.RuleDebug:
		f.hint = "the enclave runs in debug mode, where its owner reads its memory; start it without"
	}
	f.report = ruleReport{Status: f.status, Rule: v.Rule, Error: f.message, Hint: f.hint}
	return f
}
