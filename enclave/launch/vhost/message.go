package vhost

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// Requests of a front-end, by their numbers (QEMU, docs/interop/vhost-user.rst, "Front-end message types").
const (
	getFeatures         = 1
	setFeatures         = 2
	setOwner            = 3
	resetOwner          = 4
	setMemTable         = 5
	setVringNum         = 8
	setVringAddr        = 9
	setVringBase        = 10
	getVringBase        = 11
	setVringKick        = 12
	setVringCall        = 13
	setVringErr         = 14
	getProtocolFeatures = 15
	setProtocolFeatures = 16
	getQueueNum         = 17
	setVringEnable      = 18
	getConfig           = 24
	setConfig           = 25
)

// The header of a message, and bounds (the same, "Message Specification"). Numbers are in the byte order of
// the machine; that of both architectures here is little-endian.
const (
	headerSize  = 12
	version     = 1
	versionMask = 3
	isReply     = 1 << 2
	needReply   = 1 << 3

	maxPayload = 4 << 10
	maxFiles   = 8
	regionSize = 32
	configHead = 12
	noFile     = 1 << 8 // in setVringKick, -Call and -Err
)

// message is one request with the files that came with it.
type message struct {
	request, flags uint32
	payload        []byte
	files          []*os.File
}

// close closes the files that nobody took.
func (m *message) close() {
	for _, f := range m.files {
		_ = f.Close() // another process's
	}
	m.files = nil
}

// receive reads one message; io.EOF is the front-end's orderly end.
func receive(conn *net.UnixConn) (_ *message, err error) {
	m := &message{}
	defer func() {
		if err != nil {
			m.close()
		}
	}()
	var head [headerSize]byte
	oob := make([]byte, unix.CmsgSpace(4*maxFiles))
	n, oobn, flags, _, err := conn.ReadMsgUnix(head[:], oob)
	if err != nil {
		return nil, err
	}
	if m.files, err = files(oob[:oobn]); err != nil {
		return nil, err
	}
	switch {
	case n == 0:
		return nil, io.EOF
	case flags&unix.MSG_CTRUNC != 0:
		return nil, fmt.Errorf("a message with more than %d files", maxFiles)
	}
	if _, err := io.ReadFull(conn, head[n:]); err != nil {
		return nil, err
	}
	size, err := m.header(head)
	if err != nil {
		return nil, err
	}
	m.payload = make([]byte, size)
	_, err = io.ReadFull(conn, m.payload)
	return m, err
}

// header reads the header and gives the size of the payload.
func (m *message) header(head [headerSize]byte) (size uint32, err error) {
	m.request = binary.LittleEndian.Uint32(head[0:])
	m.flags = binary.LittleEndian.Uint32(head[4:])
	size = binary.LittleEndian.Uint32(head[8:])
	switch {
	case m.flags&versionMask != version || m.flags&isReply != 0:
		return 0, fmt.Errorf("a message with flags %#x", m.flags)
	case size > maxPayload:
		return 0, fmt.Errorf("a message of %d bytes", size)
	}
	return size, nil
}

// files takes the descriptors out of a control message. They close on exec, and never block.
func files(oob []byte) (list []*os.File, err error) {
	if len(oob) == 0 {
		return nil, nil
	}
	controls, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	for _, c := range controls {
		fds, err := unix.ParseUnixRights(&c)
		if err != nil {
			return list, err
		}
		for _, fd := range fds {
			if err := unix.SetNonblock(fd, true); err != nil {
				return append(list, os.NewFile(uintptr(fd), "vhost")), err
			}
			list = append(list, os.NewFile(uintptr(fd), "vhost"))
		}
	}
	return list, nil
}

var errPayload = errors.New("a message of the wrong size")

// number is the payload of one 64-bit integer.
func (m *message) number() (uint64, error) {
	if len(m.payload) != 8 {
		return 0, errPayload
	}
	return binary.LittleEndian.Uint64(m.payload), nil
}

// state is a vring state description.
func (m *message) state() (index, num uint32, err error) {
	if len(m.payload) != 8 {
		return 0, 0, errPayload
	}
	return binary.LittleEndian.Uint32(m.payload), binary.LittleEndian.Uint32(m.payload[4:]), nil
}

// address is a vring address description. Its flags and its log are for migration.
func (m *message) address() (index uint32, a ringAddress, err error) {
	if len(m.payload) != 40 {
		return 0, a, errPayload
	}
	word := func(at int) uint64 { return binary.LittleEndian.Uint64(m.payload[at:]) }
	return binary.LittleEndian.Uint32(m.payload), ringAddress{descriptors: word(8), used: word(16), available: word(24)}, nil
}

// regions is a memory regions description.
func (m *message) regions() ([]region, error) {
	if len(m.payload) < 8 {
		return nil, errPayload
	}
	count := binary.LittleEndian.Uint32(m.payload)
	if count == 0 || count > maxFiles || len(m.payload) != 8+regionSize*int(count) {
		return nil, errPayload
	}
	regions := make([]region, count)
	for i := range regions {
		raw := m.payload[8+regionSize*i:]
		word := func(at int) uint64 { return binary.LittleEndian.Uint64(raw[at:]) }
		regions[i] = region{guest: word(0), size: word(8), user: word(16), offset: word(24)}
	}
	return regions, nil
}

// file is what setVringKick and its like bring: a queue's number, and a file or none.
func (m *message) file() (index uint32, f *os.File, err error) {
	n, err := m.number()
	if err != nil {
		return 0, nil, err
	}
	if with := n&noFile == 0; with != (len(m.files) == 1) || len(m.files) > 1 {
		return 0, nil, fmt.Errorf("a message with %d files", len(m.files))
	} else if with {
		f, m.files = m.files[0], nil
	}
	return uint32(n & 0xff), f, nil
}

// config is a request for a part of the configuration space.
func (m *message) config() (offset, size uint32, err error) {
	if len(m.payload) < configHead {
		return 0, 0, errPayload
	}
	offset, size = binary.LittleEndian.Uint32(m.payload), binary.LittleEndian.Uint32(m.payload[4:])
	if int(size) != len(m.payload)-configHead {
		return 0, 0, errPayload
	}
	return offset, size, nil
}

// reply answers a request.
func reply(conn *net.UnixConn, request uint32, payload []byte) error {
	raw := make([]byte, 0, headerSize+len(payload))
	raw = binary.LittleEndian.AppendUint32(raw, request)
	raw = binary.LittleEndian.AppendUint32(raw, version|isReply)
	raw = binary.LittleEndian.AppendUint32(raw, uint32(len(payload)))
	_, err := conn.Write(append(raw, payload...))
	return err
}

func word64(n uint64) []byte { return binary.LittleEndian.AppendUint64(nil, n) }
