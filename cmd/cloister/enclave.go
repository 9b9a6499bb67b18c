package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/enclave/vsock"
)

const aboutEnclaveStart = `Start starts an enclave that stays until it is stopped, so that jobs outlive the terminal. NAME is what --enclave
of other commands names. Its files are in memory, and gone when it ends.

Where it runs is up to --backend. "local" is a process of this machine, "qemu" a virtual machine that boots an enclave image with
a kernel, AF_VSOCK and /dev/nsm of its own: both are SIMULATED and protect nothing from who owns the machine. "nitro" is a Nitro
Enclave, on an EC2 instance that has them.`

const exampleEnclaveStart = `  cloister enclave start dev
  cloister enclave start vm --backend qemu --image cloister.eif --memory 2GiB --fresh
  cloister enclave start prod --backend nitro --image cloister.eif --cpus 2 --memory 4GiB`

const aboutEnclaveRestart = `Restart ends an enclave, and every job in it, and starts the same image again: it is fresh then, so that keys are released
to it which are for enclaves that ran nothing before.`

const aboutEnclaveConsole = `Console prints what an enclave that was started with --debug writes on its console, until it ends or you interrupt it.`

func (a *app) enclaveCommand() *cobra.Command {
	group := &cobra.Command{Use: "enclave", Short: "Start, list and stop enclaves", Args: cobra.ArbitraryArgs, RunE: a.needsCommand}
	var b backend
	start := &cobra.Command{
		Use: "start NAME", Short: "Start an enclave that stays", Long: aboutEnclaveStart, Example: exampleEnclaveStart,
		Args: takes("cloister enclave start NAME", 1),
		RunE: func(c *cobra.Command, args []string) error { return a.startEnclave(c.Context(), args[0], &b) },
	}
	restart := &cobra.Command{
		Use: "restart NAME", Short: "Start an enclave anew; every job in it is cancelled", Long: aboutEnclaveRestart,
		Args: takes("cloister enclave restart NAME", 1),
		RunE: func(c *cobra.Command, args []string) error { return a.restartEnclave(c.Context(), args[0]) },
	}
	list := &cobra.Command{
		Use: "list", Short: "List the enclaves that were started", Args: takes("cloister enclave list", 0),
		RunE: func(*cobra.Command, []string) error { return a.listEnclaves() },
	}
	stop := &cobra.Command{
		Use: "stop NAME", Short: "Stop an enclave; every job in it is cancelled", Args: takes("cloister enclave stop NAME", 1),
		RunE: func(c *cobra.Command, args []string) error { return a.stopEnclave(c.Context(), args[0]) },
	}
	console := &cobra.Command{
		Use: "console NAME", Short: "Print the console of an enclave in debug mode", Long: aboutEnclaveConsole,
		Args: takes("cloister enclave console NAME", 1),
		RunE: func(c *cobra.Command, args []string) error { return a.enclaveConsole(c.Context(), args[0]) },
	}
	serve := &cobra.Command{
		Use: "serve NAME", Hidden: true, Args: takes("cloister enclave start NAME", 1),
		RunE: func(c *cobra.Command, args []string) error { return a.serveEnclave(c.Context(), args[0], &b) },
	}
	b.add(start)
	b.add(serve)
	group.AddCommand(start, list, stop, restart, console, serve)
	return group
}

// startEnclave starts a keeper that is no child of this terminal, and waits until its enclave answers.
func (a *app) startEnclave(ctx context.Context, name string, b *backend) (err error) {
	file, err := standingFile(name)
	if err != nil {
		return err
	}
	if s, err := findStanding(name); err == nil {
		does := "runs already, since "
		if s.Boots == 0 {
			does = "is being started already, since "
		}
		return usage("cloister enclave stop "+name+" ends it", "the enclave %q %s%s", name, does, s.Started)
	}
	if err := b.check(); err != nil {
		return err
	}
	log, err := os.OpenFile(besideFile(file, ".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	from, to, err := os.Pipe()
	if err != nil {
		return err
	}
	defer from.Close()
	cmd := exec.Command("/proc/self/exe", append([]string{"enclave", "serve", "--json", name}, b.args()...)...)
	cmd.Args[0] = os.Args[0]
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", to, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	_ = to.Close() // the keeper has it
	if err != nil {
		return err
	}
	if err := awaitKeeper(ctx, name, cmd, from); err != nil {
		return err
	}
	if a.json {
		printJSON(a.stdout, map[string]any{"status": statusDone, "enclave": name})
		return nil
	}
	if err := a.sayEnclave(name); err != nil {
		return err
	}
	say(a.stdout, "started   %s; cloister enclave stop %s ends it\n", name, name)
	return nil
}

// awaitKeeper returns when a keeper says that its enclave answers, or why it does not. If ctx ends before, the keeper is
// told to end, and waited for: it may say that it could not end the enclave.
func awaitKeeper(ctx context.Context, name string, keeper *exec.Cmd, from io.Reader) error {
	said := make(chan []byte, 1)
	go func() { said <- readKeeper(from) }()
	var line []byte
	var givenUp error
	select {
	case line = <-said:
		if string(line) == keeperReady {
			return nil
		}
	case <-ctx.Done():
		givenUp = context.Cause(ctx)
		_ = keeper.Process.Signal(unix.SIGTERM)
		line = <-said
	}
	_ = keeper.Wait() // it has said everything
	if givenUp == nil {
		return doesNotStart(name, line)
	}
	if s, err := readStanding(name); err == nil && s.Failure != nil && s.Keeper.PID == keeper.Process.Pid {
		return s.Failure.failure() // also where it was ready meanwhile
	}
	if r, ok := readReport(line); ok && r.Status != statusCancelled {
		return r.failure()
	}
	return givenUp
}

// maxReason bounds what a keeper says of why it starts nothing.
const maxReason = 256 << 10

// readKeeper is keeperReady, or all that the keeper says until it ends: what is over is dropped, so that it can end.
func readKeeper(from io.Reader) []byte {
	lines := bufio.NewReader(io.LimitReader(from, maxReason))
	line, _ := lines.ReadBytes('\n') // nothing: it has ended
	if string(line) == keeperReady+"\n" {
		return []byte(keeperReady)
	}
	rest, _ := io.ReadAll(lines)
	_, _ = io.Copy(io.Discard, from)
	return append(line, rest...)
}

// doesNotStart is the keeper's failure, in JSON.
func doesNotStart(name string, raw []byte) error {
	r, ok := readReport(raw)
	if !ok {
		return &failure{status: statusUnavailable, message: fmt.Sprintf("the enclave %q does not start, and its keeper says nothing", name),
			hint: "this is a fault of cloister; please report it"}
	}
	return r.failure()
}

func readReport(raw []byte) (r errorReport, ok bool) {
	err := json.Unmarshal(raw, &r)
	return r, err == nil && r.Error != ""
}

// standingReport is one enclave of `enclave list --json`.
type standingReport struct {
	Name    string `json:"name"`
	Backend string `json:"backend,omitempty"`
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
		if s, err := readStanding(name); err == nil {
			r.State = s.state()
			r.Backend, r.Started = s.Backend, s.Started
		}
		all = append(all, r)
	}
	if a.json {
		printJSON(a.stdout, map[string]any{"status": statusDone, "enclaves": all})
		return nil
	}
	for _, r := range all {
		say(a.stdout, "%-9s %s\n", r.Name, strings.TrimSpace(strings.Join([]string{r.State, r.Backend, r.Started}, " ")))
	}
	return nil
}

func (a *app) stopEnclave(ctx context.Context, name string) error {
	s, err := readStanding(name)
	if err != nil {
		return err
	}
	if err := s.end(ctx); err != nil {
		return err
	}
	if a.json {
		printJSON(a.stdout, map[string]any{"status": statusDone, "enclave": name})
		return nil
	}
	say(a.stdout, "stopped   %s\n", name)
	return nil
}

// restartEnclave has the keeper start the enclave anew, and waits until it did.
func (a *app) restartEnclave(ctx context.Context, name string) error {
	if _, err := restart(ctx, name); err != nil {
		return err
	}
	if a.json {
		printJSON(a.stdout, map[string]any{"status": statusDone, "enclave": name})
		return nil
	}
	say(a.stdout, "restarted %s\n", name)
	return nil
}

// enclaveConsole prints lines as they come. What could steer a terminal does not.
func (a *app) enclaveConsole(ctx context.Context, name string) error {
	s, err := findStanding(name)
	if err != nil {
		return err
	}
	if !s.Debug {
		return usage("start it with --debug; no key is released to it then", "the enclave %q has no console: it is not in debug mode", name)
	}
	if s.Boots == 0 {
		return s.notYet()
	}
	file, err := standingFile(name)
	if err != nil {
		return err
	}
	conn, err := vsock.UnixAddress(besideFile(file, consoleSuffix)).Dial(ctx)
	if err != nil {
		return fmt.Errorf("the console of %s: %w", name, err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	for lines := bufio.NewReaderSize(conn, maxText); ; {
		line, _, err := lines.ReadLine() // a line that is longer comes in pieces
		if err != nil {                  // it ended, or this command is interrupted, which is how it is meant to end
			return nil
		}
		say(a.stdout, "%s\n", printable(string(line)))
	}
}
