package native_test

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/cloister-run/cloister/plugins/executor"
	"github.com/cloister-run/cloister/plugins/executor/executortest"
	"github.com/cloister-run/cloister/plugins/native"
)

// TestWhatCannotBeExecuted: it is the entrypoint's fault, and tells nothing else.
func TestWhatCannotBeExecuted(t *testing.T) {
	dir := t.TempDir()
	other := map[string]string{"amd64": "arm64", "arm64": "amd64"}[runtime.GOARCH]
	if err := errors.Join(executortest.BuildProbe(dir, "GOARCH="+other), os.Rename(filepath.Join(dir, "probe"), filepath.Join(dir, "foreign"))); err != nil {
		t.Fatal(err)
	}
	for name, file := range map[string]struct {
		content string
		mode    os.FileMode
	}{
		"plain":    {"#!/bin/sh\n", 0o644},
		"text":     {"exit 0\n", 0o755},
		"empty":    {"", 0o755},
		"orphaned": {"#!/no/such/interpreter\n", 0o755},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(file.content), file.mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"foreign", "plain", "text", "empty", "orphaned"} {
		r, err := new(native.Executor).Run(t.Context(), executor.Task{Application: dir, Entrypoint: name, Dir: dir})
		if !errors.Is(err, executor.ErrEntrypoint) {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
}

// TestScript: the first line names its interpreter.
func TestScript(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/run", []byte("#!/bin/sh\necho \"$0 $1\"\nexit 7\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	r, err := new(native.Executor).Run(t.Context(), executor.Task{
		Application: dir, Entrypoint: "run", Args: []string{"x"}, Dir: dir, Stdout: dir + "/stdout",
	})
	out, _ := os.ReadFile(dir + "/stdout")
	if err != nil || r.Status != 7 || string(out) != dir+"/run x\n" {
		t.Errorf("%+v, %v, %q", r, err, out)
	}
}
