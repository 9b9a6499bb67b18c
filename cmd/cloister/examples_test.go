package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cloister-run/cloister/enclave/launch/launchtest"
)

// examples is the folder of the examples of executors.
func examples() string {
	if handed := launchtest.Handed(); handed != "" {
		return filepath.Join(handed, "examples")
	}
	return filepath.Join("..", "..", "examples", "executors")
}

// TestExamples runs the example of every executor in a local enclave, and finds what is promised beside it.
func TestExamples(t *testing.T) {
	t.Parallel()
	if raceDetector {
		t.Skip("it runs the built commands, which no race detector looks into")
	}
	for _, name := range []string{"words", "orders", "survey", "clusters"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if err := os.CopyFS(dir, os.DirFS(filepath.Join(examples(), name))); err != nil {
				t.Fatal(err)
			}
			said, err := exec.Command(filepath.Join(beside(t), "cloister"), "run", "--enclave", "local", filepath.Join(dir, "job.yaml")).CombinedOutput()
			if err != nil && strings.Contains(string(said), "runtime is missing") && os.Getenv("CI") == "" {
				t.Skip(string(said))
			}
			if err != nil {
				t.Fatalf("%v: %s", err, said)
			}
			landed, err := filepath.Glob(filepath.Join(dir, "out", "*"))
			if err != nil || len(landed) != 1 {
				t.Fatalf("landed %v, %v", landed, err)
			}
			got, err := os.ReadFile(landed[0])
			if err != nil {
				t.Fatal(err)
			}
			want, err := os.ReadFile(filepath.Join(dir, "expected.csv"))
			if err != nil || string(got) != string(want) {
				t.Errorf("got\n%s\nwant\n%s%v", got, want, err)
			}
		})
	}
}
