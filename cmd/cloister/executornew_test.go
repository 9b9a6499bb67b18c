package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cloister-run/cloister/enclave/launch/launchtest"
)

// TestANewExecutorKeepsEveryRule: what `executor new` makes is built as it says, and passes the suite.
func TestANewExecutorKeepsEveryRule(t *testing.T) {
	t.Parallel()
	if launchtest.Handed() != "" {
		t.Skip("the sources are not handed over to an ordinary user; `.ci/run` runs this test as one")
	}
	if raceDetector {
		t.Skip("it runs the built commands, which no race detector looks into")
	}
	checkout, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cloister := filepath.Join(beside(t), "cloister")
	must := func(in string, env []string, command string, args ...string) string {
		t.Helper()
		cmd := exec.Command(command, args...)
		cmd.Dir, cmd.Env = in, append(os.Environ(), env...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %s: %v\n%s", command, strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	must(dir, nil, cloister, "executor", "new", "posix-shell", "--sdk", checkout)
	made := filepath.Join(dir, "posix-shell")
	must(made, []string{"GOFLAGS=-mod=mod -buildvcs=false"}, "go", "build", "-o", "posix-shell-executor", ".")
	said := must(made, nil, cloister, "executor", "test", "./posix-shell-executor", "--name", "posix-shell", "--version", "0.1.0", "--probe", "probe/probe")
	if !strings.Contains(said, " rules kept, 0 broken, 0 not looked at") {
		t.Error(said)
	}
}
