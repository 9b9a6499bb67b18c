// Package module owns the outer shape of a WebAssembly binary: its sections, what it imports
// and exports, the sizes that it declares, and its custom sections.
//
// It exists to be run before a compiler sees a module. wazero's decoder makes room for as
// many items as a vector claims to have: a file of twenty bytes can ask it for 16 GiB, which
// ends the process and cannot be recovered from. [Scan] walks every vector first and holds it
// against the bytes that are there and against bounds. And compiling takes wazero time and
// memory in proportion to the square of a function's branches: 100 KB of loops cost it 10 s
// and 1.5 GB, 200 KB four times that. So [Scan] counts those too.
//
// The package trusts nothing that it reads and refuses what it does not know. It does not
// validate: that instructions make sense is for the compiler to find.
package module

import (
	"bytes"
	"errors"
	"fmt"
)

// ErrNotWebAssembly: the bytes do not begin like a WebAssembly module of version 1.
var ErrNotWebAssembly = errors.New("not WebAssembly")

// header begins every module (WebAssembly Core 2.0, 5.5.16 "Modules").
var header = []byte{0x00, 'a', 's', 'm', 0x01, 0x00, 0x00, 0x00}

// PageBytes is the unit of a linear memory's size (Core 2.0, 4.2.8 "Memory Instances").
const PageBytes = 64 << 10

// Bounds on what a module may declare. Where the number is the one that browsers enforce, it
// is from "WebAssembly JavaScript Interface", section 6.2 "Implementation-defined Limits".
const (
	maxTypes        = 10_000    // 1,000,000 there; no compiler comes near
	maxParams       = 1_000     // as there, for results too
	maxAllParams    = 100_000   // in all types together
	maxFunctions    = 100_000   // 1,000,000 there
	maxImports      = 1_000     // 100,000 there; WASI preview 1 has 46
	maxExports      = 10_000    // 100,000 there
	maxGlobals      = 10_000    // 1,000,000 there
	maxTableEntries = 1_000_000 // 10,000,000 there; 8 bytes each outside of the linear memory
	maxSegments     = 100_000   // as there, for data; the same for elements
	maxLocals       = 50_000    // as there, of one function
	maxAllLocals    = 2_000_000 // of all functions together; they are run-length encoded
	maxBody         = 500_000   // bytes of one function, of which 50,636 were seen; 7,654,321 there
	// Of one function, each several times what was seen in policies in Go and in the modules
	// that wazero is tested with (1,639, 53, 115,780), and at which it takes 2 s and 300 MB.
	maxBranches = 10_000    // instructions that branch or that branches lead to
	maxLoops    = 500       // loops among them
	maxWidth    = 1_000_000 // branches times locals, parameters and results
	// The squares of the branches of every function, together; 25,718,716 were seen.
	maxWork      = 400_000_000
	maxNameBytes = 1_000 // of an import or export; 100,000 there
	maxCustom    = 1_000 // custom sections
)

// Kind is what an import or export is (Core 2.0, 5.5.5 "Import Section").
type Kind byte

// The kinds of imports and exports.
const (
	Func Kind = iota
	Table
	Memory
	Global
)

// Import is one imported item.
type Import struct {
	Module, Name string
	Kind         Kind
}

// Export is one exported item.
type Export struct {
	Name string
	Kind Kind
}

// Shape is what a module says of itself.
type Shape struct {
	Imports []Import
	Exports []Export
	// Memories is the number of linear memories that the module defines, MemoryPages the
	// minimum of the first, in units of [PageBytes].
	Memories    int
	MemoryPages uint32
	sections    []section
	// imports are the bytes of each of Imports.
	imports [][]byte
}

// section is one section: all of its bytes, and its content. A custom section's content
// begins after its name.
type section struct {
	id             byte
	name           string
	content, bytes []byte
}

// Custom returns the contents of the custom sections called name, in order.
func (s Shape) Custom(name string) [][]byte {
	var found [][]byte
	for _, section := range s.sections {
		if section.id == idCustom && section.name == name {
			found = append(found, section.content)
		}
	}
	return found
}

// Has reports whether the module exports name as kind.
func (s Shape) Has(name string, kind Kind) bool {
	for _, export := range s.Exports {
		if export.Name == name && export.Kind == kind {
			return true
		}
	}
	return false
}

// Bare returns the module without its custom sections, which mean nothing to its execution.
func (s Shape) Bare() []byte {
	return s.rebuild(func(section section) bool { return section.id != idCustom })
}

// WithCustom returns the module with one custom section called name, its last, that holds
// content. Sections that were called name before are gone.
func (s Shape) WithCustom(name string, content []byte) []byte {
	out := s.rebuild(func(section section) bool { return section.id != idCustom || section.name != name })
	body := appendName(nil, name)
	body = append(body, content...)
	out = append(out, idCustom)
	out = appendU32(out, uint32(len(body)))
	return append(out, body...)
}

func (s Shape) rebuild(keep func(section) bool) []byte {
	out := bytes.Clone(header)
	for _, section := range s.sections {
		if keep(section) {
			out = append(out, section.bytes...)
		}
	}
	return out
}

// Scan walks a module. The caller has bounded len(binary). The Shape shares its memory.
func Scan(binary []byte) (Shape, error) {
	if !bytes.HasPrefix(binary, header) {
		return Shape{}, ErrNotWebAssembly
	}
	s := scanner{reader: reader{data: binary, at: len(header)}}
	if err := s.module(); err != nil {
		return Shape{}, fmt.Errorf("malformed WebAssembly: %w", err)
	}
	return s.shape, nil
}

// appendName appends a name (Core 2.0, 5.2.4 "Names").
func appendName(out []byte, name string) []byte {
	out = appendU32(out, uint32(len(name)))
	return append(out, name...)
}

// appendU32 appends v in LEB128 (Core 2.0, 5.2.2 "Integers").
func appendU32(out []byte, v uint32) []byte {
	for v >= 0x80 {
		out = append(out, byte(v)|0x80)
		v >>= 7
	}
	return append(out, byte(v))
}
