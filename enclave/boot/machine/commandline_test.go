package machine_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cloister-run/cloister/enclave/boot/machine"
)

// What is measured says not where the command line begins and ends: only the genuine one, and what a hypervisor adds behind
// it, lets an enclave come up.
func TestI8_TheCommandLineIsTheMeasuredOne(t *testing.T) {
	const measured = "console=ttyS0 quiet random.trust_cpu=off"
	for rule, test := range map[string]struct {
		running string
		ok      bool
	}{
		"the same":                         {measured + "\n", true},
		"devices of EC2":                   {measured + " virtio_mmio.device=4K@0xd0000000:5 virtio_mmio.device=4K@0xd0001000:6\n", true},
		"a device of QEMU":                 {measured + " virtio_mmio.device=512@0xfeb00e00:12\n", true},
		"a device with a number":           {measured + "  virtio_mmio.device=1M@1000:7:2 pci=off \n", true},
		"without a word in front":          {"quiet random.trust_cpu=off\n", false},
		"without the last word":            {"console=ttyS0 quiet\n", false},
		"cut in the last word":             {"console=ttyS0 quiet random.trust_cpu=of\n", false},
		"with a byte of the kernel":        {"x" + measured + "\n", false},
		"with a blank in front":            {" " + measured + "\n", false},
		"with bytes of the ramdisk":        {measured + "07070100000001\n", false},
		"with compressed ones":             {measured + "\x1f\x8b\x08\n", false},
		"with a word that undoes one":      {measured + " random.trust_cpu=on\n", false},
		"with an init":                     {measured + " rdinit=/rootfs/usr/bin/python3\n", false},
		"with arguments for init":          {measured + " -- virtio_mmio.device=4K@0xd0000000:5\n", false},
		"with one between devices":         {measured + " virtio_mmio.device=4K@0xd0000000:5 debug pci=off\n", false},
		"with what looks like a device":    {measured + " virtio_mmio.device=4K@0xd0000000:5,init=/x\n", false},
		"with a device in front of a word": {measured + " virtio_mmio.devices=1@1:1\n", false},
		"with a word twice":                {measured + " " + measured + "\n", false},
		"with a second line":               {measured + "\n\n", false},
		"nothing":                          {"\n", false},
	} {
		dir := t.TempDir()
		file(t, filepath.Join(dir, "proc"), test.running)
		file(t, filepath.Join(dir, "cmdline"), measured)
		err := machine.CheckCommandLine(filepath.Join(dir, "proc"), filepath.Join(dir, "cmdline"))
		if (err == nil) != test.ok || err != nil && !errors.Is(err, machine.ErrCommandLine) {
			t.Errorf("%s: %v", rule, err)
		}
	}
}

func TestI8_WithoutAMeasuredCommandLineNothingComesUp(t *testing.T) {
	dir := t.TempDir()
	proc, measured := filepath.Join(dir, "proc"), filepath.Join(dir, "cmdline")
	file(t, proc, "quiet\n")
	if err := machine.CheckCommandLine(proc, measured); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("none: %v", err)
	}
	file(t, measured, "")
	if err := machine.CheckCommandLine(proc, measured); !errors.Is(err, machine.ErrCommandLine) {
		t.Errorf("an empty one: %v", err)
	}
	file(t, measured, strings.Repeat("x", 1024))
	if err := machine.CheckCommandLine(filepath.Join(dir, "none"), measured); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no /proc: %v", err)
	}
}
