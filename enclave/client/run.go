package client

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/cloister-run/cloister/core"
	"github.com/cloister-run/cloister/core/receipt"
	"github.com/cloister-run/cloister/core/tree"
	"github.com/cloister-run/cloister/enclave/wire"
	"github.com/cloister-run/cloister/policies/abi"
)

// goodbye bounds how long the enclave may take to wipe a job whose caller is gone.
const goodbye = 10 * time.Second

// Observer is told how a run gets on. Its functions are called from several goroutines; nil
// ones are not called.
type Observer struct {
	Phase func(core.Phase)
	// Sending is told of bytes of assets on their way, out of total.
	Sending func(sent int, total int64)
}

func (o *Observer) setDefaults() {
	if o.Phase == nil {
		o.Phase = func(core.Phase) {}
	}
	if o.Sending == nil {
		o.Sending = func(int, int64) {}
	}
}

// Report is how a run ended.
type Report struct {
	Result core.Result
	// Receipt is the receipt's bytes; nil for a job that no policy was asked about.
	Receipt   []byte
	Statement *receipt.Statement
	Landed    []Landing
	// Rehearsed holds the beginnings of the logs, of a rehearsal. No policy judged them.
	Rehearsed map[abi.Channel][]byte
}

// Landing is an artifact that was written.
type Landing struct {
	Channel abi.Channel `json:"channel"`
	Path    string      `json:"path"`
	Bytes   int64       `json:"bytes"`
}

// Plan has the enclave's policies judge a job and goes no further.
func (c *Client) Plan(ctx context.Context, p *Package, o Observer) (wire.Admission, core.Result, error) {
	o.setDefaults()
	j, err := c.begin(ctx, p, o)
	if err != nil {
		return wire.Admission{}, core.Result{}, err
	}
	defer j.leave(ctx)
	admission, err := j.Admission(ctx)
	if isOver(err) {
		result, err := j.Follow(ctx, func(core.Phase) {})
		return wire.Admission{}, result, err
	}
	return admission, core.Result{}, err
}

// Run runs a job to its end. keep is called with the report once the receipt is there, before
// anything else of the job leaves the enclave; then what may leave lands, everything or nothing.
func (c *Client) Run(ctx context.Context, p *Package, o Observer, keep func(*Report) error) (_ *Report, err error) {
	o.setDefaults()
	j, credentials, err := c.enter(ctx, p, o)
	if err != nil {
		return nil, err
	}
	defer j.leave(ctx)
	result, sent, err := j.drive(ctx, p, credentials, o)
	if err != nil {
		return nil, err
	}
	return j.finish(ctx, result, sent.reason(result), j.ticket(p, sent.assets), keep)
}

// finish fetches the receipt of a job that is done, hands it to keep, and lands what may leave. reason, if
// not nil, is why it ended in the words of who sent it.
func (j *Job) finish(ctx context.Context, result core.Result, reason error, t *Ticket, keep func(*Report) error) (*Report, error) {
	report, err := j.receipt(ctx, result, t)
	if err != nil {
		return nil, err
	}
	err = errors.Join(keep(report), reason)
	if report.Statement == nil {
		return report, err
	}
	if err != nil {
		return nil, err
	}
	report.Landed, err = j.land(ctx, t, report.Statement.Predicate.Released)
	return report, err
}

// receipt fetches the receipt of a job that is done. Where no policy was asked there is none, and nothing to
// land.
func (j *Job) receipt(ctx context.Context, result core.Result, t *Ticket) (_ *Report, err error) {
	report := &Report{Result: result}
	report.Receipt, report.Statement, err = j.Receipt(ctx)
	switch e, refused := errors.AsType[*wire.Error](err); {
	case refused && e.Code == wire.Order && releases(result.Outcome):
		return nil, fmt.Errorf("%w: there is none", ErrMismatch)
	case refused && e.Code == wire.Order:
		return report, nil
	case err != nil:
		return nil, err
	}
	if err := t.agrees(report); err != nil {
		return nil, err
	}
	if report.Statement.Predicate.Enclave.Rehearsal {
		report.Rehearsed, err = j.rehearsed(ctx)
	}
	return report, err
}

// maxRehearsed bounds what is taken of one log, in bytes.
const maxRehearsed = 1 << 20

func (j *Job) rehearsed(ctx context.Context) (map[abi.Channel][]byte, error) {
	logs := map[abi.Channel][]byte{}
	for _, ch := range []abi.Channel{abi.Stdout, abi.Stderr} {
		res, err := j.do(ctx, call{method: http.MethodGet, path: wire.RehearsalPath + string(ch)})
		if e, ok := errors.AsType[*wire.Error](err); ok && e.Code == wire.Nothing {
			continue // the application never ran
		}
		if err != nil {
			return nil, err
		}
		log, err := io.ReadAll(io.LimitReader(res.Body, maxRehearsed))
		_ = res.Body.Close() // it was only read
		if err != nil {
			return nil, fmt.Errorf("%w: reading a log: %w", ErrUnavailable, err)
		}
		logs[ch] = log
	}
	return logs, nil
}

func releases(o receipt.Outcome) bool { return o == receipt.Succeeded || o == receipt.Failed }

// enter begins a job that is to run, with the credentials that it takes.
func (c *Client) enter(ctx context.Context, p *Package, o Observer) (*Job, wire.Credentials, error) {
	credentials, err := c.credentials(ctx, p)
	if err != nil {
		return nil, wire.Credentials{}, err
	}
	j, err := c.begin(ctx, p, o)
	return j, credentials, err
}

// credentials are the operator's for the KMS of the job's sealed assets, if it has any.
func (c *Client) credentials(ctx context.Context, p *Package) (wire.Credentials, error) {
	partition := p.partition()
	switch {
	case partition == "":
		return wire.Credentials{}, nil
	case c.cfg.Credentials == nil:
		return wire.Credentials{}, errors.New("client: Credentials: required for a job with sealed assets")
	}
	return c.cfg.Credentials(ctx, partition)
}

// begin submits a job, waits for room, and sends its policies: the operator's own, and those in front of
// bundles. A job that is over by then is sent nothing; its result says why.
func (c *Client) begin(ctx context.Context, p *Package, o Observer) (*Job, error) {
	var raw [16]byte
	_, _ = rand.Read(raw[:]) // never fails
	j, err := c.Submit(ctx, p.submission(hex.EncodeToString(raw[:])))
	if err != nil {
		return nil, err
	}
	if j.Queued {
		if err := j.WaitForRoom(ctx, o.Phase); err != nil {
			j.leave(ctx)
			return nil, err
		}
	}
	if err := j.sendPolicies(ctx, p); err != nil && (!j.Queued || !isOver(err)) {
		j.leave(ctx)
		return nil, preferCause(ctx, err)
	}
	return j, nil
}

func (j *Job) sendPolicies(ctx context.Context, p *Package) error {
	sending, sendCtx := errgroup.WithContext(ctx)
	for _, digest := range j.Modules {
		module, ok := p.modules[digest]
		if !ok {
			return fmt.Errorf("%w: it asks for a module that the job does not have", ErrUnavailable)
		}
		sending.Go(func() error { return j.PutModule(sendCtx, digest, module) })
	}
	for _, asset := range j.Fronts {
		s, ok := p.sealed[asset]
		if !ok {
			return fmt.Errorf("%w: it asks for the front of an asset that is not sealed", ErrUnavailable)
		}
		sending.Go(func() error { return j.PutFront(sendCtx, asset, s.bundle.Front()) })
	}
	return sending.Wait()
}

// leave has the enclave wipe the job, whatever became of ctx.
func (j *Job) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), goodbye)
	defer cancel()
	_ = j.Delete(ctx) // an enclave that cannot be reached wipes by itself
}

// sending is what became of sending the assets.
type sending struct {
	assets map[string]tree.Summary
	err    error
}

// reason says in the sender's words why a job ended that the enclave calls cancelled.
func (s *sending) reason(r core.Result) error {
	if r.Outcome != receipt.Cancelled || isOver(s.err) {
		return nil
	}
	return s.err
}

// drive sends the assets while it follows the job, and gives its result. The job outlives a
// failure to send: the enclave ends it and makes the receipt.
func (j *Job) drive(ctx context.Context, p *Package, credentials wire.Credentials, o Observer) (core.Result, *sending, error) {
	followCtx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	sendCtx, stop := context.WithCancel(ctx)
	defer stop()
	sent := &sending{assets: map[string]tree.Summary{}}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if sent.err = j.send(sendCtx, p, credentials, o, sent.assets); sent.err != nil {
			// An enclave that does not notice is not waited for.
			err := sent.err
			time.AfterFunc(goodbye, func() { giveUp(err) })
		}
	}()
	result, err := j.Follow(followCtx, o.Phase)
	if err == nil && (releases(result.Outcome) || result.Outcome == receipt.Cancelled) {
		select { // everything arrived, or something was refused: the last answer is on its way
		case <-done:
		case <-time.After(goodbye):
		}
	}
	stop() // what is still on its way has no use any more
	<-done
	return result, sent, err
}

func (j *Job) send(ctx context.Context, p *Package, credentials wire.Credentials, o Observer, sent map[string]tree.Summary) error {
	if _, err := j.Admission(ctx); err != nil {
		return err
	}
	if len(p.sealed) > 0 {
		if err := j.putCredentials(ctx, credentials); err != nil {
			return fmt.Errorf("sending the credentials: %w", err)
		}
	}
	total := p.total()
	progress := func(n int) { o.Sending(n, total) }
	for _, claim := range p.claims {
		var sum tree.Summary
		var err error
		if s := p.sealed[claim.Name]; s != nil {
			sum, err = j.putSealed(ctx, claim.Name, s, progress)
		} else {
			sum, err = j.PutAsset(ctx, claim.Name, p.sources[claim.Name], progress)
		}
		if err != nil {
			return fmt.Errorf("sending %s: %w", claim.Name, err)
		}
		sent[claim.Name] = sum
	}
	return nil
}

// agrees holds the receipt against what was asked for and sent.
func (t *Ticket) agrees(r *Report) error {
	run := r.Statement.Predicate
	switch {
	case run.Job.ID != t.ID || run.Job.Digest != t.Digest:
		return fmt.Errorf("%w: it is about another job", ErrMismatch)
	case run.Outcome != r.Result.Outcome:
		return fmt.Errorf("%w: it tells of another outcome", ErrMismatch)
	case !slices.Equal(run.Policies, t.Policies):
		return fmt.Errorf("%w: it names other policies than the job", ErrMismatch)
	}
	verified := map[string]bool{}
	for _, a := range run.Assets {
		sum, ok := t.Sent[a.Name]
		if ok && a.Verified && a.Digest != sum.Digest {
			return fmt.Errorf("%w: %s is not what was sent", ErrMismatch, a.Name)
		}
		verified[a.Name] = ok && a.Verified
	}
	for _, asset := range t.Assets {
		if len(run.Released) > 0 && !verified[asset] {
			return fmt.Errorf("%w: it does not say that %s arrived as it was sent", ErrMismatch, asset)
		}
	}
	return nil
}

// land stages everything that may leave, and only then gives anything its name.
func (j *Job) land(ctx context.Context, t *Ticket, released []abi.Artifact) (landed []Landing, err error) {
	var l landing
	defer func() {
		if closed := l.close(); closed != nil {
			err = errors.Join(err, fmt.Errorf("%w: %w", ErrLanding, closed))
		}
	}()
	for _, artifact := range released {
		place, ok := t.destination(artifact.Channel)
		if !ok {
			return nil, fmt.Errorf("%w: %s was not asked for", ErrMismatch, artifact.Channel)
		}
		if err := l.folder(place.path); err != nil {
			return nil, err
		}
		s, err := j.stage(ctx, place, artifact)
		if err != nil {
			return nil, preferCause(ctx, err)
		}
		l.ready = append(l.ready, s)
	}
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	if err := l.land(); err != nil {
		return nil, err
	}
	for i, s := range l.ready {
		landed = append(landed, Landing{Channel: s.channel, Path: s.path, Bytes: released[i].Bytes})
	}
	return landed, nil
}

func (j *Job) stage(ctx context.Context, d destination, want abi.Artifact) (_ *staged, err error) {
	from, err := j.Release(ctx, want.Channel)
	if err != nil {
		return nil, err
	}
	defer from.Close()
	return d.stage(ctx, want, from)
}

func isOver(err error) bool {
	e, ok := errors.AsType[*wire.Error](err)
	return ok && e.Code == wire.Over
}

// preferCause gives the reason why ctx ended, if it has, for that is why anything else failed.
func preferCause(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}
