package attest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/hf/nsm"
	"github.com/hf/nsm/request"
	"github.com/hf/nsm/response"
)

// Attester makes attestation documents.
type Attester interface {
	// Attest returns a document over the request. It holds every PCR that is locked, and no other.
	Attest(ctx context.Context, r Request) ([]byte, error)
}

// Registers are the PCRs of this enclave. The hypervisor locks 0 to 15 before it starts.
type Registers interface {
	// DescribePCR tells the value of a register, and whether it is locked.
	DescribePCR(ctx context.Context, index int) (value PCR, locked bool, err error)
	// ExtendPCR sets a register to PCR.Extend(data) and returns that; ErrLocked if it is locked.
	// data has 1 to 512 bytes.
	ExtendPCR(ctx context.Context, index int, data []byte) (PCR, error)
	// LockPCRs makes the first count registers read-only until the enclave ends.
	LockPCRs(ctx context.Context, count int) error
}

// Device is a Nitro Security Module. It is safe for concurrent use.
type Device interface {
	Attester
	Registers
	// Random fills p with the module's entropy.
	Random(ctx context.Context, p []byte) error
	// Close frees what the device holds; no other call may be under way.
	Close() error
}

var _ Device = (*NSM)(nil)

// Request is what an enclave has signed into a document; nil stands for null.
type Request struct {
	// UserData has up to MaxUserData bytes, Nonce up to MaxNonce, PublicKey 1 to MaxPublicKey.
	UserData, Nonce, PublicKey []byte
}

func (r Request) check() error {
	switch {
	case len(r.UserData) > MaxUserData:
		return fmt.Errorf("user data: %d bytes, at most %d", len(r.UserData), MaxUserData)
	case len(r.Nonce) > MaxNonce:
		return fmt.Errorf("nonce: %d bytes, at most %d", len(r.Nonce), MaxNonce)
	case r.PublicKey != nil && (len(r.PublicKey) == 0 || len(r.PublicKey) > MaxPublicKey):
		return fmt.Errorf("public key: %d bytes, not 1 to %d", len(r.PublicKey), MaxPublicKey)
	}
	return nil
}

var (
	// ErrNoDevice: this is no enclave, or its kernel lacks the nsm driver.
	ErrNoDevice = errors.New("there is no /dev/nsm")
	// ErrLocked: the register is read-only.
	ErrLocked = errors.New("the register is locked")
	// ErrAnswer: the module's answer is not one to the request.
	ErrAnswer = errors.New("the answer does not belong to the request")
)

// Refusal is an error that the module itself reports. It is ErrLocked where it says so.
type Refusal struct {
	// Code is one of the NSM API's error codes, such as "InvalidIndex".
	Code string
}

// Error names the code.
func (r *Refusal) Error() string { return fmt.Sprintf("the NSM refuses: %.40q", r.Code) }

// Is makes a refusal because of a locked register ErrLocked.
func (r *Refusal) Is(target error) bool {
	return target == ErrLocked && r.Code == string(response.ECReadOnlyIndex)
}

// NSM speaks the messages of the NSM API, over /dev/nsm or over a socket.
type NSM struct {
	send  func(context.Context, request.Request) (response.Response, error)
	close func() error
}

// OpenDevice opens /dev/nsm; ErrNoDevice if there is none. A call that the driver has begun is not
// interrupted by its context.
func OpenDevice() (*NSM, error) {
	session, err := nsm.OpenDefaultSession()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("attest: %w: %w", ErrNoDevice, err)
	case err != nil:
		return nil, fmt.Errorf("attest: opening the NSM: %w", err)
	}
	send := func(_ context.Context, r request.Request) (response.Response, error) { return session.Send(r) }
	return &NSM{send: send, close: session.Close}, nil
}

// Close ends the session.
func (n *NSM) Close() error { return n.close() }

// ask sends a request and turns an error code into a [Refusal]. Its errors carry the prefix.
func (n *NSM) ask(ctx context.Context, name string, r request.Request) (response.Response, error) {
	if err := ctx.Err(); err != nil {
		return response.Response{}, fmt.Errorf("attest: %s: %w", name, err)
	}
	answer, err := n.send(ctx, r)
	if err == nil && answer.Error != "" {
		err = &Refusal{Code: string(answer.Error)}
	}
	if err != nil {
		return response.Response{}, fmt.Errorf("attest: %s: %w", name, err)
	}
	return answer, nil
}

func misfit(name string) error { return fmt.Errorf("attest: %s: %w", name, ErrAnswer) }

// Attest implements [Attester].
func (n *NSM) Attest(ctx context.Context, r Request) ([]byte, error) {
	if err := r.check(); err != nil {
		return nil, fmt.Errorf("attest: %w", err)
	}
	const name = "Attestation"
	answer, err := n.ask(ctx, name, &request.Attestation{UserData: r.UserData, Nonce: r.Nonce, PublicKey: r.PublicKey})
	if err != nil {
		return nil, err
	}
	if answer.Attestation == nil || len(answer.Attestation.Document) == 0 || len(answer.Attestation.Document) > MaxDocument {
		return nil, misfit(name)
	}
	return answer.Attestation.Document, nil
}

// Random implements [Device]. The module gives up to 256 bytes at a time.
func (n *NSM) Random(ctx context.Context, p []byte) error {
	const name = "GetRandom"
	for filled := 0; filled < len(p); {
		answer, err := n.ask(ctx, name, &request.GetRandom{})
		if err != nil {
			clear(p)
			return err
		}
		if answer.GetRandom == nil || len(answer.GetRandom.Random) == 0 {
			clear(p)
			return misfit(name)
		}
		filled += copy(p[filled:], answer.GetRandom.Random)
	}
	return nil
}

// DescribePCR implements [Registers].
func (n *NSM) DescribePCR(ctx context.Context, index int) (PCR, bool, error) {
	const name = "DescribePCR"
	if err := inRange(name, index, MaxPCRs-1); err != nil {
		return PCR{}, false, err
	}
	answer, err := n.ask(ctx, name, &request.DescribePCR{Index: uint16(index)})
	if err != nil {
		return PCR{}, false, err
	}
	if answer.DescribePCR == nil || len(answer.DescribePCR.Data) != len(PCR{}) {
		return PCR{}, false, misfit(name)
	}
	return PCR(answer.DescribePCR.Data), answer.DescribePCR.Lock, nil
}

// maxExtend bounds what a register is extended by: ours is a word, and AWS documents no limit.
const maxExtend = 512

// ExtendPCR implements [Registers].
func (n *NSM) ExtendPCR(ctx context.Context, index int, data []byte) (PCR, error) {
	const name = "ExtendPCR"
	if err := inRange(name, index, MaxPCRs-1); err != nil {
		return PCR{}, err
	}
	if len(data) == 0 || len(data) > maxExtend {
		return PCR{}, fmt.Errorf("attest: %s: %d bytes, not 1 to %d", name, len(data), maxExtend)
	}
	answer, err := n.ask(ctx, name, &request.ExtendPCR{Index: uint16(index), Data: bytes.Clone(data)})
	if err != nil {
		return PCR{}, err
	}
	if answer.ExtendPCR == nil || len(answer.ExtendPCR.Data) != len(PCR{}) {
		return PCR{}, misfit(name)
	}
	return PCR(answer.ExtendPCR.Data), nil
}

// LockPCRs implements [Registers].
func (n *NSM) LockPCRs(ctx context.Context, count int) error {
	const name = "LockPCRs"
	if err := inRange(name, count, MaxPCRs); err != nil {
		return err
	}
	answer, err := n.ask(ctx, name, &request.LockPCRs{Range: uint16(count)})
	if err != nil {
		return err
	}
	if answer.LockPCRs == nil {
		return misfit(name)
	}
	return nil
}

func inRange(name string, n, most int) error {
	if n < 0 || n > most {
		return fmt.Errorf("attest: %s: %d is not 0 to %d", name, n, most)
	}
	return nil
}
