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
	"github.com/cloister-run/cloister/enclave/envelope"
	"github.com/cloister-run/cloister/jobspec"
	"github.com/cloister-run/cloister/policies"
	"github.com/cloister-run/cloister/policies/abi"
)

// maxEntries bounds the files and folders of an asset, as an enclave does.
const maxEntries = 1_000_000

// parcel is a bundle file with everything that it names, looked at and ready to be sealed.
type parcel struct {
	bundle *jobspec.Bundle
	source *tree.Source
	module []byte
	codes  []abi.Code
	// out is where the sealed file goes, as it was named.
	out string

	dir, library string
	found        jobspec.Problems
}

// openParcel reads a bundle file and looks at everything that it names. The error is every
// problem at once. The caller closes the parcel.
func openParcel(ctx context.Context, file, out, library string) (_ *parcel, err error) {
	data, err := readBounded(file, jobspec.MaxFile)
	if err != nil {
		return nil, usage("name a bundle file; docs/bundle-format.md says what is in one", "%s: %v", file, err)
	}
	p := &parcel{dir: filepath.Dir(file), library: library, out: out}
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

// resolve makes a path of the bundle file one of this process.
func (p *parcel) resolve(path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(p.dir, path)
}

func (p *parcel) openSource() {
	const at = "asset.from"
	from := p.bundle.Asset.From
	source, err := tree.Open(p.resolve(from), tree.Limits{Bytes: 1 << 50, Entries: maxEntries})
	if err != nil {
		message, hint := unreadable(from, err)
		p.report(at, message, hint)
		return
	}
	p.source = source
	if p.bundle.Command == nil {
		return
	}
	if _, isFile := source.IsFile(); isFile {
		p.report(at, fmt.Sprintf("%q is a file", from), "name the folder that holds it, and the file as command.entrypoint")
		return
	}
	entrypoint := p.bundle.Command.Entrypoint
	info, err := fs.Stat(source.FS(), entrypoint)
	switch {
	case err != nil:
		p.report("command.entrypoint", fmt.Sprintf("%q is not in the application", entrypoint), "it is relative to asset.from")
	case !info.Mode().IsRegular():
		p.report("command.entrypoint", fmt.Sprintf("%q is no regular file", entrypoint), "name the file to run")
	}
}

// readPolicy reads the policy and has the engine look at it, as an enclave will. Its error is
// none of the bundle file.
func (p *parcel) readPolicy(ctx context.Context) (err error) {
	at, name, path := "policy.module", p.bundle.Policy.Module, p.resolve(p.bundle.Policy.Module)
	if use := p.bundle.Policy.Use; use != "" {
		at, name, path = "policy.use", use, filepath.Join(p.library, strings.TrimPrefix(use, "library/")+".wasm")
	}
	p.module, err = readBounded(path, envelope.MaxModule)
	if err != nil && p.bundle.Policy.Use != "" && errors.Is(err, fs.ErrNotExist) {
		p.report(at, fmt.Sprintf("the library has no policy %q", name), "it has: "+p.inLibrary())
		return nil
	}
	if err != nil {
		message, hint := unreadable(name, err)
		p.report(at, message, hint)
		return nil
	}
	engine, err := policies.New(ctx, policies.Config{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, engine.Close(context.WithoutCancel(ctx))) }()
	policy, err := engine.Load(ctx, p.module)
	if errors.Is(err, policies.ErrInvalid) {
		p.report(at, fmt.Sprintf("%q: %v", name, trimmed(err)), "docs/policy-abi.md says what a policy is; cloister policy pack makes one of a module")
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

// inLibrary names the policies of the library.
func (p *parcel) inLibrary() string {
	files, _ := filepath.Glob(filepath.Join(p.library, "*.wasm")) // the pattern is well formed
	if len(files) == 0 {
		return "nothing; build it with make"
	}
	for i, file := range files {
		files[i] = "library/" + strings.TrimSuffix(filepath.Base(file), ".wasm")
	}
	return strings.Join(files, ", ")
}

// unreadable says what is wrong with a path of a bundle file, and how to cure it.
func unreadable(path string, err error) (message, hint string) {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Sprintf("%q does not exist", path), "paths are relative to the bundle file"
	case errors.Is(err, fs.ErrPermission):
		return fmt.Sprintf("%q may not be read", path), "give yourself the permission to read it"
	case errors.Is(err, tree.ErrRefused):
		return fmt.Sprintf("%q cannot be sealed: %v", path, err), "an asset holds regular files and folders only"
	}
	if fault, ok := errors.AsType[*fs.PathError](err); ok {
		err = fault.Err // it would name the path again
	}
	return fmt.Sprintf("%q: %v", path, err), ""
}

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
	source := p.resolve(p.bundle.Asset.From)
	for _, named := range []string{file, source, p.resolve(p.bundle.Policy.Module)} {
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
