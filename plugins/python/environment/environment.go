// Package environment builds the dependency environments in which the executor python runs applications:
// wheels that a lock file pins by their digests, unpacked side by side into one folder.
//
// It owns the way from a lock file to a folder, and that the folder depends on the wheels alone: no
// script of a package runs, nothing is compiled, nothing of this machine gets in. pip chooses and fetches the
// wheels (docs/rationale.md); what it brings is held against the lock once more. A wheel is untrusted: it
// writes nowhere but into the folder. The package runs on the operator's side and is linked into nothing
// that is measured.
package environment

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/cloister-run/cloister/plugins/executor"
	"github.com/cloister-run/cloister/plugins/python"
)

// Error says what is wrong with what an environment is made of, and how to cure it.
type Error struct{ Reason, Hint string }

func (e *Error) Error() string { return e.Reason }

// Target is what an environment is for. Every field is required.
type Target struct {
	// Python is the minor version of CPython: "3.11".
	Python string
	// Glibc is the oldest C library that it must work with: "2.28".
	Glibc string
	// Arch is an architecture as Go names it: "amd64" or "arm64".
	Arch string
}

// Spec says what to build.
type Spec struct {
	// Lock is a requirements file that pins every package, with its dependencies, by "==" and digests, as
	// pip-compile and uv write them. Required.
	Lock string
	// Wheels is a folder of wheels to build from; empty fetches them from the package index that pip is
	// configured for.
	Wheels string
	Target Target
}

// Built describes an environment that was built.
type Built struct {
	executor.Environment
	// Left names what the wheels hold beside packages: commands, headers, data for other folders. It is
	// not in the environment.
	Left []string
}

const maxLock = 4 << 20

var (
	pythonVersion = regexp.MustCompile(`^3\.[0-9]{1,2}$`)
	glibcVersion  = regexp.MustCompile(`^2\.[0-9]{1,2}$`)
	lockDigest    = regexp.MustCompile(`--hash=sha256:([0-9a-f]{64})\b`)
)

// Build makes the environment in dir, an empty folder. An error that is the lock's or a wheel's fault is an
// [*Error].
func Build(ctx context.Context, spec Spec, dir string) (*Built, error) {
	if err := spec.Target.check(); err != nil {
		return nil, err
	}
	accepted, err := readLock(spec.Lock)
	if err != nil {
		return nil, err
	}
	fetched, err := os.MkdirTemp("", "cloister-wheels-")
	if err != nil {
		return nil, fmt.Errorf("environment: %w", err)
	}
	defer func() { _ = os.RemoveAll(fetched) }() // of copies
	if err := fetch(ctx, spec, fetched); err != nil {
		return nil, err
	}
	wheels, err := os.ReadDir(fetched) // sorted, and so is what comes of it
	if err != nil {
		return nil, fmt.Errorf("environment: %w", err)
	}
	if len(wheels) == 0 {
		return nil, &Error{"the lock names no package", "write requirements.in and lock it: uv pip compile --generate-hashes requirements.in"}
	}
	u, err := newUnpacker(filepath.Join(dir, python.Packages))
	if err != nil {
		return nil, err
	}
	defer u.close()
	built := &Built{Environment: executor.Environment{
		Version: executor.EnvironmentVersion, Executor: python.Name, Runtime: "CPython " + spec.Target.Python, Platform: "any",
	}}
	for _, entry := range wheels {
		p, native, err := u.wheel(ctx, filepath.Join(fetched, entry.Name()), accepted)
		if err != nil {
			return nil, err
		}
		if native {
			built.Platform = "linux/" + spec.Target.Arch
		}
		built.Packages = append(built.Packages, p)
	}
	slices.SortFunc(built.Packages, func(a, b executor.EnvironmentPackage) int { return strings.Compare(a.Name, b.Name) })
	built.Left = u.left
	manifest, err := json.Marshal(built.Environment)
	if err != nil {
		return nil, fmt.Errorf("environment: %w", err)
	}
	to := filepath.Join(dir, executor.EnvironmentFile)
	// Applications of any user read it, whatever the umask.
	if err := errors.Join(os.WriteFile(to, append(manifest, '\n'), 0o644), os.Chmod(to, 0o644)); err != nil {
		return nil, fmt.Errorf("environment: %w", err)
	}
	return built, nil
}

func (t Target) check() error {
	switch {
	case !pythonVersion.MatchString(t.Python):
		return &Error{fmt.Sprintf("%.20q is no version of Python", t.Python), "write it like 3.11"}
	case !glibcVersion.MatchString(t.Glibc):
		return &Error{fmt.Sprintf("%.20q is no version of the GNU C library", t.Glibc), "write it like 2.28; ldd --version prints it"}
	case t.Arch != "amd64" && t.Arch != "arm64":
		return &Error{fmt.Sprintf("%.20q is no architecture of an enclave", t.Arch), "amd64 and arm64 are"}
	}
	return nil
}

// readLock gives the digests that a lock accepts. Everything else about it is pip's to read.
func readLock(path string) (map[string]bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, &Error{fmt.Sprintf("%v", err), "name a requirements file"}
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxLock+1))
	if err == nil && len(raw) > maxLock {
		err = fmt.Errorf("it is over %d bytes", maxLock)
	}
	if err != nil {
		return nil, &Error{fmt.Sprintf("%s: %v", path, err), "name a requirements file"}
	}
	accepted := map[string]bool{}
	for _, match := range lockDigest.FindAllSubmatch(raw, -1) {
		accepted[string(match[1])] = true
	}
	if len(accepted) == 0 && len(bytes.TrimSpace(raw)) > 0 {
		return nil, &Error{fmt.Sprintf("%s: no package has a digest", path), "lock it with digests: uv pip compile --generate-hashes requirements.in"}
	}
	return accepted, nil
}

// digestOf is the SHA-256 of a file, in lower-case hex.
func digestOf(f *os.File) (string, error) {
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
