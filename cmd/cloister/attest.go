package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/enclave/attest"
)

const aboutVerify = `Verify checks an attestation document, the binary form that an enclave gives, against every
rule of docs/attestation.md, and prints what it says. It needs no network.

Without --pcr0, --pcr1 and --pcr2 the document is shown and matches nobody: anybody's genuine
enclave passes then. Debug enclaves never pass.`

const exampleVerify = `  cloister attest verify document.cbor --at 2026-11-25T12:00:00Z
  cloister attest verify document.cbor --pcr0 2d15… --pcr1 72d7… --pcr2 4955… --nonce 00ff…
  cloister attest verify local.cbor --realm local --root development-root.pem`

// verifyFlags are the expectations of `attest verify`.
type verifyFlags struct {
	at, nonce, realm, root string
	pcrs                   map[string]*string
}

func (a *app) attestCommand() *cobra.Command {
	group := &cobra.Command{Use: "attest", Short: "Look at attestation documents", Args: cobra.ArbitraryArgs, RunE: a.needsCommand}
	f := verifyFlags{pcrs: map[string]*string{}}
	verify := &cobra.Command{
		Use: "verify FILE", Short: "Verify an attestation document", Long: aboutVerify, Example: exampleVerify,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usage("cloister attest verify document.cbor", "%d documents are named", len(args))
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error { return a.verify(args[0], f) },
	}
	flags := verify.Flags()
	flags.StringVar(&f.at, "at", "", "the time to verify at, as 2026-11-25T12:00:00Z; now by default")
	flags.StringVar(&f.nonce, "nonce", "", "the nonce that the document must hold, in hexadecimal")
	flags.StringVar(&f.realm, "realm", string(attest.RealmAWS), `whose enclave it must be: "aws", or "local" with --root`)
	flags.StringVar(&f.root, "root", "", "a root certificate in PEM to trust in place of AWS's")
	for i := range attest.MaxPCRs {
		name := strconv.Itoa(i)
		f.pcrs[name] = flags.String("pcr"+name, "", "the value of PCR"+name+", in hexadecimal")
		if i > 2 {
			_ = flags.MarkHidden("pcr" + name) // the flag is there
		}
	}
	group.AddCommand(verify)
	return group
}

// documentReport is what --json prints of a document.
type documentReport struct {
	Status    int               `json:"status"`
	Realm     attest.Realm      `json:"realm"`
	ModuleID  string            `json:"module_id"`
	Time      string            `json:"time"`
	PCRs      map[string]string `json:"pcrs"`
	Matched   bool              `json:"matched"`
	PublicKey string            `json:"public_key,omitempty"`
	UserData  string            `json:"user_data,omitempty"`
	Nonce     string            `json:"nonce,omitempty"`
}

// ruleReport is what --json prints of a document that breaks a rule.
type ruleReport struct {
	Status int         `json:"status"`
	Rule   attest.Rule `json:"rule"`
	Error  string      `json:"error"`
	Hint   string      `json:"hint,omitempty"`
}

func (a *app) verify(file string, f verifyFlags) error {
	options, err := f.options()
	if err != nil {
		return err
	}
	raw, err := readBounded(file, attest.MaxDocument)
	if err != nil {
		return usage("name the binary document that an enclave gave", "%s: %v", file, err)
	}
	doc, err := attest.Verify(raw, options)
	if violation, ok := errors.AsType[*attest.Violation](err); ok {
		return broken(violation)
	}
	if err != nil {
		return usage("cloister attest verify --help says what can be expected", "%v", err)
	}
	a.printDocument(doc, !options.Inspect)
	return nil
}

// options turns flags into what a document must be.
func (f verifyFlags) options() (attest.Options, error) {
	o := attest.Options{At: time.Now(), Realm: attest.Realm(f.realm)}
	var err error
	if f.at != "" {
		if o.At, err = time.Parse(time.RFC3339Nano, f.at); err != nil {
			return o, usage("write it as 2026-11-25T12:00:00Z", "--at: %q is no time", f.at)
		}
	}
	if o.Nonce, err = hex.DecodeString(f.nonce); err != nil {
		return o, usage("write it in hexadecimal", "--nonce: %v", err)
	}
	if len(o.Nonce) == 0 {
		o.Nonce = nil
	}
	expected := map[string]string{}
	for name, value := range f.pcrs {
		if *value != "" {
			expected[name] = *value
		}
	}
	if len(expected) > 0 {
		if o.PCRs, err = attest.ParsePCRSet(expected); err != nil {
			return o, usage("a value is 96 hexadecimal digits", "--pcr: %v", err)
		}
	}
	o.Inspect = slices.ContainsFunc([]string{"0", "1", "2"}, func(i string) bool { return expected[i] == "" })
	if f.root == "" {
		return o, nil
	}
	pem, err := readBounded(f.root, attest.MaxDocument)
	if err == nil {
		o.Root, err = attest.ParseRoot(pem)
	}
	if err != nil {
		return o, usage("name one certificate in PEM", "--root: %s: %v", f.root, err)
	}
	return o, nil
}

// broken is the failure of a document that breaks a rule.
func broken(v *attest.Violation) *failure {
	f := &failure{status: statusAttestation, message: v.Error()}
	switch v.Rule {
	case attest.RuleTime:
		f.hint = "a document is good for about three hours; --at verifies one that was kept at its own time"
	case attest.RuleRoot, attest.RuleRealm:
		f.hint = "if this is a simulated enclave, say so: --realm local --root ROOT.pem"
	case attest.RuleDebug:
		f.hint = "the enclave runs in debug mode, where its owner reads its memory; start it without"
	}
	f.report = ruleReport{Status: int(f.status), Rule: v.Rule, Error: f.message, Hint: f.hint}
	return f
}

func (a *app) printDocument(doc *attest.Document, matched bool) {
	r := documentReport{
		Realm: doc.Realm, ModuleID: doc.ModuleID, Time: doc.Time.Format(time.RFC3339Nano), PCRs: doc.PCRs.Hex(), Matched: matched,
		PublicKey: hex.EncodeToString(doc.PublicKey), UserData: hex.EncodeToString(doc.UserData), Nonce: hex.EncodeToString(doc.Nonce),
	}
	if a.json {
		printJSON(a.stdout, r)
		return
	}
	w := a.stdout
	_, _ = fmt.Fprintf(w, "realm     %s\nmodule    %s\ntime      %s\n", r.Realm, printable(r.ModuleID), r.Time)
	for i := range attest.MaxPCRs {
		if value, ok := r.PCRs[strconv.Itoa(i)]; ok {
			_, _ = fmt.Fprintf(w, "PCR%-6d %s\n", i, value)
		}
	}
	if matched {
		_, _ = fmt.Fprintln(w, "matched   the PCRs that were given")
	} else {
		_, _ = fmt.Fprintln(w, "matched   nothing: PCR0, PCR1 and PCR2 were not all given")
	}
}

// readBounded reads a regular file of at most limit bytes.
func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, errors.Unwrap(err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.New("is no regular file")
	}
	raw, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(raw)) > limit {
		err = fmt.Errorf("is over %d bytes", limit)
	}
	return raw, err
}
