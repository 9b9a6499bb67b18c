package client

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/core"
	"github.com/cloister-run/cloister/core/tree"
	"github.com/cloister-run/cloister/enclave/wire"
	"github.com/cloister-run/cloister/jobspec"
	"github.com/cloister-run/cloister/policies/abi"
)

// maxEntries bounds the files and folders of one source, as the enclave does.
const maxEntries = 1_000_000

// Options say where a job's files are.
type Options struct {
	// Dir is the folder of the job file, that relative paths start from. Required.
	Dir string
	// Library is the folder of the ready-made policies, NAME.wasm each. Required if the job
	// uses one.
	Library string
}

// Package is a job with everything that it refers to, looked at and ready to be sent. It is
// not safe for concurrent use.
type Package struct {
	job       *jobspec.Job
	canonical *jobspec.Canonical
	dir       string
	sources   map[string]*tree.Source // by asset
	claims    []core.Claim
	modules   map[string][]byte // by digest
}

// Prepare looks at everything that a job reads and at every place where it is to write. The
// error is a [jobspec.Problems] with everything that is wrong. The caller closes the Package.
func Prepare(job *jobspec.Job, o Options) (_ *Package, err error) {
	p := &Package{job: job, dir: o.Dir, sources: map[string]*tree.Source{}, modules: map[string][]byte{}}
	defer func() {
		if err != nil {
			p.Close()
		}
	}()
	var found jobspec.Problems
	report := func(at, message, hint string) { found = append(found, job.Fault(at, message, hint)) }
	p.openSources(report)
	digests := p.readModules(o.Library, report)
	for _, d := range p.destinations() {
		if message, hint := d.check(); message != "" {
			report(d.at, message, hint)
		}
	}
	if len(found) > 0 {
		slices.SortStableFunc(found, func(a, b jobspec.Problem) int { return a.Line - b.Line })
		return nil, &found
	}
	if p.canonical, err = job.Canonical(digests); err != nil {
		return nil, err
	}
	return p, nil
}

// Close lets go of the sources.
func (p *Package) Close() {
	for _, s := range p.sources {
		_ = s.Close() // read-only
	}
}

// Digest is the job's.
func (p *Package) Digest() string { return p.canonical.Digest() }

// Channels are those that the job asks for.
func (p *Package) Channels() []abi.Channel {
	var channels []abi.Channel
	for _, d := range p.destinations() {
		channels = append(channels, d.channel)
	}
	return channels
}

// Policies says how many policies the job has.
func (p *Package) Policies() int { return len(p.canonical.Policies) }

// CheckRecord says why the record of the job could not be written to path; both are empty if
// it can.
func (p *Package) CheckRecord(path string) (message, hint string) {
	for _, d := range p.destinations() {
		if within(path, d.path) || within(d.path, path) {
			return fmt.Sprintf("%q is where %s lands", path, d.channel), "choose another place for the record"
		}
	}
	if message, hint := (destination{path: path}).check(); message != "" {
		return message, hint
	}
	for _, from := range p.reads() {
		if from == path {
			return fmt.Sprintf("%q is what the job reads", path), "choose another place for the record"
		}
	}
	return "", ""
}

// reads are the paths that the job names to read.
func (p *Package) reads() []string {
	paths := []string{p.resolve(p.job.Application.From)}
	for _, in := range p.job.Inputs {
		paths = append(paths, p.resolve(in.From))
	}
	for _, policy := range p.job.Policies {
		if policy.Module != "" {
			paths = append(paths, p.resolve(policy.Module))
		}
	}
	return paths
}

// within reports whether path is dir, or below it.
func within(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(rel)
}

func (p *Package) submission(id string) wire.Submit {
	return wire.Submit{ID: id, Job: string(p.canonical.JSON()), Assets: p.claims}
}

// resolve makes a path of the job file one of this process.
func (p *Package) resolve(path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(p.dir, path)
}

func (p *Package) openSources(report func(at, message, hint string)) {
	if p.open("application", "application.from", p.job.Application.From, report) {
		p.checkEntrypoint(report)
	}
	for _, name := range slices.Sorted(maps.Keys(p.job.Inputs)) {
		p.open("inputs."+name, "inputs."+name+".from", p.job.Inputs[name].From, report)
	}
}

func (p *Package) open(asset, at, from string, report func(at, message, hint string)) bool {
	if strings.HasSuffix(from, jobspec.SealedSuffix) {
		report(at, "an enclave of this version takes no sealed bundles yet", "name the plain file or folder")
		return false
	}
	source, err := tree.Open(p.resolve(from), tree.Limits{Bytes: 1 << 50, Entries: maxEntries})
	if err != nil {
		message, hint := explain(from, err)
		report(at, message, hint)
		return false
	}
	p.sources[asset] = source
	claim := core.Claim{Name: asset, Form: "tree", Entries: source.Entries()}
	claim.Bytes, _ = source.Size()
	if _, isFile := source.IsFile(); isFile {
		claim.Form = "file"
	}
	if asset == "application" && claim.Form == "file" {
		report(at, fmt.Sprintf("%q is a file", from), "name the folder that holds it, and the file as command.entrypoint")
		return false
	}
	p.claims = append(p.claims, claim)
	return true
}

func (p *Package) checkEntrypoint(report func(at, message, hint string)) {
	entrypoint := p.job.Application.Command.Entrypoint
	info, err := fs.Stat(p.sources["application"].FS(), entrypoint)
	switch {
	case err != nil:
		report("application.command.entrypoint", fmt.Sprintf("%q is not in the application", entrypoint), "it is relative to application.from")
	case !info.Mode().IsRegular():
		report("application.command.entrypoint", fmt.Sprintf("%q is no regular file", entrypoint), "name the file to run")
	}
}

// What is wrong with a file that should be a policy's module.
var (
	errNoModule = errors.New("is no regular file")
	errTooLarge = fmt.Errorf("is over %d bytes", wire.MaxModule)
)

// explain says what is wrong with a path, and how to cure it.
func explain(path string, err error) (message, hint string) {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Sprintf("%q does not exist", path), "paths are relative to the job file"
	case errors.Is(err, fs.ErrPermission):
		return fmt.Sprintf("%q may not be read", path), "give yourself the permission to read it"
	case errors.Is(err, tree.ErrRefused):
		return fmt.Sprintf("%q cannot be sent: %v", path, err), "an asset holds regular files and folders only"
	}
	if errors.Is(err, errNoModule) || errors.Is(err, errTooLarge) {
		return fmt.Sprintf("%q %v", path, err), "name a WebAssembly module"
	}
	if fault, ok := errors.AsType[*fs.PathError](err); ok {
		err = fault.Err // it would name the path again
	}
	return fmt.Sprintf("%q: %v", path, err), ""
}

// readModules reads every policy's module and gives their digests in order.
func (p *Package) readModules(library string, report func(at, message, hint string)) []string {
	var digests []string
	for i, policy := range p.job.Policies {
		at, path := fmt.Sprintf("policies[%d].module", i), p.resolve(policy.Module)
		if policy.Use != "" {
			at = fmt.Sprintf("policies[%d].use", i)
			path = filepath.Join(library, strings.TrimPrefix(policy.Use, "library/")+".wasm")
		}
		module, err := readModule(path)
		if err != nil && policy.Use != "" && errors.Is(err, fs.ErrNotExist) {
			report(at, fmt.Sprintf("the library has no policy %q", policy.Use), "it has: "+strings.Join(list(library), ", "))
			continue
		}
		if err != nil {
			message, hint := explain(policy.Module+policy.Use, err) // one of them is empty
			report(at, message, hint)
			continue
		}
		sum := sha256.Sum256(module)
		digest := tree.Hex(sum[:])
		p.modules[digest] = module
		digests = append(digests, digest)
	}
	return digests
}

func readModule(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a FIFO must not hold this up
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(err, errNoModule)
	}
	module, err := io.ReadAll(io.LimitReader(f, wire.MaxModule+1))
	if err == nil && len(module) > wire.MaxModule {
		err = errTooLarge
	}
	return module, err
}

// list names the policies of a library.
func list(library string) []string {
	files, _ := filepath.Glob(filepath.Join(library, "*.wasm")) // the pattern is well formed
	if len(files) == 0 {
		return []string{"nothing; build it with make"}
	}
	for i, file := range files {
		files[i] = "library/" + strings.TrimSuffix(filepath.Base(file), ".wasm")
	}
	return files
}

// destinations are the places that the job may write.
func (p *Package) destinations() []destination {
	var all []destination
	for _, name := range slices.Sorted(maps.Keys(p.job.Outputs)) {
		all = append(all, destination{
			at: "outputs." + name + ".save_to", channel: abi.Output(name), path: p.resolve(p.job.Outputs[name].SaveTo),
			tree: strings.HasSuffix(p.job.Application.Command.Outputs[name], "/"),
		})
	}
	for _, log := range []struct {
		channel abi.Channel
		path    string
	}{{abi.Stdout, p.job.Logs.Stdout}, {abi.Stderr, p.job.Logs.Stderr}, {abi.Exit, p.job.ExitTo}} {
		if log.path != "" {
			all = append(all, destination{at: string(log.channel), channel: log.channel, path: p.resolve(log.path)})
		}
	}
	return all
}
