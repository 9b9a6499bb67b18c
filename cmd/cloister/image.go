package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/enclave/attest"
	"github.com/cloister-run/cloister/enclave/image/eif"
)

const aboutImageInspect = `Inspect prints what an enclave image (EIF) consists of and the PCRs that a Nitro hypervisor measures it as: those that
a key policy names and an attestation document has. The file is held against its own CRC-32.

What it asks for (memory, CPUs), the machine that it says it is for and its metadata are not attested: whoever passes the
file on can change them and no PCR moves. It warns of a kernel that is longer or shorter than its own header says, and of
ramdisks behind the first that hold more than executors and what they see.`

func (a *app) imageCommand() *cobra.Command {
	group := &cobra.Command{Use: "image", Short: "Build enclave images, and look at them", Args: cobra.ArbitraryArgs, RunE: a.needsCommand}
	inspect := &cobra.Command{
		Use: "inspect FILE.eif", Short: "Print the sections and the PCRs of an enclave image", Long: aboutImageInspect,
		Example: "  cloister image inspect cloister.eif\n  cloister image inspect cloister.eif --json | jq .pcrs", Args: takes("cloister image inspect FILE.eif", 1),
		RunE: func(c *cobra.Command, args []string) error { return a.inspectImage(c.Context(), args[0]) },
	}
	group.AddCommand(a.imageBuildCommand(), inspect, a.imageDiffCommand(), a.imagePublishCommand(), a.imageVerifyCommand())
	return group
}

// imageReport is what --json prints of an enclave image.
type imageReport struct {
	Status      status            `json:"status"`
	CommandLine string            `json:"command_line"`
	PCRs        map[string]string `json:"pcrs"`
	CRC         string            `json:"crc32"`
	// Publisher is what the signing certificate, which PCR8 is taken over, says of itself.
	Publisher string          `json:"publisher,omitempty"`
	Sections  []sectionReport `json:"sections"`
	// NotAttested can be changed without a PCR moving.
	NotAttested notAttested `json:"not_attested"`
	// Warnings say what no PCR tells.
	Warnings []string `json:"warnings"`
}

type sectionReport struct {
	Kind   string `json:"kind"`
	Offset int64  `json:"offset"`
	Bytes  int64  `json:"bytes"`
}

type notAttested struct {
	Architecture string          `json:"architecture"`
	Memory       uint64          `json:"memory"`
	CPUs         uint64          `json:"cpus"`
	Metadata     json.RawMessage `json:"metadata,omitempty"`
}

func (a *app) inspectImage(ctx context.Context, file string) error {
	f, size, err := openImage(file)
	if err != nil {
		return err
	}
	defer f.Close()
	show := a.newProgress()
	defer show.stop()
	show.doing("measuring the image")
	img, r, err := describeImage(ctx, f, size)
	if err != nil {
		return damagedImage(file, err)
	}
	show.doing("looking through its ramdisks")
	if r.Warnings, err = imageWarnings(ctx, img); err != nil {
		return err
	}
	show.stop()
	a.printImage(r)
	return nil
}

// openImage opens a file. The caller closes it.
func openImage(file string) (*os.File, int64, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|unix.O_NONBLOCK, 0) // a FIFO that nobody writes must not hold this up
	if err != nil {
		return nil, 0, usage("name an enclave image", "%s: %v", file, errors.Unwrap(err))
	}
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return nil, 0, errors.Join(usage("name an enclave image", "%s: is no regular file", file), f.Close())
	}
	return f, info.Size(), nil
}

// damagedImage says of an image what is wrong with it; other errors stay as they are.
func damagedImage(file string, err error) error {
	if wrong, ok := errors.AsType[*eif.Error](err); ok {
		return usage("it is cut, damaged or no enclave image; get it again from where it came", "%s: %s", file, printable(wrong.Reason))
	}
	return err
}

// measureImage gives the PCRs of an image, and PCR8 of one that is signed.
func measureImage(ctx context.Context, file string) (attest.PCRSet, error) {
	f, size, err := openImage(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	_, r, err := describeImage(ctx, f, size)
	if err != nil {
		return nil, damagedImage(file, err)
	}
	return attest.ParsePCRSet(r.PCRs)
}

func describeImage(ctx context.Context, from io.ReaderAt, size int64) (*eif.Image, imageReport, error) {
	img, err := eif.Read(from, size)
	if err != nil {
		return nil, imageReport{}, err
	}
	pcrs, err := img.Measure(ctx)
	if err != nil {
		return nil, imageReport{}, err
	}
	r := imageReport{
		CRC:         fmt.Sprintf("%08x", img.CRC),
		PCRs:        map[string]string{"0": pcrs.PCR0.String(), "1": pcrs.PCR1.String(), "2": pcrs.PCR2.String()},
		NotAttested: notAttested{Architecture: "x86_64", Memory: img.Memory, CPUs: img.CPUs},
	}
	if img.ARM {
		r.NotAttested.Architecture = "arm64"
	}
	for _, s := range img.Sections {
		r.Sections = append(r.Sections, sectionReport{Kind: s.Kind.String(), Offset: s.Offset, Bytes: s.Size})
		switch s.Kind {
		case eif.CommandLine, eif.Metadata: // bounded by the format
			text, err := io.ReadAll(img.Data(s))
			if err != nil {
				return nil, imageReport{}, err
			}
			if s.Kind == eif.CommandLine {
				r.CommandLine = string(text)
			} else if json.Valid(text) {
				r.NotAttested.Metadata = text
			}
		case eif.Kernel, eif.Ramdisk, eif.Signature:
		}
	}
	publisher, err := img.Signer(pcrs.PCR0)
	if err == nil && publisher != nil {
		r.PCRs["8"], r.Publisher = publisher.PCR8.String(), publisher.Certificate.Subject.String()
	}
	return img, r, err
}

func (a *app) printImage(r imageReport) {
	if a.json {
		printJSON(a.stdout, r)
		return
	}
	w := a.stdout
	for _, text := range r.Warnings {
		say(a.stderr, "cloister: warning: %s\n", line(text))
	}
	say(w, "for       %s, NOT ATTESTED\n", r.NotAttested.Architecture)
	say(w, "boots     %s\n", line(r.CommandLine))
	for i, s := range r.Sections {
		say(w, "section   %d: %s, %s at %d\n", i, s.Kind, bytesOf(s.Bytes), s.Offset)
	}
	sayPCRs(w, r.PCRs)
	say(w, "CRC-32    %s, as the file says\n", r.CRC)
	if r.Publisher != "" {
		say(w, "signed    by whoever has the key of PCR8; the certificate says %s\n", line(r.Publisher))
	} else {
		say(w, "signed    by nobody: there is no PCR8\n")
	}
	say(w, "asks for  %s and %d CPUs, NOT ATTESTED\n", bytesOf(int64(min(r.NotAttested.Memory, 1<<62))), r.NotAttested.CPUs)
	if r.NotAttested.Metadata != nil {
		say(w, "metadata  NOT ATTESTED: %s\n", line(string(r.NotAttested.Metadata)))
	}
}
