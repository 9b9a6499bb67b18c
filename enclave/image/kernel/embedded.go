package kernel

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/bzip2"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"io"

	"github.com/klauspost/compress/zstd"
)

// Where a bzImage has its payload (Documentation/arch/x86/boot.rst).
const (
	setupSectorsAt  = 0x1f1
	protocolAt      = 0x206
	payloadProtocol = 0x208
	payloadAt       = 0x248
	payloadSizeAt   = 0x24c
	// maxPayload bounds what it unpacks to.
	maxPayload = 512 << 20
	// configMark is in front of a configuration that is compressed with gzip (kernel/configs.c).
	configMark = "IKCFG_ST"
)

// Embedded finds the configuration that a kernel carries in itself (CONFIG_IKCONFIG); nil where it carries
// none, or none that can be read here.
func Embedded(r io.ReaderAt, size int64, arm bool) Config {
	from, done := payload(r, size, arm)
	if from == nil {
		return nil
	}
	defer done()
	in := bufio.NewReaderSize(io.LimitReader(from, maxPayload), 1<<20)
	for {
		window, err := in.Peek(1 << 16)
		if i := bytes.Index(window, []byte(configMark)); i >= 0 {
			if _, err := in.Discard(i + len(configMark)); err != nil {
				return nil
			}
			return packedConfig(in)
		}
		if err != nil || len(window) <= len(configMark) {
			return nil // it ends here, or cannot be unpacked
		}
		if _, err := in.Discard(len(window) - len(configMark)); err != nil {
			return nil
		}
	}
}

func packedConfig(in io.Reader) Config {
	z, err := gzip.NewReader(in)
	if err != nil {
		return nil
	}
	z.Multistream(false)
	c, err := ParseConfig(z)
	if err != nil {
		return nil
	}
	return c
}

// payload is a kernel as it runs: an Image as it is, that of a bzImage unpacked. It is nil if there is none
// that is compressed in a way known here.
func payload(r io.ReaderAt, size int64, arm bool) (io.Reader, func()) {
	nothing := func() {}
	if arm {
		return io.NewSectionReader(r, 0, size), nothing
	}
	head := make([]byte, payloadSizeAt+4)
	if _, err := r.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) || binary.LittleEndian.Uint16(head[protocolAt:]) < payloadProtocol {
		return nil, nil
	}
	sectors := cmp.Or(int64(head[setupSectorsAt]), 4)
	at := (sectors+1)*512 + int64(binary.LittleEndian.Uint32(head[payloadAt:]))
	packed := bufio.NewReader(io.NewSectionReader(r, at, int64(binary.LittleEndian.Uint32(head[payloadSizeAt:]))))
	magic, err := packed.Peek(6)
	if err != nil {
		return nil, nil
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		if z, err := gzip.NewReader(packed); err == nil {
			return z, nothing
		}
	case bytes.HasPrefix(magic, []byte("BZh")):
		return bzip2.NewReader(packed), nothing
	case bytes.HasPrefix(magic, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		if z, err := newXZReader(packed); err == nil {
			return z, nothing
		}
	case bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		if z, err := zstd.NewReader(packed, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20)); err == nil {
			return z, z.Close
		}
	}
	return nil, nil
}
