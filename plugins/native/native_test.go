package native_test

import (
	"context"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/cloister-run/cloister/plugins/executor"
	"github.com/cloister-run/cloister/plugins/executor/executortest"
	"github.com/cloister-run/cloister/plugins/host"
	"github.com/cloister-run/cloister/plugins/host/hosttest"
	"github.com/cloister-run/cloister/plugins/native"
	"github.com/cloister-run/cloister/plugins/sdk"
)

// built is the folder with the probe.
var built string

// TestMain lets the test binary be the plugin, and builds the probe.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == native.Name {
		sdk.Serve(&native.Executor{})
		return
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	var err error
	if built, err = os.MkdirTemp("", "probe"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(built)
	if err := executortest.BuildProbe(built); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	status := m.Run()
	if err := goleak.Find(); err != nil && status == 0 {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return status
}

func TestConformance(t *testing.T) {
	h := newHost(t)
	executortest.Run(t, executortest.Config{
		Launch: func(ctx context.Context, place executor.Place) (executortest.Session, error) {
			return h.Launch(ctx, native.Name, place)
		},
		Description: executor.Description{Name: native.Name, Version: native.Version},
		Application: built,
		Probe:       "probe",
	})
}

func newHost(t testing.TB) *host.Host {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return hosttest.New(t, host.Config{}, hosttest.Plugin{
		Name: native.Name, Version: native.Version, Executable: self, Args: []string{native.Name},
	})
}
