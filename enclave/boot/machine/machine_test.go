package machine_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/enclave/boot/machine"
)

func file(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestAnImageWithoutModulesLoadsNone(t *testing.T) {
	if err := machine.LoadModules(filepath.Join(t.TempDir(), "modules")); err != nil {
		t.Error(err)
	}
}

func TestAModuleThatTheKernelRefusesIsNamed(t *testing.T) {
	dir := t.TempDir()
	file(t, filepath.Join(dir, "00-first.ko"), "no module")
	file(t, filepath.Join(dir, "01-second.ko"), "no module")
	err := machine.LoadModules(dir)
	if err == nil || !strings.Contains(err.Error(), "00-first.ko") || strings.Contains(err.Error(), "01-second.ko") {
		t.Errorf("%v", err)
	}
}

func TestI8_TheKernelsSettingsAreApplied(t *testing.T) {
	settings := map[string]string{
		"kernel/modules_disabled":          "1",
		"kernel/kexec_load_disabled":       "1",
		"kernel/unprivileged_bpf_disabled": "1",
		"kernel/dmesg_restrict":            "1",
		"kernel/kptr_restrict":             "2",
		"kernel/sysrq":                     "0",
		"kernel/panic":                     "-1",
		"kernel/panic_on_oops":             "1",
		"kernel/print-fatal-signals":       "0",
		"debug/exception-trace":            "0",
		"vm/oom_dump_tasks":                "0",
		"kernel/core_pattern":              "/dev/null",
		"net/core/bpf_jit_harden":          "2",
	}
	dir := t.TempDir()
	for name := range settings {
		file(t, filepath.Join(dir, name), "")
	}
	if err := machine.ApplySettings(dir); err != nil {
		t.Fatal(err)
	}
	for name, want := range settings {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if err := machine.ApplySettings(t.TempDir()); err != nil {
		t.Errorf("a kernel without them: %v", err)
	}
	for name := range settings {
		full := t.TempDir()
		if err := os.MkdirAll(filepath.Join(full, name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := machine.ApplySettings(full); err == nil {
			t.Errorf("%s cannot be written and is passed over", name)
		}
	}
}

func TestTheGeneratorMustBeTheModules(t *testing.T) {
	for name, ok := range map[string]bool{
		"nsm-hwrng\n": true, "nsm-hwrng": true,
		"virtio_rng.0\n": false, "none\n": false, "": false, "nsm-hwrng-2\n": false, "tpm-rng-0": false,
	} {
		path := filepath.Join(t.TempDir(), "rng_current")
		file(t, path, name)
		if err := machine.CheckGenerator(path); (err == nil) != ok || err != nil && !errors.Is(err, machine.ErrGenerator) {
			t.Errorf("%q: %v", name, err)
		}
	}
	if err := machine.CheckGenerator(filepath.Join(t.TempDir(), "none")); err != nil {
		t.Errorf("a kernel without hardware generators: %v", err)
	}
	if err := machine.CheckGenerator(t.TempDir()); err == nil {
		t.Error("what cannot be read is passed over")
	}
}

// module gives entropy of one byte, or none.
type module struct{ err error }

func (m module) Random(_ context.Context, p []byte) error {
	copy(p, bytes.Repeat([]byte{7}, len(p)))
	return m.err
}

func TestI2_WithoutEntropyNothingBoots(t *testing.T) {
	dir := t.TempDir()
	other := filepath.Join(dir, "rng_current")
	file(t, other, "smccc_trng\n")
	var taken []byte
	take := func(p []byte) error { taken = bytes.Clone(p); return nil }
	if err := machine.SeedBy(t.Context(), module{}, other, take); err != nil || len(taken) != 512 || taken[511] != 7 {
		t.Errorf("%d bytes, %v", len(taken), err)
	}
	if says, err := os.ReadFile(other); err != nil || string(says) != "nsm-hwrng" { // the kernel was told whose to take
		t.Errorf("%q, %v", says, err)
	}
	none := errors.New("none")
	if err := machine.SeedBy(t.Context(), module{none}, other, take); !errors.Is(err, none) {
		t.Errorf("a module without entropy: %v", err)
	}
	if err := machine.SeedBy(t.Context(), module{}, other, func([]byte) error { return none }); !errors.Is(err, none) {
		t.Errorf("a kernel that takes none: %v", err)
	}
	taken = nil
	if err := machine.SeedBy(t.Context(), module{}, dir, take); err == nil || taken != nil {
		t.Errorf("a generator that cannot be read: %v", err)
	}
}

// ended starts a process that nobody waits for yet, and returns when it has ended.
func ended(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/bin/true")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var info unix.Siginfo
	if err := unix.Waitid(unix.P_PID, cmd.Process.Pid, &info, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
	return cmd
}

func TestOrphansAreReapedTheSecondTimeThatTheyAreSeen(t *testing.T) {
	orphan := ended(t)
	first, pids := machine.Sweep(nil)
	if !slices.Contains(pids, orphan.Process.Pid) {
		t.Fatalf("%v holds no %d", pids, orphan.Process.Pid)
	}
	awaited := ended(t) // it ended between the two, and whoever waits for it is not there yet
	_, pids = machine.Sweep(first)
	if slices.Contains(pids, orphan.Process.Pid) || !slices.Contains(pids, awaited.Process.Pid) {
		t.Errorf("%v", pids)
	}
	if err := unix.Kill(orphan.Process.Pid, 0); !errors.Is(err, unix.ESRCH) {
		t.Errorf("the orphan is still there: %v", err)
	}
	if err := awaited.Wait(); err != nil {
		t.Errorf("somebody's own child was taken away: %v", err)
	}
	_ = orphan.Process.Release()
}
