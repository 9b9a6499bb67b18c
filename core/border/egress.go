package border

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/cloister-run/cloister/core/tree"
	"github.com/cloister-run/cloister/policies/abi"
)

// maxEntries bounds the files and folders of all outputs of a job.
const maxEntries = 100_000

// NotesBytes is what is noted of as many files and folders, while they are judged and until they have left: 256 bytes of
// path each on average and 128 KiB for each of 32 outputs ([tree.Limits]), and 264 bytes of sums.
const NotesBytes = 56 << 20

// ErrOutput is the cause of an [OutputError].
var ErrOutput = errors.New("output refused")

// OutputError says that an artifact is missing or is not what may be an output.
//
// Names, kinds and the number of what is wrong are the application's to choose, and no policy
// judged them. So if the job has an owner's policy, Channel is empty and Err is nil, unless everybody
// allowed the artifact and there is no room to seal it.
type OutputError struct {
	Channel abi.Channel
	Err     error
}

func (e *OutputError) Error() string {
	if e.Err == nil {
		return "an output is missing, or is not what may be an output"
	}
	return fmt.Sprintf("%s: %v", e.Channel, e.Err)
}

// Unwrap makes every OutputError an ErrOutput beside its own cause.
func (e *OutputError) Unwrap() []error {
	if e.Err == nil {
		return []error{ErrOutput}
	}
	return []error{ErrOutput, e.Err}
}

// Candidate is where the artifact of a channel would be. Nothing may be able to write there
// any more.
type Candidate struct {
	Channel abi.Channel
	// Dir and Name find the file or folder; Name is relative to Dir.
	Dir  *os.Root
	Name string
	// Tree says that a folder is declared, not a file.
	Tree bool
}

// Asset is where an asset of the job is, for the policies of its owner.
type Asset struct {
	// Name is the asset's in the request, Owner its owner; empty for the operator's own.
	Name, Owner string
	// Dir is the folder that holds it.
	Dir *os.Root
	// File names the one file in Dir that it is; empty if the asset is the folder.
	File string
}

// Leaving is what an application left, and what policies need to judge it.
type Leaving struct {
	Candidates []Candidate
	// MaxBytes bounds each artifact.
	MaxBytes int64
	// Assets are the job's.
	Assets []Asset
	// Scratch is an empty folder for replacements, Sealed one for what is sealed; nil where nothing
	// is. Nobody else writes there.
	Scratch, Sealed *os.Root
}

// Clearance is what every policy allowed to leave. It is the only way to an artifact's bytes.
// Release is safe for concurrent use; Close comes after the last Release has returned.
type Clearance struct{ frozen []frozen } // sorted by channel

// frozen is one artifact and what was found when it was frozen.
type frozen struct {
	abi.Artifact
	source *tree.Source
	// place is its full name.
	place string
	// drop gives back the room of a replacement, for another one; nil for an application's output.
	drop func() error
}

// carries is what counts against a cap: content, and in a folder the names too, before it is sealed.
func (f frozen) carries() int64 { return f.Bytes + f.source.Names() }

// write writes the artifact as it leaves: a file's bytes, or a folder as a tar stream.
func (f frozen) write(ctx context.Context, w io.Writer) error {
	write := f.source.Pack
	if f.Kind == "file" {
		write = f.source.Raw
	}
	_, err := write(ctx, w)
	return err
}

// Egress freezes the candidates of consented channels, lets the policies that redact replace
// what they declared, asks every policy about all that is left in one request each, and clears
// it if all allow. What the job seals is encrypted then, and nothing else of it leaves. Without
// anything to judge nobody is asked, and an empty Clearance is the result.
//
// It fails with an [OutputError], with a [Denial], with ctx's error, or with the machine's where it
// cannot seal; nothing is cleared then. What the policies read is what was frozen because nothing can write there any more:
// the sandbox is dead, and the files are the enclave's alone.
func (b *Border) Egress(ctx context.Context, request abi.Request, leaving Leaving) (_ *Clearance, err error) {
	if err := b.enter(abi.Egress); err != nil {
		return nil, err
	}
	c := &Clearance{}
	defer func() {
		if err != nil {
			_ = c.Close()
		}
	}()
	for _, candidate := range leaving.Candidates {
		if _, ok := b.consent[candidate.Channel]; !ok {
			continue
		}
		if err := c.freeze(ctx, candidate, b.sealTo[candidate.Channel], leaving.MaxBytes); err != nil {
			return nil, b.refuse(ctx, candidate.Channel, err)
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if len(c.frozen) == 0 {
		return c, nil
	}
	slices.SortFunc(c.frozen, func(a, b frozen) int { return cmp.Compare(a.Channel, b.Channel) })
	request.Channels = b.Consented()
	if err := b.redact(ctx, request, c, leaving); err != nil {
		return nil, err
	}
	for _, f := range c.frozen {
		if limit := b.consent[f.Channel]; limit >= 0 && f.carries() > limit {
			return nil, b.deny(Denial{Point: abi.Egress})
		}
	}
	request.Point, request.Artifacts = abi.Egress, c.Artifacts()
	if _, err := b.ask(ctx, request, c.shows(leaving)); err != nil {
		return nil, err
	}
	if err := c.seal(ctx, leaving); err != nil {
		return nil, err
	}
	return c, nil
}

// refuse says why an artifact is refused, as far as the operator may know.
func (b *Border) refuse(ctx context.Context, ch abi.Channel, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if slices.ContainsFunc(b.parties, func(p Party) bool { return !p.own() }) {
		return &OutputError{}
	}
	return &OutputError{Channel: ch, Err: err}
}

func (c *Clearance) freeze(ctx context.Context, from Candidate, recipients []string, maxBytes int64) error {
	if c.find(from.Channel) != nil {
		return errors.New("the channel has two candidates")
	}
	f, err := freeze(ctx, from, tree.Limits{Bytes: maxBytes, Entries: c.left(nil)})
	if err == nil {
		f.Recipients = recipients
		c.frozen = append(c.frozen, f)
	}
	return err
}

// left is how many files and folders there may be beside those that were frozen, but for one artifact.
func (c *Clearance) left(but *frozen) int {
	left := maxEntries
	for i := range c.frozen {
		if f := &c.frozen[i]; f != but {
			left -= f.source.Entries()
		}
	}
	return left
}

func freeze(ctx context.Context, from Candidate, limits tree.Limits) (_ frozen, err error) {
	source, err := tree.Freeze(from.Dir, from.Name, limits)
	if err != nil {
		return frozen{}, err
	}
	defer func() {
		if err != nil {
			_ = source.Close()
		}
	}()
	if _, isFile := source.IsFile(); isFile == from.Tree {
		return frozen{}, fmt.Errorf("%w: a file where a folder is declared, or the other way round", tree.ErrRefused)
	}
	sum, err := source.Digest(ctx)
	if err != nil {
		return frozen{}, err
	}
	artifact := abi.Artifact{Channel: from.Channel, Kind: "tree", Digest: sum.Digest, Bytes: sum.Bytes, Files: sum.Files}
	if !from.Tree {
		artifact.Kind, artifact.Digest = "file", source.FileSum()
	}
	return frozen{Artifact: artifact, source: source, place: filepath.Join(from.Dir.Name(), filepath.FromSlash(from.Name))}, nil
}

// shows gives what a party finds around it when it judges: the artifacts, and its owner's assets.
func (c *Clearance) shows(leaving Leaving) func(Party) abi.Files {
	artifacts := view{}
	for _, f := range c.frozen {
		only, _ := f.source.IsFile()
		artifacts = append(artifacts, entry{string(f.Channel), f.source.FS(), only})
	}
	return func(p Party) abi.Files {
		own := view{}
		for _, a := range leaving.Assets {
			if a.Owner == p.Ref.Owner {
				own = append(own, entry{a.Name, a.Dir.FS(), a.File})
			}
		}
		return abi.Files{Artifacts: artifacts, Own: own}
	}
}

func (c *Clearance) find(ch abi.Channel) *frozen {
	i := slices.IndexFunc(c.frozen, func(f frozen) bool { return f.Channel == ch })
	if i < 0 {
		return nil
	}
	return &c.frozen[i]
}

// Artifacts says what was cleared, sorted by channel.
func (c *Clearance) Artifacts() []abi.Artifact {
	artifacts := make([]abi.Artifact, len(c.frozen))
	for i, f := range c.frozen {
		artifacts[i] = f.Artifact
	}
	return artifacts
}

// Places are the full names of the files and folders that were cleared. Of what else an application or a policy
// wrote nothing is needed any more.
func (c *Clearance) Places() []string {
	places := make([]string, len(c.frozen))
	for i, f := range c.frozen {
		places[i] = f.place
	}
	return places
}

// ErrNotCleared says that a channel has nothing that may leave.
var ErrNotCleared = errors.New("nothing was cleared for this channel")

// Release writes the artifact of a channel: a file's bytes, or a folder as a tar stream.
//
// Every chunk is held against what was frozen before it is written (see [tree.Source.Pack]),
// so no byte leaves that was not judged. If a file changed all the same, w got a proper prefix
// of what was judged and Release fails; the caller must break the stream off.
func (c *Clearance) Release(ctx context.Context, ch abi.Channel, w io.Writer) error {
	f := c.find(ch)
	if f == nil {
		return fmt.Errorf("%s: %w", ch, ErrNotCleared)
	}
	if err := f.write(ctx, w); err != nil {
		return fmt.Errorf("%s: %w", ch, err)
	}
	return nil
}

// Close lets go of the artifacts. Nothing can be released afterwards.
func (c *Clearance) Close() error {
	var errs []error
	for _, f := range c.frozen {
		errs = append(errs, f.source.Close())
	}
	c.frozen = nil
	return errors.Join(errs...)
}
