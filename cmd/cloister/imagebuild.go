package main

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/cloister-run/cloister/enclave/client"
	"github.com/cloister-run/cloister/enclave/image/build"
	"github.com/cloister-run/cloister/enclave/image/eif"
	"github.com/cloister-run/cloister/enclave/image/ramdisk"
	"github.com/cloister-run/cloister/enclave/image/rootfs"
	"github.com/cloister-run/cloister/jobspec"
)

const aboutImageBuild = `Build makes an enclave image (EIF) of what a recipe names: a kernel, the folder that make build fills, and a root
file system for executors; docs/enclave-image.md says what is in a recipe and in an image. It prints the PCRs that a
Nitro hypervisor measures the image as.

The same inputs give the same image, byte for byte, on every machine; a signature is another one each time, and no PCR
but PCR8 depends on it.`

const exampleImageBuild = `  cloister image build image.yaml -o cloister.eif
  cloister image build image.yaml -o cloister.eif --pcrs pcrs.json --sign-key key.pem --sign-cert certificate.pem`

// maxPEM bounds a key or a certificate in PEM.
const maxPEM = 64 << 10

// imageBuild is what the command line says of a build.
type imageBuild struct {
	recipe, out, pcrs string
	key, certificate  string
}

func (a *app) imageBuildCommand() *cobra.Command {
	var b imageBuild
	c := &cobra.Command{
		Use: "build IMAGE.yaml -o FILE.eif", Short: "Build an enclave image from a recipe", Long: aboutImageBuild,
		Example: exampleImageBuild, Args: takes("cloister image build image.yaml -o cloister.eif", 1),
		RunE: func(c *cobra.Command, args []string) error {
			b.recipe = args[0]
			return a.buildImage(c.Context(), b)
		},
	}
	flags := c.Flags()
	flags.StringVarP(&b.out, "output", "o", "", "the file to write (required)")
	flags.StringVar(&b.pcrs, "pcrs", "", "also write the PCRs to this file, as JSON")
	flags.StringVar(&b.key, "sign-key", "", "sign the image with this private key, in PEM")
	flags.StringVar(&b.certificate, "sign-cert", "", "the certificate that goes with the key, in PEM: PCR8 is taken over it")
	return c
}

// buildReport is what --json prints of an image that was built.
type buildReport struct {
	Status status `json:"status"`
	Path   string `json:"path"`
	Bytes  int64  `json:"bytes"`
	// Kernel is the version that the kernel says.
	Kernel string            `json:"kernel,omitempty"`
	PCRs   map[string]string `json:"pcrs"`
	// Warnings say what may keep it from running on EC2.
	Warnings []string `json:"warnings"`
}

func (a *app) buildImage(ctx context.Context, b imageBuild) error {
	if b.out == "" {
		return usage("as in: cloister image build image.yaml -o cloister.eif", "no file is named to write")
	}
	signer, err := b.signer()
	if err != nil {
		return err
	}
	plan, err := openRecipe(ctx, b.recipe)
	if err != nil {
		return err
	}
	defer plan.Close()
	inputs := append(plan.Inputs(), build.Input{Path: b.recipe}, build.Input{Path: b.key}, build.Input{Path: b.certificate})
	if err := checkImageOut(inputs, b.out, b.pcrs); err != nil {
		return err
	}
	show := a.newProgress()
	defer show.stop()
	show.doing("writing and measuring the image")
	r := buildReport{Path: b.out, Kernel: plan.KernelVersion(), Warnings: append([]string{}, plan.Warnings(time.Now())...)}
	err = client.SeekAtomically(b.out, func(w io.WriteSeeker) error {
		pcrs, err := plan.Write(ctx, w, signer.sign())
		if err != nil {
			return err
		}
		r.PCRs = signer.named(pcrs)
		r.Bytes, err = w.Seek(0, io.SeekEnd)
		return err
	})
	if err == nil && b.pcrs != "" {
		err = writePCRs(b.pcrs, r.PCRs)
	}
	if err != nil {
		return imageFailure(ctx, b.recipe, err)
	}
	show.stop()
	a.printBuilt(r)
	return nil
}

// openRecipe reads a recipe and looks at everything that it names. The caller closes the plan.
func openRecipe(ctx context.Context, file string) (*build.Plan, error) {
	data, err := client.ReadBounded(file, jobspec.MaxFile)
	if err != nil {
		return nil, usage("name an image recipe; docs/enclave-image.md says what is in one", "%s: %v", file, err)
	}
	recipe, err := jobspec.ParseRecipe(file, data)
	if err != nil {
		return nil, err
	}
	plan, err := build.Open(ctx, recipe, filepath.Dir(file))
	if _, ok := errors.AsType[*jobspec.Problems](err); ok || err == nil {
		return plan, err
	}
	return nil, imageFailure(ctx, file, err)
}

// checkImageOut keeps what is written from becoming a part of the next image, and from taking the place of what
// this one is built and signed with, or of what is written too. Empty paths are of nothing.
func checkImageOut(inputs []build.Input, outs ...string) error {
	const hint = "name another place"
	for i, out := range outs {
		if out == "" {
			continue
		}
		info, err := os.Lstat(out)
		if err == nil && !info.Mode().IsRegular() {
			return usage(hint, "%s: is there, and is no regular file", out)
		}
		for _, in := range inputs {
			theirs, statErr := os.Stat(in.Path)
			if err == nil && statErr == nil && os.SameFile(info, theirs) {
				return usage(hint, "%s: is what the image is built from, or signed with", out)
			}
			if statErr != nil || !theirs.IsDir() {
				continue
			}
			if inside, err := inFolder(out, in.Path); err != nil || inside {
				return usage(hint, "%s: is in a folder that the image is built from", out)
			}
		}
		for _, other := range outs[:i] {
			if onePlace(out, other) {
				return usage(hint, "%s and %s are one file", other, out)
			}
		}
	}
	return nil
}

// onePlace reports whether what is written to one path takes the place of what is at the other.
func onePlace(a, b string) bool {
	one, err := os.Stat(a)
	other, otherErr := os.Stat(b)
	if err == nil && otherErr == nil {
		return os.SameFile(one, other)
	}
	a, err = realPath(a)
	b, otherErr = realPath(b)
	return err == nil && otherErr == nil && a == b
}

// imageSigner vouches for images; nil for nobody.
type imageSigner struct {
	certificate []byte
	key         crypto.Signer
	pcr8        eif.PCR
}

// signer reads the key and the certificate; nil if none is named.
func (b imageBuild) signer() (*imageSigner, error) {
	if b.key == "" && b.certificate == "" {
		return nil, nil //nolint:nilnil // nobody signs
	}
	if b.key == "" || b.certificate == "" {
		return nil, usage("name both", "--sign-key and --sign-cert go together")
	}
	certificate, err := client.ReadBounded(b.certificate, maxPEM)
	if err != nil {
		return nil, usage("name one certificate in PEM", "%s: %v", b.certificate, err)
	}
	s := &imageSigner{certificate: certificate}
	if s.pcr8, err = eif.PublisherPCR(certificate); err != nil {
		return nil, usage("name one certificate in PEM", "%s: %v", b.certificate, err)
	}
	text, err := client.ReadBounded(b.key, maxPEM)
	if err != nil {
		return nil, usage("name a private key in PEM", "%s: %v", b.key, err)
	}
	if s.key, err = parseKey(text); err != nil {
		return nil, usage("name the private key of the certificate, on P-256, P-384 or P-521, in PEM and without a password", "%s: %v", b.key, err)
	}
	if _, err := s.sign()(eif.PCR{}); err != nil { // of a certificate with another key nothing is to be built
		return nil, usage("name the private key of the certificate, on P-256, P-384 or P-521", "%s: %v", b.key, err)
	}
	return s, nil
}

// parseKey reads a key as openssl writes it: PKCS #8, or SEC 1 behind the parameters of its curve.
func parseKey(text []byte) (crypto.Signer, error) {
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			return nil, errors.New("no private key in PEM")
		}
		switch block.Type {
		case "EC PRIVATE KEY":
			return x509.ParseECPrivateKey(block.Bytes)
		case "PRIVATE KEY":
			key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			if signer, ok := key.(crypto.Signer); ok && err == nil {
				return signer, nil
			}
			return nil, errors.Join(errors.New("no key that signs"), err)
		}
		text = rest
	}
}

func (s *imageSigner) sign() func(eif.PCR) ([]byte, error) {
	if s == nil {
		return nil
	}
	return func(pcr0 eif.PCR) ([]byte, error) { return eif.Sign(pcr0, s.certificate, s.key) }
}

// named are the registers of an image by their index, as every command that expects some takes them.
func (s *imageSigner) named(pcrs eif.PCRs) map[string]string {
	named := map[string]string{"0": pcrs.PCR0.String(), "1": pcrs.PCR1.String(), "2": pcrs.PCR2.String()}
	if s != nil {
		named["8"] = s.pcr8.String()
	}
	return named
}

func writePCRs(path string, pcrs map[string]string) error {
	text, err := json.MarshalIndent(pcrs, "", "  ")
	if err != nil {
		return err
	}
	return client.WriteAtomically(path, append(text, '\n'))
}

// imageFailure finds the exit status and the cure of an error of building.
func imageFailure(ctx context.Context, file string, err error) error {
	if errors.Is(context.Cause(ctx), errInterrupted) {
		return &failure{status: statusCancelled, message: "cancelled", hint: "nothing was written"}
	}
	if errors.Is(err, client.ErrLanding) {
		return &failure{status: statusUnavailable, message: err.Error(), hint: "nothing was written; make room, or name another place with -o"}
	}
	if errors.Is(err, rootfs.ErrUnavailable) {
		return &failure{status: statusUnavailable, message: err.Error(), hint: "nothing was written; is the registry there, and are you logged in to it? docker login"}
	}
	if wrong, ok := errors.AsType[*ramdisk.Error](err); ok {
		return usage("", "%s: %s", file, wrong.Reason)
	}
	return usage("nothing was written; leave what the recipe names alone meanwhile", "%s: %v", file, err)
}

func (a *app) printBuilt(r buildReport) {
	if a.json {
		printJSON(a.stdout, r)
		return
	}
	for _, w := range r.Warnings {
		say(a.stderr, "cloister: warning: %s\n", indented(w))
	}
	say(a.stdout, "built     %s, %s\n", indented(r.Path), bytesOf(r.Bytes))
	if r.Kernel != "" {
		say(a.stdout, "kernel    %s\n", indented(r.Kernel))
	}
	sayPCRs(a.stdout, r.PCRs)
}
