// Package client is the operator's side of the enclave's API: submit a job, send what it
// needs, follow it, and land what may leave.
//
// It owns the operator's files: it reads sources, and writes destinations only after a receipt
// names what is to land, each whole or not at all. It trusts the enclave for nothing that it
// can check itself: its attestation document, the receipt, and every artifact against the digest in that.
package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cloister-run/cloister/core"
	"github.com/cloister-run/cloister/core/receipt"
	"github.com/cloister-run/cloister/core/tree"
	"github.com/cloister-run/cloister/enclave/attest"
	"github.com/cloister-run/cloister/enclave/wire"
	"github.com/cloister-run/cloister/policies/abi"
)

// ErrUnavailable: the enclave cannot be reached, or broke off.
var ErrUnavailable = errors.New("enclave is unavailable")

// ErrSource: something that the job reads cannot be read any more.
var ErrSource = errors.New("cannot read what the job names")

// errNoMore ends a packer whose bytes nobody takes.
var errNoMore = errors.New("the enclave takes no more")

// BufferSize is how many bytes of a body cross in one piece.
const BufferSize = 64 << 10

// Dial opens a connection to an enclave.
type Dial func(ctx context.Context) (net.Conn, error)

// Config says which enclave is meant, and how to know it.
type Config struct {
	// Dial reaches it. Required.
	Dial Dial
	// Root is the root certificate that is trusted. Default: AWS Nitro Enclaves root G1.
	Root attest.Root
	// Realm is the realm that the root must stand for. Required.
	Realm attest.Realm
	// PCRs are those of the image that it must run; PCR0, PCR1 and PCR2 are required.
	PCRs attest.PCRSet
	// Credentials are the operator's own of AWS in the partition of a job's sealed assets, asked for
	// before such a job is sent. Default: there are none, and such jobs fail.
	Credentials func(ctx context.Context, partition string) (wire.Credentials, error)
	// Now is the clock that documents are held against [time.Now].
	Now func() time.Time
}

// Client speaks to one enclave, and sends it nothing of a job before it proved to be the one that is
// meant. It is safe for concurrent use.
type Client struct {
	cfg  Config
	http *http.Client

	mu      sync.Mutex
	enclave *attest.Document // once it was verified
}

// New makes a client.
func New(cfg Config) (*Client, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	return &Client{cfg: cfg, http: &http.Client{Transport: &http.Transport{
		DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return cfg.Dial(ctx) },
		Proxy:              nil, // nothing of the environment chooses where jobs go
		DisableCompression: true,
		WriteBufferSize:    BufferSize,
		ReadBufferSize:     BufferSize,
	}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}, nil
}

// Close lets go of idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Enclave asks the enclave what it is, and believes it.
func (c *Client) Enclave(ctx context.Context) (wire.Enclave, error) {
	var e wire.Enclave
	err := c.call(ctx, call{method: http.MethodGet, path: wire.EnclavePath, answer: &e})
	return e, err
}

// Job is a submitted job. Its calls are safe for concurrent use, but for Follow and WaitForRoom. Errors of the enclave are a
// [wire.Error]; others wrap [ErrUnavailable] or are the context's.
type Job struct {
	client *Client
	id     string
	token  string
	// Modules are the digests of the modules to send, Fronts the sealed assets whose fronts to send.
	Modules, Fronts []string
	// Queued says that the job waits for room first.
	Queued bool

	seen int // of its phases
}

// Submit begins a job in an enclave that proved to be the one that is meant.
func (c *Client) Submit(ctx context.Context, s wire.Submit) (*Job, error) {
	if _, err := c.Attest(ctx); err != nil {
		return nil, err
	}
	raw, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("client: encoding the job: %w", err)
	}
	var got wire.Submitted
	err = c.call(ctx, call{method: http.MethodPost, path: wire.JobsPath, body: bytes.NewReader(raw), answer: &got})
	if err != nil {
		return nil, err
	}
	return &Job{client: c, id: s.ID, token: got.Token, Modules: got.Modules, Fronts: got.Fronts, Queued: got.Queued}, nil
}

// PutModule sends a policy's module.
func (j *Job) PutModule(ctx context.Context, digest string, module []byte) error {
	return j.call(ctx, call{method: http.MethodPut, path: wire.ModulePath + digest, body: bytes.NewReader(module)})
}

// PutFront sends what stands in the open in a sealed asset.
func (j *Job) PutFront(ctx context.Context, asset string, front []byte) error {
	return j.call(ctx, call{method: http.MethodPut, path: wire.FrontPath + asset, body: bytes.NewReader(front)})
}

// Admission waits for the policies.
func (j *Job) Admission(ctx context.Context) (wire.Admission, error) {
	var a wire.Admission
	err := j.call(ctx, call{method: http.MethodGet, path: wire.AdmitPath, answer: &a})
	return a, err
}

// PutAsset sends a plain asset, and says what it sent. progress is told of every piece.
func (j *Job) PutAsset(ctx context.Context, name string, from *tree.Source, progress func(int)) (sum tree.Summary, err error) {
	err = j.put(ctx, name, progress, func(w io.Writer) (err error) {
		sum, err = from.Pack(ctx, w)
		return err
	})
	return sum, err
}

// put sends what write writes as an asset.
func (j *Job) put(ctx context.Context, name string, progress func(int), write func(io.Writer) error) error {
	r, w := io.Pipe()
	packed := make(chan error, 1)
	go func() {
		err := write(&counted{w, progress})
		packed <- err
		_ = w.CloseWithError(err) // always nil
	}()
	err := j.call(ctx, call{method: http.MethodPut, path: wire.AssetPath + name, body: r})
	_ = r.CloseWithError(errNoMore) // always nil; the packer ends
	packErr := <-packed
	switch {
	case errors.Is(packErr, errNoMore):
		if err == nil {
			err = fmt.Errorf("%w: it answered before everything was sent", ErrUnavailable)
		}
	// What the end of the call or of ctx did to the packer is not the source's fault.
	case packErr != nil && !errors.Is(packErr, io.ErrClosedPipe) && !errors.Is(packErr, ctx.Err()) && !errors.Is(packErr, context.Cause(ctx)):
		return fmt.Errorf("%w: %w", ErrSource, packErr)
	}
	return err
}

// Follow tells of every phase that was not told yet, until the job is done, and gives its result.
func (j *Job) Follow(ctx context.Context, phase func(core.Phase)) (result core.Result, err error) {
	err = j.watch(ctx, func(p wire.Progress) (more bool) {
		if p.Result != nil {
			result = *p.Result
			return false
		}
		phase(p.Phase)
		return true
	})
	return result, err
}

// WaitForRoom tells of every phase until the job has room, or is over.
func (j *Job) WaitForRoom(ctx context.Context, phase func(core.Phase)) error {
	return j.watch(ctx, func(p wire.Progress) (more bool) {
		if p.Result == nil {
			phase(p.Phase)
			return p.Phase == core.Queued
		}
		j.seen-- // for Follow to tell
		return false
	})
}

// reconnects bounds how often a connection that broke off is made again at once without anything new.
const (
	reconnects = 3
	reconnect  = 100 * time.Millisecond // the first wait; each is twice the one before
	steady     = 10 * time.Second       // a connection that lasted so long did not break off at once
)

// watch tells of every phase, once, as long as more are wanted. Where the connection breaks off it goes on
// behind the last one that it told of.
func (j *Job) watch(ctx context.Context, tell func(wire.Progress) (more bool)) error {
	for tries, wait := 0, reconnect; ; tries, wait = tries+1, 2*wait {
		before, began := j.seen, time.Now()
		err := j.watchOnce(ctx, tell)
		if j.seen > before || time.Since(began) > steady {
			tries, wait = 0, reconnect
		}
		if err == nil || !errors.Is(err, ErrUnavailable) || tries == reconnects {
			return err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (j *Job) watchOnce(ctx context.Context, tell func(wire.Progress) (more bool)) error {
	res, err := j.do(ctx, call{method: http.MethodGet, path: wire.PhasesPath + "?" + wire.AfterQuery + "=" + strconv.Itoa(j.seen)})
	if err != nil {
		return err
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		var p wire.Progress
		if err := json.Unmarshal(lines.Bytes(), &p); err != nil {
			return fmt.Errorf("%w: its progress is no JSON: %w", ErrUnavailable, err)
		}
		if p.Number != j.seen+1 {
			return fmt.Errorf("%w: its progress is out of order", ErrUnavailable)
		}
		j.seen++
		if !tell(p) {
			return nil
		}
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	return fmt.Errorf("%w: it broke off before the job was done", ErrUnavailable)
}

// Receipt fetches and verifies the receipt of a job that is done. An error that is none of the enclave's
// or its connection's wraps [ErrMismatch].
func (j *Job) Receipt(ctx context.Context) (raw []byte, s *receipt.Statement, err error) {
	res, err := j.do(ctx, call{method: http.MethodGet, path: wire.ReceiptPath})
	if err != nil {
		return nil, nil, err
	}
	defer res.Body.Close()
	if raw, err = io.ReadAll(io.LimitReader(res.Body, receipt.MaxReceipt+1)); err != nil {
		return nil, nil, fmt.Errorf("%w: reading the receipt: %w", ErrUnavailable, err)
	}
	s, err = j.client.verify(ctx, raw)
	return raw, s, err
}

// Release opens what leaves by a channel. The caller closes it.
func (j *Job) Release(ctx context.Context, ch abi.Channel) (io.ReadCloser, error) {
	res, err := j.do(ctx, call{method: http.MethodGet, path: wire.ReleasePath + string(ch)})
	if err != nil {
		return nil, err
	}
	return res.Body, nil
}

// Delete cancels the job if it runs and has the enclave wipe it.
func (j *Job) Delete(ctx context.Context) error {
	return j.call(ctx, call{method: http.MethodDelete, path: wire.JobPath})
}

// call is one exchange.
type call struct {
	method, path string
	token        string
	body         io.Reader
	// answer is where the JSON of the answer goes; nil expects none.
	answer any
}

func (j *Job) call(ctx context.Context, c call) error {
	c.token, c.path = j.token, strings.Replace(c.path, "{id}", j.id, 1)
	return j.client.call(ctx, c)
}

func (j *Job) do(ctx context.Context, c call) (*http.Response, error) {
	c.token, c.path = j.token, strings.Replace(c.path, "{id}", j.id, 1)
	return j.client.do(ctx, c)
}

func (c *Client) call(ctx context.Context, call call) error {
	res, err := c.do(ctx, call)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if call.answer == nil {
		return nil
	}
	raw, err := io.ReadAll(io.LimitReader(res.Body, wire.MaxControl+1))
	if err != nil {
		return fmt.Errorf("%w: reading its answer: %w", ErrUnavailable, err)
	}
	if len(raw) > wire.MaxControl {
		return fmt.Errorf("%w: its answer is over %d bytes", ErrUnavailable, wire.MaxControl)
	}
	if err := json.Unmarshal(raw, call.answer); err != nil {
		return fmt.Errorf("%w: its answer is no JSON: %w", ErrUnavailable, err)
	}
	return nil
}

// do makes an exchange and turns what is no success into an error.
func (c *Client) do(ctx context.Context, call call) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, call.method, "http://enclave"+call.path, call.body)
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	if call.token != "" {
		req.Header.Set(wire.TokenHeader, call.token)
	}
	res, err := c.http.Do(req)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return nil, cause
		}
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if res.StatusCode/100 == 2 {
		return res, nil
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(res.Body, wire.MaxControl))
	var e wire.Error
	media, _, _ := mime.ParseMediaType(res.Header.Get("Content-Type"))
	if err != nil || media != wire.ErrorMedia || json.Unmarshal(raw, &e) != nil {
		return nil, fmt.Errorf("%w: it answered with status %d", ErrUnavailable, res.StatusCode)
	}
	return nil, &e
}

// counted tells of what passes.
type counted struct {
	to   io.Writer
	tell func(int)
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.to.Write(p)
	c.tell(n)
	return n, err
}
