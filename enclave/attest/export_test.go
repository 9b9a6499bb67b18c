package attest

import (
	"bytes"
	"context"
	"time"

	"github.com/hf/nsm/request"
	"github.com/hf/nsm/response"
)

// ReadAnswer is what the client makes of the bytes that a server sends.
func ReadAnswer(data []byte) (response.Response, error) {
	answer, err := readFrame(bytes.NewReader(data), maxAnswer)
	if err != nil {
		return response.Response{}, err
	}
	return decodeAnswer(answer)
}

// Fields is a payload that keeps the rules of its form.
type Fields struct {
	ModuleID                   string
	Time                       time.Time
	PCRs                       PCRSet
	Certificate                []byte
	Bundle                     [][]byte
	PublicKey, UserData, Nonce []byte
}

// ParsePayload applies the rules for fields alone, before any signature.
func ParsePayload(data []byte) (*Fields, error) {
	f, err := parse(data)
	if err != nil {
		return nil, err
	}
	return &Fields{f.moduleID, f.time, f.pcrs, f.certificate, f.bundle, f.publicKey, f.userData, f.nonce}, nil
}

// NewNSM is a module behind a function.
func NewNSM(send func(request.Request) (response.Response, error)) *NSM {
	return &NSM{
		send:  func(_ context.Context, r request.Request) (response.Response, error) { return send(r) },
		close: func() error { return nil },
	}
}
