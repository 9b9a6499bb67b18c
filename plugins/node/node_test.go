package node_test

import (
	"context"
	"errors"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/cloister-run/cloister/plugins/executor"
	"github.com/cloister-run/cloister/plugins/executor/executortest"
	"github.com/cloister-run/cloister/plugins/host"
	"github.com/cloister-run/cloister/plugins/host/hosttest"
	"github.com/cloister-run/cloister/plugins/node"
	"github.com/cloister-run/cloister/plugins/sdk"
)

// TestMain lets the test binary be the plugin.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == node.Name {
		sdk.Serve(node.New())
		return
	}
	goleak.VerifyTestMain(m)
}

// needsNode skips a test on a machine without Node.js, unless it is CI's.
func needsNode(t testing.TB) {
	t.Helper()
	_, err := node.New().Prepare(t.Context())
	switch {
	case err == nil:
	case os.Getenv("CI") != "" || !errors.Is(err, executor.ErrRuntime):
		t.Fatal(err)
	default:
		t.Skip(err)
	}
}

func TestConformance(t *testing.T) {
	needsNode(t)
	h := newHost(t)
	executortest.Run(t, executortest.Config{
		Launch: func(ctx context.Context, place executor.Place) (executortest.Session, error) {
			return h.Launch(ctx, node.Name, place)
		},
		Description: executor.Description{Name: node.Name, Version: node.Version},
		Application: "testdata/probe",
		Probe:       "probe.js",
	})
}

func newHost(t testing.TB) *host.Host {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return hosttest.New(t, host.Config{}, hosttest.Plugin{
		Name: node.Name, Version: node.Version, Executable: self, Args: []string{node.Name},
	})
}
