package attest

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/hf/nsm/request"
	"github.com/hf/nsm/response"
)

// The socket carries the messages of the NSM API as they are. A connection is for one request and
// its answer, each a frame: 4 bytes of length, big-endian, then so many bytes of CBOR.
const (
	// maxRequest and maxAnswer are the driver's limits (linux/drivers/misc/nsm.c, NSM_REQUEST_MAX_SIZE
	// and NSM_RESPONSE_MAX_SIZE).
	maxRequest = 0x1000
	maxAnswer  = 0x3000

	// exchangeTime bounds one request and its answer.
	exchangeTime = 10 * time.Second
)

// OpenSocket speaks to an NSM behind a Unix socket, which [Serve] or another implementation of
// docs/attestation.md serves. It connects for each request, so that nothing is held open and the
// server may come later or restart. Whoever owns the socket is the hypervisor: the caller
// decides whether that is so.
func OpenSocket(path string) *NSM {
	send := func(ctx context.Context, r request.Request) (response.Response, error) {
		return exchange(ctx, path, r)
	}
	return &NSM{send: send, close: func() error { return nil }}
}

func exchange(ctx context.Context, path string, r request.Request) (answer response.Response, err error) {
	ctx, cancel := context.WithTimeout(ctx, exchangeTime)
	defer cancel()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", path)
	if err != nil {
		return response.Response{}, err
	}
	defer conn.Close()
	// A context that ends wakes whoever reads or writes.
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	defer func() {
		if err != nil && ctx.Err() != nil {
			err = ctx.Err()
		}
	}()
	data, err := cbor.Marshal(r.Encoded())
	if err != nil {
		return response.Response{}, err
	}
	if err := writeFrame(conn, data, maxRequest); err != nil {
		return response.Response{}, err
	}
	if data, err = readFrame(conn, maxAnswer); err != nil {
		return response.Response{}, fmt.Errorf("reading the answer: %w", err)
	}
	return decodeAnswer(data)
}

// decodeAnswer bounds depth and counts, and refuses tags and trailing bytes, before hf/nsm decodes.
func decodeAnswer(data []byte) (response.Response, error) {
	mode, err := decoding()
	if err != nil {
		return response.Response{}, err
	}
	var answer response.Response
	if err := mode.Unmarshal(data, &answer); err != nil {
		return response.Response{}, fmt.Errorf("%w: %.80s", ErrAnswer, err.Error())
	}
	return answer, nil
}

func writeFrame(w io.Writer, data []byte, most int) error {
	if len(data) == 0 || len(data) > most {
		return fmt.Errorf("a frame of %d bytes, not 1 to %d", len(data), most)
	}
	frame := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(data)), uint32(len(data)))
	_, err := w.Write(append(frame, data...))
	return err
}

// readFrame allocates nothing before the length is known to be within bounds.
func readFrame(r io.Reader, most int) ([]byte, error) {
	var header [4]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return nil, err
	}
	length := binary.BigEndian.Uint32(header[:])
	if length == 0 || uint64(length) > uint64(most) {
		return nil, fmt.Errorf("a frame of %d bytes, not 1 to %d", length, most)
	}
	data := make([]byte, length)
	if _, err := io.ReadFull(r, data); err != nil {
		return nil, err
	}
	return data, nil
}
