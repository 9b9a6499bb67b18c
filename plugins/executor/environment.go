package executor

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"runtime"
	"strings"
)

// EnvironmentFile is the file of an environment's folder that says what it is.
const EnvironmentFile = "environment.json"

// EnvironmentVersion is the version of the format that this package reads.
const EnvironmentVersion = 1

const (
	maxEnvironment = 1 << 20
	maxPackages    = 4096
	maxWord        = 256
)

// Environment says what a dependency environment is: packages that applications of one executor share,
// built apart from the image. An environment is a folder of plain files; this is its [EnvironmentFile],
// as canonical JSON. The rest of the folder is between whoever built it and the executor.
type Environment struct {
	Version int `json:"version"`
	// Executor is the one that it is for: "python".
	Executor string `json:"executor"`
	// Runtime is what its packages were chosen for: the beginning of what that executor calls its runtime, up
	// to a dot. "CPython 3.11" is for "CPython 3.11.2".
	Runtime string `json:"runtime"`
	// Platform is the operating system and the architecture, as Go names them: "linux/amd64"; "any" for
	// an environment without machine code.
	Platform string `json:"platform"`
	// Packages are what it holds, sorted by name.
	Packages []EnvironmentPackage `json:"packages"`
}

// EnvironmentPackage is one package of an environment.
type EnvironmentPackage struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	// Archive is the name of the file that it came from, SHA256 that file's digest in lower-case hex.
	Archive string `json:"archive"`
	SHA256  string `json:"sha256"`
}

// ReadEnvironment reads what the environment in a folder says that it is. Every error wraps
// [ErrEnvironment].
func ReadEnvironment(dir fs.FS) (Environment, error) {
	e, err := readEnvironment(dir)
	if fault, ok := errors.AsType[*fs.PathError](err); ok {
		err = fault.Err // the path is named below
	}
	if err != nil {
		return Environment{}, fmt.Errorf("%w: %s: %w", ErrEnvironment, EnvironmentFile, err)
	}
	return e, nil
}

func readEnvironment(dir fs.FS) (Environment, error) {
	info, err := fs.Stat(dir, EnvironmentFile)
	if err != nil {
		return Environment{}, err
	}
	if !info.Mode().IsRegular() { // a pipe would keep the reader waiting
		return Environment{}, errors.New("it is no regular file")
	}
	f, err := dir.Open(EnvironmentFile)
	if err != nil {
		return Environment{}, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxEnvironment+1))
	if err != nil {
		return Environment{}, err
	}
	if len(raw) > maxEnvironment {
		return Environment{}, fmt.Errorf("it is over %d bytes", maxEnvironment)
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.DisallowUnknownFields()
	var e Environment
	if err := decoder.Decode(&e); err != nil {
		return Environment{}, err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return Environment{}, errors.New("something follows the object")
	}
	return e, e.check()
}

// Fits says why applications of an executor cannot run in the environment on this machine. The error wraps
// [ErrEnvironment].
func (e Environment) Fits(name string, found Runtime) error {
	here, runs := runtime.GOOS+"/"+runtime.GOARCH, found.Name+" "+found.Version
	var why string
	switch {
	case e.Executor != name:
		why = "the executor " + e.Executor + ", and the application runs on " + name
	case runs != e.Runtime && !strings.HasPrefix(runs, e.Runtime+"."):
		why = e.Runtime + ", and this is " + runs
	case e.Platform != "any" && e.Platform != here:
		why = e.Platform + ", and this is " + here
	default:
		return nil
	}
	return fmt.Errorf("%w: it is for %s", ErrEnvironment, why)
}

func (e Environment) check() error {
	if e.Version != EnvironmentVersion {
		return fmt.Errorf("version %d is not known; this is version %d", e.Version, EnvironmentVersion)
	}
	words := []string{e.Executor, e.Runtime, e.Platform}
	if len(e.Packages) > maxPackages {
		return fmt.Errorf("it has %d packages; at most %d are allowed", len(e.Packages), maxPackages)
	}
	for _, p := range e.Packages {
		words = append(words, p.Name, p.Version, p.Archive)
		if sum, err := hex.DecodeString(p.SHA256); err != nil || len(sum) != 32 || strings.ToLower(p.SHA256) != p.SHA256 {
			return fmt.Errorf("the digest of %.80q is not 64 lower-case hexadecimal digits", p.Name)
		}
	}
	for _, w := range words {
		if w == "" || len(w) > maxWord || strings.ContainsFunc(w, func(r rune) bool { return r < ' ' || r > '~' }) {
			return fmt.Errorf("%.80q is not 1 to %d bytes of printable ASCII", w, maxWord)
		}
	}
	return nil
}
