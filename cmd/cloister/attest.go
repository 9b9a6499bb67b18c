package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cloister-run/cloister/enclave/attest"
	"github.com/cloister-run/cloister/enclave/client"
)

const aboutVerify = `Verify checks an attestation document, the binary form that an enclave gives, against every
rule of docs/attestation.md, and prints what it says. It needs no network.

Without --pcr0, --pcr1 and --pcr2 the document is shown and matches nobody: anybody's genuine
enclave passes then. Debug enclaves never pass.`

const exampleVerify = `  cloister attest verify document.cbor --at 2026-11-25T12:00:00Z
  cloister attest verify document.cbor --pcr0 2d15… --pcr1 72d7… --pcr2 4955… --nonce 00ff…
  cloister attest verify document.cbor --image cloister.eif
  cloister attest verify local.cbor --realm local --root development-root.pem`

// verifyFlags are the expectations of `attest verify`.
type verifyFlags struct {
	expectFlags
	at, nonce string
}

func (a *app) attestCommand() *cobra.Command {
	group := &cobra.Command{Use: "attest", Short: "Look at attestation documents", Args: cobra.ArbitraryArgs, RunE: a.needsCommand}
	f := &verifyFlags{}
	verify := &cobra.Command{
		Use: "verify FILE", Short: "Verify an attestation document", Long: aboutVerify, Example: exampleVerify,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usage("cloister attest verify document.cbor", "%d documents are named", len(args))
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error { return a.verify(c.Context(), args[0], f) },
	}
	flags := verify.Flags()
	flags.StringVar(&f.at, "at", "", "the time to verify at, as 2026-11-25T12:00:00Z; now by default")
	flags.StringVar(&f.nonce, "nonce", "", "the nonce that the document must hold, in hexadecimal")
	f.add(verify)
	group.AddCommand(a.attestGetCommand(), verify)
	return group
}

const aboutAttestGet = `Get asks an enclave for its attestation document over a nonce, and writes it to a file as it came. Nobody has verified it then:
cloister attest verify does.`

const exampleAttestGet = `  cloister attest get --enclave prod -o document.cbor --nonce 00112233445566778899aabbccddeeff
  cloister attest verify document.cbor --image cloister.eif --nonce 00112233445566778899aabbccddeeff`

func (a *app) attestGetCommand() *cobra.Command {
	var out, nonce string
	c := &cobra.Command{
		Use: "get --enclave NAME -o FILE", Short: "Ask an enclave for its attestation document", Long: aboutAttestGet, Example: exampleAttestGet,
		Args: noArguments,
		RunE: func(c *cobra.Command, _ []string) error { return a.getDocument(c.Context(), out, nonce) },
	}
	a.addEnclave(c)
	c.Flags().StringVarP(&out, "output", "o", "", "the file to write (required)")
	c.Flags().StringVar(&nonce, "nonce", "", "what the document is to hold, 16 to 512 bytes in hexadecimal [random]")
	return c
}

func (a *app) getDocument(ctx context.Context, out, text string) error {
	nonce, err := hex.DecodeString(text)
	switch {
	case out == "":
		return usage("as in: cloister attest get --enclave prod -o document.cbor", "no file is named to write")
	case err != nil || text != "" && (len(nonce) < attest.MinNonce || len(nonce) > attest.MaxNonce):
		return usage(fmt.Sprintf("write %d to %d bytes in hexadecimal", attest.MinNonce, attest.MaxNonce), "--nonce: %.40q is no nonce", text)
	case text == "":
		nonce = make([]byte, 32)
		_, _ = rand.Read(nonce) // never fails
	}
	if err := a.checkEnclave(); err != nil {
		return err
	}
	beside, err := here()
	if err != nil {
		return err
	}
	if err := a.sayEnclave(a.enclave); err != nil {
		return err
	}
	c, stop, err := a.open(ctx, beside, false)
	if err != nil {
		return err
	}
	raw, err := c.Document(ctx, nonce)
	if err := errors.Join(err, stop()); err != nil {
		return err
	}
	if err := client.WriteAtomically(out, raw); err != nil {
		return err
	}
	if a.json {
		printJSON(a.stdout, map[string]any{"status": statusDone, "path": out, "nonce": hex.EncodeToString(nonce)})
		return nil
	}
	say(a.stdout, "document  %s, over the nonce %x; nobody has verified it yet\n", line(out), nonce)
	return nil
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

func (a *app) verify(ctx context.Context, file string, f *verifyFlags) error {
	options, err := f.options(ctx)
	if err != nil {
		return err
	}
	raw, err := client.ReadBounded(file, attest.MaxDocument)
	if err != nil {
		return usage("name the binary document that an enclave gave", "%s: %v", file, err)
	}
	doc, err := attest.Verify(raw, options)
	if violation, ok := errors.AsType[*attest.Violation](err); ok {
		hint := ""
		if violation.Rule == attest.RuleTime {
			hint = "a document is good for about three hours; --at verifies one that was kept at its own time"
		}
		return broken(violation, hint)
	}
	if err != nil {
		return usage("cloister attest verify --help says what can be expected", "%v", err)
	}
	a.printDocument(doc, !options.Inspect)
	return nil
}

// options turns flags into what a document must be.
func (f *verifyFlags) options(ctx context.Context) (attest.Options, error) {
	expected, err := f.expected(ctx)
	if err != nil {
		return attest.Options{}, err
	}
	o := attest.Options{At: time.Now(), Root: expected.root, Realm: expected.realm, PCRs: expected.pcrs, Inspect: !expected.image}
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
	return o, nil
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
	_, _ = fmt.Fprintf(w, "realm     %s\nmodule    %s\ntime      %s\n", r.Realm, line(r.ModuleID), r.Time)
	sayPCRs(w, r.PCRs)
	if matched {
		_, _ = fmt.Fprintln(w, "matched   the PCRs that were given")
	} else {
		_, _ = fmt.Fprintln(w, "matched   nothing: PCR0, PCR1 and PCR2 were not all given")
	}
}

// sayPCRs lists the registers that something was measured into.
func sayPCRs(w io.Writer, pcrs map[string]string) {
	for i := range attest.MaxPCRs {
		if value := pcrs[strconv.Itoa(i)]; strings.Trim(value, "0") != "" {
			say(w, "PCR%-6d %s\n", i, value)
		}
	}
}
