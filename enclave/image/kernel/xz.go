package kernel

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"hash/crc64"
	"io"

	"github.com/ulikunitz/xz/lzma"
)

const (
	// xzMagic begins a stream, and its header has xzHeader bytes (The .xz File Format 1.2.1, 2.1.1).
	xzMagic  = "\xfd7zXZ\x00"
	xzHeader = 12
	// filterLZMA2 is what a filter's flags begin with: the number of LZMA2, and one byte of properties (5.3.1).
	filterLZMA2 = "\x21\x01"
	// maxDictionary bounds what a block has allocated, maxDictionaries what all of them have: xz -9 takes 64 MiB, and
	// has no more of them than content.
	maxDictionary   = 64 << 20
	maxDictionaries = maxPayload
)

// xzReader unpacks the first stream of a .xz file. It is there because xz.Reader allocates a dictionary as large as
// a header says, up to 4 GiB, and has no bound for it. What is behind the last block, which says again how long the
// blocks are, is not looked at: each block has its checksum.
type xzReader struct {
	in *counter
	// block is the one under way, nil between two; sum is of its content.
	block io.Reader
	sum   hash.Hash
	check func() hash.Hash
	done  bool
	// left is what dictionaries may still take.
	left int
}

// counter counts what is read of a block.
type counter struct {
	from *bufio.Reader
	n    int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.from.Read(p)
	c.n += int64(n)
	return n, err
}

func (c *counter) ReadByte() (byte, error) {
	b, err := c.from.ReadByte()
	if err == nil {
		c.n++
	}
	return b, err
}

func newXZReader(r io.Reader) (*xzReader, error) {
	x := &xzReader{in: &counter{from: bufio.NewReader(r)}, left: maxDictionaries}
	head := make([]byte, xzHeader)
	if _, err := io.ReadFull(x.in, head); err != nil {
		return nil, cut(err)
	}
	if !bytes.HasPrefix(head, []byte(xzMagic)) || head[6] != 0 || crc32.ChecksumIEEE(head[6:8]) != binary.LittleEndian.Uint32(head[8:]) {
		return nil, errors.New("it does not begin as a .xz file does")
	}
	switch head[7] { // 2.1.1.2
	case 0x01:
		x.check = func() hash.Hash { return reversed{crc32.NewIEEE()} }
	case 0x04:
		x.check = func() hash.Hash { return reversed{crc64.New(crc64.MakeTable(crc64.ECMA))} }
	case 0x0a:
		x.check = sha256.New
	default:
		return nil, fmt.Errorf("its blocks have checks of the type %#x; CRC32, CRC64 and SHA-256 are known", head[7])
	}
	return x, nil
}

// reversed gives a sum as .xz has it, the lowest byte first.
type reversed struct{ hash.Hash }

func (r reversed) Sum(b []byte) []byte {
	sum := r.Hash.Sum(nil)
	for i := range sum {
		b = append(b, sum[len(sum)-1-i])
	}
	return b
}

func (x *xzReader) Read(p []byte) (int, error) {
	for !x.done {
		if x.block == nil {
			if err := x.begin(); err != nil {
				return 0, err
			}
			continue
		}
		n, err := x.block.Read(p)
		_, _ = x.sum.Write(p[:n]) // a hash takes all
		if errors.Is(err, io.EOF) {
			err = x.end()
		}
		if n > 0 || err != nil || len(p) == 0 {
			return n, err
		}
	}
	return 0, io.EOF
}

// begin reads the header of a block, or sees that there is none any more.
func (x *xzReader) begin() error {
	first, err := x.in.ReadByte()
	if err != nil {
		return cut(err)
	}
	if first == 0 { // the index
		x.done = true
		return nil
	}
	head := make([]byte, (int(first)+1)*4)
	head[0] = first
	if _, err := io.ReadFull(x.in, head[1:]); err != nil {
		return cut(err)
	}
	content := head[:len(head)-4]
	if crc32.ChecksumIEEE(content) != binary.LittleEndian.Uint32(head[len(content):]) {
		return errors.New("the header of a block is damaged")
	}
	size, err := dictionary(content)
	if err != nil {
		return err
	}
	if x.left -= size; x.left < 0 {
		return fmt.Errorf("its blocks have dictionaries of over %d MiB", maxDictionaries>>20)
	}
	x.in.n = 0
	x.sum = x.check()
	x.block, err = lzma.Reader2Config{DictCap: size}.NewReader2(x.in)
	return err
}

// dictionary is how large the header of a block says that one is (3.1).
func dictionary(head []byte) (int, error) {
	flags, rest := head[1], head[2:]
	for _, flag := range []byte{0x40, 0x80} { // the sizes of the block, which are not needed
		if flags&flag != 0 {
			_, n := binary.Uvarint(rest)
			if n <= 0 {
				return 0, errors.New("the header of a block is damaged")
			}
			rest = rest[n:]
		}
	}
	if flags&0x3f != 0 || len(rest) < len(filterLZMA2)+1 || string(rest[:len(filterLZMA2)]) != filterLZMA2 {
		return 0, errors.New("a block has another filter than LZMA2")
	}
	size, err := lzma.DecodeDictCap(rest[len(filterLZMA2)])
	switch {
	case err != nil:
		return 0, err
	case size > maxDictionary:
		return 0, fmt.Errorf("a dictionary of %d MiB; %d are allowed (xz --lzma2=dict=…)", size>>20, maxDictionary>>20)
	}
	return int(max(size, lzma.MinDictCap)), nil
}

// end reads what is behind the content of a block, and holds it against its checksum.
func (x *xzReader) end() error {
	want := x.sum.Sum(nil)
	tail := make([]byte, int(-x.in.n&3)+len(want)) // zeros up to four bytes
	if _, err := io.ReadFull(x.in, tail); err != nil {
		return cut(err)
	}
	if got := tail[len(tail)-len(want):]; !bytes.Equal(got, want) {
		return errors.New("a block is damaged")
	}
	x.block = nil
	return nil
}

// cut is the end of a file where there was to be more.
func cut(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
