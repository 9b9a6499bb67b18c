package main

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/enclave/launch/launchtest"
)

// TestAKeeperGoesAfterItsEnclave: one signal ends it, and those that follow do not end it before its enclave is gone.
func TestAKeeperGoesAfterItsEnclave(t *testing.T) {
	ctx, again, done := keeperSignals(t.Context())
	defer done()
	self := os.Getpid()
	for _, s := range []unix.Signal{unix.SIGTERM, unix.SIGTERM, unix.SIGHUP, unix.SIGINT, unix.SIGUSR1} {
		if err := unix.Kill(self, s); err != nil {
			t.Fatal(err)
		}
	}
	<-ctx.Done()
	<-again
}

// TestAnEnclaveStartsAnewOfTheSameImage: whoever waits for it trusts what its record says.
func TestAnEnclaveStartsAnewOfTheSameImage(t *testing.T) {
	state := t.TempDir()
	t.Setenv("XDG_STATE_HOME", state)
	file, err := standingFile("keeper-test")
	if err != nil {
		t.Fatal(err)
	}
	enclave, err := simulate(t.Context(), launchtest.Image(t))
	if err != nil {
		t.Fatal(err)
	}
	pcrs := maps.Clone(enclave.PCRs().Hex())
	if err := enclave.Stop(); err != nil {
		t.Fatal(err)
	}
	again := make(chan os.Signal, 1)
	k := &keeper{
		name: "keeper-test", file: file, beside: filepath.Dir(launchtest.Image(t)), backend: &backend{name: backendLocal},
		ready: func() {}, state: standing{Name: "keeper-test", Boots: 1, PCRs: pcrs},
	}
	k.state.PCRs["0"] = strings.Repeat("ab", 48)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // a keeper that starts it stays
	defer cancel()
	if end, err := k.boot(ctx, again); !end || err == nil || !strings.Contains(err.Error(), "the image is another one than it was") {
		t.Errorf("%v, %v", end, err)
	}
}
