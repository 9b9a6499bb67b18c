// Package build makes an enclave image of what a recipe names.
//
// It owns what is where in an image's ramdisks, beside package image, which owns the paths. The first ramdisk
// is what boots: the daemon as init, its walls, modules and profile; the second is executors and their root file
// system. What is written depends on the recipe and on the content of what it names alone: not on
// where that is, when it was made, by whom, nor on the machine. It never runs what it packs.
package build

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/klauspost/compress/gzip"
	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/enclave/image"
	"github.com/cloister-run/cloister/enclave/image/eif"
	"github.com/cloister-run/cloister/enclave/image/kernel"
	"github.com/cloister-run/cloister/enclave/image/ramdisk"
	"github.com/cloister-run/cloister/enclave/image/rootfs"
	"github.com/cloister-run/cloister/enclave/image/until"
	"github.com/cloister-run/cloister/jobspec"
)

// rootImage is the place of what is in a registry.
const rootImage = "root.image"

// Plan is a recipe with all that it names opened and looked at: an image that can be written. It is used by
// one goroutine.
type Plan struct {
	recipe *jobspec.Recipe
	dir    string
	// boots is the kernel, of kernelSize bytes, which says that it is of version.
	boots      *os.File
	kernelSize int64
	version    string
	// first and second are the ramdisks.
	first, second []ramdisk.Entry

	// config is what the kernel was built with; nil if that is not known.
	config  kernel.Config
	modules []string

	trees []*rootfs.Tree
	// taken is what was taken of a folder, a tar or an image, by its place in the recipe.
	taken  map[string][]ramdisk.Entry
	faults jobspec.Problems
}

// Open looks at everything that a recipe names, in the folder dir. The error is a [*jobspec.Problems] with
// everything that is wrong, [rootfs.ErrUnavailable] where a registry is, or ctx's. The caller closes the Plan.
func Open(ctx context.Context, r *jobspec.Recipe, dir string) (_ *Plan, err error) {
	p := &Plan{recipe: r, dir: dir, taken: map[string][]ramdisk.Entry{}}
	defer func() {
		if err != nil {
			_ = p.Close() // everything was only read
		}
	}()
	p.openKernel()
	etc, executors := p.openBoot(ctx)
	unavailable := p.openRoot(ctx, etc, executors)
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	if len(p.faults) > 0 {
		return nil, &p.faults
	}
	return p, unavailable
}

// Close gives back what was opened.
func (p *Plan) Close() error {
	var err error
	if p.boots != nil {
		err = p.boots.Close()
	}
	for _, t := range p.trees {
		err = errors.Join(err, t.Close())
	}
	return err
}

// KernelVersion is what the kernel says that it is; it may be empty.
func (p *Plan) KernelVersion() string { return p.version }

// Warnings say what will keep the image from running on EC2, and what is old at the time now. They are no
// reason not to build it: it may be for another hypervisor, and what is said of a kernel may be wrong.
func (p *Plan) Warnings(now time.Time) []string {
	var all []string
	if ended := kernel.Ended(p.version, now); ended != "" {
		all = append(all, ended)
	}
	if p.config == nil {
		return append(all, "what the kernel was built with is not known, so nobody has looked whether it runs on EC2: name its configuration as kernel.config")
	}
	return append(all, p.config.Lacks(kernel.Use{ARM: p.arm(), Gzip: p.recipe.Compress == jobspec.Gzip, Modules: p.modules})...)
}

// Write writes the image, and measures it meanwhile. sign, if not nil, vouches for it ([eif.Sign]). Memory
// does not depend on how much content there is. An error leaves a part of an image.
func (p *Plan) Write(ctx context.Context, to io.WriteSeeker, sign func(eif.PCR) ([]byte, error)) (eif.PCRs, error) {
	metadata, err := p.metadata()
	if err != nil {
		return eif.PCRs{}, err
	}
	spec := eif.Spec{ARM: p.arm(), Memory: uint64(p.recipe.Memory), CPUs: uint64(p.recipe.CPUs), Sign: sign}
	return eif.Write(ctx, to, spec, []eif.Part{
		{Kind: eif.Kernel, Write: p.writeKernel},
		eif.Bytes(eif.CommandLine, []byte(p.recipe.CommandLine)),
		eif.Bytes(eif.Metadata, metadata), // where AWS's tools have it
		p.ramdisk(func(w io.Writer) error { return ramdisk.WriteInOrder(ctx, w, p.first) }),
		p.ramdisk(func(w io.Writer) error { return ramdisk.Write(ctx, w, p.second) }),
	})
}

func (p *Plan) arm() bool { return p.recipe.Architecture == jobspec.ARM64 }

func (p *Plan) writeKernel(w io.Writer) error {
	n, err := io.CopyBuffer(struct{ io.Writer }{w}, io.NewSectionReader(p.boots, 0, p.kernelSize), make([]byte, 1<<20))
	if err == nil && n != p.kernelSize {
		err = ramdisk.ErrChanged
	}
	return err
}

// ramdisk is a section with an archive. What is compressed carries no name and no time, and is the work of a library that
// go.mod pins: that of Go may compress otherwise in its next version.
func (p *Plan) ramdisk(archive func(io.Writer) error) eif.Part {
	return eif.Part{Kind: eif.Ramdisk, Write: func(w io.Writer) error {
		if p.recipe.Compress != jobspec.Gzip {
			return archive(w)
		}
		z := gzip.NewWriter(w)
		return errors.Join(archive(z), z.Close())
	}}
}

// metadata is in the shape that nitro-cli reads (aws-nitro-enclaves-image-format, defs, EifIdentityInfo). Times
// have no place in an image that can be built again.
func (p *Plan) metadata() ([]byte, error) {
	type built struct {
		BuildTime, BuildTool, BuildToolVersion, OperatingSystem, KernelVersion string
	}
	return json.Marshal(struct {
		ImageName, ImageVersion    string
		BuildMetadata              built
		DockerInfo, CustomMetadata struct{}
	}{
		ImageName: p.recipe.Metadata.Name, ImageVersion: p.recipe.Metadata.Version,
		BuildMetadata: built{"1970-01-01T00:00:00Z", "cloister", image.Version, "Linux", p.version},
	})
}

// Input is something that a recipe names.
type Input struct {
	// At is its place in the recipe, Name what stands there, Path the same for this process; what is in a
	// registry has none.
	At, Name, Path string

	// entries are what was taken of a folder, a tar or an image; nil for a file.
	entries []ramdisk.Entry
}

// Digest is the SHA-256 and the size of a file; of everything else they are those of an archive with all that
// was taken of it, as package ramdisk writes one.
func (in Input) Digest(ctx context.Context) (sum []byte, bytes int64, err error) {
	h := &counted{Hash: sha256.New()}
	if in.entries != nil {
		err = ramdisk.Write(ctx, h, in.entries)
		return h.Sum(nil), h.n, err
	}
	f, err := os.OpenFile(in.Path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, 0, fmt.Errorf("%s: %w: it is no regular file", in.Path, ramdisk.ErrChanged)
	}
	_, err = io.Copy(h, until.Done(ctx, f)) // its size was bounded when it was opened
	return h.Sum(nil), h.n, err
}

type counted struct {
	hash.Hash
	n int64
}

func (c *counted) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return c.Hash.Write(p)
}

// Recipe is what is built.
func (p *Plan) Recipe() *jobspec.Recipe { return p.recipe }

// Inputs are all that the recipe names, in the order of the recipe.
func (p *Plan) Inputs() []Input {
	r := p.recipe
	named := [][2]string{{"kernel.file", r.Kernel.File}, {"kernel.config", r.Kernel.Config}}
	if r.Kernel.Modules != nil {
		named = append(named, [2]string{"kernel.modules.from", r.Kernel.Modules.From})
	}
	named = append(named, [][2]string{
		{"enclave", r.Enclave}, {"profile", r.Profile}, {"roots", r.Roots},
		{"root.folder", r.Root.Folder}, {"root.tar", r.Root.Tar}, {"root.oci", r.Root.OCI}, {rootImage, r.Root.Image},
	}...)
	var inputs []Input
	for _, n := range named {
		if n[1] == "" {
			continue
		}
		in := Input{At: n[0], Name: n[1], entries: p.taken[n[0]]}
		if in.At != rootImage {
			in.Path = p.resolve(in.Name)
		}
		inputs = append(inputs, in)
	}
	return inputs
}

// resolve makes a path of the recipe one of this process.
func (p *Plan) resolve(path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(p.dir, path)
}

// report notes what is wrong with what stands at a path of the recipe.
func (p *Plan) report(at, hint, format string, args ...any) {
	p.faults = append(p.faults, p.recipe.Fault(at, fmt.Sprintf(format, args...), hint))
}
