package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cloister-run/cloister/core/tree"
	"github.com/cloister-run/cloister/enclave/aws"
	"github.com/cloister-run/cloister/enclave/client"
	"github.com/cloister-run/cloister/enclave/envelope"
	"github.com/cloister-run/cloister/enclave/keys"
	"github.com/cloister-run/cloister/policies/abi"
)

const aboutSeal = `Seal encrypts an application, a model or a data set under a key of yours, together with the
policy that guards it: nobody can open one without the other. The bundle file says what is
sealed, under which key and policy; docs/bundle-format.md says what is in one.

Whoever has the sealed file can read the asset's name, kind and sizes, its command, and the
policy with its configuration. The key's policy says which enclaves may open it:
cloister key-policy print writes one.`

const exampleSeal = `  cloister seal bundle.yaml
  cloister seal bundle.yaml -o digits-app.sealed --json`

func (a *app) sealCommand() *cobra.Command {
	var out string
	c := &cobra.Command{
		Use: "seal BUNDLE.yaml [-o FILE.sealed]", Short: "Seal an asset with the policy that guards it",
		Long: aboutSeal, Example: exampleSeal,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usage("name one, as in: cloister seal bundle.yaml", "%d bundle files are named", len(args))
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error { return a.seal(c.Context(), args[0], out) },
	}
	c.Flags().StringVarP(&out, "out", "o", "", "the file to write; NAME.sealed in this folder by default")
	return c
}

// sealReport is what --json prints of a sealed bundle.
type sealReport struct {
	Status status         `json:"status"`
	Path   string         `json:"path"`
	Digest string         `json:"digest"`
	Bytes  int64          `json:"bytes"`
	Asset  envelope.Asset `json:"asset"`
	ID     string         `json:"id"`
	Key    string         `json:"key"`
	Policy string         `json:"policy"`
	Codes  []abi.Code     `json:"codes"`
}

func (a *app) seal(ctx context.Context, file, out string) error {
	beside, err := here()
	if err != nil {
		return err
	}
	p, err := openParcel(ctx, file, out, filepath.Join(beside, "library"))
	if err != nil {
		return err
	}
	defer p.close()
	report, err := a.sealParcel(ctx, p)
	if err != nil {
		return sealFailure(ctx, err)
	}
	a.printSealed(report)
	return nil
}

// sealParcel asks for a data key and writes the sealed file, whole or not at all.
func (a *app) sealParcel(ctx context.Context, p *parcel) (sealReport, error) {
	partition := strings.Split(p.bundle.Key, ":")[1] // the key was checked
	if partition == keys.PartitionDev {
		say(a.stderr, "SIMULATED KMS: what is sealed under this key is protected from nobody on this machine\n")
	}
	account, err := aws.Load(ctx, aws.Options{Partition: partition})
	if err != nil {
		return sealReport{}, err
	}
	show := a.newProgress()
	defer show.stop()
	show.doing("asking the KMS for a data key")
	total, _ := p.source.Size()
	var sealed envelope.Summary
	whole := sha256.New()
	err = client.StreamAtomically(p.out, func(w io.Writer) (err error) {
		counting := sink(func(n int) {
			show.doing("sealing")
			show.sending(n, total)
		})
		sealed, err = envelope.Seal(ctx, io.MultiWriter(w, whole, counting), p.spec(), p.source, p.module, account)
		return err
	})
	if err != nil {
		return sealReport{}, err
	}
	h := sealed.Header
	return sealReport{
		Path: p.out, Digest: tree.Hex(whole.Sum(nil)), Bytes: sealed.Bytes, Asset: h.Asset, ID: h.ID, Key: h.Key,
		Policy: h.Policy.Digest, Codes: h.Policy.Codes,
	}, nil
}

// sink counts what is written.
type sink func(int)

func (s sink) Write(p []byte) (int, error) {
	s(len(p))
	return len(p), nil
}

func (a *app) printSealed(r sealReport) {
	if a.json {
		printJSON(a.stdout, r)
		return
	}
	w := a.stdout
	say(w, "sealed    %s %s, %s\n", r.Asset.Kind, r.Asset.Name, sizeOf(r.Asset))
	say(w, "to        %s, %d bytes\n", indented(r.Path), r.Bytes)
	say(w, "digest    %s\n", r.Digest)
	say(w, "key       %s\n", r.Key)
	say(w, "policy    %s\n", r.Policy)
	sayCodes(w, r.Codes)
	say(w, "public    name, kind, sizes, command, policy and configuration: whoever has the file can read them\n")
}

// sizeOf is how much an asset holds.
func sizeOf(asset envelope.Asset) string {
	switch {
	case asset.Form == envelope.FileForm:
		return "one file of " + bytesOf(asset.Bytes)
	case asset.Entries == 1:
		return bytesOf(asset.Bytes) + " in one file or folder"
	}
	return fmt.Sprintf("%s in %d files and folders", bytesOf(asset.Bytes), asset.Entries)
}

// sayCodes lists what a policy can answer beside yes.
func sayCodes(w io.Writer, codes []abi.Code) {
	for _, code := range codes {
		say(w, "denies    %s: %s\n", indented(code.Code), indented(code.Hint))
	}
}

// sealFailure finds the exit status and the cure of an error of sealing.
func sealFailure(ctx context.Context, err error) error {
	if f := awsFailure(ctx, err); f != nil {
		return f
	}
	if e, ok := errors.AsType[*envelope.Error](err); ok {
		return usage(e.Hint, "%v", e)
	}
	if errors.Is(err, client.ErrLanding) {
		return &failure{status: statusUnavailable, message: err.Error(), hint: "nothing was written; make room, or name another place with -o"}
	}
	return usage("nothing was written; leave what is sealed alone meanwhile", "%v", err)
}

// awsFailure is the failure that an error of package aws is, or an interrupt; nil for others.
func awsFailure(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), errInterrupted) {
		return &failure{status: statusCancelled, message: "cancelled", hint: "nothing was written"}
	}
	if e, ok := errors.AsType[*aws.Error](err); ok {
		return kmsFailure(e)
	}
	return nil
}

// kmsFailure is the failure that an error of the owner's side of AWS is.
func kmsFailure(e *aws.Error) *failure {
	f := &failure{status: statusUnavailable, message: e.Error()}
	switch {
	case errors.Is(e, aws.ErrConfiguration):
		f.status = statusUsage
		f.hint = "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or log in as with any other AWS tool"
	case errors.Is(e, aws.ErrRequest):
		f.status, f.hint = statusUsage, "check the key in the bundle file and the endpoint in the AWS configuration"
	case errors.Is(e, aws.ErrRefused):
		f.status, f.hint = statusAttestation, refusalHint(e.Code)
	case errors.Is(e, aws.ErrUnavailable):
		f.hint = "try again; a key of the partition cloister-dev needs a simulated KMS: cloister dev kms"
	case errors.Is(e, aws.ErrAnswer):
		f.hint = "what answered is not the KMS; check AWS_ENDPOINT_URL, AWS_CA_BUNDLE and proxies"
	}
	return f
}

// refusalHint is the cure for an error of KMS ("GenerateDataKey", "Common error types").
func refusalHint(code string) string {
	switch code {
	case "AccessDeniedException":
		return "the key's policy must allow you kms:GenerateDataKey; cloister key-policy print --sealer writes one"
	case "NotFoundException":
		return "check account, region and id in the key's ARN"
	case "DisabledException", "KMSInvalidStateException":
		return "enable the key"
	case "ExpiredTokenException", "UnrecognizedClientException", "InvalidSignatureException", "IncompleteSignature", "IncompleteSignatureException":
		return "log in again; AWS does not take these credentials"
	}
	return "the KMS says no and will say so again; its message says why"
}
