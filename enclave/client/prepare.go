package client

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cloister-run/cloister/core"
	"github.com/cloister-run/cloister/core/tree"
	"github.com/cloister-run/cloister/enclave/wire"
	"github.com/cloister-run/cloister/jobspec"
	"github.com/cloister-run/cloister/plugins/executor"
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
	sealed    map[string]*sealed      // by asset
	claims    []core.Claim
	modules   map[string][]byte // by digest
}

// Prepare looks at everything that a job reads and at every place where it is to write. The
// error is a [jobspec.Problems] with everything that is wrong. The caller closes the Package.
func Prepare(job *jobspec.Job, o Options) (_ *Package, err error) {
	p := &Package{job: job, named: Named{Dir: o.Dir, Noun: "job file", Library: o.Library}, sources: map[string]*tree.Source{}, sealed: map[string]*sealed{}, modules: map[string][]byte{}}
	defer func() {
		if err != nil {
			p.Close()
		}
	}()
	var found jobspec.Problems
	report := func(at, message, hint string) { found = append(found, job.Fault(at, message, hint)) }
	if err := p.openSources(report); err != nil {
		found = append(found, *err...)
	}
	p.onePartition(report)
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
	for _, s := range p.sealed {
		_ = s.file.Close() // read-only
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

// Policies says how many policies the job has, those of owners included.
func (p *Package) Policies() int { return len(p.policies()) }

// policies are those that the job is judged by, in their order: owners first.
func (p *Package) policies() []abi.PolicyRef {
	digest := func(b []byte) string {
		sum := sha256.Sum256(b)
		return tree.Hex(sum[:])
	}
	var refs []abi.PolicyRef
	for _, claim := range p.claims {
		if s := p.sealed[claim.Name]; s != nil {
			h := s.bundle.Header
			refs = append(refs, abi.PolicyRef{Owner: h.Key, Asset: claim.Name, Module: digest(s.bundle.Module), Config: digest(h.Policy.Config)})
		}
	}
	for _, own := range p.canonical.Policies {
		refs = append(refs, abi.PolicyRef{Module: own.Module, Config: digest(own.Config)})
	}
	slices.SortStableFunc(refs, abi.CompareRefs)
	return refs
}

// total is how many bytes are to be sent, about.
func (p *Package) total() (n int64) {
	for _, claim := range p.claims {
		if s := p.sealed[claim.Name]; s != nil {
			n += s.size
		} else {
			n += claim.Bytes
		}
	}
	return n
}

// CheckReceipt says why the receipt of the job could not be written to path; both are empty if
// it can.
func (p *Package) CheckReceipt(path string) (message, hint string) {
	if message, hint := checkReceipt(path, p.destinations()); message != "" {
		return message, hint
	}
	for _, from := range p.reads() {
		if from == path {
			return fmt.Sprintf("%q is what the job reads", path), "choose another place for the receipt"
		}
	}
	return "", ""
}

func checkReceipt(path string, places []destination) (message, hint string) {
	for _, d := range places {
		if within(path, d.path) || within(d.path, path) {
			return fmt.Sprintf("%q is where %s lands", path, d.channel), "choose another place for the receipt"
		}
	}
	return destination{path: path}.check()
}

// reads are the paths that the job names to read.
func (p *Package) reads() []string {
	paths := []string{p.named.Resolve(p.job.Application.From)}
	if p.job.Environment != "" {
		paths = append(paths, p.named.Resolve(p.job.Environment))
	}
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

// openSources opens everything that the job reads. What a sealed application's command makes wrong with
// the job is its result.
func (p *Package) openSources(report func(at, message, hint string)) (found *jobspec.Problems) {
	const at, application = "application.from", "application"
	from := p.job.Application.From
	switch opened := p.open(application, at, from, report); {
	case opened && p.sealed[application] != nil:
		found, _ = errors.AsType[*jobspec.Problems](p.job.Adopt(*p.sealed[application].bundle.Header.Command))
	case opened:
		switch message, hint, ofEntrypoint := p.named.Application(p.sources[application], from, p.job.Application.Command); {
		case ofEntrypoint:
			report("application.command.entrypoint", message, hint)
		case message != "":
			report(at, message, hint)
		}
	}
	if from := p.job.Environment; from != "" && p.open("environment", "environment", from, report) {
		if message, hint := environmentFault(p.sources["environment"], from, p.job.Application.Command); message != "" {
			report("environment", message, hint)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(p.job.Inputs)) {
		p.open("inputs."+name, "inputs."+name+".from", p.job.Inputs[name].From, report)
	}
	return found
}

// environmentFault says why an application cannot run in an environment. What only the enclave knows, its
// runtime, is not asked here.
func environmentFault(source *tree.Source, from string, command jobspec.Command) (message, hint string) {
	if _, isFile := source.IsFile(); isFile {
		return fmt.Sprintf("%q is a file", from), "name the folder that cloister env build made"
	}
	env, err := executor.ReadEnvironment(source.FS())
	switch {
	case err != nil:
		return fmt.Sprintf("%q: %v", from, err), "name the folder that cloister env build made"
	case env.Executor != cmp.Or(command.Executor, jobspec.DefaultExecutor):
		return fmt.Sprintf("%q is for the executor %s, and the application needs %s", from, env.Executor, cmp.Or(command.Executor, jobspec.DefaultExecutor)), "build one for it, or remove the field"
	case len(command.Environments) == 0:
		return "", ""
	}
	sum, err := source.Digest(context.Background()) // of local files, a second for each GiB
	switch {
	case err != nil:
		return fmt.Sprintf("%q: %v", from, err), ""
	case !slices.Contains(command.Environments, sum.Digest):
		return fmt.Sprintf("%q is %s, and the application runs in others alone", from, sum.Digest),
			"use the environment that command.environments of the application names: " + strings.Join(command.Environments, ", ")
	}
	return "", ""
}

func (p *Package) open(asset, at, from string, report func(at, message, hint string)) bool {
	if strings.HasSuffix(from, jobspec.SealedSuffix) {
		return p.openSealed(asset, at, from, report)
	}
	source, message, hint := p.named.Source(from)
	if message == "" && isBundle(source) {
		_ = source.Close() // read-only
		message, hint = fmt.Sprintf("%q is a sealed bundle under another name", from), "rename it: a bundle's name ends in "+jobspec.SealedSuffix
	}
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

func (p *Package) openSealed(asset, at, from string, report func(at, message, hint string)) bool {
	s, message, hint := p.named.bundle(from)
	if message == "" {
		p.sealed[asset] = s // so that Close finds it
		message, hint = s.misused(from, asset == "application")
	}
	if message != "" {
		report(at, message, hint)
		return false
	}
	a := s.bundle.Header.Asset
	p.claims = append(p.claims, core.Claim{Name: asset, Form: a.Form, Bytes: a.Bytes, Entries: a.Entries, Front: s.bundle.FrontDigest()})
	return true
}

// partition is the AWS partition of the keys of the sealed assets, empty if nothing is sealed.
func (p *Package) partition() string {
	for _, s := range p.Sealed() {
		return partitionOf(s.Key)
	}
	return ""
}

// partitionOf is the partition of a key's ARN, which a bundle holds by its format.
func partitionOf(arn string) string { return strings.Split(arn, ":")[1] }

// onePartition finds sealed assets that no one enclave can open.
func (p *Package) onePartition(report func(at, message, hint string)) {
	for _, s := range p.Sealed() {
		if first, own := p.partition(), partitionOf(s.Key); own != first {
			report(s.Asset+".from", fmt.Sprintf("its key is of the partition %s, and that of %s is of %s", own, p.Sealed()[0].Asset, first),
				"an enclave asks for keys in one partition of AWS; have one of them sealed again")
		}
	}
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
			recipients: slices.Sorted(slices.Values(p.job.Outputs[name].SealTo)),
			tree:       p.job.LandsAsFolder(name),
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
