package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cloister-run/cloister/core/tree"
	"github.com/cloister-run/cloister/enclave/client"
	"github.com/cloister-run/cloister/enclave/envelope"
	"github.com/cloister-run/cloister/jobspec"
	"github.com/cloister-run/cloister/policies"
	"github.com/cloister-run/cloister/policies/abi"
)

// parcel is a bundle file with everything that it names, looked at and ready to be sealed.
type parcel struct {
	bundle *jobspec.Bundle
	source *tree.Source
	module []byte
	codes  []abi.Code
	// out is where the sealed file goes, as it was named.
	out string

	named client.Named
	found jobspec.Problems
}

// openParcel reads a bundle file and looks at everything that it names. The error is every
// problem at once. The caller closes the parcel.
func openParcel(ctx context.Context, file, out, library string) (_ *parcel, err error) {
	data, err := client.ReadBounded(file, jobspec.MaxFile)
	if err != nil {
		return nil, usage("name a bundle file; docs/bundle-format.md says what is in one", "%s: %v", file, err)
	}
	p := &parcel{named: client.Named{Dir: filepath.Dir(file), Noun: "bundle file", Library: library}, out: out}
	if p.bundle, err = jobspec.ParseBundle(file, data); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	p.openSource()
	if err := p.readPolicy(ctx); err != nil {
		return nil, err
	}
	if len(p.found) > 0 {
		slices.SortStableFunc(p.found, func(a, b jobspec.Problem) int { return a.Line - b.Line })
		return nil, &p.found
	}
	if p.out == "" {
		p.out = p.bundle.Asset.Name + ".sealed"
	}
	if problem, hint := p.checkOut(file); problem != "" {
		return nil, usage(hint, "%s: %s", p.out, problem)
	}
	return p, nil
}

func (p *parcel) close() {
	if p.source != nil {
		_ = p.source.Close() // read-only
	}
}

func (p *parcel) spec() envelope.Spec {
	b := p.bundle
	return envelope.Spec{Name: b.Asset.Name, Kind: b.Asset.Kind, Command: b.Command, Key: b.Key, Config: b.Policy.Config, Codes: p.codes}
}

func (p *parcel) report(at, message, hint string) {
	p.found = append(p.found, p.bundle.Fault(at, message, hint))
}

func (p *parcel) openSource() {
	const at = "asset.from"
	from := p.bundle.Asset.From
	source, message, hint := p.named.Source(from)
	if message != "" {
		p.report(at, message, hint)
		return
	}
	p.source = source
	if p.bundle.Command == nil {
		return
	}
	switch message, hint, ofEntrypoint := p.named.Application(source, from, *p.bundle.Command); {
	case ofEntrypoint:
		p.report("command.entrypoint", message, hint)
	case message != "":
		p.report(at, message, hint)
	}
}

// readPolicy reads the policy and has the engine look at it, as an enclave will. Its error is
// none of the bundle file.
func (p *parcel) readPolicy(ctx context.Context) (err error) {
	module, field, message, hint := p.named.Module(p.bundle.Policy)
	at := "policy." + field
	if message != "" {
		p.report(at, message, hint)
		return nil
	}
	p.module = module
	engine, err := policies.New(ctx, policies.Config{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, engine.Close(context.WithoutCancel(ctx))) }()
	policy, err := engine.Load(ctx, p.module)
	if errors.Is(err, policies.ErrInvalid) {
		p.report(at, fmt.Sprintf("%q: %v", p.bundle.Policy.Use+p.bundle.Policy.Module, trimmed(err)), "docs/policy-abi.md says what a policy is; cloister policy pack makes one of a module")
		return nil
	}
	if err != nil {
		return err
	}
	p.codes = policy.Manifest().Codes
	if err := policy.CheckConfig(p.bundle.Policy.Config); err != nil {
		p.report("policy.config", trimmed(err), "the policy says what it takes; see its documentation")
	}
	return nil
}

// trimmed is an error without the name of the package that it comes from.
func trimmed(err error) string { return strings.TrimPrefix(err.Error(), "policies: ") }

// checkOut says why the sealed file may not go where it is to go: nothing that is sealed, or
// says what is, may be replaced or grow by it.
func (p *parcel) checkOut(file string) (problem, hint string) {
	const other = "name another place with -o"
	info, err := os.Lstat(p.out)
	if err == nil && info.IsDir() {
		return "is a folder", "name the file that is to be written in it with -o"
	}
	if err == nil && !info.Mode().IsRegular() {
		return "is no regular file", other
	}
	source := p.named.Resolve(p.bundle.Asset.From)
	for _, named := range []string{file, source, p.named.Resolve(p.bundle.Policy.Module)} {
		if theirs, statErr := os.Stat(named); err == nil && statErr == nil && os.SameFile(info, theirs) {
			return "is what is to be sealed, or what says so", other
		}
	}
	if _, isFile := p.source.IsFile(); isFile {
		return "", ""
	}
	inside, err := inFolder(p.out, source)
	if err != nil {
		return err.Error(), other
	}
	if inside {
		return "is in the folder that is to be sealed", other
	}
	return "", ""
}

// inFolder reports whether path, which need not exist, is below the folder dir, links followed.
func inFolder(path, dir string) (bool, error) {
	dir, err := realPath(dir)
	if err != nil {
		return false, err
	}
	path, err = realPath(path)
	if err != nil {
		return false, err
	}
	rel, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(rel), nil
}

// realPath follows the links of the part of a path that exists.
func realPath(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	rest := ""
	for {
		real, err := filepath.EvalSymlinks(path)
		if err == nil {
			return filepath.Join(real, rest), nil
		}
		if !errors.Is(err, fs.ErrNotExist) || filepath.Dir(path) == path {
			return "", err
		}
		path, rest = filepath.Dir(path), filepath.Join(filepath.Base(path), rest)
	}
}
