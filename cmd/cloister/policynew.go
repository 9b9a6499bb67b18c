package main

import (
	"context"
	"embed"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cloister-run/cloister/policies"
	"github.com/cloister-run/cloister/policies/abi"
	"github.com/cloister-run/cloister/policies/library/c"
	"github.com/cloister-run/cloister/policies/rego/build"
)

// scaffold is what `policy new` starts from: a folder for each language, and what all have.
//
//go:embed scaffold
var scaffold embed.FS

// languages are those that a policy can be scaffolded and built in.
func languages() []language {
	return []language{
		{
			name: "go", is: "go.mod",
			build: func(out string) *exec.Cmd {
				cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", out, ".")
				cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "CGO_ENABLED=0")
				return cmd
			},
			cure: "install Go from https://go.dev",
		},
		{
			name: "rust", is: "Cargo.toml",
			build: func(out string) *exec.Cmd {
				return exec.Command("cargo", "build", "--quiet", "--release", "--target", "wasm32-wasip1", "--target-dir", filepath.Dir(out))
			},
			made: "wasm32-wasip1/release/*.wasm",
			cure: "install Rust from https://rustup.rs, and then: rustup target add wasm32-wasip1",
		},
		{
			name: "c", is: "main.c",
			build: func(out string) *exec.Cmd {
				clang := "clang"
				if _, err := exec.LookPath(clang); err != nil {
					clang = "clang-14"
				}
				return exec.Command(clang, "--target=wasm32-wasi", "-std=c11", "-O2", "-Wall", "-Wl,--strip-all", "-Wl,--stack-first", "-o", out, "main.c")
			},
			cure: "Debian has what is needed: apt-get install clang lld wasi-libc libclang-rt-14-dev-wasm32",
		},
		{name: "rego", is: "policy.rego"},
	}
}

// language is what a policy is written in.
type language struct {
	name string
	// is is the file that tells a policy in this language.
	is string
	// build compiles the policy in the folder where it runs to the file out, or to one that matches
	// made in the folder of that. Without it the compiler is in cloister.
	build func(out string) *exec.Cmd
	made  string
	// cure says where its compiler comes from.
	cure string
}

func names() string {
	var all []string
	for _, l := range languages() {
		all = append(all, l.name)
	}
	return strings.Join(all, ", ")
}

const aboutNew = `New makes a folder with a small policy that works, its manifest and fixtures: outputs leave up to a number of
bytes. Build it with cloister policy build, and hold it against its fixtures with cloister policy test.`

func (a *app) policyNewCommand() *cobra.Command {
	var in string
	c := &cobra.Command{
		Use: "new NAME", Short: "Start a policy", Long: aboutNew,
		Example: "  cloister policy new my-policy --language rust",
		Args:    takes("cloister policy new NAME", 1),
		RunE:    func(_ *cobra.Command, args []string) error { return a.newPolicy(args[0], in) },
	}
	c.Flags().StringVar(&in, "language", "go", "what it is written in: "+names())
	return c
}

func (a *app) newPolicy(dir, in string) error {
	name := filepath.Base(dir)
	if err := (abi.Manifest{ABI: abi.Version, Name: name}).Validate(); err != nil {
		return usage("a policy's name is lower-case letters, digits and hyphens, like my-policy", "%q cannot be a policy's name", name)
	}
	at := slices.IndexFunc(languages(), func(l language) bool { return l.name == in })
	if at < 0 {
		return usage("name one of "+names(), "--language %s: no scaffold for it", in)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return usage("name a folder that is not there yet", "%v", err)
	}
	write := func(to, text string) error {
		to = filepath.Join(dir, to)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		return os.WriteFile(to, []byte(strings.ReplaceAll(text, "NAME", name)), 0o644)
	}
	err := fs.WalkDir(scaffold, "scaffold", func(file string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		inside := strings.TrimPrefix(file, "scaffold/")
		first, rest, _ := strings.Cut(inside, "/")
		if rest != "" && first != "fixtures" {
			if first != in {
				return nil
			}
			inside = rest
		}
		text, err := scaffold.ReadFile(file)
		if err != nil {
			return err
		}
		return write(strings.TrimSuffix(inside, ".txt"), string(text))
	})
	if err == nil && in == "c" {
		err = os.WriteFile(filepath.Join(dir, "json.h"), []byte(c.JSON), 0o644)
	}
	if err != nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	if a.json {
		printJSON(a.stdout, map[string]any{"status": statusDone, "policy": dir})
		return nil
	}
	say(a.stdout, "made      %s, a policy in %s\n", line(dir), in)
	say(a.stdout, "next      cloister policy build %s && cloister policy test %s %s\n", line(dir), line(path.Join(dir, name+".wasm")), line(path.Join(dir, "fixtures")))
	return nil
}

const aboutBuild = `Build compiles the policy in a folder with the compiler of its language, and packs it with the folder's
manifest.json: NAME.wasm, in the folder. What it is written in is told by go.mod, Cargo.toml, main.c or
policy.rego.`

func (a *app) policyBuildCommand() *cobra.Command {
	return &cobra.Command{
		Use: "build FOLDER", Short: "Compile a policy and pack it", Long: aboutBuild,
		Example: "  cloister policy build my-policy",
		Args:    takes("cloister policy build FOLDER", 1),
		RunE:    func(c *cobra.Command, args []string) error { return a.buildPolicy(c.Context(), args[0]) },
	}
}

func (a *app) buildPolicy(ctx context.Context, dir string) error {
	at := slices.IndexFunc(languages(), func(l language) bool {
		_, err := os.Stat(filepath.Join(dir, l.is))
		return err == nil
	})
	if at < 0 {
		return usage("name a folder with go.mod, Cargo.toml, main.c or policy.rego; cloister policy new makes one", "%s: no policy to build", dir)
	}
	l, manifest := languages()[at], filepath.Join(dir, "manifest.json")
	text, err := os.ReadFile(manifest)
	if err != nil {
		return usage("docs/policy-abi.md says what a manifest holds", "%v", err)
	}
	m, err := abi.DecodeManifest(text)
	if err != nil {
		return usage("docs/policy-abi.md says what a manifest holds", "%s: %v", manifest, err)
	}
	scratch, err := os.MkdirTemp("", "cloister-policy-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(scratch) }() // a folder of our own making
	compile := l.compile
	if l.build == nil {
		compile = compileRego
	}
	module, err := compile(ctx, dir, scratch, a.stderr)
	if err != nil {
		return err
	}
	packed := filepath.Join(dir, m.Name+".wasm")
	if err := policies.PackFile(module, manifest, packed); err != nil {
		return usage("docs/policy-abi.md says what a module and a manifest hold", "%v", err)
	}
	if a.json {
		printJSON(a.stdout, map[string]any{"status": statusDone, "policy": packed})
		return nil
	}
	say(a.stdout, "built     %s\n", line(packed))
	return nil
}

// compile compiles the policy in a folder into scratch and returns the module's file.
func (l language) compile(ctx context.Context, dir, scratch string, stderr io.Writer) (module string, err error) {
	module = filepath.Join(scratch, "policy.wasm")
	cmd := l.build(module)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, stderr, stderr
	if err := runUntil(ctx, cmd); errors.Is(err, exec.ErrNotFound) {
		return "", usage(l.cure, "%s is not installed", cmd.Args[0])
	} else if err != nil {
		return "", usage("what the compiler said stands above; if it lacks the target: "+l.cure, "%s does not build: %v", dir, err)
	}
	if found, _ := filepath.Glob(filepath.Join(scratch, l.made)); l.made != "" && len(found) == 1 {
		module = found[0]
	}
	return module, nil
}

// compileRego does the same with OPA's compiler. Data goes into the module before it is packed.
func compileRego(ctx context.Context, dir, scratch string, _ io.Writer) (module string, err error) {
	text, err := os.ReadFile(filepath.Join(dir, "manifest.json"))
	if err != nil {
		return "", err
	}
	m, err := abi.DecodeManifest(text)
	if err != nil {
		return "", err
	}
	wasm, data, err := build.Compile(ctx, os.DirFS(dir), m.Rego)
	if err != nil {
		return "", usage("`opa check` says more", "%s does not build: %v", dir, err)
	}
	packed, err := policies.PackData(wasm, m, data)
	if err != nil {
		return "", usage("docs/policy-abi.md says what a manifest holds", "%v", err)
	}
	module = filepath.Join(scratch, "policy.wasm")
	return module, os.WriteFile(module, packed, 0o644)
}

// runUntil runs a command, and ends it with ctx.
func runUntil(ctx context.Context, cmd *exec.Cmd) error {
	if err := cmd.Start(); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	defer stop()
	err := cmd.Wait()
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}
