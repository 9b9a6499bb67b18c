package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cloister-run/cloister/plugins/proto"
)

const aboutExecutorNew = `New makes a folder with a small executor in Go that works, and a probe for it: it runs scripts of the shell. Make it
one for your runtime, and hold it against the rules with cloister executor test. An executor in another language
needs docs/executors.md and executor.proto alone.`

// sdkModule is the module that executors in Go are made with.
const sdkModule = "github.com/cloister-run/cloister"

func (a *app) executorNewCommand() *cobra.Command {
	var sdk string
	c := &cobra.Command{
		Use: "new NAME", Short: "Start an executor in Go", Long: aboutExecutorNew,
		Example: "  cloister executor new ruby --sdk ~/cloister", Args: takes("cloister executor new NAME", 1),
		RunE: func(_ *cobra.Command, args []string) error { return a.newExecutor(args[0], sdk) },
	}
	c.Flags().StringVar(&sdk, "sdk", "", "a checkout of Cloister to build it with, in place of the published module")
	return c
}

func (a *app) newExecutor(dir, sdk string) error {
	name := filepath.Base(dir)
	if !proto.PluginLabel(name) {
		return usage("an executor's name is lower-case letters, digits and single hyphens, like ruby", "%q cannot be an executor's name", name)
	}
	more := map[string]string{}
	if sdk != "" {
		path, err := filepath.Abs(sdk)
		if err != nil {
			return usage("", "--sdk %s: %v", sdk, err)
		}
		sums, err := os.ReadFile(filepath.Join(path, "go.sum"))
		if err != nil {
			return usage("name a checkout of Cloister", "--sdk: %v", err)
		}
		more["go.mod"] = fmt.Sprintf("\nreplace %s => %s\n", sdkModule, path)
		more["go.sum"] = string(sums)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return usage("name a folder that is not there yet", "%v", err)
	}
	if err := layExecutor(dir, name, more); err != nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	if a.json {
		printJSON(a.stdout, map[string]any{"status": statusDone, "executor": dir})
		return nil
	}
	say(a.stdout, "made      %s, an executor in Go\n", line(dir))
	if sdk == "" {
		say(a.stdout, "note      until the module %s is published, make it with --sdk CHECKOUT\n", sdkModule)
	}
	say(a.stdout, "next      cd %s && GOFLAGS=-mod=mod go build -o %s-executor . && \\\n", line(dir), name)
	say(a.stdout, "          cloister executor test ./%s-executor --name %s --version 0.1.0 --probe probe/probe\n", name, name)
	return nil
}

// layExecutor writes the scaffold, with more at the end of some files.
func layExecutor(dir, name string, more map[string]string) error {
	from, err := fs.Sub(scaffold, "scaffold/executor")
	if err != nil {
		return err
	}
	err = fs.WalkDir(from, ".", func(file string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := fs.ReadFile(from, file)
		if err != nil {
			return err
		}
		to := filepath.Join(dir, strings.TrimSuffix(file, ".txt"))
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		mode := os.FileMode(0o644)
		if strings.HasPrefix(string(text), "#!") {
			mode = 0o755
		}
		return os.WriteFile(to, []byte(strings.ReplaceAll(string(text), "NAME", name)+more[filepath.Base(to)]), mode)
	})
	if err == nil && more["go.sum"] != "" {
		err = os.WriteFile(filepath.Join(dir, "go.sum"), []byte(more["go.sum"]), 0o644)
	}
	return err
}
