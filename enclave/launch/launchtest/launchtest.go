// Package launchtest builds what a local enclave starts from, for tests that need a real one.
//
// It owns the way from the sources of the checkout to the folder that `make build` fills, so
// that a plain `go test` never meets binaries that are stale or missing. It is for tests alone.
package launchtest

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// commands are the binaries of an image, by the package that each is made of.
func commands() map[string]string {
	return map[string]string{
		"enclave/cloisterd":                   "./cmd/cloisterd",
		"enclave/walls":                       "./cmd/cloister-walls",
		"enclave/policy":                      "./cmd/cloister-policy",
		"enclave/executors/cloister-executor": "./cmd/cloister-executor",
	}
}

// Build fills dir as `make build` fills bin: dir/enclave, dir/rehearsal and dir/library. What make built is
// taken as a start; the go command then decides what of it is out of date.
func Build(dir string) error {
	b := builder{dir: dir}
	steps := []func() error{b.findModule, b.track, b.headStart, b.compile, b.assemble}
	for _, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("launchtest: %w", err)
		}
	}
	return nil
}

// shared is the one image of a test binary.
//
//nolint:gochecknoglobals // the tests of a binary have nothing else in common
var shared struct {
	once sync.Once
	dir  string
	err  error
}

// Image is the folder of an image, built once and shared by the tests of one binary, whose
// TestMain calls [Main].
func Image(t testing.TB) string {
	t.Helper()
	if handed := Handed(); handed != "" {
		return filepath.Join(handed, "bin", "enclave")
	}
	shared.once.Do(func() {
		if shared.dir, shared.err = os.MkdirTemp("", "cloister-image-"); shared.err == nil {
			shared.err = Build(shared.dir)
		}
	})
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return filepath.Join(shared.dir, "enclave")
}

// Main runs the tests of a binary, as its TestMain, and removes what [Image] built.
func Main(m *testing.M) int {
	status := m.Run()
	if shared.dir != "" {
		_ = os.RemoveAll(shared.dir) // a folder of our own making
	}
	return status
}

type builder struct{ dir, module string }

func (b *builder) findModule() error {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	b.module = strings.TrimSpace(string(out))
	if err != nil || b.module == "" {
		return fmt.Errorf("finding the checkout: %w", err)
	}
	return nil
}

// track looks at every source, which makes the go command run the test again when one changes:
// it knows what a test looked at, not what the binaries that the test built are made of.
func (b *builder) track() error {
	return filepath.WalkDir(b.module, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := entry.Name()
		if entry.IsDir() {
			rel, _ := filepath.Rel(b.module, path) // path is below module
			if rel == "bin" || rel == "out" || name == "testdata" || strings.HasPrefix(name, ".") && rel != "." {
				return fs.SkipDir
			}
			return nil
		}
		_, err = os.Stat(path)
		return err
	})
}

// headStart copies what make built, so that only what is out of date is linked again.
func (b *builder) headStart() error {
	if err := os.MkdirAll(filepath.Join(b.dir, "enclave", "executors"), 0o755); err != nil {
		return err
	}
	for to := range commands() {
		made, err := os.ReadFile(filepath.Join(b.module, "bin", to))
		if err != nil {
			continue // it was never built
		}
		if err := os.WriteFile(filepath.Join(b.dir, to), made, 0o755); err != nil {
			return err
		}
	}
	return nil
}

func (b *builder) compile() error {
	for to, from := range commands() {
		if err := b.goCommand([]string{"GOOS=", "GOARCH="}, "build", "-o", filepath.Join(b.dir, to), from); err != nil {
			return err
		}
	}
	return nil
}

func (b *builder) assemble() error {
	assemble := filepath.Join(b.dir, "assemble")
	if err := b.goCommand(nil, "build", "-o", assemble, "./deploy/local/assemble"); err != nil {
		return err
	}
	defer func() { _ = os.Remove(assemble) }() // dir is a test's own
	for _, args := range [][]string{
		{"library", "policies/library", filepath.Join(b.dir, "library")},
		{"enclave", "deploy/local", filepath.Join(b.dir, "enclave"), filepath.Join(b.dir, "rehearsal")},
	} {
		if err := b.run(nil, assemble, args...); err != nil {
			return err
		}
	}
	return nil
}

func (b *builder) goCommand(env []string, args ...string) error {
	return b.run(env, "go", args...)
}

// run runs a command of the build in the checkout, with the settings of the Makefile.
func (b *builder) run(env []string, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Dir = b.module
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-trimpath -buildvcs=false", "GOAMD64=v1", "GOARM64=v8.0", "GOEXPERIMENT=")
	cmd.Env = append(cmd.Env, env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return nil
}
