// Package diff says in what two enclave images differ: which registers, which section, and which files of
// which ramdisk.
//
// It owns the comparison. Both images are untrusted: what it holds of one are the names of a
// ramdisk's files and a digest of each, whatever their size; package ramdisk bounds the number of names and their
// length, each and together. A ramdisk that it cannot read through is compared as a whole.
package diff

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"slices"

	"github.com/cloister-run/cloister/enclave/image/eif"
	"github.com/cloister-run/cloister/enclave/image/until"
)

// Most is how many changes of files are listed; more are counted.
const Most = 1000

// Report is what one image has otherwise than another.
type Report struct {
	// PCRs are the indices of those registers that differ, of 0, 1, 2 and 8.
	PCRs []int `json:"pcrs"`
	// Recut says that none of PCR0 to PCR2 differs, and that yet the images boot otherwise. These are over kernel,
	// command line and ramdisks one after the other, without the length of any: the same bytes can be cut into another
	// kernel, another command line and other ramdisks.
	Recut bool `json:"recut"`
	// Measured are the changes that move registers, if not Recut; Claims those of what is not measured.
	Measured []Change `json:"measured"`
	Claims   []Change `json:"claims"`
	// Files are changes of files; Others counts those that are not listed.
	Files  []FileChange `json:"files"`
	Others int          `json:"files_not_listed"`
}

// Same reports whether two images are alike, but for their signatures.
func (r *Report) Same() bool {
	return len(r.PCRs) == 0 && len(r.Measured) == 0 && len(r.Claims) == 0
}

// Change is what a part is in one image and in the other; empty where there is none.
type Change struct {
	What   string `json:"what"`
	Before string `json:"before"`
	After  string `json:"after"`
}

// Images finds in what images differ: one is what was, the other what is. It measures both. Errors are an
// [*eif.Error] of one of them, ctx's or the readers'.
func Images(ctx context.Context, before, after *eif.Image) (*Report, error) {
	c := &comparison{ctx: ctx, found: &Report{PCRs: []int{}, Measured: []Change{}, Claims: []Change{}, Files: []FileChange{}}}
	if err := c.registers(before, after); err != nil {
		return nil, err
	}
	claims := func(img *eif.Image) (architecture, memory, cpus string) {
		architecture = "x86_64"
		if img.ARM {
			architecture = "arm64"
		}
		return architecture, fmt.Sprint(img.Memory), fmt.Sprint(img.CPUs)
	}
	a1, m1, c1 := claims(before)
	a2, m2, c2 := claims(after)
	c.claim("architecture", a1, a2)
	c.claim("memory", m1, m2)
	c.claim("cpus", c1, c2)
	one, other := sections(before), sections(after)
	for _, kind := range []eif.Kind{eif.Kernel, eif.CommandLine, eif.Ramdisk, eif.Metadata} {
		for i := range max(len(one[kind]), len(other[kind])) {
			if err := c.section(kind, i, nth(before, one[kind], i), nth(after, other[kind], i)); err != nil {
				return nil, err
			}
		}
	}
	c.found.Recut = len(c.found.Measured) > 0 && !slices.ContainsFunc(c.found.PCRs, func(i int) bool { return i < 8 }) // 8 is a publisher's
	return c.found, nil
}

// comparison is one under way.
type comparison struct {
	ctx   context.Context
	found *Report
}

func (c *comparison) registers(before, after *eif.Image) error {
	var values [2]map[int]eif.PCR
	for i, img := range []*eif.Image{before, after} {
		pcrs, err := img.Measure(c.ctx)
		if err != nil {
			return err
		}
		values[i] = map[int]eif.PCR{0: pcrs.PCR0, 1: pcrs.PCR1, 2: pcrs.PCR2}
		signer, err := img.Signer(pcrs.PCR0)
		if err != nil {
			return err
		}
		if signer != nil {
			values[i][8] = signer.PCR8
		}
	}
	for _, i := range []int{0, 1, 2, 8} {
		if values[0][i] != values[1][i] {
			c.found.PCRs = append(c.found.PCRs, i)
		}
	}
	return nil
}

func (c *comparison) claim(what, before, after string) {
	if before != after {
		c.found.Claims = append(c.found.Claims, Change{what, before, after})
	}
}

func sections(img *eif.Image) map[eif.Kind][]eif.Section {
	all := map[eif.Kind][]eif.Section{}
	for _, s := range img.Sections {
		all[s.Kind] = append(all[s.Kind], s)
	}
	return all
}

// nth is the data of a section; nil where there are fewer.
func nth(img *eif.Image, sections []eif.Section, i int) *io.SectionReader {
	if i >= len(sections) {
		return nil
	}
	return img.Data(sections[i])
}

func (c *comparison) section(kind eif.Kind, i int, before, after *io.SectionReader) error {
	text := kind == eif.CommandLine || kind == eif.Metadata // bounded by the format
	one, err := c.describe(before, text)
	if err != nil {
		return err
	}
	other, err := c.describe(after, text)
	if err != nil || one == other {
		return err
	}
	what := kind.String()
	if kind == eif.Ramdisk {
		what = fmt.Sprintf("ramdisk %d", i)
	}
	if kind == eif.Metadata {
		c.claim(what, one, other)
		return nil
	}
	c.found.Measured = append(c.found.Measured, Change{what, one, other})
	if kind == eif.Ramdisk && before != nil && after != nil {
		return c.ramdisk(i, before, after)
	}
	return nil
}

// describe is what a section holds, as text or by size and digest.
func (c *comparison) describe(data *io.SectionReader, text bool) (string, error) {
	if data == nil {
		return "", nil
	}
	if text {
		var b bytes.Buffer
		_, err := io.Copy(&b, data)
		return b.String(), err
	}
	sum := sha256.New()
	if _, err := io.CopyBuffer(sum, until.Done(c.ctx, data), make([]byte, 1<<20)); err != nil {
		return "", err
	}
	_, err := data.Seek(0, io.SeekStart)
	return fmt.Sprintf("%d bytes, sha256:%s", data.Size(), hex.EncodeToString(sum.Sum(nil))), err
}
