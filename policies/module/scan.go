package module

import (
	"errors"
	"fmt"
	"strings"
)

// Section ids, and their order in a module (Core 2.0, 5.5.2 "Sections").
const (
	idCustom = iota
	idType
	idImport
	idFunction
	idTable
	idMemory
	idGlobal
	idExport
	idStart
	idElement
	idCode
	idData
	idDataCount
)

// order ranks section ids: the data count comes before the code.
var order = [...]int{
	idType: 1, idImport: 2, idFunction: 3, idTable: 4, idMemory: 5, idGlobal: 6, idExport: 7,
	idStart: 8, idElement: 9, idDataCount: 10, idCode: 11, idData: 12,
}

var names = [...]string{
	"custom", "type", "import", "function", "table", "memory", "global", "export", "start",
	"element", "code", "data", "data count",
}

type scanner struct {
	reader
	shape Shape
	// What the whole module has used up of the bounds of the same names.
	params, locals, elements, work uint64
	// widest is the most parameters and results that a type has.
	widest uint64
}

// spend adds n to a sum over the whole module and holds it against its bound.
func spend(sum *uint64, n uint64, limit uint64, what string) error {
	if *sum += n; *sum > limit {
		return fmt.Errorf("more than %d %s in the module", limit, what)
	}
	return nil
}

func (s *scanner) module() error {
	last, customs := 0, 0
	for s.left() > 0 {
		start := s.at
		id, err := s.byte()
		if err != nil {
			return err
		}
		if int(id) >= len(names) {
			return fmt.Errorf("unknown section %d", id)
		}
		size, err := s.u32()
		if err != nil {
			return fmt.Errorf("%s section: %w", names[id], err)
		}
		content, err := s.take(size)
		if err != nil {
			return fmt.Errorf("%s section: %w", names[id], err)
		}
		if id == idCustom {
			customs++
		} else if order[id] <= last {
			return fmt.Errorf("%s section: repeated or out of order", names[id])
		} else {
			last = order[id]
		}
		if customs > maxCustom {
			return fmt.Errorf("more than %d custom sections", maxCustom)
		}
		if err := s.section(id, content, s.data[start:s.at:s.at]); err != nil {
			return fmt.Errorf("%s section: %w", names[id], err)
		}
	}
	return nil
}

// section walks the content of one section and requires it to be used up.
func (s *scanner) section(id byte, content, whole []byte) error {
	in := &reader{data: content}
	found := section{id: id, content: content, bytes: whole}
	var err error
	switch id {
	case idCustom:
		found.name, err = in.name()
		found.content = content[in.at:]
		in.at = len(content)
	case idType:
		err = in.each("types", maxTypes, func() error { return s.functionType(in) })
	case idImport:
		err = in.each("imports", maxImports, func() error { return s.imported(in) })
	case idFunction:
		err = in.each("functions", maxFunctions, func() error { return in.skipLEB(5) })
	case idTable:
		err = in.each("tables", 1, in.table)
	case idMemory:
		err = in.each("memories", 1, func() error { return s.memory(in) })
	case idGlobal:
		err = in.each("globals", maxGlobals, in.global)
	case idExport:
		err = in.each("exports", maxExports, func() error { return s.exported(in) })
	case idStart, idDataCount:
		err = in.skipLEB(5)
	case idElement:
		err = in.each("element segments", maxSegments, func() error { return s.element(in) })
	case idCode:
		err = in.each("function bodies", maxFunctions, func() error { return s.body(in) })
	case idData:
		err = in.each("data segments", maxSegments, in.segment)
	}
	if err == nil && in.left() > 0 {
		err = fmt.Errorf("%d bytes after its end", in.left())
	}
	s.shape.sections = append(s.shape.sections, found)
	return err
}

// each reads a vector of at most limit items.
func (r *reader) each(what string, limit uint32, item func() error) error {
	n, err := r.count(what, limit)
	if err != nil {
		return err
	}
	for i := range n {
		if err := item(); err != nil {
			return fmt.Errorf("%s[%d]: %w", what, i, err)
		}
	}
	return nil
}

// functionType skips a function type (Core 2.0, 5.3.6 "Function Types").
func (s *scanner) functionType(in *reader) error {
	if form, err := in.byte(); err != nil || form != 0x60 {
		return errors.New("not a function type")
	}
	var width uint64
	defer func() { s.widest = max(s.widest, width) }()
	for _, what := range []string{"parameters", "results"} {
		n, err := in.count(what, maxParams)
		if err != nil {
			return err
		}
		width += uint64(n)
		if err := spend(&s.params, uint64(n), maxAllParams, what); err != nil {
			return err
		}
		if _, err := in.take(uint32(n)); err != nil {
			return err
		}
	}
	return nil
}

// imported reads an import. Types of imported globals, memories and tables are skipped: a policy
// may import functions only, which the engine checks, or a memory, which [Shape.WithOwnMemory] reads.
func (s *scanner) imported(in *reader) error {
	begin := in.at
	from, err := in.name()
	if err != nil {
		return err
	}
	name, err := in.name()
	if err != nil {
		return err
	}
	kind, err := in.byte()
	if err != nil {
		return err
	}
	switch Kind(kind) {
	case Func:
		err = in.skipLEB(5)
	case Table:
		err = in.table()
	case Memory:
		_, err = in.limits()
	case Global:
		_, err = in.take(2)
	default:
		err = fmt.Errorf("import of unknown kind %#x", kind)
	}
	s.shape.Imports = append(s.shape.Imports, Import{strings.Clone(from), strings.Clone(name), Kind(kind)})
	s.shape.imports = append(s.shape.imports, in.data[begin:in.at])
	return err
}

func (s *scanner) exported(in *reader) error {
	name, err := in.name()
	if err != nil {
		return err
	}
	kind, err := in.byte()
	if err != nil {
		return err
	}
	s.shape.Exports = append(s.shape.Exports, Export{strings.Clone(name), Kind(kind)})
	return in.skipLEB(5)
}

func (s *scanner) memory(in *reader) error {
	low, err := in.limits()
	s.shape.Memories, s.shape.MemoryPages = s.shape.Memories+1, low
	return err
}

// table skips a table type (Core 2.0, 5.3.11 "Table Types") and bounds its size.
func (r *reader) table() error {
	if of, err := r.byte(); err != nil || of != 0x70 { // funcref
		return errors.New("not a table of functions")
	}
	low, err := r.limits()
	if err == nil && low > maxTableEntries {
		err = fmt.Errorf("%d entries, at most %d are accepted", low, maxTableEntries)
	}
	return err
}

func (r *reader) global() error {
	if _, err := r.take(2); err != nil { // type and mutability
		return err
	}
	return r.constant()
}

// element skips an element segment (Core 2.0, 5.5.12 "Element Section"). Bits of its flag:
// 1 passive or declarative, 2 an explicit table or declarative, 4 expressions.
func (s *scanner) element(in *reader) error {
	flag, err := in.u32()
	if err != nil || flag > 7 {
		return errors.New("unknown kind of segment")
	}
	if flag&1 == 0 {
		if flag&2 != 0 {
			if err := in.skipLEB(5); err != nil {
				return err
			}
		}
		if err := in.constant(); err != nil {
			return err
		}
	}
	if flag&3 != 0 {
		if _, err := in.byte(); err != nil { // element kind or reference type
			return err
		}
	}
	return in.each("elements", maxTableEntries, func() error {
		if err := spend(&s.elements, 1, maxTableEntries, "elements"); err != nil {
			return err
		}
		if flag&4 != 0 {
			return in.constant()
		}
		return in.skipLEB(5)
	})
}

// body walks a function body: its locals, which are run-length encoded, and its instructions
// (Core 2.0, 5.5.13 "Code Section").
func (s *scanner) body(in *reader) error {
	size, err := in.u32()
	if err != nil {
		return err
	}
	if size > maxBody {
		return fmt.Errorf("%d bytes, at most %d are accepted", size, maxBody)
	}
	code, err := in.take(size)
	if err != nil {
		return err
	}
	body := &reader{data: code}
	var locals uint64
	err = body.each("groups of locals", maxLocals, func() error {
		n, err := body.u32()
		if err != nil {
			return err
		}
		if locals += uint64(n); locals > maxLocals {
			return fmt.Errorf("more than %d locals", maxLocals)
		}
		if err := spend(&s.locals, uint64(n), maxAllLocals, "locals"); err != nil {
			return err
		}
		_, err = body.byte() // the type
		return err
	})
	if err != nil {
		return err
	}
	flow, err := body.flow()
	if err != nil {
		return err
	}
	return s.bound(flow, locals)
}

// bound holds a function against what its compilation would take.
func (s *scanner) bound(f flow, locals uint64) error {
	switch width := locals + s.widest; {
	case f.branches > maxBranches:
		return fmt.Errorf("%d branches, at most %d are accepted", f.branches, maxBranches)
	case f.loops > maxLoops:
		return fmt.Errorf("%d loops, at most %d are accepted", f.loops, maxLoops)
	case f.branches*width > maxWidth:
		return fmt.Errorf("%d branches with %d locals are too many together", f.branches, width)
	}
	return spend(&s.work, f.branches*f.branches, maxWork, "branches, squared,")
}

// segment skips a data segment (Core 2.0, 5.5.14 "Data Section").
func (r *reader) segment() error {
	flag, err := r.u32()
	if err != nil || flag > 2 {
		return errors.New("unknown kind of segment")
	}
	if flag == 2 {
		if err := r.skipLEB(5); err != nil {
			return err
		}
	}
	if flag != 1 {
		if err := r.constant(); err != nil {
			return err
		}
	}
	size, err := r.u32()
	if err != nil {
		return err
	}
	_, err = r.take(size)
	return err
}
