package machine

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"regexp"
)

// startedWith is where the kernel says what it was started with (proc_cmdline(5)).
const startedWith = "/proc/cmdline"

// ErrCommandLine: the kernel was not started with the command line of the image.
var ErrCommandLine = errors.New("the kernel was not started with the command line of the image")

// added are the words that a hypervisor adds to a command line: EC2's is made of Firecracker, which names its devices
// (Linux, admin-guide/kernel-parameters, "virtio_mmio.device") and turns off the bus that it lacks. Of a word that is there
// twice the last one counts, so that no other may follow.
var added = regexp.MustCompile(`^(virtio_mmio\.device=\w+@\w+:\d+(:\d+)?|pci=off)$`)

// checkCommandLine holds what the kernel runs with against what the first ramdisk says that it was measured with. The
// registers alone do not tell: in what PCR0 and PCR1 are hashes of, the command line ends where the ramdisk begins, and
// nothing says where that is. An image whose boundaries were moved attests as the genuine one, with words of the command
// line left out, and must not come up.
func checkCommandLine(running, measured string) error {
	want, err := os.ReadFile(measured)
	if err != nil {
		return fmt.Errorf("command line: %w", err)
	}
	got, err := os.ReadFile(running)
	if err != nil {
		return fmt.Errorf("command line: %w", err)
	}
	more, ok := bytes.CutPrefix(bytes.TrimSuffix(got, []byte("\n")), want)
	if !ok || len(want) == 0 || len(more) > 0 && more[0] != ' ' {
		return fmt.Errorf("%w: %.200q instead of %.200q", ErrCommandLine, got, want)
	}
	for word := range bytes.FieldsSeq(more) {
		if !added.Match(word) {
			return fmt.Errorf("%w: %.200q was added", ErrCommandLine, word)
		}
	}
	return nil
}
