package module

import "fmt"

// Instructions with a part in control flow (Core 2.0, 5.4.1 "Control Instructions").
const (
	opBlock   = 0x02
	opLoop    = 0x03
	opIf      = 0x04
	opElse    = 0x05
	opBr      = 0x0c
	opBrIf    = 0x0d
	opBrTable = 0x0e
)

// flow counts the instructions of a function that shape its control flow.
type flow struct {
	// branches counts all of them, loops the loops among them.
	branches, loops uint64
}

// flow walks the instructions of a function without validating them, and counts those that a
// compiler's work grows with faster than a function's size.
func (r *reader) flow() (flow, error) {
	var f flow
	for r.left() > 0 {
		op, err := r.byte()
		if err != nil {
			return f, err
		}
		switch op {
		case opLoop:
			f.loops++
			f.branches++
		case opBlock, opIf, opElse, opBr, opBrIf:
			f.branches++
		case opBrTable:
			f.branches++
		}
		if err := r.immediates(op); err != nil {
			return f, err
		}
	}
	return f, nil
}

// immediates skips what follows an opcode (Core 2.0, 5.4 "Instructions").
func (r *reader) immediates(op byte) error {
	switch {
	case op == opBrTable:
		n, err := r.count("branches of a table", maxBody)
		if err != nil {
			return err
		}
		return r.skipLEBs(n+1, 5)
	case op == 0x11: // call_indirect
		return r.skipLEBs(2, 5)
	case op == 0x1c: // select t
		n, err := r.count("types of a select", maxParams)
		if err != nil {
			return err
		}
		_, err = r.take(uint32(n))
		return err
	case op >= opBlock && op <= opIf, op == opBr, op == opBrIf, op == 0x10, // call
		op >= 0x20 && op <= 0x26,           // local, global, table
		op == 0x3f, op == 0x40, op == 0x41, // memory.size, memory.grow, i32.const
		op == 0xd0, op == 0xd2: // ref.null, ref.func
		return r.skipLEB(5)
	case op >= 0x28 && op <= 0x3e: // loads and stores
		return r.skipLEBs(2, 5)
	case op == 0x42: // i64.const
		return r.skipLEB(10)
	case op == 0x43: // f32.const
		_, err := r.take(4)
		return err
	case op == 0x44: // f64.const
		_, err := r.take(8)
		return err
	case op == 0xfc:
		return r.bulk()
	case op == 0xfd:
		return r.vector()
	case op <= 0x01, op == opElse, op == 0x0b, op == 0x0f, op == 0x1a, op == 0x1b,
		op >= 0x45 && op <= 0xc4, op == 0xd1:
		return nil
	}
	return fmt.Errorf("unknown instruction %#x", op)
}

// bulk skips the rest of an instruction that begins with 0xfc.
func (r *reader) bulk() error {
	op, err := r.u32()
	if err != nil {
		return err
	}
	switch {
	case op <= 7: // saturating conversions
		return nil
	case op == 8, op == 10, op == 12, op == 14: // memory.init, memory.copy, table.init, table.copy
		return r.skipLEBs(2, 5)
	case op <= 17: // the others on memory, data, elements and tables
		return r.skipLEB(5)
	}
	return fmt.Errorf("unknown instruction 0xfc %d", op)
}

// vector skips the rest of an instruction that begins with 0xfd.
func (r *reader) vector() error {
	op, err := r.u32()
	if err != nil {
		return err
	}
	switch {
	case op <= 11, op == 92, op == 93: // loads and stores
		return r.skipLEBs(2, 5)
	case op == 12, op == 13: // v128.const, i8x16.shuffle
		_, err = r.take(16)
		return err
	case op >= 21 && op <= 34: // lanes
		_, err = r.byte()
		return err
	case op >= 84 && op <= 91: // lanes in memory
		if err := r.skipLEBs(2, 5); err != nil {
			return err
		}
		_, err = r.byte()
		return err
	case op <= 255:
		return nil
	}
	return fmt.Errorf("unknown instruction 0xfd %d", op)
}

func (r *reader) skipLEBs(n, limit int) error {
	for range n {
		if err := r.skipLEB(limit); err != nil {
			return err
		}
	}
	return nil
}
