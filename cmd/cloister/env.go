package main

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cloister-run/cloister/core/tree"
	"github.com/cloister-run/cloister/plugins/executor"
	"github.com/cloister-run/cloister/plugins/python"
	"github.com/cloister-run/cloister/plugins/python/environment"
)

const aboutEnvBuild = `Build makes a dependency environment for Python: a folder with the packages of a lock file, which a job names as
environment. It is apart from the enclave's image, so that the image and its PCRs stay as they are; policies and
receipts know it by its digest.

The lock file pins every package, with its dependencies, by == and digests, and holds nothing else: no options, addresses or paths, as "uv pip compile --generate-hashes" and
"pip-compile --generate-hashes" write it. pip fetches the wheels, from the index that it is configured for or from a
folder, and each is held against its digest. They are unpacked: nothing of them runs, and nothing is built from source.
The same wheels make the same environment on every machine.`

const exampleEnvBuild = `  uv pip compile --generate-hashes --python-version 3.11 requirements.in -o requirements.lock
  cloister env build requirements.lock -o numpy.env
  cloister env build requirements.lock -o numpy.env --wheels ./wheels --python 3.12 --glibc 2.34`

func (a *app) envCommand() *cobra.Command {
	group := &cobra.Command{Use: "env", Short: "Build dependency environments, and look at them", Args: cobra.ArbitraryArgs, RunE: a.needsCommand}
	spec := environment.Spec{Target: environment.Target{Glibc: "2.28", Arch: runtime.GOARCH}}
	var to string
	build := &cobra.Command{
		Use: "build LOCK -o DIR", Short: "Build a dependency environment from a lock file", Long: aboutEnvBuild,
		Example: exampleEnvBuild, Args: takes("cloister env build requirements.lock -o numpy.env", 1),
		RunE: func(c *cobra.Command, args []string) error {
			spec.Lock = args[0]
			return a.buildEnv(c.Context(), spec, to)
		},
	}
	build.Flags().StringVarP(&to, "output", "o", "", "the folder to make (required)")
	build.Flags().StringVar(&spec.Wheels, "wheels", "", "build from the wheels in this folder, without a network")
	build.Flags().StringVar(&spec.Target.Python, "python", "", "the version of Python in the enclave, as 3.11 (default: that of a local enclave)")
	build.Flags().StringVar(&spec.Target.Glibc, "glibc", spec.Target.Glibc, "the version of the GNU C library in the enclave, or an older one")
	build.Flags().StringVar(&spec.Target.Arch, "arch", spec.Target.Arch, "the architecture of the enclave: amd64 or arm64")
	inspect := &cobra.Command{
		Use: "inspect DIR", Short: "Say what is in a dependency environment", Args: takes("cloister env inspect numpy.env", 1),
		RunE: func(c *cobra.Command, args []string) error { return a.inspectEnv(c.Context(), args[0]) },
	}
	group.AddCommand(build, inspect)
	return group
}

// envReport is what --json prints of an environment.
type envReport struct {
	Status status `json:"status"`
	Path   string `json:"path"`
	// Digest is what policies and receipts know it by.
	Digest string `json:"digest"`
	Bytes  int64  `json:"bytes"`
	Files  int    `json:"files"`
	executor.Environment
	// LeftOut is what its wheels hold beside packages.
	LeftOut []string `json:"left_out,omitempty"`
}

func (a *app) buildEnv(ctx context.Context, spec environment.Spec, to string) (err error) {
	if to == "" {
		return usage("as in: cloister env build requirements.lock -o numpy.env", "no folder is named")
	}
	if _, err := os.Lstat(to); !errors.Is(err, fs.ErrNotExist) {
		return usage("remove it, or choose another name", "%s: exists already", to)
	}
	if spec.Target.Python == "" {
		if spec.Target.Python, err = localPython(ctx); err != nil {
			return err
		}
	}
	dir, err := os.MkdirTemp(filepath.Dir(to), "."+filepath.Base(to)+"-")
	if err != nil {
		return usage("name a folder in one that you may write to", "%s: %v", to, errors.Unwrap(err))
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }() // of nothing, once it has its name
	show := a.newProgress()
	defer show.stop()
	show.doing("fetching and unpacking wheels")
	built, err := environment.Build(ctx, spec, dir)
	if wrong, ok := errors.AsType[*environment.Error](err); ok {
		return usage(wrong.Hint, "%s", indented(wrong.Reason))
	}
	if err != nil {
		return err
	}
	show.doing("taking its digest")
	r, err := describeEnv(ctx, dir)
	if err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	if err := os.Rename(dir, to); err != nil {
		return usage("choose another name", "%s: %v", to, errors.Unwrap(err))
	}
	show.stop()
	r.Path, r.LeftOut = to, built.Left
	a.printEnv(r)
	return nil
}

// localPython is the version of Python that a local enclave has.
func localPython(ctx context.Context) (string, error) {
	found, err := python.New().Prepare(ctx)
	if err != nil {
		return "", usage("say which the enclave has: --python 3.11", "this machine has no Python as a local enclave would: %v", err)
	}
	version, ok := strings.CutPrefix(python.Runtime(found), "CPython ")
	if !ok {
		return "", usage("say which the enclave has: --python 3.11", "a local enclave has %s %s, and wheels are for CPython", printable(found.Name), printable(found.Version))
	}
	return version, nil
}

func (a *app) inspectEnv(ctx context.Context, dir string) error {
	r, err := describeEnv(ctx, dir)
	if err != nil {
		return usage("name a folder that cloister env build made", "%s: %v", dir, err)
	}
	r.Path = dir
	a.printEnv(r)
	return nil
}

// describeEnv says what an environment holds, as an enclave would find it.
func describeEnv(ctx context.Context, dir string) (envReport, error) {
	source, err := tree.Open(dir, tree.Limits{Bytes: 1 << 50, Entries: 1_000_000})
	if err != nil {
		return envReport{}, err
	}
	defer source.Close()
	env, err := executor.ReadEnvironment(source.FS())
	if err != nil {
		return envReport{}, err
	}
	sum, err := source.Pack(ctx, io.Discard)
	if err != nil {
		return envReport{}, err
	}
	_, files := source.Size()
	return envReport{Digest: sum.Digest, Bytes: sum.Bytes, Files: files, Environment: env}, nil
}

func (a *app) printEnv(r envReport) {
	if a.json {
		printJSON(a.stdout, r)
		return
	}
	w := a.stdout
	say(w, "%s is for the executor %s: %s, %s\n", line(r.Path), line(r.Executor), line(r.Runtime), line(r.Platform))
	for _, p := range r.Packages {
		say(w, "  %s %s\n", line(p.Name), line(p.Version))
	}
	if n := len(r.LeftOut); n > 0 {
		say(w, "left out  %d of its wheels' files: commands, headers, data for other folders\n", n)
	}
	say(w, "size      %s in %d files\n", bytesOf(r.Bytes), r.Files)
	say(w, "digest    %s\n", r.Digest)
}
