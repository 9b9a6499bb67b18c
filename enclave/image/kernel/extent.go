package kernel

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"io"
)

// Where a bzImage says how long it is (Documentation/arch/x86/boot.rst), and a program of EFI what signs it (PE
// format, "Certificate Table").
const (
	codeSizeAt    = 0x1f4 // in units of 16 bytes
	sizeProtocol  = 0x204 // since which it has four bytes
	peOffsetAt    = 0x3c
	peMagic       = "PE\x00\x00"
	peOptionalAt  = 24
	pe32Plus      = 0x20b
	directories   = 108 // in the optional header of PE32+: their number, and behind it eight bytes for each
	certificateAt = directories + 4 + 4*8
)

// Extent is how many bytes a bzImage has by its own header, with the signatures for EFI that stand behind it; 0 for
// every other kernel. (The header of arm64's Image says how much memory it takes, and nothing of the file.) The
// error is the reader's.
func Extent(r io.ReaderAt) (int64, error) {
	head := make([]byte, 0x1000)
	n, err := r.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	head = head[:n]
	if !isX86(head) || binary.LittleEndian.Uint16(head[protocolAt:]) < sizeProtocol {
		return 0, nil
	}
	sectors := cmp.Or(int64(head[setupSectorsAt]), 4)
	end := (sectors+1)*512 + int64(binary.LittleEndian.Uint32(head[codeSizeAt:]))*16
	return max(end, signatureEnd(head)), nil
}

// signatureEnd is where the signatures of a program of EFI end; 0 if it has none.
func signatureEnd(head []byte) int64 {
	at := int64(binary.LittleEndian.Uint32(head[peOffsetAt:]))
	optional := at + peOptionalAt
	if !bytes.HasPrefix(head, []byte("MZ")) || optional+certificateAt+8 > int64(len(head)) || string(head[at:at+4]) != peMagic {
		return 0
	}
	header := head[optional:]
	if binary.LittleEndian.Uint16(header) != pe32Plus || binary.LittleEndian.Uint32(header[directories:]) < 5 {
		return 0
	}
	return int64(binary.LittleEndian.Uint32(header[certificateAt:])) + int64(binary.LittleEndian.Uint32(header[certificateAt+4:]))
}
