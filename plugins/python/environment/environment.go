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
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
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
	lines, accepted, err := readLock(spec.Lock)
	if err != nil {
		return nil, err
	}
	fetched, err := os.MkdirTemp("", "cloister-wheels-")
	if err != nil {
		return nil, fmt.Errorf("environment: %w", err)
	}
	defer func() { _ = os.RemoveAll(fetched) }() // of copies
	if len(lines) == 0 {
		return nil, &Error{"the lock names no package", "write requirements.in and lock it: uv pip compile --generate-hashes requirements.in"}
	}
	if err := fetch(ctx, spec, lines, fetched); err != nil {
		return nil, err
	}
	wheels, err := os.ReadDir(filepath.Join(fetched, wheelsDir)) // sorted, and so is what comes of it
	if err != nil {
		return nil, fmt.Errorf("environment: %w", err)
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
		p, native, err := u.wheel(ctx, filepath.Join(fetched, wheelsDir, entry.Name()), accepted)
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

// requirement is one line of a lock: a name, perhaps extras, a pinned version, perhaps a marker (PEP 508), and
// digests. Anything else that a requirements file can say is refused: options, other files, addresses and
// paths have pip run what nobody pinned.
var requirement = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*(\[[A-Za-z0-9._, -]*\])? *== *[A-Za-z0-9][A-Za-z0-9.!+_-]*` +
	`( *;[^@#\\]*?)?( +--hash=sha256:[0-9a-f]{64})+$`)

// readLock reads a lock, and gives it as pip is to read it, and the digests that it accepts.
func readLock(path string) (lines []string, accepted map[string]bool, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, &Error{fmt.Sprintf("%v", err), "name a requirements file"}
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxLock+1))
	if err == nil && len(raw) > maxLock {
		err = fmt.Errorf("it is over %d bytes", maxLock)
	}
	if err != nil {
		return nil, nil, &Error{fmt.Sprintf("%s: %v", path, err), "name a requirements file"}
	}
	accepted = map[string]bool{}
	for number, line := range logicalLines(string(raw)) {
		switch {
		case line == "":
			continue
		case !requirement.MatchString(line):
			return nil, nil, &Error{
				fmt.Sprintf("%s:%d: %.200q is no pinned package with digests", path, number, line),
				"a lock holds lines like numpy==2.4.6 --hash=sha256:…, and no options, addresses or paths: uv pip compile --generate-hashes requirements.in",
			}
		}
		for _, match := range lockDigest.FindAllStringSubmatch(line, -1) {
			accepted[match[1]] = true
		}
		lines = append(lines, line)
	}
	return lines, accepted, nil
}

// logicalLines joins lines that end in a backslash, drops comments, and numbers each by its first line (pip,
// "Requirements File Format").
func logicalLines(text string) iter.Seq2[int, string] {
	return func(yield func(int, string) bool) {
		first, joined := 1, ""
		number := 0
		for line := range strings.Lines(text) {
			number++
			line = strings.TrimRight(line, "\r\n")
			if joined == "" {
				first = number
			}
			trimmed := strings.TrimSpace(line)
			if strings.HasPrefix(trimmed, "#") {
				trimmed = ""
			} else if at := strings.Index(trimmed, " #"); at >= 0 {
				trimmed = strings.TrimSpace(trimmed[:at])
			}
			more := strings.HasSuffix(trimmed, "\\")
			joined = strings.TrimSpace(joined + " " + strings.TrimSpace(strings.TrimSuffix(trimmed, "\\")))
			if more {
				continue
			}
			if !yield(first, joined) {
				return
			}
			joined = ""
		}
		if joined != "" {
			yield(first, joined)
		}
	}
}

// digestOf is the SHA-256 of a file, in lower-case hex.
func digestOf(f *os.File) (string, error) {
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
