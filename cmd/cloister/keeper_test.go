package main

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/enclave/attest"
	"github.com/cloister-run/cloister/enclave/launch/nitro"
	"github.com/cloister-run/cloister/enclave/vsock"
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

// played is an enclave that a test plays.
type played struct {
	pcrs  attest.PCRSet
	ended chan struct{}
	stop  func() error
}

func newPlayed() *played {
	return &played{pcrs: attest.PCRSet{0: attest.PCR{1}}, ended: make(chan struct{}), stop: func() error { return nil }}
}

func (p *played) Dial(context.Context) (net.Conn, error) { return nil, errors.New("nobody answers") }
func (p *played) Address() vsock.Address                 { return vsock.PortAddress(16, 1) }
func (p *played) PCRs() attest.PCRSet                    { return p.pcrs }
func (p *played) RootPEM() []byte                        { return nil }
func (p *played) PID() int                               { return 0 }
func (p *played) Ended() <-chan struct{}                 { return p.ended }
func (p *played) Why() error                             { return errors.New("the guest broke a rule\nkernel panic") }
func (p *played) Follow(_ context.Context, w io.Writer) error {
	return errors.New("nitro-cli console: E44")
}
func (p *played) Stop() error { return p.stop() }

// testKeeper is a keeper that starts what a test gives, in a state folder of its own.
type testKeeper struct {
	*keeper
	again chan os.Signal
	log   strings.Builder
}

func newTestKeeper(t *testing.T, of string, start func(context.Context) (kept, error)) *testKeeper {
	t.Helper()
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	file, err := standingFile("keeper-test")
	if err != nil {
		t.Fatal(err)
	}
	return &testKeeper{again: make(chan os.Signal, 1), keeper: &keeper{
		name: "keeper-test", file: file, backend: &backend{name: of}, start: start, ready: func() error { return nil },
	}}
}

// run keeps until it ends.
func (k *testKeeper) run(ctx context.Context) error { return k.keep(ctx, k.again, &k.log) }

// onRecord is the record, if there is one.
func (k *testKeeper) onRecord(t *testing.T) (standing, bool) {
	t.Helper()
	s, err := readStanding(k.name)
	if err != nil && !errors.Is(err, errEnded) {
		t.Fatal(err)
	}
	return s, err == nil
}

// TestAnEnclaveStartsAnewOfTheSameImage: whoever waits for it trusts what its record says.
func TestAnEnclaveStartsAnewOfTheSameImage(t *testing.T) {
	boots := 0
	var k *testKeeper
	k = newTestKeeper(t, backendLocal, func(context.Context) (kept, error) {
		boots++
		p := newPlayed()
		if boots == 3 {
			p.pcrs = attest.PCRSet{0: attest.PCR{2}}
			return p, nil
		}
		time.AfterFunc(50*time.Millisecond, func() { k.again <- unix.SIGUSR1 }) // when it is on record
		return p, nil
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // a keeper that starts it stays
	defer cancel()
	if err := k.run(ctx); err == nil || !strings.Contains(err.Error(), "the image is another one than it was") || boots != 3 {
		t.Errorf("%v, after %d boots", err, boots)
	}
	if s, ok := k.onRecord(t); ok {
		t.Errorf("%+v is on record", s)
	}
}

// TestAnEnclaveThatStartsIsOnRecord: it is listed, nobody starts a second one, and nobody takes it for one that runs.
func TestAnEnclaveThatStartsIsOnRecord(t *testing.T) {
	booting := make(chan struct{})
	k := newTestKeeper(t, backendNitro, func(ctx context.Context) (kept, error) {
		close(booting)
		<-ctx.Done()
		return nil, context.Cause(ctx)
	})
	ctx, cancel := context.WithCancelCause(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- k.run(ctx) }()
	<-booting
	for _, row := range []struct {
		args []string
		want status
		says string
	}{
		{[]string{"enclave", "list"}, statusDone, "keeper-test starting nitro 2"},
		{[]string{"enclave", "start", "keeper-test"}, statusUsage, `the enclave "keeper-test" is being started already, since 2`},
		{[]string{"enclave", "console", "keeper-test"}, statusUsage, "it is not in debug mode"},
		{[]string{"attest", "verify", "--enclave", "keeper-test", os.Args[0]}, statusUnavailable, `the enclave "keeper-test" is being started`},
	} {
		var out, errs strings.Builder
		if got := run(t.Context(), row.args, &out, &errs); got != int(row.want) || !strings.Contains(out.String()+errs.String(), row.says) {
			t.Errorf("%v: %d, %s%s", row.args, got, out.String(), errs.String())
		}
	}
	s, ok := k.onRecord(t)
	if !ok || s.Nitro == nil || s.Nitro.Name == "" || s.runs() || s.realm() != attest.RealmAWS {
		t.Errorf("%+v", s)
	}
	cancel(errInterrupted)
	if err := <-ended; !errors.Is(err, errInterrupted) {
		t.Error(err)
	}
	if s, ok := k.onRecord(t); ok {
		t.Errorf("%+v is on record", s)
	}
}

// TestNobodyWaitsForTheEnclave: it is ended, and the log says why.
func TestNobodyWaitsForTheEnclave(t *testing.T) {
	p := newPlayed()
	stopped := false
	p.stop = func() error { stopped = true; return nil }
	k := newTestKeeper(t, backendLocal, func(context.Context) (kept, error) { return p, nil })
	k.ready = func() error { return unix.EPIPE }
	if err := k.run(t.Context()); !errors.Is(err, errNobodyWaits) || !stopped || !strings.Contains(k.log.String(), "did not wait for it") {
		t.Errorf("%v; stopped: %v; %s", err, stopped, k.log.String())
	}
}

// TestAKeeperOutlivesWhoeverStartsIt: killed before the enclave answers, they take neither the keeper nor the enclave with
// them: the keeper ends it.
func TestAKeeperOutlivesWhoeverStartsIt(t *testing.T) {
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	from, to, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := from.Close(); err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	keeper := exec.Command("cloister", "enclave", "serve", "--json", "orphan")
	keeper.Stdout, keeper.Stderr = to, &log
	err = keeper.Run()
	_ = to.Close()
	if got := keeper.ProcessState.ExitCode(); got != int(statusUnavailable) || !strings.Contains(log.String(), "did not wait for it") {
		t.Errorf("%v, %s", err, log.String())
	}
	if _, err := readStanding("orphan"); !errors.Is(err, errEnded) {
		t.Errorf("it is on record: %v", err)
	}
}

// TestAnEnclaveThatEndsSaysWhy: to its log, before its record is gone, and not as a fault of cloister's.
func TestAnEnclaveThatEndsSaysWhy(t *testing.T) {
	p := newPlayed()
	k := newTestKeeper(t, backendLocal, func(context.Context) (kept, error) { return p, nil })
	k.ready = func() error { close(p.ended); return nil }
	logged := &atRecord{t: t, k: k}
	if err := k.keep(t.Context(), k.again, logged); !errors.Is(err, errEnded) {
		t.Error(err)
	}
	said := logged.String()
	if !logged.there || !strings.Contains(said, "the guest broke a rule\n    kernel panic") || strings.Contains(said, "fault of cloister") {
		t.Errorf("on record: %v; %s", logged.there, said)
	}
	if s, ok := k.onRecord(t); ok {
		t.Errorf("%+v is on record", s)
	}
}

// atRecord is a log that notes whether the enclave was on record when it was written to.
type atRecord struct {
	strings.Builder
	t     *testing.T
	k     *testKeeper
	there bool
}

func (a *atRecord) Write(p []byte) (int, error) {
	_, a.there = a.k.onRecord(a.t)
	return a.Builder.Write(p)
}

// TestARecordThatCannotBeWritten: it is no result of a job.
func TestARecordThatCannotBeWritten(t *testing.T) {
	k := newTestKeeper(t, backendLocal, nil)
	if err := os.WriteFile(k.file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	k.file += "/below.json"
	f := asFailure(t.Context(), k.write())
	if strings.Contains(f.message, "results") || strings.Contains(f.hint, "job") || !strings.Contains(f.message, "writing down the enclave at "+k.file) {
		t.Errorf("%+v", f)
	}
}

// fakeNitroCLI is a nitro-cli that has one enclave, until that is terminated; verb fails, if one is named.
func fakeNitroCLI(t *testing.T, verb string) (path string, left nitro.Left) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "nitro-cli")
	left = nitro.Left{Path: path, Name: "cloister-0123", ID: "i-abc-enc12"}
	script := `#!/bin/sh
test "$1" != "` + verb + `" || { echo "[ E11 ] Socket error." >&2; exit 1; }
case $1 in
describe-enclaves) test -e $0.gone && echo '[]' || echo '[{"EnclaveName":"` + left.Name + `","EnclaveID":"` + left.ID + `","ProcessID":99,"EnclaveCID":16}]' ;;
terminate-enclave) test "$3" = ` + left.ID + ` && touch $0.gone ;;
esac
`
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return path, left
}

// TestAnEnclaveThatLostItsKeeperIsEnded: a keeper that is killed leaves a Nitro Enclave. The next stop or start ends it, or says
// that it goes on.
func TestAnEnclaveThatLostItsKeeperIsEnded(t *testing.T) {
	for name, row := range map[string]struct {
		fails   string
		withID  bool
		want    status
		says    string
		remains bool
	}{
		"by its ID":           {"", true, statusDone, "stopped   keeper-test", false},
		"by its name":         {"", false, statusDone, "stopped   keeper-test", false},
		"nitro-cli fails":     {"terminate-enclave", true, statusUnavailable, "the enclave i-abc-enc12, named cloister-0123, may be left", true},
		"nobody knows its ID": {"describe-enclaves", false, statusUnavailable, "an enclave named cloister-0123 may be left", true},
	} {
		t.Run(name, func(t *testing.T) {
			started := false
			k := newTestKeeper(t, backendNitro, func(context.Context) (kept, error) { started = true; return newPlayed(), nil })
			path, left := fakeNitroCLI(t, row.fails)
			if !row.withID {
				left.ID = ""
			}
			k.state = standing{Name: k.name, Backend: backendNitro, Keeper: processID{os.Getpid(), 1}, Boots: 1, Nitro: &left}
			if err := k.write(); err != nil {
				t.Fatal(err)
			}
			var out, errs strings.Builder
			if got := run(t.Context(), []string{"enclave", "list"}, &out, &errs); got != 0 || !strings.Contains(out.String(), "keeper-test left nitro") {
				t.Errorf("%d, %s%s", got, out.String(), errs.String())
			}
			if _, err := findStanding(k.name); !errors.Is(err, errEnded) || !strings.Contains(asFailure(t.Context(), err).hint, "terminate-enclave") {
				t.Error(err)
			}
			got := run(t.Context(), []string{"enclave", "stop", k.name}, &out, &errs)
			_, ok := k.onRecord(t)
			_, gone := os.Stat(path + ".gone")
			if got != int(row.want) || !strings.Contains(out.String()+errs.String(), row.says) || ok != row.remains || (gone == nil) == row.remains {
				t.Errorf("%d, %s%s; on record: %v, gone: %v", got, out.String(), errs.String(), ok, gone == nil)
			}
			if !row.remains {
				_ = os.Remove(path + ".gone")
				if err := k.write(); err != nil {
					t.Fatal(err)
				}
			}
			ctx, cancel := context.WithCancel(t.Context())
			k.ready = func() error { cancel(); return nil }
			_, isLeft := errors.AsType[*nitro.LeftError](k.run(ctx))
			if _, ok = k.onRecord(t); isLeft != row.remains || started == row.remains || ok != row.remains {
				t.Errorf("a start says that it is left: %v, starts another: %v, and has it on record: %v", isLeft, started, ok)
			}
		})
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
		err := waitFor(t, t.Context(), row.script, "")
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
		err := waitFor(t, ctx, `trap 'echo "$2"; exit 5' TERM; touch "$1"; while :; do sleep 0.01; done`, started, row.says)
		if err == nil || err.Error() != row.want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// waitFor waits for a script in the place of a keeper.
func waitFor(t *testing.T, ctx context.Context, script string, args ...string) error {
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

// TestAConsoleThatBreaksOff: whoever reads it is told, and not held.
func TestAConsoleThatBreaksOff(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "console"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	told := make(chan error, 1)
	go func() { told <- tellAll(ctx, l, newPlayed().Follow) }()
	conn, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	if said, err := io.ReadAll(conn); err != nil || !strings.Contains(string(said), "cloister: error: the console breaks off: nitro-cli console: E44") {
		t.Errorf("%q, %v", said, err)
	}
	cancel()
	if err := <-told; err != nil {
		t.Error(err)
	}
}

// TestAnEnclaveThatCannotBeEnded: a keeper that was told to end says so on record, with what ends the enclave, and whoever
// stops it is told.
func TestAnEnclaveThatCannotBeEnded(t *testing.T) {
	left := nitro.Left{Path: "/bin/nitro-cli", Name: "cloister-x", ID: "i-1-enc2"}
	for name, row := range map[string]struct {
		of        string
		stopped   error
		says      string
		hint      string
		starting  bool // it is interrupted before the enclave runs
		withNitro bool
	}{
		"nitro-cli fails":      {backendNitro, &nitro.LeftError{Left: left, Err: errors.New("E11")}, "i-1-enc2", "terminate-enclave --enclave-id i-1-enc2", false, true},
		"a start is given up":  {backendNitro, errors.Join(errInterrupted, &nitro.LeftError{Left: left, Err: errors.New("E11")}), "may be left", "describe-enclaves", true, true},
		"a process stays":      {backendLocal, errors.New("operation not permitted"), "ending the enclave: operation not permitted", "still runs", false, false},
		"it ends, as it ought": {backendNitro, nil, "", "", false, true},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			p := newPlayed()
			p.stop = func() error { return row.stopped }
			k := newTestKeeper(t, row.of, func(context.Context) (kept, error) {
				if row.starting {
					return nil, row.stopped
				}
				return p, nil
			})
			k.ready = func() error { cancel(errInterrupted); return nil }
			err := k.run(ctx)
			s, ok := k.onRecord(t)
			if row.stopped == nil {
				if err != nil || ok || k.log.Len() > 0 {
					t.Errorf("%v; %+v; %s", err, s, k.log.String())
				}
				return
			}
			if !ok || s.Failure == nil || s.Failure.Status != statusUnavailable || !strings.Contains(s.Failure.Error, row.says) ||
				!strings.Contains(s.Failure.Hint, row.hint) || strings.Contains(s.Failure.Hint, "nothing was written") {
				t.Fatalf("%v; %+v", err, s.Failure)
			}
			if row.withNitro && (s.Nitro == nil || *s.Nitro != left) {
				t.Errorf("%+v", s.Nitro)
			}
			if !row.starting && !strings.Contains(k.log.String(), row.says) {
				t.Errorf("the log says %q", k.log.String())
			}
		})
	}
}

// TestWhoeverStopsAnEnclaveIsToldThatItGoesOn: "stopped" is said of an enclave that is.
func TestWhoeverStopsAnEnclaveIsToldThatItGoesOn(t *testing.T) {
	for name, row := range map[string]struct {
		leaves string // in the record's place
		want   status
		says   string
	}{
		"it goes on": {`s.Failure`, statusUnavailable, "the enclave i-1-enc2 may be left"},
		"it ended":   {"", statusDone, "stopped   keeper-test"},
	} {
		t.Run(name, func(t *testing.T) {
			k := newTestKeeper(t, backendNitro, nil)
			keeper := exec.Command("sh", "-c", `trap 'test -z "$2" || mv "$2" "$1"; test -n "$2" || rm "$1"; exit 0' TERM; echo; while :; do sleep 0.01; done`, "sh", k.file, "")
			k.state = standing{Name: k.name, Backend: backendNitro, Boots: 1, Started: now()}
			if row.leaves != "" {
				keeper.Args[len(keeper.Args)-1] = k.file + ".after"
			}
			out, err := keeper.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := keeper.Start(); err != nil {
				t.Fatal(err)
			}
			go func() { _ = keeper.Wait() }()
			_, _ = out.Read(make([]byte, 1)) // it is ready
			if k.state.Keeper, err = identify(keeper.Process.Pid); err != nil {
				t.Fatal(err)
			}
			k.state.Process = k.state.Keeper
			if err := k.write(); err != nil {
				t.Fatal(err)
			}
			k.state.Failure = &errorReport{Status: statusUnavailable, Error: "the enclave i-1-enc2 may be left"}
			k.file += ".after"
			if err := k.write(); err != nil {
				t.Fatal(err)
			}
			var said, errs strings.Builder
			if got := run(t.Context(), []string{"enclave", "stop", k.name}, &said, &errs); got != int(row.want) || !strings.Contains(said.String()+errs.String(), row.says) {
				t.Errorf("%d, %s%s", got, said.String(), errs.String())
			}
		})
	}
}
