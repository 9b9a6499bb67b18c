package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/cloister-run/cloister/plugins/sandbox"
	"github.com/cloister-run/cloister/policies/abi"
	"github.com/cloister-run/cloister/policies/worker/wire"
)

// maxText bounds what a worker says of an error.
const maxText = 2000

// worker is one process.
type worker struct {
	digest   string
	limits   wire.Limits
	process  *sandbox.Process
	manifest abi.Manifest
	gone     chan struct{} // closed when nothing of it runs

	// speaking is held for one exchange on the control connection.
	speaking sync.Mutex
	control  *wire.Conn

	mu    sync.Mutex
	conns map[*conn]struct{}
	last  int
	dead  bool
}

// conn is a connection for decisions, one at a time.
type conn struct {
	*wire.Conn
	number int
	idle   bool
}

// live waits for the end of the process, and then ends all that waits for it.
func (w *worker) live() {
	_, _ = w.process.Wait() // how it ended tells nothing that matters
	w.mu.Lock()
	w.dead = true
	for c := range w.conns {
		_ = c.Close()
	}
	w.mu.Unlock()
	_ = w.control.Close()
	close(w.gone)
}

func (w *worker) isDead() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.dead
}

// kill ends the process. It does not wait.
func (w *worker) kill() {
	_ = w.process.Kill() // first: whatever waits for the worker then ends
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dead = true
}

// load has the worker load its module.
func (w *worker) load(ctx context.Context, module []byte) error {
	var loaded wire.Loaded
	if err := w.exchange(ctx, wire.Load{Limits: w.limits}, module, &loaded, abi.MaxManifestBytes*2); err != nil {
		return err
	}
	if loaded.Error != "" {
		return fmt.Errorf("%w: %s", ErrRefused, clip(loaded.Error))
	}
	manifest, err := abi.DecodeManifest(loaded.Manifest)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrGone, err)
	}
	w.manifest = manifest
	return nil
}

// exchange sends one message on the control connection and takes the answer.
func (w *worker) exchange(ctx context.Context, message any, bulk []byte, answer any, most int) error {
	w.speaking.Lock()
	defer w.speaking.Unlock()
	giveUp := context.AfterFunc(ctx, w.kill) // the connection then ends
	err := w.control.Within(w.limits.CompileTime + w.limits.DecideTime + grace)
	if err == nil {
		err = w.control.Send(message, bulk, nil)
	}
	if err == nil {
		_, err = w.control.Receive(answer, most, 0)
	}
	if !giveUp() {
		return context.Cause(ctx)
	}
	if err != nil {
		w.kill()
		return fmt.Errorf("%w: %w", ErrGone, err)
	}
	return nil
}

// connect gives a connection for one decision: an idle one, or one more.
func (w *worker) connect() (*conn, error) {
	c, err := w.idle()
	if c != nil || err != nil {
		return c, err
	}
	ours, other, err := wire.Pair()
	if err != nil {
		return nil, err
	}
	defer other.Close()
	c = &conn{Conn: ours}
	w.mu.Lock()
	w.last++
	c.number = w.last
	w.conns[c] = struct{}{}
	w.mu.Unlock()
	if err := w.tell(wire.Control{Conn: c.number}, other); err != nil {
		w.release(c, false)
		return nil, err
	}
	return c, nil
}

func (w *worker) idle() (*conn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dead {
		return nil, ErrGone
	}
	for c := range w.conns {
		if c.idle {
			c.idle = false
			return c, nil
		}
	}
	return nil, nil
}

// tell sends what has no answer. A worker that does not listen is killed.
func (w *worker) tell(c wire.Control, with *os.File) error {
	w.speaking.Lock()
	defer w.speaking.Unlock()
	err := w.control.Within(grace)
	if err == nil && with != nil {
		err = w.control.Send(c, nil, with)
	} else if err == nil {
		err = w.control.Send(c, nil, nil)
	}
	if err != nil {
		w.kill()
		return fmt.Errorf("%w: %w", ErrGone, err)
	}
	return nil
}

// release keeps a connection on which a decision came to its end, and drops any other.
func (w *worker) release(c *conn, whole bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if c.idle = whole && !w.dead; !c.idle {
		delete(w.conns, c)
		_ = c.Close()
	}
}

// clip bounds what a worker says.
func clip(text string) string {
	if len(text) > maxText {
		return text[:maxText] + "…"
	}
	return text
}

// Policy is a policy in a worker. It is safe for concurrent use.
type Policy struct{ worker *worker }

// Manifest is what the module declares. The caller must not change it.
func (p *Policy) Manifest() abi.Manifest { return p.worker.manifest }

// CheckConfig holds a configuration against the policy's schema and reports what is wrong. Errors
// wrap [ErrConfig], or [ErrGone].
func (p *Policy) CheckConfig(config json.RawMessage) error {
	if len(config) > abi.MaxConfigBytes {
		return fmt.Errorf("%w: longer than %d bytes", ErrConfig, abi.MaxConfigBytes)
	}
	if len(config) == 0 {
		config = json.RawMessage("null")
	}
	ctx, cancel := context.WithTimeoutCause(context.Background(), p.worker.limits.DecideTime, ErrGone)
	defer cancel()
	var checked wire.Checked
	if err := p.worker.exchange(ctx, wire.Control{Config: config}, nil, &checked, wire.MaxCall); err != nil {
		return err
	}
	if checked.Error != "" {
		return fmt.Errorf("%w: %s", ErrConfig, clip(checked.Error))
	}
	return nil
}

// Decide asks the policy, in an instance made for this one call, and checks the answer. Files are
// as package abi has them; what is read must be files of this machine ([os.Root.FS]). Every error
// comes with the zero Decision, and wraps [ErrNoAnswer], [ErrGone] or the context's.
func (p *Policy) Decide(ctx context.Context, request abi.Request, files abi.Files) (abi.Decision, error) {
	d, err := p.worker.decide(ctx, request, files)
	if err != nil {
		return abi.Decision{}, err
	}
	if err := d.Check(request, p.worker.manifest); err != nil {
		return abi.Decision{}, fmt.Errorf("%w: %w", ErrNoAnswer, err)
	}
	return d, nil
}

func (w *worker) decide(ctx context.Context, request abi.Request, files abi.Files) (abi.Decision, error) {
	question, err := json.Marshal(request)
	if err != nil {
		return abi.Decision{}, fmt.Errorf("encoding the request: %w", err)
	}
	c, err := w.connect()
	if err != nil {
		return abi.Decision{}, err
	}
	late, cancel := context.WithTimeoutCause(ctx, w.limits.DecideTime+grace, errLate)
	defer cancel()
	giveUp := context.AfterFunc(late, func() { _ = c.Close() })
	s := newSession(c.Conn, files)
	defer s.close()
	done, written, err := s.serve(request.Point, question)
	alone := giveUp() // nobody closes c any more, unless it is closed already
	w.release(c, err == nil && alone)
	if !alone && err != nil {
		if errors.Is(context.Cause(late), errLate) {
			w.kill()
		} else { // it need not go on
			_ = w.tell(wire.Control{Conn: c.number, End: true}, nil)
		}
		return abi.Decision{}, context.Cause(late)
	}
	if err != nil {
		w.kill() // it died, or does not keep to the protocol
		return abi.Decision{}, fmt.Errorf("%w: %w", ErrGone, err)
	}
	if done.Error != "" {
		return abi.Decision{}, fmt.Errorf("%w: %s", ErrNoAnswer, clip(done.Error))
	}
	d, err := abi.DecodeDecision(written)
	if err != nil {
		return abi.Decision{}, fmt.Errorf("%w: %w", ErrNoAnswer, err)
	}
	return d, nil
}

// errLate is the end of a worker that did not end a decision itself.
var errLate = fmt.Errorf("%w: it was not done in time", ErrGone)
