package main

import (
	"context"
	"encoding/json"

	"github.com/spf13/cobra"

	"github.com/cloister-run/cloister/enclave/client"
	"github.com/cloister-run/cloister/enclave/image/build"
	"github.com/cloister-run/cloister/enclave/image/manifest"
)

const aboutImagePublish = `Publish writes what an enclave image was built of: the recipe, the digest of everything that it names, the PCRs, and
the digest of the image itself. It builds the image again, keeps nothing of that, and refuses an image that has
other PCRs.

Whoever has the same inputs can then hold the image against them: cloister image verify.`

const aboutImageVerify = `Verify builds an image again from inputs of your own, keeps nothing of it, and holds the PCRs against those of a
manifest. Where they differ it names the inputs that do. If an image is named, it is held against the manifest too.

It ends with 0 if everything is as the manifest says, and with 4 if a PCR or the image is not.`

func (a *app) imagePublishCommand() *cobra.Command {
	var out, commit string
	c := &cobra.Command{
		Use: "publish IMAGE.yaml FILE.eif -o MANIFEST.json", Short: "Write what an image was built of, for others to verify", Long: aboutImagePublish,
		Example: "  cloister image publish image.yaml cloister.eif -o manifest.json --commit \"$(git rev-parse HEAD)\"",
		Args:    takes("cloister image publish image.yaml cloister.eif -o manifest.json", 2),
		RunE: func(c *cobra.Command, args []string) error {
			return a.publishImage(c.Context(), args[0], args[1], out, commit)
		},
	}
	c.Flags().StringVarP(&out, "output", "o", "", "the manifest to write (required)")
	c.Flags().StringVar(&commit, "commit", "", "the commit of the sources that the image was built from")
	return c
}

func (a *app) imageVerifyCommand() *cobra.Command {
	var recipe string
	c := &cobra.Command{
		Use: "verify MANIFEST.json --recipe IMAGE.yaml [FILE.eif]", Short: "Build an image again, and hold it against a manifest", Long: aboutImageVerify,
		Example: "  cloister image verify manifest.json --recipe image.yaml cloister.eif",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 || len(args) > 2 {
				return usage("cloister image verify manifest.json --recipe image.yaml [cloister.eif]", "%d arguments are given, 1 or 2 are needed", len(args))
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			return a.verifyImage(c.Context(), args[0], recipe, args[1:])
		},
	}
	c.Flags().StringVar(&recipe, "recipe", "", "the recipe with your own inputs (required)")
	return c
}

// publishReport is what `image publish --json` prints.
type publishReport struct {
	Status status `json:"status"`
	Path   string `json:"path"`
	*manifest.Manifest
}

func (a *app) publishImage(ctx context.Context, recipe, file, out, commit string) error {
	switch {
	case out == "":
		return usage("as in: cloister image publish image.yaml cloister.eif -o manifest.json", "no file is named to write")
	case commit != "" && !manifest.IsCommit(commit):
		return usage("write it in hexadecimal, as git rev-parse HEAD does", "--commit: %q is no commit", commit)
	}
	image, pcrs, err := a.lookAt(ctx, file)
	if err != nil {
		return err
	}
	m, err := a.rebuild(ctx, recipe, commit, out, file)
	if err != nil {
		return err
	}
	if differ := m.Registers(pcrs, false); len(differ) > 0 {
		return unlike(file+" is not what "+recipe+" gives", "build it again, or find what moved: cloister image diff", differ)
	}
	m.PCRs, m.Image = pcrs, image
	text, err := json.MarshalIndent(m, "", "  ")
	if err == nil {
		err = client.WriteAtomically(out, append(text, '\n'))
	}
	if err != nil {
		return imageFailure(ctx, out, err)
	}
	if a.json {
		printJSON(a.stdout, publishReport{Path: out, Manifest: m})
		return nil
	}
	say(a.stdout, "published %s\n", indented(out))
	for _, in := range m.Inputs {
		say(a.stdout, "input     %s %s, %s\n", in.At, indented(in.Name), in.Digest)
	}
	say(a.stdout, "image     %s, SHA-384 %s\n", bytesOf(image.Bytes), image.SHA384)
	sayPCRs(a.stdout, m.PCRs)
	return nil
}

// lookAt measures an image and hashes its file.
func (a *app) lookAt(ctx context.Context, file string) (*manifest.File, map[string]string, error) {
	f, size, err := openImage(file)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	show := a.newProgress()
	defer show.stop()
	show.doing("measuring the image")
	image, pcrs, err := manifest.Look(ctx, f, size)
	if err != nil {
		return nil, nil, damagedImage(file, err)
	}
	return image, pcrs, nil
}

// rebuild says what a recipe gives here. Nothing that it is built from may be at outs.
func (a *app) rebuild(ctx context.Context, recipe, commit string, outs ...string) (*manifest.Manifest, error) {
	plan, err := openRecipe(ctx, recipe)
	if err != nil {
		return nil, err
	}
	defer plan.Close()
	if err := checkImageOut(append(plan.Inputs(), build.Input{Path: recipe}), outs...); err != nil {
		return nil, err
	}
	show := a.newProgress()
	defer show.stop()
	show.doing("building the image again")
	m, err := manifest.Make(ctx, plan, commit)
	if err != nil {
		return nil, imageFailure(ctx, recipe, err)
	}
	return m, nil
}

// unlikeReport is what --json prints where an image is not what it should be.
type unlikeReport struct {
	Status      status                `json:"status"`
	Error       string                `json:"error"`
	Hint        string                `json:"hint,omitempty"`
	Differences []manifest.Difference `json:"differences"`
}

func unlike(message, hint string, differ []manifest.Difference) error {
	return &failure{status: statusAttestation, message: message, hint: hint, report: unlikeReport{statusAttestation, message, hint, differ}}
}

// verifyReport is what `image verify --json` prints.
type verifyReport struct {
	Status status `json:"status"`
	// PCRs are those that were found: of the image that was built again, and of the file if one was held against
	// the manifest, which alone can have PCR8.
	PCRs map[string]string `json:"pcrs"`
	// Commit and PCR8 are what the manifest says and nobody has verified; PCR8 is empty where it is among PCRs.
	Commit string `json:"stated_commit,omitempty"`
	PCR8   string `json:"stated_pcr8,omitempty"`
	// Image says that a file was held against the manifest too.
	Image bool `json:"image"`
	// Differences are those that move no PCR.
	Differences []manifest.Difference `json:"differences"`
}

func (a *app) verifyImage(ctx context.Context, file, recipe string, images []string) error {
	if recipe == "" {
		return usage("as in: cloister image verify manifest.json --recipe image.yaml", "no recipe is named")
	}
	data, err := client.ReadBounded(file, manifest.MaxSize)
	if err != nil {
		return usage("name a manifest that cloister image publish wrote", "%s: %v", file, err)
	}
	stated, err := manifest.Parse(data)
	if err != nil {
		return usage("name a manifest that cloister image publish wrote", "%s: %v", file, err)
	}
	var held map[string]string
	for _, name := range images {
		if held, err = a.holdAgainst(ctx, name, stated); err != nil {
			return err
		}
	}
	found, err := a.rebuild(ctx, recipe, "")
	if err != nil {
		return err
	}
	differ := stated.Differences(found)
	if moved := stated.Registers(found.PCRs, false); len(moved) > 0 {
		a.sayDifferences(append(differ, moved...))
		hint := "the inputs that differ are named above; get those that the manifest means"
		if len(differ) == 0 {
			hint = "no input differs: the image was built by another version of cloister"
		}
		return unlike("the manifest's image is not what "+recipe+" gives", hint, append(differ, moved...))
	}
	r := verifyReport{PCRs: found.PCRs, Commit: stated.Commit, PCR8: stated.PCRs["8"], Image: held != nil, Differences: append([]manifest.Difference{}, differ...)}
	if held != nil { // its registers are the manifest's, and so those of what was built
		r.PCRs, r.PCR8 = held, ""
	}
	a.printVerifiedImage(r)
	return nil
}

// printVerifiedImage prints what was found first, and behind it what the manifest alone says.
func (a *app) printVerifiedImage(r verifyReport) {
	if a.json {
		printJSON(a.stdout, r)
		return
	}
	a.sayDifferences(r.Differences)
	say(a.stdout, "VERIFIED  building again gives the manifest's PCRs\n")
	if r.Image {
		say(a.stdout, "image     is the manifest's, byte for byte\n")
	}
	sayPCRs(a.stdout, r.PCRs)
	if r.Commit != "" {
		say(a.stdout, "commit    %s, as the manifest says, NOT VERIFIED\n", line(r.Commit))
	}
	if r.PCR8 != "" {
		say(a.stdout, "PCR8      %s, as the manifest says, NOT VERIFIED: name the image too\n", line(r.PCR8))
	}
}

// holdAgainst holds an image against a manifest, and gives the registers that both have.
func (a *app) holdAgainst(ctx context.Context, name string, stated *manifest.Manifest) (map[string]string, error) {
	image, pcrs, err := a.lookAt(ctx, name)
	if err != nil {
		return nil, err
	}
	differ := stated.Registers(pcrs, true)
	if *image != *stated.Image {
		differ = append(differ, manifest.Difference{What: "sha384", Stated: stated.Image.SHA384, Found: image.SHA384})
	}
	if len(differ) > 0 {
		a.sayDifferences(differ)
		return nil, unlike(name+" is not the manifest's image", "do not start it; get the image that the manifest means", differ)
	}
	return pcrs, nil
}

func (a *app) sayDifferences(all []manifest.Difference) {
	if a.json {
		return
	}
	for _, d := range all {
		say(a.stdout, "differs   %s\n  - %s\n  + %s\n", indented(d.What), indented(d.Stated), indented(d.Found))
	}
}
