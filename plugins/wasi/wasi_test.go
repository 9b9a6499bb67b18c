package wasi_test

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
	"github.com/cloister-run/cloister/plugins/sdk"
	"github.com/cloister-run/cloister/plugins/wasi"
)

// built is the folder with the probe.
var built string

// TestMain lets the test binary be the plugin, and builds the probe.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == wasi.Guest {
		os.Exit(wasi.Main(os.Args[2:]))
	}
	if len(os.Args) == 2 && os.Args[1] == wasi.Name {
		sdk.Serve(&wasi.Executor{})
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
	if err := executortest.BuildProbe(built, "GOOS=wasip1", "GOARCH=wasm"); err != nil {
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
	if raceDetector {
		t.Skip("it compiles the probe over thirty times, which the race detector makes ten times slower")
	}
	h := newHost(t)
	executortest.Run(t, executortest.Config{
		Launch: func(ctx context.Context, place executor.Place) (executortest.Session, error) {
			return h.Launch(ctx, wasi.Name, place)
		},
		Description: executor.Description{Name: wasi.Name, Version: wasi.Version},
		Application: built,
		Probe:       "probe",
		Alone:       true,
	})
}

func newHost(t testing.TB) *host.Host {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return hosttest.New(t, host.Config{}, hosttest.Plugin{
		Name: wasi.Name, Version: wasi.Version, Executable: self, Args: []string{wasi.Name},
	})
}
