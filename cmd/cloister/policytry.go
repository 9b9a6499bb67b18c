package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/enclave/client"
	"github.com/cloister-run/cloister/enclave/wire"
	"github.com/cloister-run/cloister/policies/abi"
	"github.com/cloister-run/cloister/policies/policytest"
	"github.com/cloister-run/cloister/policies/worker"
)

// tried is a policy that was loaded as an enclave loads it.
type tried struct {
	path   string
	binary []byte
	policy *worker.Policy
	// took is how long loading took, above all compiling.
	took time.Duration
}

// withPolicies loads policies into workers, as an enclave does, and ends those when use returns.
func withPolicies(ctx context.Context, paths []string, use func([]tried) error) (err error) {
	pool := worker.New(worker.Config{Start: startWorker, Workers: runtime.NumCPU() * len(paths)})
	defer func() { err = errors.Join(err, pool.Close()) }()
	var all []tried
	for _, path := range paths {
		binary, err := client.ReadBounded(path, wire.MaxModule)
		if err != nil {
			return usage("name a WebAssembly module", "%s: %v", path, err)
		}
		start := time.Now()
		policy, err := pool.Load(ctx, binary)
		if err != nil {
			return loadFailure(path, err)
		}
		all = append(all, tried{path, binary, policy, time.Since(start)})
	}
	return use(all)
}

// loadFailure says why an enclave would not take a policy.
func loadFailure(path string, err error) error {
	switch {
	case errors.Is(err, worker.ErrRefused):
		return usage(cureOf(err), "%s: %v", path, err)
	case errors.Is(err, worker.ErrGone):
		return usage(fmt.Sprintf("compiling a policy and running it may take %s; make it smaller", bytesOf(workerMemory)), "%s: %v", path, err)
	}
	return err
}

// startWorker starts this command again as a policy worker. It has no sandbox around it, which not every
// machine gives; it gives up what it does not need by itself, and has as much memory.
func startWorker(_ context.Context, end *os.File) (worker.Process, error) {
	cmd := exec.Command("/proc/self/exe", "policy", "worker") // it ends with its connection
	cmd.Args[0] = "cloister"
	cmd.Env, cmd.ExtraFiles = []string{}, []*os.File{end}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for us
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	w := plainWorker{cmd}
	limit := unix.Rlimit{Cur: workerMemory, Max: workerMemory} // before it is told of a module
	if err := unix.Prlimit(cmd.Process.Pid, unix.RLIMIT_DATA, &limit, nil); err != nil {
		return nil, errors.Join(err, w.Kill(), cmd.Wait())
	}
	return w, nil
}

// plainWorker is a worker without a sandbox.
type plainWorker struct{ cmd *exec.Cmd }

func (w plainWorker) Kill() error { return w.cmd.Process.Kill() }

func (w plainWorker) Wait() (int, error) {
	err := w.cmd.Wait()
	return w.cmd.ProcessState.ExitCode(), err
}

// cureOf says how a module that no enclave takes becomes one.
func cureOf(err error) string {
	if strings.Contains(err.Error(), abi.SectionName) {
		return "put a manifest into it: cloister policy pack MODULE.wasm MANIFEST.json -o POLICY.wasm"
	}
	return "docs/policy-abi.md says what a module may hold"
}

func loadFixtures(dir string) ([]policytest.Fixture, error) {
	fixtures, err := policytest.Load(dir)
	if err != nil {
		return nil, usage("docs/policy-abi.md says what a fixture holds", "%v", err)
	}
	return fixtures, nil
}

func compact(v any) string {
	text, _ := json.Marshal(v) // every decision can be encoded
	return string(text)
}
