package kernel

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"strings"
)

// errELF is the cause where a module is no ELF file as modules are.
var errELF = errors.New("it is cut, damaged or no module of a kernel of 64 bits")

// depends are the names of the modules that a module says it needs (scripts/mod/modpost.c, add_depends).
func depends(module []byte) ([]string, error) {
	info, err := section(module, ".modinfo")
	if err != nil {
		return nil, err
	}
	for field := range bytes.SplitSeq(info, []byte{0}) {
		if names, ok := bytes.CutPrefix(field, []byte("depends=")); ok && len(names) > 0 {
			return strings.Split(string(names), ","), nil
		}
	}
	return nil, nil
}

// section is the data of a module's section, a part of the module (the ELF-64 object file format). It copies
// nothing: package elf unpacks what says that it is compressed, and copies a name for every section, so that it
// makes gigabytes of a megabyte. The kernel takes no module with a compressed section either.
func section(module []byte, name string) ([]byte, error) {
	var h elf.Header64
	_, err := binary.Decode(module, binary.LittleEndian, &h)
	if err != nil || h.Ident[elf.EI_CLASS] != byte(elf.ELFCLASS64) || h.Ident[elf.EI_DATA] != byte(elf.ELFDATA2LSB) || h.Shnum > 0 && int(h.Shentsize) != binary.Size(elf.Section64{}) {
		return nil, errELF
	}
	headers, ok := part(module, h.Shoff, uint64(h.Shnum)*uint64(h.Shentsize))
	if !ok {
		return nil, errELF
	}
	header := func(i int) (s elf.Section64) {
		_, _ = binary.Decode(headers[i*int(h.Shentsize):], binary.LittleEndian, &s) // there are as many
		return s
	}
	if h.Shstrndx >= h.Shnum {
		return nil, errors.New("it has no " + name)
	}
	names, ok := plainData(module, header(int(h.Shstrndx)))
	if !ok {
		return nil, errELF
	}
	ended := append([]byte(name), 0)
	for i := range int(h.Shnum) {
		s := header(i)
		if uint64(s.Name) >= uint64(len(names)) || !bytes.HasPrefix(names[s.Name:], ended) {
			continue
		}
		if data, ok := plainData(module, s); ok {
			return data, nil
		}
		return nil, errors.New("its " + name + " leaves the file, or is compressed")
	}
	return nil, errors.New("it has no " + name)
}

// plainData is what a section holds in the file as it is.
func plainData(module []byte, s elf.Section64) ([]byte, bool) {
	if elf.SectionFlag(s.Flags)&elf.SHF_COMPRESSED != 0 || elf.SectionType(s.Type) == elf.SHT_NOBITS {
		return nil, false
	}
	return part(module, s.Off, s.Size)
}

func part(data []byte, at, size uint64) ([]byte, bool) {
	if at > uint64(len(data)) || size > uint64(len(data))-at {
		return nil, false
	}
	return data[at : at+size], true
}
