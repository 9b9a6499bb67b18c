package module

import (
	"bytes"
	"slices"
)

// WithOwnMemory returns the module with the one memory that it imports as one of its own: of the same
// size, at the same index, shared with nobody. A module that imports none stays as it is, and one with
// more than one memory too, which no compiler takes.
func (s Shape) WithOwnMemory() Shape {
	at := slices.IndexFunc(s.Imports, func(i Import) bool { return i.Kind == Memory })
	if at < 0 || s.Memories > 0 {
		return s
	}
	size := memoryType(s.imports[at])
	own := s
	own.Imports = slices.Delete(slices.Clone(s.Imports), at, at+1)
	own.imports = slices.Delete(slices.Clone(s.imports), at, at+1)
	own.Memories, own.sections = 1, nil
	own.MemoryPages, _ = (&reader{data: size}).limits()
	imports := newSection(idImport, vector(own.imports...))
	memory := newSection(idMemory, vector(size))
	placed := false
	for _, section := range s.sections {
		if section.id == idImport {
			section = imports
		}
		if section.id != idCustom && order[section.id] >= order[idMemory] && !placed {
			own.sections, placed = append(own.sections, memory), true
		}
		if section.id != idMemory { // which is there only to say that there is none
			own.sections = append(own.sections, section)
		}
	}
	if !placed {
		own.sections = append(own.sections, memory)
	}
	return own
}

// memoryType cuts the type of a memory out of an import that was walked: what follows two names and a kind.
func memoryType(imported []byte) []byte {
	in := &reader{data: imported}
	_, _ = in.name()
	_, _ = in.name()
	_, _ = in.byte()
	return imported[in.at:]
}

// newSection makes a section that is not custom.
func newSection(id byte, content []byte) section {
	whole := appendU32([]byte{id}, uint32(len(content)))
	return section{id: id, content: content, bytes: append(whole, content...)}
}

// vector joins items to a vector (Core 2.0, 5.1.3 "Vectors").
func vector(items ...[]byte) []byte {
	return append(appendU32(nil, uint32(len(items))), bytes.Join(items, nil)...)
}
