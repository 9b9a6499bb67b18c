package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/enclave/attest"
	"github.com/cloister-run/cloister/enclave/client"
	"github.com/cloister-run/cloister/enclave/devkit"
	"github.com/cloister-run/cloister/enclave/launch"
)

const aboutEnclaveStart = `Start starts a SIMULATED enclave on this machine that stays until it is stopped, so that jobs outlive the
terminal. NAME is what --enclave of other commands names. Its files are in memory, and gone when it ends.`

func (a *app) enclaveCommand() *cobra.Command {
	group := &cobra.Command{Use: "enclave", Short: "Start, list and stop enclaves", Args: cobra.ArbitraryArgs, RunE: a.needsCommand}
	start := &cobra.Command{
		Use: "start NAME", Short: "Start a SIMULATED enclave that stays", Long: aboutEnclaveStart, Example: "  cloister enclave start dev",
		Args: takes("cloister enclave start NAME", 1),
		RunE: func(c *cobra.Command, args []string) error { return a.startEnclave(c.Context(), args[0]) },
	}
	list := &cobra.Command{
		Use: "list", Short: "List the enclaves that were started", Args: takes("cloister enclave list", 0),
		RunE: func(*cobra.Command, []string) error { return a.listEnclaves() },
	}
	stop := &cobra.Command{
		Use: "stop NAME", Short: "Stop an enclave; every job in it is cancelled", Args: takes("cloister enclave stop NAME", 1),
		RunE: func(c *cobra.Command, args []string) error { return a.stopEnclave(c.Context(), args[0]) },
	}
	serve := &cobra.Command{
		Use: "serve NAME", Hidden: true, Args: takes("cloister enclave start NAME", 1),
		RunE: func(c *cobra.Command, args []string) error { return a.serveEnclave(c.Context(), args[0]) },
	}
	group.AddCommand(start, list, stop, serve)
	return group
}

// standing is an enclave that stays, as its keeper wrote it down.
type standing struct {
	Name string `json:"name"`
	// Keeper is the process that plays the hypervisor, Enclave the enclave's first one.
	Keeper  processID `json:"keeper"`
	Enclave processID `json:"enclave"`
	// Root, PEM, vouches for the enclave; PCRs are those of its image.
	Root    string            `json:"root"`
	PCRs    map[string]string `json:"pcrs"`
	Started string            `json:"started"`
}

// processID names a process for good: its number comes again, and its start with it does not (proc(5)).
type processID struct {
	PID   int    `json:"pid"`
	Start string `json:"start"`
}

func identify(pid int) (processID, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return processID{}, err
	}
	// "PID (NAME) STATE …"; a name may contain brackets. The start is the 22nd field.
	fields := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:]))
	if len(fields) < 20 || fields[0] == "Z" {
		return processID{}, fs.ErrNotExist
	}
	return processID{pid, fields[19]}, nil
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

// findStanding reads what is known of an enclave. One that is gone is none.
func findStanding(name string) (standing, error) {
	file, err := standingFile(name)
	if err != nil {
		return standing{}, err
	}
	raw, err := client.ReadBounded(file, 1<<20)
	if errors.Is(err, fs.ErrNotExist) {
		return standing{}, errors.Join(errEnded,
			usage("cloister enclave start "+name+" starts one; cloister enclave list says which there are", "there is no enclave %q", name))
	}
	if err != nil {
		return standing{}, err
	}
	var s standing
	if err := json.Unmarshal(raw, &s); err != nil {
		return standing{}, usage("remove it", "%s: %v", file, err)
	}
	if !s.Enclave.runs() {
		return standing{}, errors.Join(errEnded, &failure{
			status: statusUnavailable, message: fmt.Sprintf("the enclave %q has ended, and its jobs with it", name),
			hint: "start it again: cloister enclave start " + name,
		})
	}
	return s, nil
}

// errEnded: an enclave is not there, or not any more, and neither is any job in it.
var errEnded = errors.New("the enclave has ended")

// client gives a client that trusts this enclave, and nothing else.
func (s standing) client() (*client.Client, error) {
	root, err := attest.ParseRoot([]byte(s.Root))
	if err != nil {
		return nil, err
	}
	pcrs, err := attest.ParsePCRSet(s.PCRs)
	if err != nil {
		return nil, err
	}
	return client.New(client.Config{
		Dial: func(ctx context.Context) (net.Conn, error) { return launch.DialPID(ctx, s.Enclave.PID) },
		Root: root, Realm: attest.RealmLocal, PCRs: pcrs, Credentials: credentials, Now: time.Now,
	})
}

// startEnclave starts a keeper that is no child of this terminal, and waits until its enclave answers.
func (a *app) startEnclave(ctx context.Context, name string) (err error) {
	file, err := standingFile(name)
	if err != nil {
		return err
	}
	if s, err := findStanding(name); err == nil {
		return usage("cloister enclave stop "+name+" ends it", "the enclave %q runs already, since %s", name, s.Started)
	}
	log, err := os.OpenFile(strings.TrimSuffix(file, ".json")+".log", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	from, to, err := os.Pipe()
	if err != nil {
		return err
	}
	defer from.Close()
	cmd := exec.Command("/proc/self/exe", "enclave", "serve", name)
	cmd.Args[0] = os.Args[0]
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", to, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	_ = to.Close() // the keeper has it
	if err != nil {
		return err
	}
	said := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(from).ReadString('\n') // nothing: it has ended
		said <- line
	}()
	select {
	case line := <-said:
		if line == "" {
			_ = cmd.Wait()
			reason, _ := client.ReadBounded(log.Name(), 64<<10)
			return &failure{status: statusUnavailable, message: fmt.Sprintf("the enclave %q does not start:\n%s", name, strings.TrimSpace(string(reason))),
				hint: "cloister doctor says what this machine lacks"}
		}
	case <-ctx.Done():
		_ = cmd.Process.Signal(unix.SIGTERM)
		_ = cmd.Wait()
		return context.Cause(ctx)
	}
	if a.json {
		printJSON(a.stdout, map[string]any{"status": statusDone, "enclave": name})
		return nil
	}
	say(a.stderr, "SIMULATED enclave: a process on this machine, which protects nothing from its owner\n")
	say(a.stdout, "started   %s; cloister enclave stop %s ends it\n", name, name)
	return nil
}

// serveEnclave is the keeper: it plays the hypervisor until it is told to end, or the enclave does.
func (a *app) serveEnclave(ctx context.Context, name string) (err error) {
	file, err := standingFile(name)
	if err != nil {
		return err
	}
	beside, err := here()
	if err != nil {
		return err
	}
	// One keeper for a name: the lock ends with the process.
	lock, err := os.OpenFile(strings.TrimSuffix(file, ".json")+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return usage("cloister enclave stop "+name+" ends it", "the enclave %q runs already", name)
	}
	enclave, err := simulate(ctx, filepath.Join(beside, "enclave"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, enclave.Stop()) }()
	s := standing{Name: name, Root: string(enclave.RootPEM()), PCRs: enclave.PCRs().Hex(), Started: time.Now().UTC().Format(time.RFC3339)}
	if s.Keeper, err = identify(os.Getpid()); err == nil {
		s.Enclave, err = identify(enclave.PID())
	}
	if err != nil {
		return err
	}
	raw, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if err := client.WriteAtomically(file, raw); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(file)) }()
	say(a.stdout, "ready\n")
	select {
	case <-ctx.Done(): // which is how it is meant to end
		return nil
	case <-enclave.Ended():
		return errors.New("the enclave ended")
	}
}

// standingReport is one enclave of `enclave list --json`.
type standingReport struct {
	Name    string `json:"name"`
	State   string `json:"state"`
	Started string `json:"started"`
}

func (a *app) listEnclaves() error {
	dir, err := stateDir("enclaves")
	if err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return err
	}
	all := []standingReport{}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".json")
		r := standingReport{Name: name, State: "ended"}
		if s, err := findStanding(name); err == nil {
			r.State, r.Started = "running", s.Started
		}
		all = append(all, r)
	}
	if a.json {
		printJSON(a.stdout, map[string]any{"status": statusDone, "enclaves": all})
		return nil
	}
	for _, r := range all {
		say(a.stdout, "%-9s %s %s\n", r.Name, r.State, r.Started)
	}
	return nil
}

func (a *app) stopEnclave(ctx context.Context, name string) error {
	s, err := findStanding(name)
	if err != nil {
		return err
	}
	if s.Keeper.runs() { // its number may be somebody else's by now
		if err := unix.Kill(s.Keeper.PID, unix.SIGTERM); err != nil {
			return fmt.Errorf("stopping %s: %w", name, err)
		}
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for s.Keeper.runs() || s.Enclave.runs() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if a.json {
		printJSON(a.stdout, map[string]any{"status": statusDone, "enclave": name})
		return nil
	}
	say(a.stdout, "stopped   %s\n", name)
	return nil
}
