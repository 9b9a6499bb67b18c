package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cloister-run/cloister/enclave/image/eif"
)

// smallImage is an enclave image of a few bytes.
func smallImage(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "small.eif")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = eif.Write(t.Context(), f, eif.Spec{Memory: 256 << 20, CPUs: 2}, []eif.Part{
		eif.Bytes(eif.Kernel, []byte("kernel")), eif.Bytes(eif.CommandLine, []byte("quiet")), eif.Bytes(eif.Ramdisk, []byte("disk")),
	})
	if err != nil || f.Close() != nil {
		t.Fatal(err)
	}
	return path
}

// TestWhatNitroCannotStartIsSaid: a keeper that starts nothing says why, with the cure, and leaves no record.
func TestWhatNitroCannotStartIsSaid(t *testing.T) {
	state := t.TempDir()
	t.Setenv("XDG_STATE_HOME", state)
	t.Setenv("AWS_REGION", "")
	t.Setenv("AWS_DEFAULT_REGION", "")
	t.Setenv("AWS_CONFIG_FILE", "/dev/null")
	fails := filepath.Join(t.TempDir(), "nitro-cli")
	says := "#!/bin/sh\necho '[ E26 ] Insufficient memory requested. User provided `memory` is 64 MB, but based on the EIF file size, the minimum memory should be 80 MB' >&2\nexit 1\n"
	if err := os.WriteFile(fails, []byte(says), 0o755); err != nil {
		t.Fatal(err)
	}
	image := smallImage(t)
	for _, test := range []struct {
		rule  string
		flags []string
		says  string
		want  status
	}{
		{"there is no nitro-cli", []string{"--region", "eu-central-1", "--nitro-cli", "./none"}, "hint: install it", statusUnavailable},
		{"it fails", []string{"--region", "eu-central-1", "--nitro-cli", fails}, "E26: Insufficient memory requested", statusUnavailable},
		{"no region", []string{"--nitro-cli", fails}, "hint: name the region of the owners' keys", statusUsage},
	} {
		var out, errs strings.Builder
		args := append([]string{"enclave", "serve", "nobody", "--backend", "nitro", "--image", image}, test.flags...)
		if got := run(t.Context(), args, &out, &errs); got != int(test.want) || !strings.Contains(errs.String(), test.says) {
			t.Errorf("%s: %d, %s", test.rule, got, errs.String())
		}
		if _, err := os.Stat(filepath.Join(state, "cloister/enclaves/nobody.json")); err == nil {
			t.Errorf("%s: it is on record", test.rule)
		}
	}
}

// TestCommandsAreFoundFromAnyFolder: a keeper runs elsewhere.
func TestCommandsAreFoundFromAnyFolder(t *testing.T) {
	image, here := smallImage(t), t.TempDir()
	t.Chdir(here)
	for name, row := range map[string]struct{ qemu, variable, nitroCLI, wantQEMU, wantNitroCLI string }{
		"relative":     {"q/run", "", "./cli", filepath.Join(here, "q/run"), filepath.Join(here, "cli")},
		"in PATH":      {"qemu", "", "nitro-cli", "qemu", "nitro-cli"},
		"absolute":     {"/q/run", "", "/cli", "/q/run", "/cli"},
		"the variable": {"", "../run", "nitro-cli", filepath.Join(filepath.Dir(here), "run"), "nitro-cli"},
		"nothing":      {"", "", "nitro-cli", "qemu-system-x86_64", "nitro-cli"},
	} {
		t.Setenv("CLOISTER_QEMU", row.variable)
		b := &backend{name: backendQEMU, image: image, qemu: row.qemu, nitroCLI: row.nitroCLI}
		if err := b.check(); err != nil || b.qemu != row.wantQEMU || b.nitroCLI != row.wantNitroCLI {
			t.Errorf("%s: %q, %q, %v", name, b.qemu, b.nitroCLI, err)
		}
	}
}

// TestAnImageSaysWhichPCRsAreTrusted: what an image is measured as goes into a key policy, and nothing else with it.
func TestAnImageSaysWhichPCRsAreTrusted(t *testing.T) {
	image := smallImage(t)
	var out, errs strings.Builder
	args := []string{"key-policy", "print", "--account", "111122223333", "--user", "444455556666", "--image", image}
	if got := run(t.Context(), args, &out, &errs); got != int(statusDone) {
		t.Fatalf("%d, %s", got, errs.String())
	}
	pcrs, err := measureImage(t.Context(), image)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		if !strings.Contains(out.String(), pcrs.Hex()[string(rune('0'+i))]) {
			t.Errorf("no PCR%d in %s", i, out.String())
		}
	}
	for _, more := range [][]string{{"--enclave", "local"}, {"--pcr0", strings.Repeat("ab", 48)}, {"--image", t.TempDir()}} {
		if got := run(t.Context(), append(args, more...), &out, &errs); got != int(statusUsage) {
			t.Errorf("%v: %d", more, got)
		}
	}
}
