package module

import (
	"errors"
	"fmt"
	"unicode/utf8"
)

var errEnd = errors.New("ends early")

// reader reads the primitive values of the binary format. It never allocates from a length
// that it read.
type reader struct {
	data []byte
	at   int
}

func (r *reader) left() int { return len(r.data) - r.at }

func (r *reader) byte() (byte, error) {
	if r.left() < 1 {
		return 0, errEnd
	}
	r.at++
	return r.data[r.at-1], nil
}

// take returns the next n bytes, without copying them.
func (r *reader) take(n uint32) ([]byte, error) {
	if uint64(n) > uint64(r.left()) {
		return nil, errEnd
	}
	r.at += int(n)
	return r.data[r.at-int(n) : r.at : r.at], nil
}

// u32 reads an unsigned LEB128 of at most 32 bits (Core 2.0, 5.2.2 "Integers").
func (r *reader) u32() (uint32, error) {
	var v uint64
	for shift := 0; shift < 35; shift += 7 {
		b, err := r.byte()
		if err != nil {
			return 0, err
		}
		v |= uint64(b&0x7f) << shift
		if b < 0x80 {
			if v > 1<<32-1 {
				return 0, errors.New("number over 32 bits")
			}
			return uint32(v), nil
		}
	}
	return 0, errors.New("number over 5 bytes")
}

// skipLEB skips a LEB128 of at most limit bytes.
func (r *reader) skipLEB(limit int) error {
	for range limit {
		b, err := r.byte()
		if err != nil {
			return err
		}
		if b < 0x80 {
			return nil
		}
	}
	return fmt.Errorf("number over %d bytes", limit)
}

// count reads the length of a vector of at most limit items, of at least one byte each.
func (r *reader) count(what string, limit uint32) (int, error) {
	n, err := r.u32()
	if err != nil {
		return 0, err
	}
	if n > limit {
		return 0, fmt.Errorf("%d %s, at most %d are accepted", n, what, limit)
	}
	if uint64(n) > uint64(r.left()) {
		return 0, fmt.Errorf("%d %s in %d bytes", n, what, r.left())
	}
	return int(n), nil
}

// name reads a name (Core 2.0, 5.2.4 "Names").
func (r *reader) name() (string, error) {
	n, err := r.u32()
	if err != nil {
		return "", err
	}
	if n > maxNameBytes {
		return "", fmt.Errorf("a name of %d bytes, at most %d are accepted", n, maxNameBytes)
	}
	b, err := r.take(n)
	if err != nil {
		return "", err
	}
	if !utf8.Valid(b) {
		return "", errors.New("a name that is not UTF-8")
	}
	return string(b), nil
}

// limits reads the sizes of a memory or table (Core 2.0, 5.3.9 "Limits").
func (r *reader) limits() (low uint32, err error) {
	flag, err := r.byte()
	if err != nil {
		return 0, err
	}
	if flag > 1 {
		return 0, fmt.Errorf("limits of kind %#x (shared or 64-bit)", flag)
	}
	if low, err = r.u32(); err != nil || flag == 0 {
		return low, err
	}
	high, err := r.u32()
	if err == nil && high < low {
		err = fmt.Errorf("a minimum of %d over the maximum of %d", low, high)
	}
	return low, err
}

// constant skips a constant expression (Core 2.0, 3.3.10 "Constant Expressions"). Only
// expressions of one instruction are known.
func (r *reader) constant() error {
	op, err := r.byte()
	if err != nil {
		return err
	}
	switch op {
	case 0x23, 0xd2: // global.get, ref.func
		err = r.skipLEB(5)
	case 0x41: // i32.const
		err = r.skipLEB(5)
	case 0x42: // i64.const
		err = r.skipLEB(10)
	case 0x43: // f32.const
		_, err = r.take(4)
	case 0x44: // f64.const
		_, err = r.take(8)
	case 0xd0: // ref.null t
		_, err = r.byte()
	case 0xfd: // v128.const, 0xfd 12
		if op, err = r.byte(); err == nil && op != 12 {
			err = fmt.Errorf("constant with instruction 0xfd %d", op)
		}
		if err == nil {
			_, err = r.take(16)
		}
	default:
		err = fmt.Errorf("constant with instruction %#x", op)
	}
	if err != nil {
		return err
	}
	if end, err := r.byte(); err != nil || end != 0x0b {
		return errors.New("constant of more than one instruction")
	}
	return nil
}
