// Package sdk is the guest side of a policy that is written in Go.
//
//	func main() { sdk.Main(decide) }
//
//	func decide(ctx *sdk.Context) (abi.Decision, error) {
//		if ctx.Request.Point == abi.Admit {
//			return sdk.Consent(ctx.Outputs()...), nil
//		}
//		return sdk.Allow(), nil
//	}
//
// Build it with GOOS=wasip1 GOARCH=wasm and pack it with its manifest. The same code runs
// natively under [Eval], so a policy's rules are tested without WebAssembly.
//
// The package owns the way from standard input to standard output and nothing else: it knows
// no rule, never allows of its own accord, and turns every error and panic into a failure of
// the policy, which is a denial.
package sdk

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/cloister-run/cloister/policies/abi"
)

// Policy decides. An error is a denial without a code: for what should not happen, like a
// file that cannot be read. Rules that the operator broke are denied with [Deny].
type Policy func(ctx *Context) (abi.Decision, error)

// Main answers the one question on standard input and ends the process.
func Main(policy Policy) {
	if err := run(policy, os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err) // discarded by the engine
		os.Exit(1)
	}
	os.Exit(0)
}

func run(policy Policy, in io.Reader, out io.Writer) error {
	question, err := io.ReadAll(in)
	if err != nil {
		return fmt.Errorf("sdk: reading the request: %w", err)
	}
	answer, err := answer(policy, question, abi.Files{
		Artifacts: os.DirFS(abi.ArtifactRoot), Own: os.DirFS(abi.OwnRoot), Redacted: Folder(abi.RedactedRoot),
	})
	if err != nil {
		return err
	}
	_, err = out.Write(answer)
	return err
}

// Eval asks a policy natively. Request and decision go through their JSON as they would in
// an enclave, so what cannot be said there cannot be said here. Files are what the policy finds
// around it; a panic of the policy is an error. Every error comes with the zero Decision.
func Eval(policy Policy, req abi.Request, files abi.Files) (decision abi.Decision, err error) {
	defer func() {
		if r := recover(); r != nil {
			decision, err = abi.Decision{}, fmt.Errorf("sdk: the policy panicked: %v", r)
		}
	}()
	question, err := json.Marshal(req)
	if err != nil {
		return abi.Decision{}, fmt.Errorf("sdk: encoding the request: %w", err)
	}
	written, err := answer(policy, question, files)
	if err != nil {
		return abi.Decision{}, err
	}
	return abi.DecodeDecision(written)
}

// answer takes a policy from the bytes of a request to the bytes of a decision.
func answer(policy Policy, question []byte, files abi.Files) ([]byte, error) {
	var req abi.Request
	if err := json.Unmarshal(question, &req); err != nil {
		return nil, fmt.Errorf("sdk: decoding the request: %w", err)
	}
	if req.ABI != abi.Version {
		return nil, fmt.Errorf("sdk: asked in version %d of the ABI; the policy speaks %d", req.ABI, abi.Version)
	}
	switch req.Point {
	case abi.Admit, abi.Ingress, abi.Redact, abi.Egress:
	default:
		return nil, fmt.Errorf("sdk: asked at the unknown point %q", req.Point)
	}
	decision, err := policy(&Context{Request: req, files: files})
	if err != nil {
		return nil, err
	}
	written, err := json.Marshal(decision)
	if err != nil {
		return nil, fmt.Errorf("sdk: encoding the decision: %w", err)
	}
	return written, nil
}

// Allow allows; at admit it consents to no channel.
func Allow() abi.Decision { return abi.Decision{Allow: true} }

// Consent allows at admit and consents to channels.
func Consent(channels ...abi.Channel) abi.Decision {
	return abi.Decision{Allow: true, Channels: channels}
}

// Redacted allows at redact, and puts what was written for these channels in the place of their
// artifacts; see [Context.Rewrite].
func Redacted(channels ...abi.Channel) abi.Decision {
	return abi.Decision{Allow: true, Redacted: channels}
}

// Deny denies with one of the codes of the policy's manifest.
func Deny(code string) abi.Decision { return abi.Decision{Code: code} }

// Context is one question.
type Context struct {
	// Request is what is asked.
	Request abi.Request
	files   abi.Files
}

// Config decodes the policy's configuration into the value that into points to, strictly:
// unknown and repeated fields are errors, and so is a configuration that is missing.
func (c *Context) Config(into any) error {
	if err := abi.DecodeExact(c.Request.Config, abi.MaxConfigBytes, into); err != nil {
		return fmt.Errorf("config: %w", err)
	}
	return nil
}

// Outputs returns those of the request's channels that are outputs.
func (c *Context) Outputs() []abi.Channel {
	var outputs []abi.Channel
	for _, channel := range c.Request.Channels {
		if _, ok := channel.OutputName(); ok {
			outputs = append(outputs, channel)
		}
	}
	return outputs
}

// errNoFiles: a policy looked for files where there are none.
var errNoFiles = errors.New("there are no such files at this point")
