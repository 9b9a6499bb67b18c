package client

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

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
	named     Named
	sources   map[string]*tree.Source // by asset
	claims    []core.Claim
	modules   map[string][]byte // by digest
}

// Prepare looks at everything that a job reads and at every place where it is to write. The
// error is a [jobspec.Problems] with everything that is wrong. The caller closes the Package.
func Prepare(job *jobspec.Job, o Options) (_ *Package, err error) {
	p := &Package{job: job, named: Named{Dir: o.Dir, Noun: "job file", Library: o.Library}, sources: map[string]*tree.Source{}, modules: map[string][]byte{}}
	defer func() {
		if err != nil {
			p.Close()
		}
	}()
	var found jobspec.Problems
	report := func(at, message, hint string) { found = append(found, job.Fault(at, message, hint)) }
	p.openSources(report)
	digests := p.readModules(report)
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
	paths := []string{p.named.Resolve(p.job.Application.From)}
	for _, in := range p.job.Inputs {
		paths = append(paths, p.named.Resolve(in.From))
	}
	for _, policy := range p.job.Policies {
		if policy.Module != "" {
			paths = append(paths, p.named.Resolve(policy.Module))
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

func (p *Package) openSources(report func(at, message, hint string)) {
	const at, application = "application.from", "application"
	from, entrypoint := p.job.Application.From, p.job.Application.Command.Entrypoint
	if p.open(application, at, from, report) {
		switch message, hint, ofEntrypoint := p.named.Application(p.sources[application], from, entrypoint); {
		case ofEntrypoint:
			report("application.command.entrypoint", message, hint)
		case message != "":
			report(at, message, hint)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(p.job.Inputs)) {
		p.open("inputs."+name, "inputs."+name+".from", p.job.Inputs[name].From, report)
	}
}

func (p *Package) open(asset, at, from string, report func(at, message, hint string)) bool {
	if strings.HasSuffix(from, jobspec.SealedSuffix) {
		report(at, "an enclave of this version takes no sealed bundles", "name the plain file or folder")
		return false
	}
	source, message, hint := p.named.Source(from)
	if message != "" {
		report(at, message, hint)
		return false
	}
	p.sources[asset] = source
	claim := core.Claim{Name: asset, Form: "tree", Entries: source.Entries()}
	claim.Bytes, _ = source.Size()
	if _, isFile := source.IsFile(); isFile {
		claim.Form = "file"
	}
	p.claims = append(p.claims, claim)
	return true
}

// readModules reads every policy's module and gives their digests in order.
func (p *Package) readModules(report func(at, message, hint string)) []string {
	var digests []string
	for i, policy := range p.job.Policies {
		module, field, message, hint := p.named.Module(policy)
		if message != "" {
			report(fmt.Sprintf("policies[%d].%s", i, field), message, hint)
			continue
		}
		sum := sha256.Sum256(module)
		digest := tree.Hex(sum[:])
		p.modules[digest] = module
		digests = append(digests, digest)
	}
	return digests
}

// destinations are the places that the job may write.
func (p *Package) destinations() []destination {
	var all []destination
	for _, name := range slices.Sorted(maps.Keys(p.job.Outputs)) {
		all = append(all, destination{
			at: "outputs." + name + ".save_to", channel: abi.Output(name), path: p.named.Resolve(p.job.Outputs[name].SaveTo),
			tree: strings.HasSuffix(p.job.Application.Command.Outputs[name], "/"),
		})
	}
	for _, log := range []struct {
		channel abi.Channel
		path    string
	}{{abi.Stdout, p.job.Logs.Stdout}, {abi.Stderr, p.job.Logs.Stderr}, {abi.Exit, p.job.ExitTo}} {
		if log.path != "" {
			all = append(all, destination{at: string(log.channel), channel: log.channel, path: p.named.Resolve(log.path)})
		}
	}
	return all
}
