package launch_test

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/cloister-run/cloister/enclave/attest"
	"github.com/cloister-run/cloister/enclave/client"
	"github.com/cloister-run/cloister/enclave/devkit"
	"github.com/cloister-run/cloister/enclave/launch"
	"github.com/cloister-run/cloister/enclave/launch/launchtest"
	"github.com/cloister-run/cloister/enclave/proxy"
)

// newHome is a home of the simulation that ends with the test.
func newHome(t testing.TB) *devkit.Home {
	t.Helper()
	home, err := devkit.OpenHome(filepath.Join(t.TempDir(), "dev"))
	if err != nil {
		t.Fatal(err)
	}
	return home
}

// serveKMS serves the KMS of a home, and gives its URL.
func serveKMS(t testing.TB, home *devkit.Home) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- devkit.NewKMS(home, slog.New(slog.DiscardHandler)).Serve(ctx, l) }()
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return "http://" + l.Addr().String()
}

// noKMS is where none is.
const noKMS = "http://127.0.0.1:1"

// start starts an enclave that ends with the test.
func start(t testing.TB) *launch.Simulated {
	t.Helper()
	return startOf(t, launch.Simulation{Image: launchtest.Image(t), Home: newHome(t), KMS: noKMS})
}

func startOf(t testing.TB, s launch.Simulation) *launch.Simulated {
	t.Helper()
	e, err := launch.Simulate(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Stop(); err != nil {
			t.Error(err)
		}
	})
	return e
}

// trust is a client's configuration for an enclave.
func trust(e *launch.Simulated) client.Config {
	return client.Config{Dial: e.Dial, Root: e.Root(), Realm: attest.RealmLocal, PCRs: e.PCRs()}
}

// newClient makes a client that ends with the test.
func newClient(t testing.TB, cfg client.Config) *client.Client {
	t.Helper()
	c, err := client.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// bare is the configuration of an enclave that nobody else is told of, with how to know it.
func bare(t testing.TB) (launch.Config, client.Config) {
	t.Helper()
	image := launchtest.Image(t)
	pcrs, err := devkit.Measure(image)
	if err != nil {
		t.Fatal(err)
	}
	ca := newHome(t).CA()
	return launch.Config{Image: image, NSM: devkit.NewNSM(ca, pcrs, time.Now), Door: proxy.Config{}},
		client.Config{Root: ca.Root(), Realm: attest.RealmLocal, PCRs: pcrs}
}
