package envelope

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"maps"
)

// magic begins every bundle. The version follows as four bytes, big endian, then the length of
// the header, likewise.
const magic = "cloister-bundle\n"

const openingSize = len(magic) + 4 + 4

func newOpening(header int) []byte {
	b := binary.BigEndian.AppendUint32([]byte(magic), Version)
	return binary.BigEndian.AppendUint32(b, uint32(header))
}

// MagicSize is how many bytes [IsBundle] needs.
const MagicSize = len(magic)

// IsBundle reports whether a file that begins so is a sealed bundle, of any version.
func IsBundle(opening []byte) bool { return bytes.HasPrefix(opening, []byte(magic)) }

// Bundle is a bundle of which everything before the MAC was read.
type Bundle struct {
	// Header is a claim until the payload reached its end.
	Header Header
	// Module is the policy module.
	Module []byte

	r                io.Reader
	opening, encoded []byte
	whole            hash.Hash
	opened           bool
}

// Read reads what a bundle says in the open, header and policy module, and leaves r at the
// MAC: it reads not one byte more. It needs no key, and what it returns is a claim. It checks
// all that can be checked without a key: that the policy is the one that the header names, and
// that the encryption context is the one that the header makes.
//
// Errors about the bundle are an [*Error]; those of r are passed on.
func Read(r io.Reader) (*Bundle, error) {
	b := &Bundle{r: r, whole: sha256.New()}
	if err := b.read(); err != nil {
		return nil, wrap(err)
	}
	return b, nil
}

func (b *Bundle) read() (err error) {
	if b.opening, err = b.take(openingSize, ErrNotBundle); err != nil {
		return err
	}
	if !IsBundle(b.opening) {
		return fail(ErrNotBundle, "name a file that `cloister seal` wrote", "it does not begin with %q", magic)
	}
	version, size := binary.BigEndian.Uint32(b.opening[len(magic):]), binary.BigEndian.Uint32(b.opening[len(magic)+4:])
	if version != Version {
		return fail(ErrVersion, "use a cloister that knows it, or have the asset sealed again", "%d; known here is %d", version, Version)
	}
	if size == 0 || size > MaxHeader {
		return fail(ErrHeader, "", "%d bytes; 1 to %d are allowed", size, MaxHeader)
	}
	if b.encoded, err = b.take(int(size), ErrTruncated); err != nil {
		return err
	}
	h, err := decodeHeader(b.encoded)
	if err != nil {
		return err
	}
	if b.Module, err = b.take(int(h.Policy.ModuleBytes), ErrTruncated); err != nil {
		return err
	}
	b.Header = *h
	return h.bind(b.Module)
}

// take reads the next n bytes, which the caller has bounded. short is what it means if there
// are fewer.
func (b *Bundle) take(n int, short error) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(b.r, int64(n))) // grows as bytes come, not as a header claims
	if err != nil {
		return nil, err
	}
	if len(data) < n {
		return nil, fail(short, "get it again, whole", "%d bytes where %d are wanted", len(data), n)
	}
	b.whole.Write(data)
	return data, nil
}

// Context is the encryption context to unwrap the data key with: recomputed from what was
// read, never copied from what the header says. See [Header.EncryptionContext].
func (b *Bundle) Context() map[string]string { return maps.Clone(b.Header.context()) }

// Front is everything that was read: what stands before the MAC. A client posts it for
// admission, and [Read] takes it for a bundle.
func (b *Bundle) Front() []byte {
	return bytes.Join([][]byte{b.opening, b.encoded, b.Module}, nil)
}

// FrontDigest names everything before the MAC: "sha384:…". What was admitted and what arrives
// later are the same bundle, as far as it stands in the open, if these are equal.
func (b *Bundle) FrontDigest() string {
	return "sha384:" + hex.EncodeToString(sumFront(b.opening, b.encoded, b.Module))
}

// errOpened says that a bundle streams once.
var errOpened = errors.New("envelope: the bundle was opened before")

// Open checks that the data key fits, and returns the payload: a tar stream, decrypted while
// it is read, to be unpacked by package tree within [Asset.Limits]. It zeroes dataKey,
// whatever happens. The caller closes the Payload.
//
// Every byte that a Payload gives was authenticated, but that the payload is whole is known
// only when Read has returned io.EOF: until then nothing may act on the content. A bundle is
// opened once. Reading ends with ctx.
func (b *Bundle) Open(ctx context.Context, dataKey []byte) (*Payload, error) {
	defer clear(dataKey)
	if b.opened {
		return nil, errOpened
	}
	b.opened = true
	front := sumFront(b.opening, b.encoded, b.Module)
	k, err := derive(dataKey, front)
	if err != nil {
		return nil, wrap(fail(ErrKey, "", "%v", err))
	}
	defer k.wipe()
	mac, err := b.take(macSize, ErrTruncated)
	if err != nil {
		return nil, wrap(err)
	}
	if !hmac.Equal(mac, k.sum(front)) {
		return nil, wrap(fail(ErrKey, "get the bundle from its owner again",
			"header or policy were changed after sealing, or the key is another bundle's"))
	}
	p, err := newPayload(ctx, b.r, b.whole, k.payload, front)
	if err != nil {
		return nil, wrap(err)
	}
	return p, nil
}
