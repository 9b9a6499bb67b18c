package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/enclave/vsock"
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

// TestAKeeperThatSaysMuch: a reason of any size ends the waiting, and what there is room for is shown.
func TestAKeeperThatSaysMuch(t *testing.T) {
	for name, row := range map[string]struct {
		script string
		want   status
		says   string
	}{
		"more than there is room for": {`head -c 3000000 /dev/zero | tr '\0' x; exit 5`, statusUnavailable, "its keeper says nothing"},
		"a long reason":               {`printf '{\n"status":4,"error":"'; head -c 200000 /dev/zero | tr '\0' x; printf ' END"}\n'; exit 4`, statusAttestation, " END"},
		"nothing":                     {`exit 1`, statusUnavailable, "its keeper says nothing"},
		"it is ready":                 {`echo ready`, statusDone, ""},
	} {
		err := waitFor(t.Context(), t, row.script, "")
		f, failed := errors.AsType[*failure](err)
		if failed != (row.want != statusDone) || failed && (f.status != row.want || !strings.Contains(f.message, row.says)) {
			t.Errorf("%s: %.200v", name, err)
		}
	}
}

// TestAStartThatIsGivenUp: what the keeper could not end is said; else it was cancelled.
func TestAStartThatIsGivenUp(t *testing.T) {
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	for name, row := range map[string]struct{ says, want string }{
		"an enclave may be left": {`{"status":5,"error":"it may be left","hint":"h"}`, "it may be left"},
		"it was cancelled":       {`{"status":130,"error":"cancelled"}`, "interrupted"},
		"it says nothing":        {``, "interrupted"},
		"it was ready just then": {`ready`, "interrupted"},
	} {
		ctx, cancel := context.WithCancelCause(t.Context())
		started := filepath.Join(t.TempDir(), "started")
		go func() {
			for _, err := os.Stat(started); err != nil; _, err = os.Stat(started) {
				time.Sleep(time.Millisecond)
			}
			cancel(errInterrupted)
		}()
		err := waitFor(ctx, t, `trap 'echo "$2"; exit 5' TERM; touch "$1"; while :; do sleep 0.01; done`, started, row.says)
		if err == nil || err.Error() != row.want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// waitFor waits for a script in the place of a keeper.
func waitFor(ctx context.Context, t *testing.T, script string, args ...string) error {
	t.Helper()
	cmd := exec.Command("sh", append([]string{"-c", script, "sh"}, args...)...)
	from, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waited := make(chan error, 1)
	go func() { waited <- awaitKeeper(ctx, "keeper-test", cmd, from) }()
	select {
	case err = <-waited:
	case <-time.After(10 * time.Second):
		_ = cmd.Process.Kill()
		t.Fatal("it waits for ever")
	}
	if cmd.ProcessState == nil {
		_ = cmd.Wait() // a keeper that is ready stays
	}
	return err
}

// TestARestartIsGivenUp: whoever waits for an enclave that goes on for long is not held.
func TestARestartIsGivenUp(t *testing.T) {
	k := newTestKeeper(t, backendLocal, nil)
	usr1 := make(chan os.Signal, 1)
	signal.Notify(usr1, unix.SIGUSR1)
	defer signal.Stop(usr1)
	self, err := identify(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	k.state = standing{Name: k.name, Backend: backendLocal, Keeper: self, Process: self, Address: vsock.PortAddress(16, 1), Boots: 1}
	if err := k.write(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() { <-usr1; cancel(errInterrupted) }()
	failed := make(chan error, 1)
	go func() { _, err := restart(ctx, k.name); failed <- err }()
	select {
	case err := <-failed:
		if !errors.Is(err, errInterrupted) {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it goes on")
	}
}
