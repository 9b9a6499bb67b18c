package worker

import (
	"container/list"
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cloister-run/cloister/policies/abi"
	"github.com/cloister-run/cloister/policies/worker/wire"
)

// maxText bounds what a worker says of an error.
const maxText = 2000

// Process is what a worker runs as.
type Process interface {
	// Kill ends it. It may be called again.
	Kill() error
	// Wait returns when nothing of it runs any more.
	Wait() (status int, err error)
}

// worker is one process. One goroutine at a time uses it.
type worker struct {
	process Process
	limits  wire.Limits
	dead    atomic.Bool

	// using is held for one exchange, and to close the connection: what a worker said before it ended
	// is still heard.
	using sync.Mutex
	conn  *wire.Conn
	// place is where it is among the idle, nil while it is used; evicted says that it was ended for its
	// place. Both are the room's.
	place   *list.Element
	evicted bool
}

// bury closes the connection of a process that has ended.
func (w *worker) bury() {
	w.dead.Store(true)
	w.using.Lock()
	defer w.using.Unlock()
	_ = w.conn.Close()
}

// kill ends the process. It does not wait.
func (w *worker) kill() {
	w.dead.Store(true)
	_ = w.process.Kill()
}

// exchange does one thing with the worker, within a time. What a worker says too late, or against
// the protocol, is the last that it said.
func (w *worker) exchange(ctx context.Context, limit time.Duration, do func(*wire.Conn) error) error {
	w.using.Lock()
	defer w.using.Unlock()
	ctx, cancel := context.WithTimeoutCause(ctx, limit+grace, errLate)
	defer cancel()
	giveUp := context.AfterFunc(ctx, func() {
		w.kill()
		_ = w.conn.Close()
	})
	err := do(w.conn)
	if !giveUp() && err != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		w.kill()
		return fmt.Errorf("%w: %w", ErrGone, err)
	}
	return nil
}

// errLate is the end of a worker that did not end something itself.
var errLate = fmt.Errorf("%w: it was not done in time", ErrGone)

// load has the worker load its module, and gives what that declares.
func (w *worker) load(ctx context.Context, module []byte) (abi.Manifest, error) {
	var loaded wire.Loaded
	err := w.exchange(ctx, w.limits.CompileTime, func(conn *wire.Conn) error {
		if err := conn.Send(wire.Load{Limits: w.limits}, module, nil); err != nil {
			return err
		}
		_, err := conn.Receive(&loaded, wire.MaxCall, 0)
		return err
	})
	if err != nil {
		return abi.Manifest{}, err
	}
	if loaded.Error != "" {
		return abi.Manifest{}, fmt.Errorf("%w: %s", ErrRefused, clip(loaded.Error))
	}
	manifest, err := abi.DecodeManifest(loaded.Manifest)
	if err != nil {
		return abi.Manifest{}, fmt.Errorf("%w: %w", ErrGone, err)
	}
	return manifest, nil
}

// checkConfig asks about a configuration.
func (w *worker) checkConfig(ctx context.Context, config []byte) (wrong string, err error) {
	var checked wire.Checked
	err = w.exchange(ctx, w.limits.DecideTime, func(conn *wire.Conn) error {
		if err := conn.Send(wire.Control{Config: config}, nil, nil); err != nil {
			return err
		}
		_, err := conn.Receive(&checked, wire.MaxCall, 0)
		return err
	})
	return checked.Error, err
}

// ask asks one question, and gives what the policy wrote or, in words, why it wrote nothing that counts.
func (w *worker) ask(ctx context.Context, r abi.Request, question []byte, files abi.Files) (written []byte, wrong string, err error) {
	err = w.exchange(ctx, w.limits.DecideTime+r.ReadTime(), func(conn *wire.Conn) error {
		s := newSession(conn, files)
		defer s.close()
		done, text, err := s.serve(r, question)
		written, wrong = text, done.Error
		return err
	})
	return written, wrong, err
}

// clip bounds what a worker says.
func clip(text string) string {
	if len(text) > maxText {
		return text[:maxText] + "…"
	}
	return text
}
