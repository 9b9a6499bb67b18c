// Command assemble finishes the folder that `make build` fills and `--enclave local` starts from.
//
//	bin/library/NAME.wasm                 a ready-made policy, packed with its manifest
//	bin/wasm/NAME.wasm                    a policy in Rego, compiled
//	bin/enclave/executors/NAME/…          the manifest of an executor
//	bin/enclave/profile.json              the trust profile of a local enclave
//	bin/enclave/etc/…                     what a program looks up about users and hosts
//	bin/rehearsal/…                       the same image, with a profile for rehearsals
//
// What goes in was compiled by make; this command adds what no compiler does: manifests and the
// digest of the executor. It writes a file only if it changes, reads nothing outside the
// checkout, and its output depends on its input alone.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/cloister-run/cloister/plugins/proto"
	"github.com/cloister-run/cloister/plugins/shipped"
	"github.com/cloister-run/cloister/policies"
	"github.com/cloister-run/cloister/policies/abi"
	"github.com/cloister-run/cloister/policies/rego/build"
)

func main() { os.Exit(run(os.Args[1:], os.Stderr)) }

const usage = `usage: assemble library SOURCES LIBRARY [RAW]   pack SOURCES/NAME/NAME.wasm and RAW/*.wasm with SOURCES/NAME/manifest.json
       assemble rego SOURCE MODULE                compile the policy in the folder SOURCE
       assemble enclave SOURCES IMAGE REHEARSAL   add manifests, the profile and etc to the folder IMAGE, and make
                                                  the folder REHEARSAL of the same files and another profile
`

func run(args []string, stderr io.Writer) int {
	var err error
	switch {
	case (len(args) == 3 || len(args) == 4) && args[0] == "library":
		err = library(args[1], args[2], args[3:])
	case len(args) == 3 && args[0] == "rego":
		err = compile(args[1], args[2])
	case len(args) == 4 && args[0] == "enclave":
		if err = enclave(args[1], args[2]); err == nil {
			err = rehearsal(args[1], args[2], args[3])
		}
	default:
		_, _ = io.WriteString(stderr, usage)
		return 2
	}
	if err != nil {
		_, _ = fmt.Fprintln(stderr, "assemble: error:", err)
		return 1
	}
	return 0
}

// library packs every module that is checked in beside its source, and every one of the folder raw if
// there is one, into the folder out. What else out holds under the name of a module goes: a policy that
// was removed must not stay in anybody's library.
func library(sources, out string, raw []string) error {
	modules, err := filepath.Glob(filepath.Join(sources, "*", "*.wasm"))
	if err != nil {
		return err
	}
	for _, dir := range raw {
		built, err := filepath.Glob(filepath.Join(dir, "*.wasm"))
		if err != nil {
			return err
		}
		if len(built) == 0 {
			return fmt.Errorf("%s holds no module", dir)
		}
		modules = append(modules, built...)
	}
	if len(modules) == 0 {
		return fmt.Errorf("%s holds no module", sources)
	}
	keep := map[string]bool{}
	for _, path := range modules {
		name := filepath.Base(path)
		if keep[name] {
			return fmt.Errorf("%s: there are two policies of this name", path)
		}
		keep[name] = true
		packed, err := pack(path, filepath.Join(sources, strings.TrimSuffix(name, ".wasm"), "manifest.json"))
		if err != nil {
			return err
		}
		if err := write(filepath.Join(out, name), packed); err != nil {
			return err
		}
	}
	old, err := filepath.Glob(filepath.Join(out, "*.wasm"))
	if err != nil {
		return err
	}
	for _, path := range old {
		if !keep[filepath.Base(path)] {
			if err := os.Remove(path); err != nil {
				return err
			}
		}
	}
	return nil
}

func pack(module, manifest string) ([]byte, error) {
	binary, err := os.ReadFile(module)
	if err != nil {
		return nil, err
	}
	m, err := readManifest(manifest)
	if err != nil {
		return nil, err
	}
	return policies.Pack(binary, m)
}

func readManifest(path string) (abi.Manifest, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return abi.Manifest{}, err
	}
	m, err := abi.DecodeManifest(text)
	if err != nil {
		return abi.Manifest{}, fmt.Errorf("%s: %w", path, err)
	}
	return m, nil
}

// compile compiles the Rego in the folder source, as its manifest says.
func compile(source, module string) error {
	m, err := readManifest(filepath.Join(source, "manifest.json"))
	if err != nil {
		return err
	}
	wasm, data, err := build.Compile(context.Background(), os.DirFS(source), m.Rego)
	if err != nil {
		return err
	}
	packed, err := policies.PackData(wasm, m, data)
	if err != nil {
		return err
	}
	return write(module, packed)
}

// executable is the multi-call binary of the executors, inside the folder of executors.
const executable = "cloister-executor"

// profile is the trust profile of an image.
const profile = "profile.json"

// enclave writes what the folder image lacks once its binaries are there: from sources the
// profile and the files of etc, and the manifest of each executor.
func enclave(sources, image string) error {
	etc, err := filepath.Glob(filepath.Join(sources, "etc", "*"))
	if err != nil {
		return err
	}
	for _, path := range append(etc, filepath.Join(sources, profile)) {
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(sources, path)
		if err != nil {
			return err
		}
		if err := write(filepath.Join(image, name), text); err != nil {
			return err
		}
	}
	executors := filepath.Join(image, "executors")
	sum, err := digest(filepath.Join(executors, executable))
	if err != nil {
		return err
	}
	for _, e := range shipped.All() {
		manifest := proto.Manifest{
			Name:       e.Name,
			Version:    e.Version,
			Protocol:   proto.Version,
			Executable: executable,
			Args:       []string{e.Name},
			SHA256:     sum,
		}
		if err := manifest.Check(); err != nil {
			return err
		}
		line, err := json.MarshalIndent(manifest, "", "  ")
		if err != nil {
			return err
		}
		if err := write(filepath.Join(executors, e.Name, "manifest.json"), append(line, '\n')); err != nil {
			return err
		}
	}
	return nil
}

// rehearsal makes a folder of the files of an image, but for its profile.
func rehearsal(sources, image, out string) error {
	kept := map[string]bool{profile: true}
	err := filepath.WalkDir(image, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		name, err := filepath.Rel(image, path)
		if err != nil || name == profile {
			return err
		}
		kept[name] = true
		return link(path, filepath.Join(out, name))
	})
	if err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join(sources, "rehearsal.json"))
	if err != nil {
		return err
	}
	if err := write(filepath.Join(out, profile), text); err != nil {
		return err
	}
	root, err := os.OpenRoot(out)
	if err != nil {
		return err
	}
	defer root.Close()
	return fs.WalkDir(root.FS(), ".", func(name string, entry fs.DirEntry, err error) error { // what was of an older image
		if err != nil || entry.IsDir() || kept[name] {
			return err
		}
		return root.Remove(name)
	})
}

// link makes to another name of the file from.
func link(from, to string) error {
	a, err := os.Stat(from)
	if err != nil {
		return err
	}
	if b, err := os.Stat(to); err == nil && os.SameFile(a, b) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	if err := os.Remove(to); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Link(from, to)
}

func digest(path string) (sum string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// write replaces path by a file with content, in one step, unless it has it already.
func write(path string, content []byte) error {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, content) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	next := path + ".new"
	if err := os.WriteFile(next, content, 0o644); err != nil {
		return err
	}
	return os.Rename(next, path)
}
