// Package manifest is what a publisher says about an enclave image: of which inputs it was built, and which
// registers that gives. Whoever has the inputs builds it again and compares.
//
// It owns the document and the comparison. A manifest is untrusted and proves nothing: what counts is that
// building again gives the same registers.
package manifest

import (
	"bytes"
	"context"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/cloister-run/cloister/core/tree"
	"github.com/cloister-run/cloister/enclave/attest"
	"github.com/cloister-run/cloister/enclave/image"
	"github.com/cloister-run/cloister/enclave/image/build"
	"github.com/cloister-run/cloister/enclave/image/eif"
	"github.com/cloister-run/cloister/enclave/image/until"
	"github.com/cloister-run/cloister/jobspec"
)

// Version is the version of the document.
const Version = 1

// MaxSize bounds a manifest in bytes.
const MaxSize = 1 << 20

// digits are those of hexadecimal, as everything is written here.
const digits = "0123456789abcdef"

// Manifest says what an image was built of.
type Manifest struct {
	Version int `json:"version"`
	// Commit is that of the sources, as the publisher says ([IsCommit]); it may be empty. Tool built the image.
	Commit string `json:"commit,omitempty"`
	Tool   string `json:"tool"`
	// Recipe is in its one spelling.
	Recipe *jobspec.Recipe `json:"recipe"`
	Inputs []Input         `json:"inputs"`
	// PCRs are by their index: 0, 1, 2, and 8 if the image is signed.
	PCRs map[string]string `json:"pcrs"`
	// Image is the file; nil until one was looked at.
	Image *File `json:"image,omitempty"`
}

// Input is something that the recipe names, by its place there: see [build.Input.Digest].
type Input struct {
	At     string `json:"at"`
	Name   string `json:"name"`
	Bytes  int64  `json:"bytes"`
	Digest string `json:"digest"`
}

// File is an image's.
type File struct {
	Bytes int64 `json:"bytes"`
	// SHA384 is of all its bytes, in hexadecimal.
	SHA384 string `json:"sha384"`
}

// Difference is what one manifest says otherwise than another.
type Difference struct {
	What   string `json:"what"`
	Stated string `json:"stated"`
	Found  string `json:"found"`
}

// ErrInvalid is the cause of every error of [Parse].
var ErrInvalid = errors.New("no manifest of an image")

// Parse reads a manifest. It has a version, PCR0 to PCR2 and the digest of an image.
func Parse(data []byte) (*Manifest, error) {
	if len(data) > MaxSize {
		return nil, fmt.Errorf("%w: it is over %d bytes", ErrInvalid, MaxSize)
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	m := &Manifest{}
	if err := decoder.Decode(m); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: something follows it", ErrInvalid)
	}
	if m.Version != Version {
		return nil, fmt.Errorf("%w: version %d is not known; %d is", ErrInvalid, m.Version, Version)
	}
	switch {
	case m.Recipe == nil || m.Image == nil:
		return nil, fmt.Errorf("%w: it lacks the recipe or the image", ErrInvalid)
	case m.Commit != "" && !IsCommit(m.Commit):
		return nil, fmt.Errorf("%w: commit: %.80q is none", ErrInvalid, m.Commit)
	case m.Image.Bytes < 0:
		return nil, fmt.Errorf("%w: image.bytes: a file of %d bytes", ErrInvalid, m.Image.Bytes)
	case !hexOf(m.Image.SHA384, sha512.Size384):
		return nil, fmt.Errorf("%w: image.sha384: %.120q is no SHA-384 in hexadecimal", ErrInvalid, m.Image.SHA384)
	}
	set, err := attest.ParsePCRSet(m.PCRs)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	for i := range 3 {
		if _, ok := set[i]; !ok {
			return nil, fmt.Errorf("%w: it lacks PCR%d", ErrInvalid, i)
		}
	}
	return m, nil
}

// IsCommit reports whether text names a commit as git rev-parse does, whole or shortened: 7 to 64 hexadecimal digits.
func IsCommit(text string) bool {
	return len(text) >= 7 && len(text) <= 64 && strings.Trim(text, digits) == ""
}

// hexOf reports whether text is so many bytes in lower-case hexadecimal, as [Look] writes them.
func hexOf(text string, bytes int) bool {
	return len(text) == 2*bytes && strings.Trim(text, digits) == ""
}

// Make builds what a plan says, keeps nothing of it, and says what it was built of.
func Make(ctx context.Context, plan *build.Plan, commit string) (*Manifest, error) {
	m := &Manifest{Version: Version, Commit: commit, Tool: "cloister " + image.Version, Recipe: plan.Recipe(), Inputs: []Input{}}
	pcrs, err := plan.Write(ctx, &discard{}, nil)
	if err != nil {
		return nil, err
	}
	m.PCRs = named(pcrs)
	for _, in := range plan.Inputs() {
		sum, size, err := in.Digest(ctx)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", in.At, err)
		}
		m.Inputs = append(m.Inputs, Input{At: in.At, Name: in.Name, Bytes: size, Digest: tree.Hex(sum)})
	}
	return m, nil
}

// Look measures an image, and hashes its file of size bytes. Errors are an [*eif.Error], ctx's or the reader's.
func Look(ctx context.Context, r io.ReaderAt, size int64) (*File, map[string]string, error) {
	img, err := eif.Read(r, size)
	if err != nil {
		return nil, nil, err
	}
	pcrs, err := img.Measure(ctx)
	if err != nil {
		return nil, nil, err
	}
	all := named(pcrs)
	signer, err := img.Signer(pcrs.PCR0)
	if err != nil {
		return nil, nil, err
	}
	if signer != nil {
		all["8"] = signer.PCR8.String()
	}
	sum := sha512.New384()
	if _, err := io.Copy(sum, until.Done(ctx, io.NewSectionReader(r, 0, size))); err != nil {
		return nil, nil, err
	}
	return &File{Bytes: size, SHA384: hex.EncodeToString(sum.Sum(nil))}, all, nil
}

func named(pcrs eif.PCRs) map[string]string {
	return map[string]string{"0": pcrs.PCR0.String(), "1": pcrs.PCR1.String(), "2": pcrs.PCR2.String()}
}

// Registers are those of some that differ from what the manifest says. An index that only one of the two has
// differs, but for PCR8 where signed is not asked for.
func (m *Manifest) Registers(found map[string]string, signed bool) []Difference {
	var all []Difference
	keys := maps.Clone(m.PCRs)
	maps.Copy(keys, found)
	for _, i := range slices.Sorted(maps.Keys(keys)) {
		if m.PCRs[i] != found[i] && (i != "8" || signed) {
			all = append(all, Difference{"PCR" + i, m.PCRs[i], found[i]})
		}
	}
	return all
}

// Differences are those parts of the recipe and those inputs, by their place in it, that another manifest has
// otherwise. Where something is does not count.
func (m *Manifest) Differences(found *Manifest) []Difference {
	var all []Difference
	differ := func(what, stated, now string) {
		if stated != now {
			all = append(all, Difference{what, stated, now})
		}
	}
	differ("tool", m.Tool, found.Tool)
	a, b := m.Recipe, found.Recipe
	differ("architecture", string(a.Architecture), string(b.Architecture))
	differ("command_line", a.CommandLine, b.CommandLine)
	differ("kernel.modules.load", loads(a), loads(b))
	differ("compress", string(a.Compress), string(b.Compress))
	stated, now := map[string]string{}, map[string]string{}
	for _, in := range m.Inputs {
		stated[in.At] = in.Digest
	}
	for _, in := range found.Inputs {
		now[in.At] = in.Digest
	}
	keys := maps.Clone(stated)
	maps.Copy(keys, now)
	for _, at := range slices.Sorted(maps.Keys(keys)) {
		differ(at, stated[at], now[at])
	}
	return all
}

func loads(r *jobspec.Recipe) string {
	if r.Kernel.Modules == nil {
		return ""
	}
	return strings.Join(r.Kernel.Modules.Load, " ")
}

// discard takes what is written and keeps nothing.
type discard struct{ at, end int64 }

func (d *discard) Write(p []byte) (int, error) {
	d.at += int64(len(p))
	d.end = max(d.end, d.at)
	return len(p), nil
}

func (d *discard) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += d.at
	case io.SeekEnd:
		offset += d.end
	}
	d.at = offset
	return offset, nil
}
