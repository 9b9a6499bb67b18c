package build

import (
	"bytes"
	"context"
	"crypto/x509"
	"debug/elf"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/enclave/image"
	"github.com/cloister-run/cloister/enclave/image/kernel"
	"github.com/cloister-run/cloister/enclave/image/ramdisk"
	"github.com/cloister-run/cloister/enclave/image/rootfs"
)

const (
	// maxKernel is what a section of an image takes (package eif).
	maxKernel = 1 << 30
	// maxText bounds the profile and the certificates.
	maxText = 1 << 20
	// madeBy is the cure for a folder that is not what it should be.
	madeBy = "make build fills bin/enclave"
)

// openFile opens a regular file that the recipe names; nil where it cannot, which is reported.
func (p *Plan) openFile(at, name string, most int64) (*os.File, int64) {
	f, err := os.OpenFile(p.resolve(name), os.O_RDONLY|unix.O_NONBLOCK, 0) // a FIFO that nobody writes must not hold this up
	if err != nil {
		p.report(at, "", "%q: %v", name, errors.Unwrap(err))
		return nil, 0
	}
	info, err := f.Stat()
	switch {
	case err != nil || !info.Mode().IsRegular():
		p.report(at, "", "%q is no regular file", name)
	case info.Size() > most:
		p.report(at, "", "%q is over %d bytes", name, most)
	default:
		return f, info.Size()
	}
	_ = f.Close() // it was not even read
	return nil, 0
}

func (p *Plan) openKernel() {
	const at = "kernel.file"
	name := p.recipe.Kernel.File
	f, size := p.openFile(at, name, maxKernel)
	if f == nil {
		return
	}
	p.boots, p.kernelSize = f, size
	version, err := kernel.Check(f, size, p.arm())
	if err != nil {
		p.blame(at, name, err)
	}
	p.version = version
	p.openConfig()
}

// openConfig reads what the kernel was built with, or finds it in the kernel.
func (p *Plan) openConfig() {
	const at = "kernel.config"
	name := p.recipe.Kernel.Config
	if name == "" {
		p.config = kernel.Embedded(p.boots, p.kernelSize, p.arm())
		return
	}
	f, _ := p.openFile(at, name, maxKernel)
	if f == nil {
		return
	}
	defer f.Close()
	config, err := kernel.ParseConfig(f)
	if err != nil {
		p.blame(at, name, err)
	}
	p.config = config
}

// blame reports an error of a package that read what the recipe names.
func (p *Plan) blame(at, name string, err error) {
	switch hinted, ofKernel := errors.AsType[*kernel.Error](err); {
	case ofKernel:
		p.report(at, hinted.Hint, "%q: %s", name, hinted.Reason)
	default:
		message := err.Error()
		if wrong, ok := errors.AsType[*rootfs.Error](err); ok {
			message = wrong.Reason
		}
		if wrong, ok := errors.AsType[*fs.PathError](err); ok {
			message = fmt.Sprintf("%s: %v", wrong.Path, wrong.Err)
		}
		p.report(at, "", "%q: %s", name, message)
	}
}

// read reads a small file that the recipe names; nil where it cannot, which is reported.
func (p *Plan) read(at, name string) []byte {
	f, _ := p.openFile(at, name, maxText)
	if f == nil {
		return nil
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxText))
	if err != nil {
		p.blame(at, name, err)
		return nil
	}
	return data
}

// folder looks at a folder that the recipe names; nil where it cannot, which is reported.
func (p *Plan) folder(ctx context.Context, at, name string) *rootfs.Tree {
	t, err := rootfs.Folder(ctx, p.resolve(name))
	if err != nil {
		p.blame(at, name, err)
		return nil
	}
	p.trees = append(p.trees, t)
	return t
}

// openBoot lays out the first ramdisk, and gives what the enclave's folder has for the second: the executors, and
// what is for their /etc.
func (p *Plan) openBoot(ctx context.Context) (etc, executors []ramdisk.Entry) {
	r := p.recipe
	t := p.folder(ctx, "enclave", r.Enclave)
	if t == nil {
		return nil, nil
	}
	p.taken["enclave"] = t.Entries("")
	for _, e := range p.taken["enclave"] {
		switch top, _, below := strings.Cut(e.Name, "/"); {
		case top == image.Etc && below:
			etc = append(etc, e)
		case top == image.Executors:
			executors = append(executors, e)
		}
	}
	p.checkParts(p.taken["enclave"])
	put := func(at, name string, n *ramdisk.Node) {
		if err := t.Put(name, n); err != nil {
			p.blame(at, r.Enclave, err)
		}
	}
	if r.Profile != "" {
		put("profile", image.Profile, content(p.read("profile", r.Profile)))
	}
	if r.Roots != "" {
		put("roots", image.Roots, content(p.readRoots()))
	}
	for i, m := range p.readModules(ctx) {
		e := ramdisk.Entry{Name: fmt.Sprintf("%02d-%s.ko", i, m.Name), Node: content(m.Data)}
		p.taken["kernel.modules.from"] = append(p.taken["kernel.modules.from"], e)
		put("kernel.modules.load", image.Modules+"/"+e.Name, e.Node)
		p.modules = append(p.modules, m.Name)
	}
	p.checkBoot(t)
	for _, second := range []string{image.Etc, image.Executors} {
		if err := t.Remove(second); err != nil {
			p.blame("enclave", r.Enclave, err)
		}
	}
	p.first = layFirst(t, r.CommandLine)
	return etc, executors
}

// checkParts reports what is no part of an enclave's folder. The first ramdisk holds what is Cloister's alone.
func (p *Plan) checkParts(entries []ramdisk.Entry) {
	parts := map[string]ramdisk.Kind{
		image.Daemon: ramdisk.File, image.Walls: ramdisk.File, image.PolicyWorker: ramdisk.File, image.Profile: ramdisk.File,
		image.Roots: ramdisk.File, image.Executors: ramdisk.Folder, image.Etc: ramdisk.Folder,
	}
	for _, e := range entries {
		switch kind, known := parts[e.Name]; {
		case strings.Contains(e.Name, "/"):
		case !known:
			p.report("enclave", "take it out: executors and what they need go into "+image.Executors+"/, all else into the root",
				"%q holds %q, which is no part of an enclave", p.recipe.Enclave, e.Name)
		case e.Kind != kind:
			p.report("enclave", madeBy, "%q: %s is a %s, and not a %s", p.recipe.Enclave, e.Name, e.Kind, kind)
		}
	}
}

// readRoots reads certificates. What stands between them is left behind: the first ramdisk has no room for anything
// that nobody reads.
func (p *Plan) readRoots() []byte {
	const at = "roots"
	data := p.read(at, p.recipe.Roots)
	if data == nil {
		return nil
	}
	var roots []byte
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			p.report(at, "name certificates in PEM, and nothing else", "%q: %v", p.recipe.Roots, err)
			continue
		}
		roots = append(roots, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	if roots == nil {
		p.report(at, "name certificates in PEM", "%q holds no certificate", p.recipe.Roots)
	}
	return roots
}

func (p *Plan) readModules(ctx context.Context) []kernel.Module {
	m := p.recipe.Kernel.Modules
	if m == nil {
		return nil
	}
	root, err := rootfs.OpenRoot(p.resolve(m.From))
	if err != nil {
		p.blame("kernel.modules.from", m.From, err)
		return nil
	}
	defer root.Close()
	found, err := kernel.Modules(ctx, modules{root}, m.Load)
	switch {
	case err != nil:
		p.blame("kernel.modules.load", m.From, err)
	case len(found) > 100: // they are counted with two digits
		p.report("kernel.modules.load", "load fewer", "%d modules would be loaded; 100 can be", len(found))
	}
	return found
}

// modules is a folder of them, of which a FIFO does not hold this up.
type modules struct{ root *os.Root }

func (m modules) Open(name string) (fs.File, error) {
	f, err := m.root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	return f, nil
}

// checkBoot says what an enclave would not start without, or not start.
func (p *Plan) checkBoot(t *rootfs.Tree) {
	const at = "enclave"
	for _, name := range []string{image.Daemon, image.Walls, image.PolicyWorker} {
		n := t.Find(name)
		switch {
		case n == nil || n.Kind != ramdisk.File:
			p.report(at, madeBy, "%q holds no %s", p.recipe.Enclave, name)
		case n.Mode&0o100 == 0:
			p.report(at, "chmod +x", "%q: %s may not be executed", p.recipe.Enclave, name)
		default:
			if message := unfit(n, p.arm()); message != "" {
				p.report(at, "build it with CGO_ENABLED=0 and the GOARCH of the image, as make build does", "%q: %s %s", p.recipe.Enclave, name, message)
			}
		}
	}
	if n := t.Find(image.Executors); n == nil || n.Kind != ramdisk.Folder {
		p.report(at, madeBy, "%q holds no folder %s", p.recipe.Enclave, image.Executors)
	}
	switch n := t.Find(image.Profile); {
	case n == nil || n.Kind != ramdisk.File:
		p.report(at, "name one: profile: FILE", "%q holds no %s", p.recipe.Enclave, image.Profile)
	case n.Size > maxText || !json.Valid(readNode(n)):
		p.report(at, "docs/attestation.md says what is in one", "%s is not JSON", image.Profile)
	default:
		var profile struct {
			Listen string `json:"listen"`
		}
		if err := json.Unmarshal(readNode(n), &profile); err != nil || profile.Listen != "vsock" {
			p.report(at, "name deploy/aws/profile.json or deploy/vm/profile.json as profile",
				"%s does not say that the enclave listens on vsock: nobody would reach what boots", image.Profile)
		}
	}
}

// readNode is the content of a small file, or nothing.
func readNode(n *ramdisk.Node) []byte {
	f, err := n.Open()
	if err != nil {
		return nil
	}
	defer f.Close()
	data, _ := io.ReadAll(f) // a part of a profile is none
	return data
}

// unfit says why an executable would not run where there is nothing but it.
func unfit(n *ramdisk.Node, arm bool) string {
	f, err := n.Open()
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	at, ok := f.(io.ReaderAt)
	if !ok {
		return "cannot be read"
	}
	binary, err := elf.NewFile(at)
	if err != nil {
		return "is no executable of Linux"
	}
	want := elf.EM_X86_64
	if arm {
		want = elf.EM_AARCH64
	}
	if binary.Machine != want {
		return fmt.Sprintf("is for %s, and the image for %s", binary.Machine, want)
	}
	for _, program := range binary.Progs {
		if program.Type == elf.PT_INTERP {
			return "needs a dynamic loader, and there is none where it runs"
		}
	}
	return ""
}

// openRoot lays out the second ramdisk: executors, the root, and etc over its own. It returns what is nobody's fault here.
func (p *Plan) openRoot(ctx context.Context, etc, executors []ramdisk.Entry) error {
	at, name, t, err := p.source(ctx)
	if errors.Is(err, rootfs.ErrUnavailable) {
		return err
	}
	if err == nil {
		p.trees, p.taken[at] = append(p.trees, t), t.Entries("")
		for _, e := range etc {
			err = errors.Join(err, t.Put(e.Name, e.Node))
		}
	}
	if err != nil {
		p.blame(at, name, err)
		return nil
	}
	p.second = laySecond(t, executors)
	if name, found := shadowing(p.second); found {
		p.report(at, "", "%q: %q would take the place of something that boots", p.recipe.Enclave, name)
	}
	return nil
}

// source reads the root from where the recipe has it.
func (p *Plan) source(ctx context.Context) (at, name string, t *rootfs.Tree, err error) {
	arch := "amd64"
	if p.arm() {
		arch = "arm64"
	}
	r := p.recipe.Root
	var image *rootfs.Image
	switch {
	case r.Folder != "":
		at, name = "root.folder", r.Folder
		t, err = rootfs.Folder(ctx, p.resolve(name))
	case r.Tar != "":
		at, name = "root.tar", r.Tar
		t, err = rootfs.Tar(ctx, p.resolve(name))
	case r.OCI != "":
		at, name = "root.oci", r.OCI
		image, err = rootfs.OCI(ctx, p.resolve(name), arch)
	default:
		at, name = rootImage, r.Image
		image, err = rootfs.Pull(ctx, name, arch)
	}
	if image != nil {
		t = image.Tree
	}
	return at, name, t, err
}

func content(data []byte) *ramdisk.Node {
	return &ramdisk.Node{Kind: ramdisk.File, Mode: 0o644, Size: int64(len(data)), Open: func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(data)), nil
	}}
}
