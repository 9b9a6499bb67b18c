package vsock

// window is how many bytes a connection holds for its reader: what Linux gives one by default
// (linux/net/vmw_vsock/af_vsock.c, VSOCK_DEFAULT_BUFFER_SIZE), and all that it sends ahead of credit.
const window = 256 << 10

// buffer is a ring of bytes that grows up to window. The zero value is empty.
type buffer struct {
	data  []byte
	start int
	size  int
}

// push appends p, which fits into window.
func (b *buffer) push(p []byte) {
	if need := b.size + len(p); need > len(b.data) {
		grown := make([]byte, min(window, max(4<<10, 2*len(b.data), need)))
		n := copy(grown, b.first())
		copy(grown[n:], b.data[:b.size-n])
		b.data, b.start = grown, 0
	}
	end := (b.start + b.size) % len(b.data)
	n := copy(b.data[end:], p)
	copy(b.data, p[n:])
	b.size += len(p)
}

// pop moves what was pushed first into p.
func (b *buffer) pop(p []byte) int {
	n := copy(p, b.first())
	b.start, b.size = (b.start+n)%len(b.data), b.size-n
	if b.size > 0 && n < len(p) {
		n += b.pop(p[n:])
	}
	return n
}

// first is what lies in one piece.
func (b *buffer) first() []byte { return b.data[b.start:min(len(b.data), b.start+b.size)] }
