package python_test

import (
	"context"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/cloister-run/cloister/plugins/executor"
	"github.com/cloister-run/cloister/plugins/executor/executortest"
	"github.com/cloister-run/cloister/plugins/host"
	"github.com/cloister-run/cloister/plugins/host/hosttest"
	"github.com/cloister-run/cloister/plugins/python"
	"github.com/cloister-run/cloister/plugins/sdk"
)

// TestMain lets the test binary be the plugin.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == python.Name {
		sdk.Serve(python.New())
		return
	}
	goleak.VerifyTestMain(m)
}

func TestConformance(t *testing.T) {
	h := newHost(t)
	executortest.Run(t, executortest.Config{
		Launch: func(ctx context.Context, place executor.Place) (executortest.Session, error) {
			return h.Launch(ctx, python.Name, place)
		},
		Description: executor.Description{Name: python.Name, Version: python.Version},
		Application: "testdata/probe",
		Probe:       "probe.py",
	})
}

func newHost(t testing.TB) *host.Host {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return hosttest.New(t, host.Config{}, hosttest.Plugin{
		Name: python.Name, Version: python.Version, Executable: self, Args: []string{python.Name},
	})
}
