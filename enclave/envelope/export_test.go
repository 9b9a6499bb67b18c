package envelope

import (
	"context"
	"crypto/sha256"
	"io"
)

// What tests of the format need: keys from a data key, and the payload by itself.
const SegmentSize, StreamHeader, MACSize, OpeningSize = segmentSize, streamHeader, macSize, openingSize

func (b *Bundle) PayloadKey(dataKey []byte) (key, front []byte, err error) {
	front = sumFront(b.opening, b.encoded, b.Module)
	k, err := derive(dataKey, front)
	return k.payload, front, err
}

// Encrypt is the sealing side of a payload by itself.
func Encrypt(w io.Writer, key, aad []byte) (write func([]byte) (int, error), finish func() error, err error) {
	e, err := newEncrypter(w, key, aad)
	if err != nil {
		return nil, nil, err
	}
	return e.Write, e.finish, nil
}

// Decrypt is the opening side of a payload by itself.
func Decrypt(ctx context.Context, r io.Reader, key, aad []byte) (*Payload, error) {
	return newPayload(ctx, r, sha256.New(), key, aad)
}

// Front assembles everything before the payload for a header of the test's making, with the
// MAC that the data key gives it.
func Front(header, module, dataKey []byte) ([]byte, error) {
	opening := newOpening(len(header))
	front := sumFront(opening, header, module)
	k, err := derive(dataKey, front)
	if err != nil {
		return nil, err
	}
	out := append(append(append([]byte{}, opening...), header...), module...)
	return append(out, k.sum(front)...), nil
}

// Encode writes a header as Seal does.
func (h *Header) Encode() ([]byte, error) { return h.encode() }

// Rebind makes digest and encryption context of an edited header agree with it again.
func (h *Header) Rebind(module []byte) ([]byte, error) {
	h.Policy.ModuleBytes = int64(len(module))
	digest, err := h.Policy.digest(module)
	if err != nil {
		return nil, err
	}
	h.Policy.Digest, h.EncryptionContext = digest, nil
	h.EncryptionContext = h.context()
	return h.encode()
}
