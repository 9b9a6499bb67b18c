package vsock

import (
	"encoding/binary"
	"fmt"

	"github.com/cloister-run/cloister/enclave/launch/vhost"
)

// operation is what a packet is for (virtio 1.2, 5.10.6, virtio_vsock_op).
type operation uint16

const (
	opRequest       operation = 1
	opResponse      operation = 2
	opReset         operation = 3
	opShutdown      operation = 4
	opData          operation = 5 // VIRTIO_VSOCK_OP_RW
	opCreditUpdate  operation = 6
	opCreditRequest operation = 7
)

// The rest of a header (the same).
const (
	headerSize  = 44
	typeStream  = 1
	noReceive   = 1 // VIRTIO_VSOCK_SHUTDOWN_F_RECEIVE: its sender takes nothing any more
	noSend      = 2 // VIRTIO_VSOCK_SHUTDOWN_F_SEND: its sender sends nothing any more
	noneOfThem  = noReceive | noSend
	maxData     = 64 << 10 // of a packet of Linux (linux/virtio_vsock.h, VIRTIO_VSOCK_MAX_PKT_BUF_SIZE)
	smallPacket = headerSize + 1
)

// header is of a packet, both ways.
type header struct {
	source, destination uint64
	sourcePort, port    uint32
	length              uint32
	kind                uint16
	op                  operation
	flags               uint32
	room, forwarded     uint32 // buf_alloc and fwd_cnt
}

func parse(raw *[headerSize]byte) header {
	le := binary.LittleEndian
	return header{
		source: le.Uint64(raw[0:]), destination: le.Uint64(raw[8:]),
		sourcePort: le.Uint32(raw[16:]), port: le.Uint32(raw[20:]),
		length: le.Uint32(raw[24:]), kind: le.Uint16(raw[28:]), op: operation(le.Uint16(raw[30:])),
		flags: le.Uint32(raw[32:]), room: le.Uint32(raw[36:]), forwarded: le.Uint32(raw[40:]),
	}
}

func (h *header) encode() (raw [headerSize]byte) {
	le := binary.LittleEndian
	le.PutUint64(raw[0:], h.source)
	le.PutUint64(raw[8:], h.destination)
	le.PutUint32(raw[16:], h.sourcePort)
	le.PutUint32(raw[20:], h.port)
	le.PutUint32(raw[24:], h.length)
	le.PutUint16(raw[28:], h.kind)
	le.PutUint16(raw[30:], uint16(h.op))
	le.PutUint32(raw[32:], h.flags)
	le.PutUint32(raw[36:], h.room)
	le.PutUint32(raw[40:], h.forwarded)
	return raw
}

// take reads a packet of the driver; its data goes into scratch, which has maxData bytes.
func take(c *vhost.Chain, scratch []byte) (h header, data []byte, err error) {
	var raw [headerSize]byte
	if c.Writable() > 0 || c.Read(raw[:]) < headerSize {
		return h, nil, fmt.Errorf("vsock: %w: a packet without a header", vhost.ErrGuest)
	}
	h = parse(&raw)
	if h.length > maxData || int(h.length) > c.Readable() {
		return h, nil, fmt.Errorf("vsock: %w: a packet says that it has %d bytes", vhost.ErrGuest, h.length)
	}
	data = scratch[:h.length]
	c.Read(data)
	return h, data, nil
}

// put writes a packet into a buffer of the driver, with as much of data as there is room for.
func put(c *vhost.Chain, h header, data []byte) (sent int, err error) {
	if c.Readable() > 0 || c.Writable() < smallPacket {
		return 0, fmt.Errorf("vsock: %w: a buffer of %d bytes for packets", vhost.ErrGuest, c.Writable())
	}
	data = data[:min(len(data), c.Writable()-headerSize)]
	h.length = uint32(len(data))
	raw := h.encode()
	c.Write(raw[:])
	return c.Write(data), nil
}
