package main

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cloister-run/cloister/enclave/image/eif"
)

// TestImageInspect prints what is attested apart from what is not, and steers no terminal.
func TestImageInspect(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.eif")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	pcrs, err := eif.Write(t.Context(), f, eif.Spec{Memory: 1 << 30, CPUs: 2}, []eif.Part{
		eif.Bytes(eif.Kernel, []byte("kernel")), eif.Bytes(eif.CommandLine, []byte("quiet \x1b[2J")),
		eif.Bytes(eif.Metadata, []byte(`{"ImageName": "claims"}`)), eif.Bytes(eif.Ramdisk, []byte("disk")),
	})
	if err != nil || f.Close() != nil {
		t.Fatal(err)
	}
	var out, errs strings.Builder
	if status := run(t.Context(), []string{"image", "inspect", path}, &out, &errs); status != int(statusDone) {
		t.Fatalf("%d: %s", status, errs.String())
	}
	for _, want := range []string{
		"for       x86_64\n", "boots     quiet �[2J\n", "section   0: kernel, 6 bytes at 560\n", "PCR0      " + pcrs.PCR0.String() + "\n",
		"signed    by nobody: there is no PCR8\n",
		"asks for  1 GiB and 2 CPUs, NOT ATTESTED\n", `metadata  NOT ATTESTED: {"ImageName": "claims"}` + "\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	raw[len(raw)-1]++
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	errs.Reset()
	if status := run(t.Context(), []string{"image", "inspect", path}, &out, &errs); status != int(statusUsage) || !strings.Contains(errs.String(), "it is damaged") {
		t.Errorf("%d: %s", status, errs.String())
	}
	binary.BigEndian.PutUint16(raw[26:], 1000)
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	errs.Reset()
	if status := run(t.Context(), []string{"image", "inspect", path}, &out, &errs); status != int(statusUsage) || !strings.Contains(errs.String(), "1000 sections") {
		t.Errorf("%d: %s", status, errs.String())
	}
}
