package worker

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/cloister-run/cloister/policies/abi"
)

// Policy is a policy in workers of its own. It is safe for concurrent use.
type Policy struct{ fleet *fleet }

// Manifest is what the module declares. The caller must not change it.
func (p *Policy) Manifest() abi.Manifest { return p.fleet.manifest }

// CheckConfig holds a configuration against the policy's schema and reports what is wrong. Errors
// wrap [ErrConfig], or [ErrGone], or are the context's.
func (p *Policy) CheckConfig(ctx context.Context, config json.RawMessage) error {
	if len(config) > abi.MaxConfigBytes {
		return fmt.Errorf("%w: longer than %d bytes", ErrConfig, abi.MaxConfigBytes)
	}
	if len(config) == 0 {
		config = json.RawMessage("null")
	}
	if !json.Valid(config) {
		return fmt.Errorf("%w: not JSON", ErrConfig)
	}
	var wrong string
	err := p.fleet.with(ctx, func(w *worker) (err error) {
		wrong, err = w.checkConfig(ctx, config)
		return err
	})
	if err == nil && wrong != "" {
		err = fmt.Errorf("%w: %s", ErrConfig, clip(wrong))
	}
	return err
}

// Decide asks the policy, in an instance made for this one call, and checks the answer. Files are
// as package abi has them; one that is no file of this machine is copied into memory. Every error
// comes with the zero Decision, and wraps [ErrNoAnswer], [ErrGone] or the context's.
func (p *Policy) Decide(ctx context.Context, request abi.Request, files abi.Files) (abi.Decision, error) {
	question, err := json.Marshal(request)
	if err != nil {
		return abi.Decision{}, fmt.Errorf("encoding the request: %w", err)
	}
	var written []byte
	var wrong string
	err = p.fleet.with(ctx, func(w *worker) (err error) {
		written, wrong, err = w.ask(ctx, request, question, files)
		return err
	})
	if err != nil {
		return abi.Decision{}, err
	}
	if wrong != "" {
		return abi.Decision{}, fmt.Errorf("%w: %s", ErrNoAnswer, clip(wrong))
	}
	d, err := abi.DecodeDecision(written)
	if err == nil {
		err = d.Check(request, p.fleet.manifest)
	}
	if err != nil {
		return abi.Decision{}, fmt.Errorf("%w: %w", ErrNoAnswer, err)
	}
	return d, nil
}

// impatience is how long a question waits for a worker that is busy before it gets one more.
const impatience = 250 * time.Millisecond

// fleet is the workers of one policy. Each does one thing at a time.
type fleet struct {
	pool     *Pool
	module   []byte
	manifest abi.Manifest // of the first worker; nobody writes it after

	mu      sync.Mutex
	idle    []*worker
	running int
	closed  bool
	// changed is closed, and another made, when a worker comes back or ends.
	changed chan struct{}
}

// with does something with a worker that is used for nothing else meanwhile.
func (f *fleet) with(ctx context.Context, do func(*worker) error) error {
	w, err := f.take(ctx)
	if err != nil {
		return err
	}
	err = do(w)
	f.give(w)
	return err
}

// take waits for a worker, or starts one: where there is none, or where those there are take long.
func (f *fleet) take(ctx context.Context) (*worker, error) {
	timer := time.NewTimer(impatience)
	defer timer.Stop()
	late := false
	for {
		w, start, changed, err := f.poll(late)
		if w != nil || err != nil {
			return w, err
		}
		if start {
			w, _, err := f.launch(ctx) // of the same module, the same manifest
			return w, err
		}
		select {
		case <-changed:
		case <-timer.C:
			late = true
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for a policy worker: %w", context.Cause(ctx))
		}
	}
}

// poll gives an idle worker, or says that one is to be started, or what to wait for.
func (f *fleet) poll(late bool) (w *worker, start bool, changed <-chan struct{}, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, false, nil, ErrClosed
	}
	for len(f.idle) > 0 {
		last := len(f.idle) - 1
		w, f.idle = f.idle[last], f.idle[:last]
		if f.pool.room.use(w) {
			return w, false, nil, nil
		}
		f.running--
	}
	if f.running == 0 || late && f.running < f.pool.cfg.Parallel {
		f.running++
		return nil, true, nil, nil
	}
	return nil, false, f.changed, nil
}

// launch starts a worker that poll made room for.
func (f *fleet) launch(ctx context.Context) (*worker, abi.Manifest, error) {
	w, manifest, err := f.pool.launch(ctx, f.module)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil && f.closed {
		w.kill()
		err = ErrClosed
	}
	if err != nil {
		f.running--
		f.tell()
		return nil, abi.Manifest{}, err
	}
	return w, manifest, nil
}

// give takes a worker back.
func (f *fleet) give(w *worker) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		w.kill()
	}
	if w.dead.Load() {
		f.running--
	} else {
		f.pool.room.rest(w)
		f.idle = append(f.idle, w)
	}
	f.tell()
}

func (f *fleet) tell() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// close ends every worker that is idle; the others end when they come back.
func (f *fleet) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	for _, w := range f.idle {
		f.pool.room.drop(w)
	}
	f.idle = nil
	f.tell()
}
