package main

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
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
