package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/cloister-run/cloister/enclave/image/eif"
	"github.com/cloister-run/cloister/enclave/image/kernel"
	"github.com/cloister-run/cloister/enclave/image/ramdisk"
	"github.com/cloister-run/cloister/enclave/image/until"
)

// maxUnpacked bounds a ramdisk that is looked through, in bytes.
const maxUnpacked = 64 << 30

// imageWarnings say of an image what its PCRs hide from whoever takes each for what it stands for.
func imageWarnings(ctx context.Context, img *eif.Image) ([]string, error) {
	warnings := []string{}
	ramdisks := 0
	for _, s := range img.Sections {
		var found []string
		var err error
		switch s.Kind {
		case eif.Kernel:
			found, err = warnOfKernel(img.Data(s))
		case eif.Ramdisk:
			if ramdisks++; ramdisks > 1 {
				found, err = warnOfRamdisk(ctx, ramdisks-1, img.Data(s))
			}
		case eif.CommandLine, eif.Signature, eif.Metadata:
		}
		if err != nil {
			return nil, err
		}
		warnings = append(warnings, found...)
	}
	if ramdisks > 2 {
		warnings = append(warnings, fmt.Sprintf("it has %d ramdisks, and an image of cloister has 2: what a later one holds takes the place of what is in those before it", ramdisks))
	}
	return warnings, nil
}

// warnOfKernel finds a kernel that was made longer or shorter: no PCR tells where it ends and the command line begins.
func warnOfKernel(section *io.SectionReader) ([]string, error) {
	extent, err := kernel.Extent(section)
	if err != nil || extent == 0 || extent == section.Size() {
		return nil, err
	}
	return []string{fmt.Sprintf("the kernel has %d bytes by its own header, and %d here: what is the kernel's and what the command line's may have been shifted, which moves no PCR",
		extent, section.Size())}, nil
}

// warnOfRamdisk finds what a ramdisk behind the first puts in the place of what boots, for which PCR1 stands.
func warnOfRamdisk(ctx context.Context, i int, section io.Reader) ([]string, error) {
	r := ramdisk.NewReader(until.Done(ctx, section), maxUnpacked)
	var names ramdisk.Names
	var strays, odds group
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if wrong, ok := errors.AsType[*ramdisk.Error](err); ok {
			return []string{fmt.Sprintf("ramdisk %d cannot be looked through (%s): whether it takes the place of what boots is not known", i, wrong.Reason)}, nil
		}
		if err != nil {
			return nil, err
		}
		switch name, odd := names.Add(h); {
		case odd != "":
			odds.add(odd)
		case !ofExecutors(name, h.Kind):
			strays.add(fmt.Sprintf("%q", name))
		}
	}
	var warnings []string
	if strays.count > 0 {
		warnings = append(warnings, fmt.Sprintf("ramdisk %d holds %s, which is not below rootfs or cloister/executors: it takes the place of what the first ramdisk has, and PCR1 stays", i, strays))
	}
	if odds.count > 0 {
		warnings = append(warnings, fmt.Sprintf("ramdisk %d holds what the kernel does not unpack as it reads, and that may take the place of what boots: %s", i, odds))
	}
	return warnings, nil
}

// ofExecutors reports whether a name is of what executors see, or of themselves: all that a ramdisk behind the
// first has to bring. Folders on the way to that are.
func ofExecutors(name string, kind ramdisk.Kind) bool {
	for _, top := range []string{"rootfs", "cloister/executors"} {
		if name == top || strings.HasPrefix(name, top+"/") {
			return true
		}
	}
	return kind == ramdisk.Folder && (name == "." || name == "cloister")
}

// group is some of which the first is named and the others are counted.
type group struct {
	first string
	count int
}

func (g *group) add(what string) {
	if g.count++; g.count == 1 {
		g.first = what
	}
}

func (g group) String() string {
	if g.count > 1 {
		return fmt.Sprintf("%s and %d more", g.first, g.count-1)
	}
	return g.first
}
