package attest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/hf/nsm/request"
	"github.com/hf/nsm/response"
)

// Handler is the far end of a socket: what plays the NSM. It is called concurrently.
//
// A request is one of hf/nsm's, by pointer. A response has one field set; it has Error for a
// refusal.
type Handler interface {
	Answer(ctx context.Context, r request.Request) response.Response
}

// maxConnections bounds what one listener serves at once; more wait to be accepted.
const maxConnections = 32

// Serve answers the requests that come in on a listener until ctx ends, which closes it and
// returns nil, or accepting breaks. It returns when every answer is out. Nothing is asked of
// the peer: whom the listener admits is the caller's to say.
func Serve(ctx context.Context, listener net.Listener, h Handler) error {
	stop := context.AfterFunc(ctx, func() { _ = listener.Close() })
	defer stop()
	defer listener.Close()
	var serving sync.WaitGroup
	defer serving.Wait()
	free := make(chan struct{}, maxConnections)
	for {
		free <- struct{}{}
		conn, err := listener.Accept()
		if ctx.Err() != nil {
			if err == nil {
				_ = conn.Close()
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("attest: serving the NSM: %w", err)
		}
		serving.Go(func() {
			defer func() { <-free }()
			serveOne(ctx, conn, h)
		})
	}
}

// serveOne answers one request. A peer that breaks the protocol is hung up on.
func serveOne(ctx context.Context, conn net.Conn, h Handler) {
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, exchangeTime)
	defer cancel()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if conn.SetDeadline(time.Now().Add(exchangeTime)) != nil {
		return
	}
	data, err := readFrame(conn, maxRequest)
	if err != nil {
		return
	}
	// Who does not take its answer goes without.
	_ = writeFrame(conn, Answer(ctx, h, data), maxAnswer)
}

// Answer decodes one request of the NSM API, has it answered and encodes the response: at most
// 12288 bytes, as the driver allows. What is no request is answered with InvalidOperation.
func Answer(ctx context.Context, h Handler, data []byte) []byte {
	answer := response.Response{Error: response.ECInvalidOperation}
	if r, err := decodeRequest(data); err == nil {
		answer = h.Answer(ctx, r)
	}
	out, err := encodeAnswer(answer)
	switch {
	case err != nil:
		out = refusal(response.ECInternalError)
	case len(out) > maxAnswer:
		out = refusal(response.ECBufferTooSmall)
	}
	return out
}

// refusal is {"Error": code}, for a code of less than 24 letters.
func refusal(code response.ErrorCode) []byte {
	const mapOfOne, text = 0xa1, 0x60
	out := append([]byte{mapOfOne, text | byte(len("Error"))}, "Error"...)
	return append(append(out, text|byte(len(code))), code...)
}

// decodeRequest takes what serde writes for an enum: the name alone, or a map of the name to the
// fields (aws-nitro-enclaves-nsm-api, src/api/mod.rs).
func decodeRequest(data []byte) (request.Request, error) {
	if len(data) > maxRequest {
		return nil, errors.New("too long")
	}
	mode, err := cbor.DecOptions{
		DupMapKey: cbor.DupMapKeyEnforcedAPF, TagsMd: cbor.TagsForbidden,
		MaxNestedLevels: 4, MaxMapPairs: 16, MaxArrayElements: 16,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
		FieldNameMatching: cbor.FieldNameMatchingCaseSensitive,
	}.DecMode()
	if err != nil {
		return nil, err
	}
	var name string
	if mode.Unmarshal(data, &name) == nil {
		switch name {
		case "DescribeNSM":
			return &request.DescribeNSM{}, nil
		case "GetRandom":
			return &request.GetRandom{}, nil
		}
		return nil, fmt.Errorf("%.40q is no request", name)
	}
	var named map[string]cbor.RawMessage
	if err := mode.Unmarshal(data, &named); err != nil || len(named) != 1 {
		return nil, errors.New("not one request")
	}
	for name, fields := range named {
		r := withFields(name)
		if r == nil {
			return nil, fmt.Errorf("%.40q is no request", name)
		}
		return r, mode.Unmarshal(fields, r)
	}
	return nil, errors.New("not one request")
}

// withFields is an empty request of that name.
func withFields(name string) request.Request {
	switch name {
	case "DescribePCR":
		return &request.DescribePCR{}
	case "ExtendPCR":
		return &request.ExtendPCR{}
	case "LockPCR":
		return &request.LockPCR{}
	case "LockPCRs":
		return &request.LockPCRs{}
	case "Attestation":
		return &request.Attestation{}
	}
	return nil
}

// encodeAnswer writes what serde would: hf/nsm has the shapes, but only a decoder for them.
func encodeAnswer(r response.Response) ([]byte, error) {
	switch {
	case r.Error != "":
		return cbor.Marshal(map[string]response.ErrorCode{"Error": r.Error})
	case r.DescribePCR != nil:
		return cbor.Marshal(map[string]any{"DescribePCR": r.DescribePCR})
	case r.ExtendPCR != nil:
		return cbor.Marshal(map[string]any{"ExtendPCR": r.ExtendPCR})
	case r.LockPCR != nil:
		return cbor.Marshal("LockPCR")
	case r.LockPCRs != nil:
		return cbor.Marshal("LockPCRs")
	case r.DescribeNSM != nil:
		return cbor.Marshal(map[string]any{"DescribeNSM": r.DescribeNSM})
	case r.Attestation != nil:
		return cbor.Marshal(map[string]any{"Attestation": r.Attestation})
	case r.GetRandom != nil:
		return cbor.Marshal(map[string]any{"GetRandom": r.GetRandom})
	}
	return nil, errors.New("an empty answer")
}
