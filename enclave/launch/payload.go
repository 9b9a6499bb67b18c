package launch

import (
	"context"
	"crypto/sha512"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/enclave/attest"
	"github.com/cloister-run/cloister/enclave/image/eif"
)

// payload is what a machine boots: an enclave image taken apart. Its files have no names.
type payload struct {
	kernel, ramdisk *os.File
	commandLine     string
	pcrs            attest.PCRSet
	cpus            int
	memory          int64 // in bytes, whole MiB
}

func (p *payload) close() {
	for _, f := range []*os.File{p.kernel, p.ramdisk} {
		if f != nil {
			_ = f.Close() // it has no name
		}
	}
}

// openPayload reads an image, measures it, and takes apart what it measured.
func openPayload(ctx context.Context, cfg VMConfig) (_ *payload, err error) {
	f, err := os.Open(cfg.Image)
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
		return nil, fmt.Errorf("%s: %w", cfg.Image, err)
	}
	if img.ARM {
		return nil, fmt.Errorf("%s: it is for arm64, the machine is an x86_64", cfg.Image)
	}
	p := &payload{}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	if err := p.size(cfg, img); err != nil {
		return nil, fmt.Errorf("%s: %w", cfg.Image, err)
	}
	measured, err := img.Measure(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", cfg.Image, err)
	}
	if err := p.extract(ctx, img, measured); err != nil {
		return nil, fmt.Errorf("%s: %w", cfg.Image, err)
	}
	return p, p.measure(img, measured)
}

// extract takes the parts out of an image. What it takes is hashed again, so that it is what was measured even
// if somebody changes the file meanwhile.
func (p *payload) extract(ctx context.Context, img *eif.Image, measured eif.PCRs) (err error) {
	if p.kernel, err = nameless(); err != nil {
		return err
	}
	if p.ramdisk, err = nameless(); err != nil {
		return err
	}
	var line strings.Builder
	all := sha512.New384()
	for _, s := range img.Sections {
		var to io.Writer
		switch s.Kind {
		case eif.Kernel:
			to = p.kernel
		case eif.CommandLine:
			to = &line
		case eif.Ramdisk: // one after the other, with nothing between: as hypervisors lay them out
			to = p.ramdisk
		default:
			continue
		}
		if err := carry(ctx, to, all, img.Data(s)); err != nil {
			return err
		}
	}
	if eif.Extended(all.Sum(nil)) != measured.PCR0 {
		return errors.New("the image changed while it was read")
	}
	p.commandLine = line.String()
	if strings.ContainsRune(p.commandLine, 0) {
		return errors.New("the command line has a byte of zero")
	}
	return nil
}

// carry copies a section, and gives up with ctx.
func carry(ctx context.Context, to io.Writer, sum hash.Hash, from io.Reader) error {
	both := io.MultiWriter(to, sum)
	for {
		if _, err := io.CopyN(both, from, 1<<20); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

// measure gives the registers of the enclave.
func (p *payload) measure(img *eif.Image, measured eif.PCRs) error {
	p.pcrs = attest.PCRSet{0: attest.PCR(measured.PCR0), 1: attest.PCR(measured.PCR1), 2: attest.PCR(measured.PCR2)}
	signer, err := img.Signer(measured.PCR0)
	if err != nil {
		return err
	}
	if signer != nil {
		p.pcrs[8] = attest.PCR(signer.PCR8)
	}
	return nil
}

// nameless makes a file that is gone once nobody has it open.
func nameless() (*os.File, error) {
	f, err := os.CreateTemp("", "cloister-")
	if err != nil {
		return nil, err
	}
	return f, os.Remove(f.Name())
}

const mib = 1 << 20

// size decides on processors and memory. What an image asks for is measured by nobody: without the word of whoever
// starts it, it gets no more than half of this machine.
func (p *payload) size(cfg VMConfig, img *eif.Image) error {
	var ramdisks int64
	for _, s := range img.Sections {
		if s.Kind == eif.Ramdisk {
			ramdisks += s.Size
		}
	}
	// The kernel unpacks the ramdisks beside themselves, into a file system that takes half of the memory.
	need := 2*ramdisks + 128*mib
	var machine unix.Sysinfo_t
	if err := unix.Sysinfo(&machine); err != nil {
		return err
	}
	most := int64(machine.Totalram) * int64(machine.Unit)
	p.memory = cfg.Memory
	if p.memory == 0 {
		p.memory = max(need, int64(min(img.Memory, uint64(most/2))))
	}
	switch {
	case cfg.Memory == 0 && p.memory > most/2 && p.memory <= most:
		return fmt.Errorf("the image needs %d MiB of memory to boot, more than half of this machine's %d MiB: say how much it gets, as --memory does",
			(need+mib-1)/mib, most/mib)
	case p.memory < need:
		return fmt.Errorf("%d MiB of memory for an image that needs %d MiB to boot", p.memory/mib, (need+mib-1)/mib)
	case p.memory > most:
		return fmt.Errorf("%d MiB of memory; this machine has %d MiB", p.memory/mib, most/mib)
	}
	p.memory = (p.memory + mib - 1) / mib * mib
	if p.cpus = cfg.CPUs; p.cpus == 0 {
		p.cpus = max(1, int(min(img.CPUs, uint64(runtime.NumCPU()))))
	}
	return nil
}
