// Package worker asks policies in processes of their own: one or a few for each policy, behind the
// walls of package sandbox, kept warm between jobs. Each is asked one thing at a time, and ended if
// it does not end by itself: nothing slows down a policy in order to interrupt it.
//
// A worker has the module, one end of a socket and nothing else: no key, no NSM, no network, no
// other descriptor. While it decides it calls for what its policy reads and writes, and gets
// descriptors of single files, read-only. What it says is held to bounds and decoded strictly, as
// what a stranger says. One that dies, stalls or breaks the protocol denies what it was asked, is
// killed, and touches no other.
//
// The package knows no WebAssembly: what compiles and runs policies is not linked into whoever
// imports it.
package worker

import (
	"container/list"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/cloister-run/cloister/policies/abi"
	"github.com/cloister-run/cloister/policies/worker/wire"
)

// Sentinels for the outcomes that a caller branches on. All of them deny.
var (
	// ErrRefused: the module is no policy, or none that a worker can run.
	ErrRefused = errors.New("policy refused")
	// ErrConfig: the policy does not take this configuration.
	ErrConfig = errors.New("configuration refused")
	// ErrNoAnswer: the policy gave no valid answer: it failed, timed out, or used up what it may use.
	ErrNoAnswer = errors.New("policy gave no valid answer")
	// ErrGone: the worker died, stalled or broke the protocol.
	ErrGone = errors.New("policy worker is gone")
	// ErrClosed: the pool is closed.
	ErrClosed = errors.New("policy workers are closed")
)

// Config configures a [Pool].
type Config struct {
	// Start starts a worker with one descriptor, its end of the socket, as descriptor 3. Required; see
	// [Walled].
	Start func(ctx context.Context, end *os.File) (Process, error)
	// Workers bounds the workers of all policies, each of which may take [Memory]. Required.
	Workers int
	// Parallel bounds the workers of one policy [the number of CPUs].
	Parallel int
	// Cached bounds the policies whose workers are kept without anybody using them [16].
	Cached int
	// Limits bound a policy; zero fields are package policies' defaults.
	Limits wire.Limits
}

// Defaults of time, as package policies has them, and what the pool adds before it gives up on a
// worker that should have.
const (
	compileTime = 2 * time.Minute // a large module takes a second or two, and thirty where the processor is emulated
	decideTime  = 30 * time.Second
	grace       = time.Second
)

// Pool loads policies, each into workers of its own. It is safe for concurrent use.
type Pool struct {
	cfg  Config
	room room

	mu     sync.Mutex
	closed bool
	// loads holds every load under way or done and kept, by digest; recent orders those done.
	loads  map[string]*load
	recent *list.List
	// workers are those that run; users counts them and loads, and Close waits for both.
	workers map[*worker]struct{}
	users   sync.WaitGroup
}

// load is one digest's load: done is closed once policy or err is set.
type load struct {
	done   chan struct{}
	policy *Policy
	err    error
	place  *list.Element
	// callers wait for it; the last one to leave gives it up.
	callers int
	giveUp  context.CancelFunc
}

// New makes a pool without a worker.
func New(cfg Config) *Pool {
	if cfg.Parallel == 0 {
		cfg.Parallel = runtime.NumCPU()
	}
	if cfg.Cached == 0 {
		cfg.Cached = 16
	}
	if cfg.Limits.CompileTime == 0 {
		cfg.Limits.CompileTime = compileTime
	}
	if cfg.Limits.DecideTime == 0 {
		cfg.Limits.DecideTime = decideTime
	}
	return &Pool{
		cfg: cfg, room: room{free: cfg.Workers},
		loads: map[string]*load{}, recent: list.New(), workers: map[*worker]struct{}{},
	}
}

// Close kills every worker and returns when none is left. Decisions under way fail.
func (p *Pool) Close() error {
	p.mu.Lock()
	p.closed = true
	for w := range p.workers {
		w.kill()
	}
	p.mu.Unlock()
	p.users.Wait()
	return nil
}

// Load starts a worker for a module, or finds what there is for it. Callers that load one digest at
// the same time share one, which ends when the last of them gives up. An error wraps [ErrRefused] if the module is at fault, and else is
// [ErrGone], [ErrClosed], the context's or what starting gave: of a machine without walls a
// [sandbox.UnavailableError]. The caller must not change the module's bytes while Load runs.
func (p *Pool) Load(ctx context.Context, module []byte) (*Policy, error) {
	digest := fmt.Sprintf("sha256:%x", sha256.Sum256(module))
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil, ErrClosed
	}
	l, found := p.loads[digest]
	if !found {
		l = &load{done: make(chan struct{})}
		var shared context.Context
		shared, l.giveUp = context.WithCancel(context.Background()) // whoever asked first need not be the one who waits
		p.loads[digest] = l
		p.users.Add(1)
		go p.load(shared, l, digest, append([]byte(nil), module...))
	} else if l.place != nil {
		p.recent.MoveToFront(l.place)
	}
	l.callers++
	p.mu.Unlock()
	select {
	case <-l.done:
		return l.policy, l.err
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if l.callers--; l.callers == 0 && l.place == nil && p.loads[digest] == l {
		delete(p.loads, digest)
		l.giveUp()
	}
	return nil, fmt.Errorf("loading a policy: %w", context.Cause(ctx))
}

// load does the work of one load and keeps its result if it is a policy.
func (p *Pool) load(ctx context.Context, l *load, digest string, module []byte) {
	defer p.users.Done()
	defer l.giveUp()
	f := &fleet{pool: p, module: module, running: 1, changed: make(chan struct{})}
	w, manifest, err := f.launch(ctx)
	if err == nil {
		f.manifest = manifest
		f.give(w)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	defer close(l.done)
	if err == nil && p.loads[digest] != l { // nobody waited for it any more
		f.close()
		err = context.Canceled
	}
	if err != nil {
		l.err = err
		if p.loads[digest] == l {
			delete(p.loads, digest)
		}
		return
	}
	l.policy = &Policy{f}
	// Workers that were forgotten may still be in use: they go when nobody can reach their policy.
	runtime.AddCleanup(l.policy, func(f *fleet) { f.close() }, f)
	l.place = p.recent.PushFront(digest)
	for p.recent.Len() > p.cfg.Cached {
		delete(p.loads, p.recent.Remove(p.recent.Back()).(string))
	}
}

// launch starts a worker, once there is room for one, and has it load its module.
func (p *Pool) launch(ctx context.Context, module []byte) (*worker, abi.Manifest, error) {
	if err := p.room.enter(ctx); err != nil {
		return nil, abi.Manifest{}, fmt.Errorf("waiting for a policy worker: %w", err)
	}
	w, err := p.start(ctx)
	if err != nil {
		p.room.leave()
		return nil, abi.Manifest{}, err
	}
	if !p.watch(w) {
		return nil, abi.Manifest{}, ErrClosed
	}
	manifest, err := w.load(ctx, module)
	if err != nil {
		w.kill()
		return nil, abi.Manifest{}, err
	}
	return w, manifest, nil
}

func (p *Pool) start(ctx context.Context) (*worker, error) {
	conn, end, err := wire.Pair()
	if err != nil {
		return nil, err
	}
	process, err := p.cfg.Start(ctx, end)
	_ = end.Close() // the worker's alone now, so that we hear when it ends
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return &worker{process: process, conn: conn, limits: p.cfg.Limits}, nil
}

// watch waits for the end of a worker. False: it is ended, for the pool is closed, and nothing of it
// runs any more.
func (p *Pool) watch(w *worker) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed { // Close waits already, and for no more
		w.kill()
		_, _ = w.process.Wait()
		w.bury()
		p.room.left(w)
		return false
	}
	p.workers[w] = struct{}{}
	p.users.Add(1)
	go func() {
		defer p.users.Done()
		_, _ = w.process.Wait() // how it ended tells nothing that matters
		w.bury()
		p.room.left(w)
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.workers, w)
	}()
	return true
}
