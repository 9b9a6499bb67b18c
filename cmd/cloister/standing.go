package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/enclave/attest"
	"github.com/cloister-run/cloister/enclave/client"
	"github.com/cloister-run/cloister/enclave/devkit"
	"github.com/cloister-run/cloister/enclave/launch/nitro"
	"github.com/cloister-run/cloister/enclave/vsock"
)

// standing is an enclave that stays, as its keeper wrote it down.
type standing struct {
	Name    string `json:"name"`
	Backend string `json:"backend"`
	// Keeper is the process that starts the enclave and ends it, Process the enclave's own on this machine, or
	// none while the keeper starts it, for the first time or anew.
	Keeper  processID `json:"keeper"`
	Process processID `json:"process"`
	// Address is where the enclave is dialled.
	Address vsock.Address `json:"address"`
	// Root, PEM, vouches for a SIMULATED enclave; there is none for a genuine one. PCRs are those of its image.
	Root    string            `json:"root,omitempty"`
	PCRs    map[string]string `json:"pcrs"`
	Started string            `json:"started"`
	// Boots counts how often the keeper started it: 0 while it does so for the first time, when Address, Root and PCRs
	// are not known yet.
	Boots int `json:"boots"`
	// Fresh says that a job which needs a fresh enclave has this one started anew.
	Fresh bool `json:"fresh,omitempty"`
	// Debug says that whoever started it may read its console, and that no key is released to it.
	Debug bool `json:"debug,omitempty"`
	// Nitro is how an enclave is ended that does not end with its keeper.
	Nitro *nitro.Left `json:"nitro,omitempty"`
	// Failure is why the keeper, which has ended, could not end the enclave.
	Failure *errorReport `json:"failure,omitempty"`
}

// simulated says whose word the enclave's documents are.
func (s standing) simulated() bool { return s.Backend != backendNitro }

func (s standing) realm() attest.Realm {
	if s.simulated() {
		return attest.RealmLocal
	}
	return attest.RealmAWS
}

// processID names a process for good: its number comes again, and its start with it does not (proc(5)).
type processID struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // ticks of the clock since this machine booted
}

func identify(pid int) (processID, error) {
	process, err := procfs.NewProc(pid)
	if err != nil {
		return processID{}, err
	}
	stat, err := process.Stat()
	if err != nil {
		return processID{}, err
	}
	if stat.State == "Z" {
		return processID{}, fs.ErrNotExist
	}
	return processID{pid, stat.Starttime}, nil
}

func (p processID) runs() bool {
	now, err := identify(p.PID)
	return err == nil && now == p
}

// stateDir is a folder of this user's state, made if it is missing.
func stateDir(kind string) (string, error) {
	home, err := devkit.DefaultHome()
	if err != nil {
		return "", usage("set XDG_STATE_HOME", "%v", err)
	}
	dir := filepath.Join(filepath.Dir(home), kind)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", usage("set XDG_STATE_HOME to a folder of yours", "%v", err)
	}
	return dir, nil
}

func standingFile(name string) (string, error) {
	if !regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`).MatchString(name) || len(name) > 63 || isBrief(name) {
		return "", usage(`choose lower-case words joined by hyphens; "local" and "rehearsal" are enclaves for one command`, "%q cannot be an enclave's name", name)
	}
	dir, err := stateDir("enclaves")
	return filepath.Join(dir, name+".json"), err
}

// findStanding reads what is known of an enclave that has a keeper. It may be just starting.
func findStanding(name string) (standing, error) {
	s, err := readStanding(name)
	if err != nil {
		return standing{}, err
	}
	if !s.Keeper.runs() {
		return standing{}, errors.Join(errEnded, s.unkept())
	}
	return s, nil
}

// readStanding reads what was written down of an enclave.
func readStanding(name string) (s standing, err error) {
	file, err := standingFile(name)
	if err != nil {
		return s, err
	}
	raw, err := client.ReadBounded(file, 1<<20)
	if errors.Is(err, fs.ErrNotExist) {
		return s, errors.Join(errEnded,
			usage("cloister enclave start "+name+" starts one; cloister enclave list says which there are", "there is no enclave %q", name))
	}
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(raw, &s); err != nil {
		return s, usage("remove it", "%s: %v", file, err)
	}
	return s, nil
}

// unkept says of an enclave without a keeper what became of it.
func (s standing) unkept() *failure {
	if s.Nitro == nil {
		return &failure{
			status: statusUnavailable, message: fmt.Sprintf("the enclave %q has ended, and its jobs with it", s.Name),
			hint: "start it again: cloister enclave start " + s.Name,
		}
	}
	return &failure{
		status:  statusUnavailable,
		message: fmt.Sprintf("the enclave %q has lost its keeper, and nobody reaches it any more; it may still run, as %s", s.Name, cmp.Or(s.Nitro.ID, s.Nitro.Name)),
		hint:    "cloister enclave stop " + s.Name + " ends it, and so does nitro-cli terminate-enclave --enclave-id " + cmp.Or(s.Nitro.ID, "ID"),
	}
}

// errEnded: an enclave is not there, or not any more, and neither is any job in it.
var errEnded = errors.New("the enclave has ended")

// expectation is what the enclave is known by.
func (s standing) expectation() (e expectation, err error) {
	if s.Boots == 0 {
		return e, s.notYet()
	}
	e.realm, e.image = s.realm(), true
	if s.simulated() {
		if e.root, err = attest.ParseRoot([]byte(s.Root)); err != nil {
			return e, err
		}
	}
	e.pcrs, err = attest.ParsePCRSet(s.PCRs)
	return e, err
}

// notYet says of an enclave that starts for the first time that nothing can be done with it.
func (s standing) notYet() *failure {
	return &failure{
		status: statusUnavailable, message: fmt.Sprintf("the enclave %q is being started", s.Name),
		hint: "wait until cloister enclave list says that it is running; cloister enclave stop " + s.Name + " gives it up",
	}
}

// client gives a client that trusts this enclave, and nothing else.
func (s standing) client() (*client.Client, error) {
	e, err := s.expectation()
	if err != nil {
		return nil, err
	}
	return client.New(client.Config{
		Dial: s.Address.Dial, Root: e.root, Realm: e.realm, PCRs: e.pcrs, Credentials: credentials, Now: time.Now,
	})
}

// runs says whether the enclave is there, and not just starting.
func (s standing) runs() bool { return s.Address != "" && s.Process.runs() }

// state is a word for it.
func (s standing) state() string {
	switch {
	case s.Keeper.runs() && s.runs():
		return "running"
	case s.Keeper.runs():
		return "starting"
	case s.Nitro != nil:
		return "left"
	}
	return "ended"
}

// end has the keeper end the enclave, and waits until it did. Where the keeper says that it could not, that is the error;
// where it was killed, what it left is ended here.
func (s standing) end(ctx context.Context) error {
	if !s.Keeper.runs() {
		return s.endLeft(ctx)
	}
	if err := unix.Kill(s.Keeper.PID, unix.SIGTERM); err != nil {
		return fmt.Errorf("stopping %s: %w", s.Name, err)
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for s.Keeper.runs() || s.Process.runs() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	after, err := readStanding(s.Name)
	switch {
	case errors.Is(err, errEnded), err == nil && after.Keeper != s.Keeper:
		return nil
	case err != nil:
		return err
	case after.Failure != nil:
		return after.Failure.failure()
	case after.Nitro == nil:
		return nil // the enclave ended with its keeper, which was killed meanwhile
	}
	return after.endLeft(ctx)
}

// endLeft ends an enclave whose keeper did not, and takes it off the record.
func (s standing) endLeft(ctx context.Context) error {
	if s.Nitro == nil {
		return s.unkept()
	}
	file, err := standingFile(s.Name)
	if err != nil {
		return err
	}
	lock, err := lockKeeper(s.Name, file) // no other keeper comes meanwhile
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := s.Nitro.End(ctx); err != nil {
		return err
	}
	return os.Remove(file)
}

// findRunning is findStanding, and waits for one that is just starting.
func findRunning(ctx context.Context, name string) (standing, error) {
	return awaitStanding(ctx, name, 0)
}

// awaitStanding waits until the enclave runs that was started more than so many times.
func awaitStanding(ctx context.Context, name string, boots int) (standing, error) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		s, err := findStanding(name)
		if err != nil || s.runs() && s.Boots > boots {
			return s, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return s, context.Cause(ctx)
		}
	}
}

// restart has the keeper start the enclave anew, and gives what it is then. Of two who ask, one waits for the other.
func restart(ctx context.Context, name string) (standing, error) {
	done, err := takeTurn(ctx, name, ".restart", nil)
	if err != nil {
		return standing{}, err
	}
	defer func() { _ = done() }() // a lock that is let go
	before, err := findRunning(ctx, name)
	if err != nil {
		return before, err
	}
	if err := unix.Kill(before.Keeper.PID, unix.SIGUSR1); err != nil {
		return before, fmt.Errorf("restarting %s: %w", name, err)
	}
	s, err := awaitStanding(ctx, name, before.Boots)
	if errors.Is(err, errEnded) {
		return s, doesNotRestart(name)
	}
	return s, err
}

// doesNotRestart says why, as its keeper wrote it down.
func doesNotRestart(name string) error {
	file, err := standingFile(name)
	if err != nil {
		return err
	}
	return &failure{
		status: statusUnavailable, message: fmt.Sprintf("the enclave %q does not start again:\n%s", name, lastOf(besideFile(file, ".log"))),
		hint: "cloister enclave start " + name + " starts one",
	}
}

// lastOf is the end of a file, or nothing.
func lastOf(path string) string {
	const most = 8 << 10
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > most {
		_, _ = f.Seek(-most, io.SeekEnd) // else from the beginning
	}
	text, _ := io.ReadAll(io.LimitReader(f, most)) // what there is of it
	return strings.TrimSpace(string(text))
}
