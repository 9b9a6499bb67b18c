package nitro_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/cloister-run/cloister/enclave/image/eif"
)

// This test is nitro-cli when it is started by that name: what it prints is what AWS's prints
// (src/common/json_output.rs), or a file of testdata/says. Its state, and what a test wants of it, are files in
// the folder of the link by which it was started.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "nitro-cli" {
		os.Exit(fake{filepath.Dir(os.Args[0])}.main(os.Args[1], os.Args[2:]))
	}
	if err := os.Setenv("GORACE", "atexit_sleep_ms=0"); err != nil { // of the fake, which is started often
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// What a test may want of the fake: files of these names.
const (
	fails    = "fails-"  // and a verb: the name of what it says instead
	flags    = "flags"   // what describe-enclaves prints as such
	measures = "pcr0"    // the same of PCR0
	forgets  = "forgets" // no measurements
	hangs    = "hangs"   // run-enclave never gets to the end
	floods   = "floods"  // describe-enclaves has no end
	neighbor = "others"  // an enclave of somebody else does not answer
)

type fake struct{ dir string }

// described is an enclave, as describe-enclaves prints it.
type described struct {
	EnclaveName  string
	EnclaveID    string
	ProcessID    int
	EnclaveCID   uint64
	NumberOfCPUs int
	CPUIDs       []int
	MemoryMiB    int
	State        string            `json:",omitempty"`
	Flags        string            `json:",omitempty"`
	Measurements map[string]string `json:",omitempty"`
}

func (f fake) wanted(name string) (string, bool) {
	raw, err := os.ReadFile(filepath.Join(f.dir, name))
	return string(raw), err == nil
}

func (f fake) main(verb string, args []string) int {
	if name, ok := f.wanted(fails + verb); ok {
		v, err := readVector(name)
		if err != nil {
			panic(err)
		}
		fmt.Fprint(os.Stderr, v.says)
		return v.status
	}
	switch verb {
	case "run-enclave":
		return f.runEnclave(args)
	case "describe-enclaves":
		return f.describe()
	case "terminate-enclave":
		return f.terminate(args[1])
	case "console":
		fmt.Println("[    0.000000] Linux version\ncloisterd: ready")
		for _, running := f.enclave(args[1]); running; _, running = f.enclave(args[1]) {
			time.Sleep(time.Millisecond)
		}
		return 0
	case "hold":
		return f.hold(args[0])
	}
	fmt.Fprintf(os.Stderr, "error: unrecognized subcommand '%s'\n", verb)
	return 2
}

func (f fake) runEnclave(args []string) int {
	set := flag.NewFlagSet("run-enclave", flag.ExitOnError)
	path, name := set.String("eif-path", "", ""), set.String("enclave-name", "", "")
	cpus, memory := set.Int("cpu-count", 0, ""), set.Int("memory", 0, "")
	cid, debug := set.Uint64("enclave-cid", 0, ""), set.Bool("debug-mode", false, "")
	_ = set.Parse(args)
	measurements, err := measure(*path)
	if err != nil {
		panic(err)
	}
	e := described{EnclaveName: *name, EnclaveID: fmt.Sprintf("i-abc12345def67890a-enc%x", time.Now().UnixNano()), EnclaveCID: *cid,
		NumberOfCPUs: *cpus, CPUIDs: []int{1, 3}, MemoryMiB: *memory, State: "RUNNING", Flags: "NONE", Measurements: measurements}
	if e.EnclaveCID == 0 {
		e.EnclaveCID = 16
	}
	if *debug {
		e.Flags = "DEBUG_MODE"
	}
	raw, _ := json.Marshal(e)
	fmt.Fprintf(os.Stderr, "Start allocating memory...\n")
	// The process that holds an enclave is a daemon.
	cmd := exec.Command("/proc/self/exe", "hold", string(raw))
	cmd.Args[0] = os.Args[0]
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		panic(err)
	}
	for running := false; !running; _, running = f.enclave(e.EnclaveID) {
		time.Sleep(time.Millisecond)
	}
	fmt.Fprintf(os.Stderr, "Started enclave with enclave-cid: %d, memory: %d MiB, cpu-ids: [1, 3]\n", e.EnclaveCID, e.MemoryMiB)
	if _, ok := f.wanted(hangs); ok {
		time.Sleep(time.Hour)
	}
	e.ProcessID, e.State, e.Flags, e.Measurements = cmd.Process.Pid, "", "", nil
	raw, _ = json.MarshalIndent(e, "", "  ")
	fmt.Printf("%s\n", raw)
	return 0
}

// hold is the process that holds an enclave: it is there as long as its file is.
func (f fake) hold(raw string) int {
	var e described
	_ = json.Unmarshal([]byte(raw), &e)
	e.ProcessID = os.Getpid()
	ends := make(chan os.Signal, 1)
	signal.Notify(ends, syscall.SIGTERM)
	out, _ := json.Marshal(e)
	file := filepath.Join(f.dir, e.EnclaveID+".enclave")
	if os.WriteFile(file+".new", out, 0o600) != nil || os.Rename(file+".new", file) != nil {
		return 1
	}
	for {
		select {
		case <-ends:
			_ = os.Remove(file)
			return 0
		case <-time.After(20 * time.Millisecond):
			if _, err := os.Stat(file); err != nil {
				return 0 // the test is over
			}
		}
	}
}

// enclave is one that runs.
func (f fake) enclave(id string) (e described, running bool) {
	raw, err := os.ReadFile(filepath.Join(f.dir, id+".enclave"))
	return e, err == nil && json.Unmarshal(raw, &e) == nil
}

// enclaves are those that run.
func (f fake) enclaves() []described {
	all := []described{}
	files, _ := filepath.Glob(filepath.Join(f.dir, "*.enclave"))
	for _, file := range files {
		if e, ok := f.enclave(strings.TrimSuffix(filepath.Base(file), ".enclave")); ok {
			all = append(all, e)
		}
	}
	return all
}

func (f fake) describe() int {
	all := f.enclaves()
	for i := range all {
		if want, ok := f.wanted(flags); ok {
			all[i].Flags = want
		}
		if want, ok := f.wanted(measures); ok {
			all[i].Measurements["PCR0"] = want
		}
		if _, ok := f.wanted(forgets); ok {
			all[i].Measurements = nil
		}
	}
	out, _ := json.MarshalIndent(all, "", "  ")
	if _, ok := f.wanted(floods); ok {
		for {
			if _, err := os.Stdout.Write(bytes.Repeat([]byte(" "), 1<<16)); err != nil {
				return 1
			}
		}
	}
	fmt.Printf("%s\n", out)
	if _, ok := f.wanted(neighbor); ok {
		fmt.Fprint(os.Stderr, "Failed connections: 1\n[ E39 ] Enclave process connection failure.\n")
		return 39
	}
	return 0
}

func (f fake) terminate(id string) int {
	e, ok := f.enclave(id)
	if !ok {
		v, err := readVector("no-such-enclave")
		if err != nil {
			panic(err)
		}
		fmt.Fprint(os.Stderr, v.says)
		return v.status
	}
	_ = syscall.Kill(e.ProcessID, syscall.SIGTERM)
	for ; ok; _, ok = f.enclave(id) {
		time.Sleep(time.Millisecond)
	}
	fmt.Fprintf(os.Stderr, "Successfully terminated enclave %s.\n", id)
	fmt.Printf("{\n  \"EnclaveName\": %q,\n  \"EnclaveID\": %q,\n  \"Terminated\": true\n}\n", e.EnclaveName, id)
	return 0
}

// measure is what AWS's nitro-cli prints of an image.
func measure(path string) (map[string]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	img, err := eif.Read(f, info.Size())
	if err != nil {
		return nil, err
	}
	pcrs, err := img.Measure(context.Background())
	if err != nil {
		return nil, err
	}
	return map[string]string{
		"HashAlgorithm": "Sha384 { ... }", "PCR0": pcrs.PCR0.String(), "PCR1": pcrs.PCR1.String(), "PCR2": pcrs.PCR2.String(),
	}, nil
}

// vector is a file of testdata/says: what nitro-cli wrote to its standard error.
type vector struct {
	verb, expect, cure string
	status             int
	says               string
}

// says is where they are; the fake runs elsewhere.
var says = func() string {
	dir, err := os.Getwd()
	if err != nil {
		panic(err)
	}
	return filepath.Join(dir, "testdata", "says")
}()

func readVector(name string) (vector, error) {
	raw, err := os.ReadFile(filepath.Join(says, name+".txt"))
	if err != nil {
		return vector{}, err
	}
	head, text, ok := strings.Cut(string(raw), "\n\n")
	if !ok {
		return vector{}, errors.New(name + ": no head")
	}
	v := vector{says: text}
	for line := range strings.Lines(head + "\n") {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch key {
		case "verb":
			v.verb = value
		case "expect":
			v.expect = value
		case "cure":
			v.cure = value
		case "status":
			if v.status, err = strconv.Atoi(value); err != nil {
				return vector{}, err
			}
		case "source":
		default:
			return vector{}, fmt.Errorf("%s: %q", name, line)
		}
	}
	return v, nil
}
