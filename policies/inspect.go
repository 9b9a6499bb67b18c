package policies

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/cloister-run/cloister/policies/abi"
	"github.com/cloister-run/cloister/policies/module"
	"github.com/cloister-run/cloister/policies/rego"
)

// wasiModule is the only module that a policy may import from.
const wasiModule = "wasi_snapshot_preview1"

// ReadManifest reads what a packed module declares, without compiling it. The caller has
// bounded the module. Errors wrap [ErrInvalid].
func ReadManifest(binary []byte) (abi.Manifest, error) {
	shape, err := module.Scan(binary)
	if err != nil {
		return abi.Manifest{}, fmt.Errorf("policies: %w: %w", ErrInvalid, err)
	}
	m, err := manifest(shape)
	if err != nil {
		return abi.Manifest{}, fmt.Errorf("policies: %w: %w", ErrInvalid, err)
	}
	return m, nil
}

// Pack returns the module with m as its manifest, in place of one that it had. Packing is
// deterministic. It refuses a module that no engine would load for another reason than a limit.
func Pack(binary []byte, m abi.Manifest) ([]byte, error) { return PackData(binary, m, nil) }

// PackData is [Pack] for a module that OPA built, which it gives a data document, JSON, in place of one
// that it had. Without data it is Pack.
func PackData(binary []byte, m abi.Manifest, data []byte) ([]byte, error) {
	invalid := func(err error) ([]byte, error) { return nil, fmt.Errorf("policies: %w: %w", ErrInvalid, err) }
	shape, err := module.Scan(binary)
	if err != nil {
		return invalid(err)
	}
	_, unfit := runnable(shape, m)
	if err := errors.Join(unfit, m.Validate()); err != nil {
		return invalid(err)
	}
	if _, err := newSchema(m.ConfigSchema); err != nil {
		return invalid(err)
	}
	content, err := encodeManifest(m)
	if err != nil {
		return nil, fmt.Errorf("policies: %w", err)
	}
	packed := shape.WithCustom(abi.SectionName, content)
	if data == nil {
		return packed, nil
	}
	if !rego.Is(shape) {
		return invalid(errors.New("data: given for a module that OPA did not build"))
	}
	if err := rego.CheckData(data); err != nil {
		return invalid(err)
	}
	if shape, err = module.Scan(packed); err != nil {
		return invalid(err)
	}
	return shape.WithCustom(rego.DataSection, data), nil
}

// PackFile packs the module in one file, or the module and data of a bundle that OPA built ([rego.Unbundle]),
// with the manifest in another and writes the result
// to out, which may be the module's own file, whole or not at all. Errors of the file system are
// returned as they are.
func PackFile(modulePath, manifestPath, out string) error {
	binary, err := os.ReadFile(modulePath)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(manifestPath)
	if err != nil {
		return err
	}
	m, err := abi.DecodeManifest(text)
	if err != nil {
		return fmt.Errorf("policies: %s: %w", manifestPath, err)
	}
	var data []byte
	if rego.IsBundle(binary) {
		if binary, data, err = rego.Unbundle(bytes.NewReader(binary)); err != nil {
			return fmt.Errorf("policies: %w: %s: %w", ErrInvalid, modulePath, err)
		}
	}
	packed, err := PackData(binary, m, data)
	if err != nil {
		return err
	}
	return replace(out, packed)
}

// replace puts content in the place of a file, in one step.
func replace(path string, content []byte) (err error) {
	next, err := os.CreateTemp(filepath.Dir(path), ".policy-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(next.Name())
		}
	}()
	_, err = next.Write(content)
	if err = errors.Join(err, next.Chmod(0o644), next.Close()); err != nil {
		return err
	}
	return os.Rename(next.Name(), path)
}

// manifest reads the one custom section that holds it.
func manifest(shape module.Shape) (abi.Manifest, error) {
	sections := shape.Custom(abi.SectionName)
	switch len(sections) {
	case 0:
		return abi.Manifest{}, fmt.Errorf("no %s section; add it with `cloister policy pack`", abi.SectionName)
	case 1:
		return abi.DecodeManifest(sections[0])
	}
	return abi.Manifest{}, fmt.Errorf("%d %s sections", len(sections), abi.SectionName)
}

// runnable reports everything that keeps a module from being run, and returns the shape to be run: OPA's
// with a memory of its own.
func runnable(shape module.Shape, m abi.Manifest) (module.Shape, error) {
	if rego.Is(shape) {
		shape = shape.WithOwnMemory()
		err := rego.Check(shape)
		if len(m.Redacts) > 0 {
			err = errors.Join(err, errors.New("manifest.redacts: given for a module that OPA built, which cannot write files"))
		}
		return shape, err
	}
	err := checkCommand(shape)
	if m.Rego != nil {
		err = errors.Join(err, errors.New("manifest.rego: given for a module that OPA did not build"))
	}
	return shape, err
}

// checkCommand reports everything that keeps a module from being a WASI command.
func checkCommand(shape module.Shape) error {
	var problems []error
	for _, i := range shape.Imports {
		if i.Module != wasiModule {
			problems = append(problems, fmt.Errorf(
				"imports %s.%s, which nobody offers; a policy may import %s only", show(i.Module), show(i.Name), wasiModule))
		} else if i.Kind != module.Func || !slices.Contains(wasiFunctions, i.Name) {
			problems = append(problems, fmt.Errorf("imports %s.%s, which is no function of WASI preview 1", i.Module, show(i.Name)))
		}
	}
	if !shape.Has("_start", module.Func) {
		problems = append(problems, errors.New("no _start: not a WASI command"))
	}
	if shape.Memories == 0 || !shape.Has("memory", module.Memory) {
		problems = append(problems, errors.New(`no memory that is exported as "memory": not a WASI command`))
	}
	return errors.Join(problems...)
}

// show makes a name from a module fit for an error message.
func show(name string) string {
	if len(name) > 64 || name == "" || slices.ContainsFunc([]rune(name), func(r rune) bool { return r <= ' ' || r > '~' }) {
		return fmt.Sprintf("%.64q", name)
	}
	return name
}
