package devkit

import (
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"

	"github.com/cloister-run/cloister/enclave/attest"
	"github.com/cloister-run/cloister/enclave/image"
)

// measurement is one register in the making: a hash over the parts of an image, each preceded by
// its length as 8 bytes, big-endian.
type measurement struct{ hash.Hash }

func newMeasurement(register string) measurement {
	m := measurement{sha512.New384()}
	m.part("cloister-local-image-1")
	m.part(register)
	return m
}

func (m measurement) length(n int64) { _ = binary.Write(m, binary.BigEndian, n) } // a hash takes all

func (m measurement) part(s string) {
	m.length(int64(len(s)))
	_, _ = io.WriteString(m, s)
}

// pcr is as Nitro has it: SHA-384(48 zero bytes ‖ digest).
func (m measurement) pcr() attest.PCR { return attest.PCR{}.Extend(m.Sum(nil)) }

// Measure computes PCR0, PCR1 and PCR2 of the image folder of a local enclave: PCR0 over everything
// in it, PCR1 over what boots (daemon, walls and profile), PCR2 over the rest. Any changed byte,
// name, kind or executable bit changes them; owners, times and other bits of a mode do not. The folder
// has to be left alone while it is measured. What is neither file, folder nor link is an error.
func Measure(dir string) (attest.PCRSet, error) {
	set, err := measure(dir)
	if err != nil {
		return nil, fmt.Errorf("devkit: measuring %s: %w", dir, err)
	}
	return set, nil
}

func measure(dir string) (attest.PCRSet, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	for _, name := range []string{image.Daemon, image.Walls, image.PolicyWorker, image.Profile} {
		info, err := root.Lstat(name)
		if err != nil {
			return nil, err
		}
		if !info.Mode().IsRegular() {
			return nil, fmt.Errorf("%s: no file", name)
		}
	}
	all, boots, rest := newMeasurement("PCR0"), newMeasurement("PCR1"), newMeasurement("PCR2")
	err = fs.WalkDir(root.FS(), ".", func(name string, entry fs.DirEntry, err error) error { // in lexical order
		if err != nil || name == "." {
			return err
		}
		part := rest
		switch name {
		case image.Daemon, image.Walls, image.PolicyWorker, image.Profile:
			part = boots
		}
		if err := measureEntry(root, name, entry, all, part); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return attest.PCRSet{0: all.pcr(), 1: boots.pcr(), 2: rest.pcr()}, nil
}

// measureEntry adds kind, name and content of one entry to two registers.
func measureEntry(root *os.Root, name string, entry fs.DirEntry, to ...measurement) error {
	add := func(parts ...string) {
		for _, m := range to {
			for _, part := range parts {
				m.part(part)
			}
		}
	}
	switch {
	case entry.IsDir():
		add("folder", name)
		return nil
	case entry.Type()&fs.ModeSymlink != 0:
		target, err := root.Readlink(name)
		if err != nil {
			return err
		}
		add("link", name, target)
		return nil
	case !entry.Type().IsRegular():
		return errors.New("neither file, folder nor link")
	}
	file, err := root.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	kind := "file"
	if info.Mode()&0o111 != 0 {
		kind = "executable"
	}
	add(kind, name)
	var writers []io.Writer
	for _, m := range to {
		m.length(info.Size())
		writers = append(writers, m)
	}
	n, err := io.Copy(io.MultiWriter(writers...), file)
	if err == nil && n != info.Size() {
		err = errors.New("changed while it was measured")
	}
	return err
}
