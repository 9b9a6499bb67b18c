// Package kernel looks at what an enclave boots: whether a file is a kernel that an enclave image takes, which
// version it is and until when that is cared for, what its configuration lacks, and which modules it needs.
//
// It owns this knowledge of Linux and believes no file: all that is read is bounded. It judges nothing but
// what keeps an image from booting; the rest it only says.
package kernel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Error says what is wrong with a kernel, its modules or its configuration.
type Error struct {
	Reason string
	// Hint says how to cure it; it may be empty.
	Hint string
}

func (e *Error) Error() string { return "kernel: " + e.Reason }

func refuse(hint, format string, args ...any) error {
	return &Error{Reason: fmt.Sprintf(format, args...), Hint: hint}
}

// The boot protocol of x86 (Documentation/arch/x86/boot.rst) and the header of arm64's Image
// (Documentation/arch/arm64/booting.rst).
const (
	bootFlagAt, bootFlag   = 0x1fe, 0xaa55
	setupMagicAt           = 0x202
	setupMagic             = "HdrS"
	versionAt, versionBase = 0x20e, 0x200
	armMagicAt             = 0x38
	armMagic               = "ARM\x64"
	// maxVersion bounds a version with what was built where and when.
	maxVersion = 256
)

// Check says whether a file is a kernel for an architecture, x86_64 or else arm64, and which version it says
// that it is: "6.12.41-cloud-amd64", empty if it does not say. Errors are an [*Error], or the reader's.
func Check(r io.ReaderAt, size int64, arm bool) (version string, err error) {
	head := make([]byte, min(size, 0x1000))
	if _, err := r.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	isARM := len(head) >= armMagicAt+4 && string(head[armMagicAt:armMagicAt+4]) == armMagic
	switch {
	case arm && isARM:
		return search(r, size)
	case !arm && isX86(head):
		return setupVersion(r, size, head)
	case isX86(head):
		return "", refuse("take an Image that was built for arm64", "it is a bzImage, for x86_64")
	case isARM:
		return "", refuse("take a bzImage that was built for x86_64", "it is an Image, for arm64")
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		return "", refuse("gunzip it first", "it is compressed with gzip")
	case bytes.HasPrefix(head, []byte("\x7fELF")):
		return "", refuse("take the bzImage (x86_64) or the Image (arm64) of the same build", "it is an ELF file, which no boot loader of enclaves takes")
	case bytes.HasPrefix(head, []byte("MZ")):
		return "", refuse("take the bzImage (x86_64) or the Image (arm64) of the same build", "it is an EFI program and no plain kernel")
	}
	return "", refuse("take a bzImage for x86_64, an Image for arm64", "it is no kernel")
}

// isX86 reports whether a file that begins so is a bzImage.
func isX86(head []byte) bool {
	return len(head) > versionAt+2 && binary.LittleEndian.Uint16(head[bootFlagAt:]) == bootFlag && string(head[setupMagicAt:setupMagicAt+4]) == setupMagic
}

// setupVersion is where the header of a bzImage says.
func setupVersion(r io.ReaderAt, size int64, head []byte) (string, error) {
	at := int64(binary.LittleEndian.Uint16(head[versionAt:]))
	if at == 0 {
		return "", nil
	}
	text := make([]byte, maxVersion)
	n, err := r.ReadAt(text, at+versionBase)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	return release(text[:n]), nil
}

// release is the first word of a version: what uname calls the release.
func release(text []byte) string {
	text, _, _ = bytes.Cut(text, []byte{0})
	word, _, _ := strings.Cut(string(text), " ")
	for _, r := range word {
		if r <= ' ' || r > '~' {
			return ""
		}
	}
	return word
}

// search finds the banner of a kernel that is not compressed (init/version.c).
func search(r io.ReaderAt, size int64) (string, error) {
	const banner = "Linux version "
	const overlap = len(banner) + maxVersion
	chunk := make([]byte, 1<<20)
	for at := int64(0); at < size; at += int64(len(chunk) - overlap) {
		n, err := r.ReadAt(chunk, at)
		if err != nil && !errors.Is(err, io.EOF) {
			return "", err
		}
		// The format string stands there too: "Linux version %s".
		for rest := chunk[:n]; ; {
			i := bytes.Index(rest, []byte(banner))
			if i < 0 {
				break
			}
			rest = rest[i+len(banner):]
			if len(rest) < maxVersion && at+int64(n) < size {
				break // it is whole in the next chunk
			}
			if len(rest) > 0 && rest[0] >= '0' && rest[0] <= '9' {
				return release(rest[:min(len(rest), maxVersion)]), nil
			}
		}
	}
	return "", nil
}
