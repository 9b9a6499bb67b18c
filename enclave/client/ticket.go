package client

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"

	"github.com/cloister-run/cloister/core/tree"
	"github.com/cloister-run/cloister/enclave/wire"
	"github.com/cloister-run/cloister/policies/abi"
)

// Ticket is all that it takes to come back to a job: whoever has it can follow the job, fetch its results and
// cancel it, in the enclave that gave it. It is a secret. Its JSON is for files of the operator's own.
type Ticket struct {
	ID    string `json:"id"`
	Token string `json:"token"`
	// Name and Digest are the job's.
	Name   string `json:"name"`
	Digest string `json:"digest"`
	// Policies are those that the receipt must name, Sent the assets that were sent, by name.
	Policies []abi.PolicyRef         `json:"policies"`
	Sent     map[string]tree.Summary `json:"sent"`
	// Assets names all assets of the job, Places its channels and where they land.
	Assets []string `json:"assets"`
	Places []Place  `json:"places"`
}

// Place is where the artifact of a channel lands.
type Place struct {
	Channel abi.Channel `json:"channel"`
	// Path is absolute.
	Path string `json:"path"`
	// Tree says that a folder lands there, Recipients that an age file for them does.
	Tree       bool     `json:"tree"`
	Recipients []string `json:"recipients,omitempty"`
}

// ticket is for a job whose assets were sent.
func (j *Job) ticket(p *Package, sent map[string]tree.Summary) *Ticket {
	t := &Ticket{ID: j.id, Token: j.token, Name: p.job.Name, Digest: p.Digest(), Policies: p.policies(), Sent: sent}
	for _, claim := range p.claims {
		t.Assets = append(t.Assets, claim.Name)
	}
	for _, d := range p.destinations() {
		t.Places = append(t.Places, Place{d.channel, d.path, d.tree, d.recipients})
	}
	return t
}

// Channels are those that the job asks for.
func (t *Ticket) Channels() []abi.Channel {
	var channels []abi.Channel
	for _, place := range t.Places {
		channels = append(channels, place.Channel)
	}
	return channels
}

// destination finds where a channel's artifact lands.
func (t *Ticket) destination(ch abi.Channel) (destination, bool) {
	all := t.destinations()
	i := slices.IndexFunc(all, func(d destination) bool { return d.channel == ch })
	if i < 0 {
		return destination{}, false
	}
	return all[i], true
}

func (t *Ticket) destinations() []destination {
	var all []destination
	for _, p := range t.Places {
		all = append(all, destination{channel: p.Channel, path: p.Path, tree: p.Tree, recipients: p.Recipients})
	}
	return all
}

// CheckReceipt is [Package.CheckReceipt] for a job that was sent.
func (t *Ticket) CheckReceipt(path string) (message, hint string) {
	return checkReceipt(path, t.destinations())
}

// Send submits a job and sends everything that it reads, and leaves it to run. A job that ended meanwhile has
// a ticket too: its result says why.
func (c *Client) Send(ctx context.Context, p *Package, o Observer) (*Ticket, error) {
	o.setDefaults()
	j, credentials, err := c.enter(ctx, p, o)
	if err != nil {
		return nil, err
	}
	sent := map[string]tree.Summary{}
	if err := j.send(ctx, p, credentials, o, sent); err != nil && !isOver(err) {
		j.leave(ctx)
		return nil, preferCause(ctx, err)
	}
	return j.ticket(p, sent), nil
}

// Collect waits for the end of a job that was sent, lands what may leave as [Client.Run] does, and has the
// enclave wipe it. Where landing fails the job stays, to be collected again.
func (c *Client) Collect(ctx context.Context, t *Ticket, o Observer, keep func(*Report) error) (*Report, error) {
	o.setDefaults()
	j, err := c.comeBack(ctx, t)
	if err != nil {
		return nil, err
	}
	result, err := j.Follow(ctx, o.Phase)
	if err != nil {
		return nil, err
	}
	report, err := j.finish(ctx, result, nil, t, keep)
	if err == nil {
		j.leave(ctx)
	}
	return report, err
}

// Logs waits for the end of a job that was sent, and writes those of its logs that may leave, held against the
// receipt. The job stays as it is. to gives the place of a log; nil skips it.
func (c *Client) Logs(ctx context.Context, t *Ticket, o Observer, to func(abi.Channel) io.Writer) (*Report, error) {
	o.setDefaults()
	j, err := c.comeBack(ctx, t)
	if err != nil {
		return nil, err
	}
	result, err := j.Follow(ctx, o.Phase)
	if err != nil {
		return nil, err
	}
	report, err := j.receipt(ctx, result, t)
	if err != nil || report.Statement == nil {
		return report, err
	}
	for _, artifact := range report.Statement.Predicate.Released {
		w := to(artifact.Channel)
		if w == nil {
			continue
		}
		if err := j.copyTo(ctx, artifact, w); err != nil {
			return nil, preferCause(ctx, err)
		}
		report.Landed = append(report.Landed, Landing{Channel: artifact.Channel, Bytes: artifact.Bytes})
	}
	return report, nil
}

// copyTo writes what is released by a channel, once it arrived whole.
func (j *Job) copyTo(ctx context.Context, artifact abi.Artifact, w io.Writer) error {
	dir, err := os.MkdirTemp("", "cloister-log-")
	if err != nil {
		return fmt.Errorf("%w: %w", ErrLanding, err)
	}
	defer func() { _ = os.RemoveAll(dir) }() // of a copy
	s, err := j.stage(ctx, destination{channel: artifact.Channel, path: filepath.Join(dir, "log")}, artifact)
	if err != nil {
		return err
	}
	defer s.discard()
	if _, err := io.Copy(w, io.NewSectionReader(s.file, 0, artifact.Bytes)); err != nil {
		return fmt.Errorf("%w: %w", ErrLanding, err)
	}
	return nil
}

// Status says where a job is, how long it has been there, and its result if it is done.
func (c *Client) Status(ctx context.Context, t *Ticket) (wire.Progress, error) {
	j, err := c.comeBack(ctx, t)
	if err != nil {
		return wire.Progress{}, err
	}
	var p wire.Progress
	err = j.call(ctx, call{method: http.MethodGet, path: wire.StatusPath, answer: &p})
	return p, err
}

// Cancel ends a job and has the enclave wipe it.
func (c *Client) Cancel(ctx context.Context, t *Ticket) error {
	j, err := c.comeBack(ctx, t)
	if err != nil {
		return err
	}
	return j.Delete(ctx)
}

// comeBack speaks of a job to the enclave that is meant, and to no other.
func (c *Client) comeBack(ctx context.Context, t *Ticket) (*Job, error) {
	if _, err := c.Attest(ctx); err != nil {
		return nil, fmt.Errorf("job %s: %w", t.ID, err)
	}
	return &Job{client: c, id: t.ID, token: t.Token}, nil
}
