package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/cloister-run/cloister/enclave/image/diff"
	"github.com/cloister-run/cloister/enclave/image/eif"
)

const aboutImageDiff = `Diff says in what two enclave images differ: which PCRs, which part moved them, and which files of a ramdisk.
Signatures are compared by PCR8 alone.

It ends with 0 if the images are the same, and with 1 if they differ.`

func (a *app) imageDiffCommand() *cobra.Command {
	return &cobra.Command{
		Use: "diff BEFORE.eif AFTER.eif", Short: "Say which PCRs of two images differ, and which files moved them", Long: aboutImageDiff,
		Example: "  cloister image diff published.eif mine.eif", Args: takes("cloister image diff BEFORE.eif AFTER.eif", 2),
		RunE: func(c *cobra.Command, args []string) error { return a.diffImages(c.Context(), args[0], args[1]) },
	}
}

// imageDiffReport is what `image diff --json` prints.
type imageDiffReport struct {
	Status status `json:"status"`
	*diff.Report
}

func (a *app) diffImages(ctx context.Context, before, after string) error {
	var images [2]*eif.Image
	for i, file := range []string{before, after} {
		f, size, err := openImage(file)
		if err != nil {
			return err
		}
		defer f.Close()
		if images[i], err = eif.Read(f, size); err != nil {
			return damagedImage(file, err)
		}
	}
	show := a.newProgress()
	defer show.stop()
	show.doing("comparing the images")
	d, err := diff.Images(ctx, images[0], images[1])
	if err != nil {
		return damagedImage(before+" or "+after, err)
	}
	show.stop()
	r := imageDiffReport{Report: d}
	if !d.Same() {
		r.Status = statusFailed
	}
	if !a.json {
		a.printImageDiff(d)
	}
	if !d.Same() {
		return &failure{status: statusFailed, message: "the images differ", report: r}
	}
	if a.json {
		printJSON(a.stdout, r)
	}
	return nil
}

func (a *app) printImageDiff(d *diff.Report) {
	w := a.stdout
	if d.Recut {
		say(w, "RECUT     PCR0 to PCR2 are the same, AND YET IT BOOTS OTHERWISE: the same bytes are cut into other sections\n")
	}
	for _, i := range d.PCRs {
		say(w, "PCR%d      differs\n", i)
	}
	changes := func(note string, all []diff.Change) {
		for _, c := range all {
			say(w, "%s%s\n", indented(c.What), note)
			if c.Before != "" {
				say(w, "  - %s\n", indented(c.Before))
			}
			if c.After != "" {
				say(w, "  + %s\n", indented(c.After))
			}
		}
	}
	changes("", d.Measured)
	for _, f := range d.Files {
		say(w, "ramdisk %d, %s: %s\n", f.Ramdisk, f.Change, indented(f.Path))
		if f.Before != "" {
			say(w, "  - %s\n", indented(f.Before))
		}
		if f.After != "" {
			say(w, "  + %s\n", indented(f.After))
		}
	}
	if d.Others > 0 {
		say(w, "and %d more files\n", d.Others)
	}
	changes(", NOT ATTESTED", d.Claims)
	if d.Same() {
		say(w, "the same\n")
	}
}
