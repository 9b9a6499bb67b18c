package sdk_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/cloister-run/cloister/plugins/executor"
	"github.com/cloister-run/cloister/plugins/executor/executortest"
	"github.com/cloister-run/cloister/plugins/host"
	"github.com/cloister-run/cloister/plugins/host/hosttest"
	"github.com/cloister-run/cloister/plugins/sdk"
)

// TestMain lets the test binary be the plugin.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "printer" {
		sdk.Serve(&printer{})
		return
	}
	goleak.VerifyTestMain(m)
}

// printer prints more than any pipe holds, at every turn, in every way.
type printer struct{ executor.Executor }

// stdout and stderr are for what does not print through os.Stdout, as native code does.
var stdout, stderr = os.NewFile(1, "stdout"), os.NewFile(2, "stderr")

func (*printer) print() {
	text := strings.Repeat("printed ", 64<<10)
	fmt.Fprint(os.Stdout, text)
	fmt.Fprint(os.Stderr, text)
	fmt.Fprint(stdout, text)
	fmt.Fprint(stderr, text)
	cmd := exec.Command("/bin/sh", "-c", "yes printed | head -c 500000; yes printed | head -c 500000 >&2")
	cmd.Stdout, cmd.Stderr = stdout, stderr
	_ = cmd.Run()
}

func (p *printer) Describe(context.Context) (executor.Description, error) {
	p.print()
	return executor.Description{Name: "printer", Version: "1"}, nil
}

func (p *printer) Prepare(context.Context) (executor.Runtime, error) {
	p.print()
	return executor.Runtime{Name: "sh", Version: "1"}, nil
}

// Run lists the descriptors that an application inherits.
func (p *printer) Run(_ context.Context, t executor.Task) (executor.Result, error) {
	p.print()
	out, err := exec.Command("/bin/ls", "-l", "/proc/self/fd").Output()
	if err == nil {
		err = os.WriteFile(t.Dir+"/descriptors", out, 0o600)
	}
	return executor.Result{}, err
}

func (p *printer) Stop(context.Context) error {
	p.print()
	return fmt.Errorf("in words of its own: %w", executor.ErrRuntime)
}

func TestServe(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	h := hosttest.New(t, host.Config{}, hosttest.Plugin{Name: "printer", Version: "1", Executable: self, Args: []string{"printer"}})
	place := executortest.Place(t)
	s, err := h.Launch(t.Context(), "printer", place)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Kill()
	if _, err := s.Describe(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	task := executor.Task{Application: place.Assets, Entrypoint: "x", Dir: place.Work}
	if _, err := s.Run(t.Context(), task); err != nil {
		t.Fatal(err)
	}
	open, err := os.ReadFile(place.Work + "/descriptors")
	if err != nil || strings.Contains(string(open), "memfd") || strings.Contains(string(open), "executor-") {
		t.Errorf("an application inherits the executable: %v\n%s", err, open)
	}
	if err := s.Stop(t.Context()); !errors.Is(err, executor.ErrRuntime) || strings.Contains(err.Error(), "in words of its own") {
		t.Errorf("%v", err)
	}
}
