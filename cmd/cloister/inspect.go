package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/core/tree"
	"github.com/cloister-run/cloister/enclave/client"
	"github.com/cloister-run/cloister/enclave/envelope"
	"github.com/cloister-run/cloister/policies"
)

const aboutInspect = `Inspect prints what a sealed bundle says in the open: the asset, its key, its command, and the
policy with its configuration. It needs neither key nor network and reads nothing of what is
encrypted.

All of it is a claim: anybody can write such a file. An enclave knows better when the KMS has
answered for the key and the payload has reached its end.`

const exampleInspect = `  cloister inspect digits-app.sealed
  cloister inspect digits-app.sealed --module policy.wasm`

func (a *app) inspectCommand() *cobra.Command {
	var module string
	c := &cobra.Command{
		Use: "inspect FILE.sealed", Short: "Print what a sealed bundle says in the open",
		Long: aboutInspect, Example: exampleInspect,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usage("name one, as in: cloister inspect digits-app.sealed", "%d sealed bundles are named", len(args))
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error { return a.inspect(args[0], module) },
	}
	c.Flags().StringVar(&module, "module", "", "write the policy's module to this file")
	return c
}

// inspectReport is what --json prints of a sealed bundle. Everything in it is a claim.
type inspectReport struct {
	Status status `json:"status"`
	// Verified is false: nothing of a bundle is known without its key.
	Verified bool            `json:"verified"`
	Header   envelope.Header `json:"header"`
	Module   moduleReport    `json:"module"`
	// Front is the digest of everything that is in the open.
	Front string `json:"front"`
	// Payload is the length of what is encrypted.
	Payload int64 `json:"payload_bytes"`
}

// moduleReport is what the policy's module says of itself.
type moduleReport struct {
	Digest string `json:"digest"`
	Bytes  int    `json:"bytes"`
	// Name is that of the module's manifest.
	Name string `json:"name,omitempty"`
	// Problem is why no enclave will take this module, or take it with this header.
	Problem string `json:"problem,omitempty"`
}

func (a *app) inspect(file, module string) error {
	b, payload, err := readFront(file)
	if err != nil {
		return err
	}
	r := inspectReport{Header: b.Header, Module: describe(b), Front: b.FrontDigest(), Payload: payload}
	if module != "" {
		if err := writeModule(module, file, b.Module); err != nil {
			return err
		}
	}
	if a.json {
		printJSON(a.stdout, r)
		return nil
	}
	printFront(a.stdout, r)
	return nil
}

// What follows the module: the MAC, and in the shortest payload the stream's header and the tag of an empty segment
// (docs/bundle-format.md, "Layout" and "Payload").
const (
	macBytes        = 32
	shortestPayload = macBytes + 40 + 16
)

// readFront reads what stands in the open, and how long the rest is.
func readFront(file string) (*envelope.Bundle, int64, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|unix.O_NONBLOCK, 0) // a FIFO that nobody writes must not hold this up
	if err != nil {
		return nil, 0, usage("name a file that cloister seal wrote", "%s: %v", file, errors.Unwrap(err))
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return nil, 0, usage("name a file that cloister seal wrote", "%s: is no regular file", file)
	}
	b, err := envelope.Read(f)
	if e, ok := errors.AsType[*envelope.Error](err); ok {
		return nil, 0, usage(bundleHint(e), "%s: %v", file, e)
	}
	if err != nil {
		return nil, 0, usage("", "%s: %v", file, err)
	}
	rest := info.Size() - int64(len(b.Front()))
	if rest < shortestPayload {
		return nil, 0, usage("get it again, whole", "%s: %v: it ends where what is encrypted begins", file, envelope.ErrTruncated)
	}
	return b, rest - macBytes, nil
}

func bundleHint(e *envelope.Error) string {
	if e.Hint != "" {
		return e.Hint
	}
	return "get the bundle from its owner again"
}

// describe reads the module's manifest and holds the header against it.
func describe(b *envelope.Bundle) moduleReport {
	sum := sha256.Sum256(b.Module)
	r := moduleReport{Digest: tree.Hex(sum[:]), Bytes: len(b.Module)}
	m, err := policies.ReadManifest(b.Module)
	if err != nil {
		r.Problem = trimmed(err)
		return r
	}
	r.Name = m.Name
	if err := b.CheckManifest(m); err != nil {
		r.Problem = err.Error()
	}
	return r
}

func writeModule(module, file string, data []byte) error {
	theirs, err := os.Stat(file)
	ours, statErr := os.Stat(module)
	if err == nil && statErr == nil && os.SameFile(theirs, ours) {
		return usage("name another file", "--module %s: is the sealed bundle", module)
	}
	if statErr == nil && !ours.Mode().IsRegular() {
		return usage("name another file", "--module %s: is no regular file", module)
	}
	if err := client.WriteAtomically(module, data); err != nil {
		return usage("name another place", "--module: %v", err)
	}
	return nil
}

func printFront(w io.Writer, r inspectReport) {
	h := r.Header
	say(w, "CLAIMED   by the file; nothing of it is verified without the key\n")
	say(w, "asset     %s %s, %s\n", indented(string(h.Asset.Kind)), indented(h.Asset.Name), sizeOf(h.Asset))
	say(w, "bundle    %s, format %d\n", indented(h.ID), h.Version)
	say(w, "key       %s\n", indented(h.Key))
	for _, name := range slices.Sorted(maps.Keys(h.EncryptionContext)) {
		say(w, "context   %s = %s\n", indented(name), indented(h.EncryptionContext[name]))
	}
	printCommand(w, h)
	say(w, "policy    %s\n", indented(h.Policy.Digest))
	name := "a module without a manifest"
	if r.Module.Name != "" {
		name = indented(r.Module.Name)
	}
	say(w, "module    %s, %d bytes, %s\n", name, r.Module.Bytes, r.Module.Digest)
	say(w, "config    %s\n", indented(string(h.Policy.Config)))
	say(w, "limits    memory %s, decision %s\n", orEnclave(h.Policy.Limits.MemoryBytes, bytesOf),
		orEnclave(h.Policy.Limits.DecideMillis, func(n int64) string { return fmt.Sprintf("%d ms", n) }))
	sayCodes(w, h.Policy.Codes)
	if r.Module.Problem != "" {
		say(w, "WRONG     no enclave takes it: %s\n", indented(r.Module.Problem))
	}
	say(w, "front     %s\n", r.Front)
	say(w, "payload   %d bytes, encrypted\n", r.Payload)
}

// printCommand prints how an application is run.
func printCommand(w io.Writer, h envelope.Header) {
	if h.Command == nil {
		return
	}
	c := h.Command
	say(w, "runs      %s with %s\n", quoted(c.Entrypoint), indented(c.Executor))
	for _, digest := range c.Environments {
		say(w, "in        the environment %s\n", line(digest))
	}
	for _, arg := range c.Args {
		say(w, "argument  %s\n", quoted(arg))
	}
	for _, name := range slices.Sorted(maps.Keys(c.Env)) {
		say(w, "variable  %s = %s\n", indented(name), quoted(c.Env[name]))
	}
	for _, name := range slices.Sorted(maps.Keys(c.Outputs)) {
		say(w, "output    %s, at %s\n", indented(name), quoted(c.Outputs[name]))
	}
	for _, name := range slices.Sorted(maps.Keys(c.Parameters)) {
		p := c.Parameters[name]
		preset := "required"
		if p.Default != nil {
			preset = quoted(*p.Default) + " by default"
		}
		say(w, "parameter %s, %s, matches %s\n", indented(name), preset, quoted(p.Pattern))
	}
}

// quoted is one line of printable text in quotes.
func quoted(s string) string {
	return `"` + strings.ReplaceAll(printable(s), "\n", `\n`) + `"`
}

// orEnclave is a limit of a policy.
func orEnclave(n int64, show func(int64) string) string {
	if n == 0 {
		return "as the enclave has it"
	}
	return show(n)
}
