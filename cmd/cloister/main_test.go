package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/enclave/launch/launchtest"
)

// The test binary is the command: where it is called cloister, it is cloister.
func TestMain(m *testing.M) {
	testscript.Main(suite{m}, map[string]func(){"cloister": main, "limited": limited})
}

// limited is a command for scripts, `limited BYTES COMMAND…`: no file that the command writes
// grows over BYTES, which is how an ordinary user meets a disk that is full (setrlimit(2)).
func limited() {
	size, err := strconv.ParseUint(os.Args[1], 10, 64)
	var old unix.Rlimit
	if err == nil {
		err = unix.Getrlimit(unix.RLIMIT_FSIZE, &old)
	}
	if err == nil {
		err = unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: size, Max: old.Max})
	}
	path, lookErr := exec.LookPath(os.Args[2])
	if err = errors.Join(err, lookErr); err == nil {
		err = syscall.Exec(path, os.Args[2:], os.Environ())
	}
	fmt.Fprintln(os.Stderr, "limited:", err)
	os.Exit(127)
}

// suite runs the tests beside a local enclave that is built from these sources.
type suite struct{ m *testing.M }

func (s suite) Run() int {
	status, err := s.run()
	if err != nil {
		fmt.Fprintln(os.Stderr, "cloister tests: error:", err)
		return 1
	}
	return status
}

func (s suite) run() (int, error) {
	// Whatever this process starts stays below it, also when what is between has ended: so
	// tests can see that nothing is left.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return 0, err
	}
	exe, err := exec.LookPath("cloister")
	if err != nil {
		return 0, err
	}
	beside := filepath.Dir(exe)
	if handed := launchtest.Handed(); handed != "" {
		err = os.CopyFS(beside, os.DirFS(filepath.Join(handed, "bin")))
	} else {
		err = launchtest.Build(beside)
	}
	if err != nil {
		return 0, err
	}
	// What is simulated belongs to the tests, not to whoever runs them.
	if err := os.Setenv("XDG_STATE_HOME", filepath.Join(beside, "state")); err != nil {
		return 0, err
	}
	status := s.m.Run()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		left := below(os.Getpid())
		if len(left) == 0 {
			return status, nil
		}
		if time.Now().After(end) {
			return 1, fmt.Errorf("processes are left: %v", left)
		}
	}
}

// beside is the folder of the command under test.
func beside(t testing.TB) string {
	t.Helper()
	exe, err := exec.LookPath("cloister")
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Dir(exe)
}

// scripts is the folder of the scripts.
func scripts() string {
	if handed := launchtest.Handed(); handed != "" {
		return filepath.Join(handed, "script")
	}
	return filepath.Join("testdata", "script")
}

// TestAsOrdinaryUser runs every test once more, as a user with no rights and a home of its own.
func TestAsOrdinaryUser(t *testing.T) {
	t.Parallel()
	if os.Getenv("CI") != "" {
		t.Skip("`.ci/run` runs all tests as an ordinary user as well")
	}
	if raceDetector {
		t.Skip("the race detector sees the same as in the tests of root")
	}
	out := launchtest.AsOrdinaryUser(t, beside(t), map[string]string{
		"script": scripts(), "receipts": receiptVectors(), "examples": examples(),
	})
	if n := strings.Count(out, "--- PASS: TestScripts/"); os.Geteuid() == 0 && n < 3 {
		t.Errorf("only %d scripts ran as an ordinary user", n)
	}
}
