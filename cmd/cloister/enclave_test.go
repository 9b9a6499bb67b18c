package main

import (
	"os"
	"os/exec"
	"testing"
)

// TestAProcessIsNotItsNumber: a number that came again names nobody, and neither does one that has ended.
func TestAProcessIsNotItsNumber(t *testing.T) {
	self, err := identify(os.Getpid())
	if err != nil || !self.runs() {
		t.Fatalf("%+v does not run: %v", self, err)
	}
	if earlier := (processID{self.PID, self.Start - 1}); earlier.runs() {
		t.Errorf("%+v is taken for %+v", self, earlier)
	}
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	child, err := identify(cmd.Process.Pid)
	if err != nil || !child.runs() {
		t.Errorf("%+v does not run: %v", child, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if child.runs() {
		t.Errorf("%+v runs after its end", child)
	}
}
