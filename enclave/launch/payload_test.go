package launch_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cloister-run/cloister/enclave/attest"
	"github.com/cloister-run/cloister/enclave/devkit"
	"github.com/cloister-run/cloister/enclave/image/eif"
	"github.com/cloister-run/cloister/enclave/launch"
)

const mib = 1 << 20

// smallImage writes an image that no machine boots.
func smallImage(t *testing.T, spec eif.Spec, commandLine string, ramdisk []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "small.eif")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := eif.Write(t.Context(), f, spec, []eif.Part{eif.Bytes(eif.Kernel, []byte("kernel")),
		eif.Bytes(eif.CommandLine, []byte(commandLine)), eif.Bytes(eif.Ramdisk, ramdisk)}); err != nil {
		t.Fatal(err)
	}
	return path
}

// noQEMU is a script in the place of QEMU.
func noQEMU(t *testing.T, script string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "qemu")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func noModule(t *testing.T) func(attest.PCRSet) attest.Handler {
	ca := newHome(t).CA()
	return func(pcrs attest.PCRSet) attest.Handler { return devkit.NewNSM(ca, pcrs, time.Now) }
}

// An image that cannot boot is refused before anything starts.
func TestMachineRefuses(t *testing.T) {
	spec := eif.Spec{Memory: 512 * mib, CPUs: 1}
	broken := smallImage(t, spec, "x", []byte("disk"))
	raw := read(t, broken)
	raw[len(raw)-1] ^= 1
	if err := os.WriteFile(broken, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	arm := spec
	arm.ARM = true
	for name, row := range map[string]struct {
		cfg  launch.VMConfig
		says string
	}{
		"no file":                       {launch.VMConfig{Image: filepath.Join(t.TempDir(), "none")}, "no such file"},
		"no image":                      {launch.VMConfig{Image: noQEMU(t, "")}, "eif:"},
		"a byte that changed":           {launch.VMConfig{Image: broken}, "CRC"},
		"another architecture":          {launch.VMConfig{Image: smallImage(t, arm, "x", nil)}, "arm64"},
		"a zero in the command line":    {launch.VMConfig{Image: smallImage(t, spec, "a\x00b", nil)}, "a byte of zero"},
		"too little memory":             {launch.VMConfig{Image: smallImage(t, spec, "x", make([]byte, 8*mib)), Memory: 143 * mib}, "143 MiB of memory for an image that needs 144 MiB"},
		"more than the machine has":     {launch.VMConfig{Image: smallImage(t, spec, "x", nil), Memory: 1 << 50}, "this machine has"},
		"a QEMU that is not there":      {launch.VMConfig{Image: smallImage(t, spec, "x", nil), QEMU: "/none"}, "starting QEMU"},
		"a QEMU that ends, with a word": {launch.VMConfig{Image: smallImage(t, spec, "x", nil), QEMU: noQEMU(t, "echo unheard of >&2; exit 1")}, "unheard of"},
	} {
		t.Run(name, func(t *testing.T) {
			if row.cfg.QEMU == "" {
				row.cfg.QEMU = noQEMU(t, "echo it was started >&2")
			}
			row.cfg.NSM = noModule(t)
			v, err := launch.QEMU(t.Context(), row.cfg)
			if err == nil {
				_ = v.Stop()
			}
			if !errors.Is(err, launch.ErrStart) || !strings.Contains(fmt.Sprint(err), row.says) || strings.Contains(fmt.Sprint(err), "was started") {
				t.Errorf("%v", err)
			}
		})
	}
}

// What QEMU is given: the parts of the image as they are, in files without a name; one command line; nothing of
// the environment.
func TestMachineIsWhatTheImageSays(t *testing.T) {
	t.Setenv("CLOISTER_TEST_SECRET", "secret")
	out := filepath.Join(t.TempDir(), "seen")
	script := `{ cat /proc/self/fd/5 /proc/self/fd/6; echo; env; for a; do echo "<$a>"; done; ls -l /proc/self/fd; } >` + out + `; exit 1`
	image := smallImage(t, eif.Spec{Memory: 300 * mib, CPUs: 1}, "one two  three", []byte("ramdisk"))
	_, err := launch.QEMU(t.Context(), launch.VMConfig{Image: image, QEMU: noQEMU(t, script), NSM: noModule(t)})
	if !errors.Is(err, launch.ErrStart) {
		t.Fatal(err)
	}
	seen := string(read(t, out))
	for _, want := range []string{"kernelramdisk\n", "<-append>\n<one two  three>\n", "<-m>\n<300>\n", "<-nodefaults>\n", "<-smp>\n<1>\n", "(deleted)"} {
		if !strings.Contains(seen, want) {
			t.Errorf("no %q in %s", want, seen)
		}
	}
	if strings.Contains(seen, "secret") {
		t.Error("the environment went along")
	}
}

// A kernel that never finds its clock computes and asks for nothing. It is booted once more, with time that is counted in
// instructions; one that rests is waited for.
func TestMachineWithoutAClock(t *testing.T) {
	image := smallImage(t, eif.Spec{Memory: 300 * mib, CPUs: 1}, "x", nil)
	paces := filepath.Join(t.TempDir(), "paces")
	seen := `case "$*" in *-icount*) echo counted ;; *) echo emulated ;; esac >>` + paces + "\n"
	for name, row := range map[string]struct {
		script, want, says string
	}{
		"computes": {seen + `case "$*" in *-icount*) echo no kernel >&2; exit 1; esac; while :; do :; done`, "emulated\ncounted\n", "no kernel"},
		"rests":    {seen + "sleep 0.5; echo ended of itself >&2", "emulated\n", "ended of itself"},
	} {
		cfg := launch.VMConfig{Image: image, QEMU: noQEMU(t, row.script), NSM: noModule(t), Emulate: true}
		_, err := launch.QEMU(t.Context(), launch.Impatient(cfg, 200*time.Millisecond))
		if tried := string(read(t, paces)); !errors.Is(err, launch.ErrStart) || !strings.Contains(fmt.Sprint(err), row.says) || tried != row.want {
			t.Errorf("%s: tried %q, %v", name, tried, err)
		}
		if err := os.Remove(paces); err != nil {
			t.Fatal(err)
		}
	}
}

// Who stops waiting leaves no process behind.
func TestMachineIsGivenUp(t *testing.T) {
	image := smallImage(t, eif.Spec{Memory: 300 * mib, CPUs: 1}, "x", nil)
	out := filepath.Join(t.TempDir(), "pid")
	if err := syscall.Mkfifo(out, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	cfg := launch.VMConfig{Image: image, QEMU: noQEMU(t, "echo $$ >"+out+"; exec sleep 1000"), NSM: noModule(t)}
	go func() {
		_, err := launch.QEMU(ctx, cfg)
		failed <- err
	}()
	var pid int
	if _, err := fmt.Sscan(string(read(t, out)), &pid); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if err := syscall.Kill(-pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("something of it still runs: %v", err)
	}
}

// What an image asks for is measured by nobody: it does not get all of this machine unless whoever starts it says so.
func TestMemoryOfAMachine(t *testing.T) {
	var info syscall.Sysinfo_t
	if err := syscall.Sysinfo(&info); err != nil {
		t.Fatal(err)
	}
	all := int64(info.Totalram) * int64(info.Unit)
	half := (all/2 + mib - 1) / mib * mib
	for name, row := range map[string]struct {
		cfg     launch.VMConfig
		asks    uint64
		ramdisk int64
		want    int64 // 0: refused
		says    string
	}{
		"as much as it asks for":        {asks: 512 * mib, want: 512 * mib},
		"more where it does not fit":    {asks: 64 * mib, ramdisk: 100 * mib, want: 328 * mib},
		"no more than half":             {asks: 1 << 60, want: half},
		"half does not boot it":         {asks: 1, ramdisk: all/4 + mib, says: "--memory"},
		"half does not, it says enough": {asks: 1 << 60, ramdisk: all/4 + mib, says: "--memory"},
		"more than half, as was said":   {cfg: launch.VMConfig{Memory: half + mib}, asks: 1, want: half + mib},
		"more than all, as was said":    {cfg: launch.VMConfig{Memory: 2 * all}, asks: 1, says: "this machine has"},
	} {
		got, err := launch.MemoryOf(row.cfg, row.asks, row.ramdisk)
		if row.want == 0 && (err == nil || !strings.Contains(err.Error(), row.says)) || row.want != 0 && (err != nil || got != row.want) {
			t.Errorf("%s: %d MiB, %v", name, got/mib, err)
		}
	}
}
