package keys

import "errors"

// Bounds on what KMS sends. Its messages have 457 bytes and more, 33 elements and a depth of 10.
const (
	maxEnvelope = 64 << 10
	maxElements = 128
	maxDepth    = 12
)

// errBER says that bytes are no BER, or more of it than is read.
var errBER = errors.New("not BER within bounds")

// Tags (X.690, 8.1.2): class, the bit for constructed, number.
const (
	tagInteger     = 0x02
	tagOctets      = 0x04
	tagNull        = 0x05
	tagOID         = 0x06
	tagSequence    = 0x30
	tagSet         = 0x31
	tagContext0    = 0x80
	tagConstructed = 0x20
	tagExplicit0   = tagContext0 | tagConstructed
	tagExplicit1   = tagExplicit0 | 1
)

// element is one value of BER: primitive with a content, or constructed of parts.
type element struct {
	tag     byte
	content []byte
	parts   []element
}

// berReader takes elements from the front of data. Contents are parts of data, never copies.
type berReader struct {
	data []byte
	// left is how many more elements it takes.
	left int
}

// parseBER reads one element and nothing after it. Lengths may be definite or not and need not
// be the shortest, as BER has it; tags have one byte.
func parseBER(data []byte) (element, error) {
	if len(data) > maxEnvelope {
		return element{}, errBER
	}
	r := &berReader{data: data, left: maxElements}
	e, err := r.element(maxDepth)
	if err != nil {
		return element{}, err
	}
	if len(r.data) != 0 {
		return element{}, errBER
	}
	return e, nil
}

// take cuts n bytes off.
func (r *berReader) take(n int) ([]byte, error) {
	if n > len(r.data) {
		return nil, errBER
	}
	taken := r.data[:n:n]
	r.data = r.data[n:]
	return taken, nil
}

// element reads one of at most that depth.
func (r *berReader) element(depth int) (element, error) {
	if depth == 0 || r.left == 0 {
		return element{}, errBER
	}
	r.left--
	tag, err := r.take(1)
	if err != nil || tag[0] == 0 || tag[0]&0x1f == 0x1f {
		return element{}, errBER
	}
	e := element{tag: tag[0]}
	n, indefinite, err := r.length()
	switch {
	case err != nil:
		return element{}, err
	case indefinite:
		if e.tag&tagConstructed == 0 {
			return element{}, errBER
		}
		e.parts, err = r.untilEnd(depth)
		return e, err
	}
	if e.content, err = r.take(n); err != nil || e.tag&tagConstructed == 0 {
		return e, err
	}
	inner := &berReader{data: e.content, left: r.left}
	e.content = nil
	for len(inner.data) > 0 {
		part, err := inner.element(depth - 1)
		if err != nil {
			return element{}, err
		}
		e.parts = append(e.parts, part)
	}
	r.left = inner.left
	return e, nil
}

// untilEnd reads what an indefinite length holds, and the two zeros after it (X.690, 8.1.5).
func (r *berReader) untilEnd(depth int) ([]element, error) {
	var parts []element
	for {
		if len(r.data) >= 2 && r.data[0] == 0 && r.data[1] == 0 {
			r.data = r.data[2:]
			return parts, nil
		}
		part, err := r.element(depth - 1)
		if err != nil {
			return nil, err
		}
		parts = append(parts, part)
	}
}

// length reads the length of an element, of at most four bytes (X.690, 8.1.3).
func (r *berReader) length() (n int, indefinite bool, err error) {
	first, err := r.take(1)
	if err != nil {
		return 0, false, err
	}
	if first[0] < 0x80 {
		return int(first[0]), false, nil
	}
	if first[0] == 0x80 {
		return 0, true, nil
	}
	size := int(first[0] & 0x7f)
	if size > 4 {
		return 0, false, errBER
	}
	digits, err := r.take(size)
	if err != nil {
		return 0, false, err
	}
	var long uint64
	for _, d := range digits {
		long = long<<8 | uint64(d)
	}
	if long > maxEnvelope {
		return 0, false, errBER
	}
	return int(long), false, nil
}
