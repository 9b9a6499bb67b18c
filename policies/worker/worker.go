// Package worker asks policies in processes of their own: one for each policy, behind the walls of
// package sandbox, kept warm between jobs.
//
// A worker has the module, two ends of a socket and nothing else: no key, no NSM, no network, no
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

	"github.com/cloister-run/cloister/plugins/sandbox"
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
	// Executable is the host path of cloister-policy, Init that of the walls. Required.
	Executable, Init string
	// Root is an empty folder on the host, the root of every worker. Required.
	Root string
	// FirstOwner is the first of the users that workers run as, one each; -1 runs all of them as the
	// caller.
	FirstOwner int
	// Cached bounds the workers that are kept without anybody using them [16].
	Cached int
	// Limits bound a policy; zero fields are package policies' defaults.
	Limits wire.Limits
}

// Of one worker. Its policy's own memory is bounded inside.
const (
	workerMemory  = 1 << 30
	workerThreads = 64
	workerFiles   = 512
	// owners is how many users workers are spread over.
	owners = 4096
)

// Defaults of time, as package policies has them, and what the pool adds before it gives up on a
// worker that should have.
const (
	compileTime = 30 * time.Second
	decideTime  = 30 * time.Second
	grace       = 5 * time.Second
)

// Pool loads policies, each in a worker of its own. It is safe for concurrent use.
type Pool struct {
	cfg   Config
	start func(context.Context, sandbox.Spec) (*sandbox.Process, error)

	mu     sync.Mutex
	closed bool
	owner  int
	// loads holds every load under way or done and kept, by digest; recent orders those done.
	loads  map[string]*load
	recent *list.List
	// workers are those that run.
	workers map[*worker]struct{}
	// users counts loads and workers; Close waits for them.
	users sync.WaitGroup
}

// load is one digest's load: done is closed once policy or err is set.
type load struct {
	done   chan struct{}
	policy *Policy
	err    error
	place  *list.Element
}

// New makes a pool without a worker.
func New(cfg Config) *Pool {
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
		cfg: cfg, start: sandbox.Start,
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

// Load starts a worker for a module, or finds the one that there is. Callers that load one digest
// at the same time share one worker. An error wraps [ErrRefused] if the module is at fault, and is
// a [sandbox.UnavailableError] if the machine gives no walls; else [ErrGone], [ErrClosed] or the
// context's. The caller must not change the module's bytes while Load runs.
func (p *Pool) Load(ctx context.Context, module []byte) (*Policy, error) {
	digest := fmt.Sprintf("sha256:%x", sha256.Sum256(module))
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil, ErrClosed
	}
	l, found := p.loads[digest]
	if found && l.place != nil && l.policy.worker.isDead() {
		p.recent.Remove(l.place)
		found = false
	}
	if !found {
		l = &load{done: make(chan struct{})}
		p.loads[digest] = l
		p.users.Add(1)
		go p.load(l, digest, append([]byte(nil), module...))
	} else if l.place != nil {
		p.recent.MoveToFront(l.place)
	}
	p.mu.Unlock()
	select {
	case <-l.done:
		return l.policy, l.err
	case <-ctx.Done():
		return nil, fmt.Errorf("loading a policy: %w", ctx.Err())
	}
}

// load does the work of one load and keeps its result if it is a policy.
func (p *Pool) load(l *load, digest string, module []byte) {
	defer p.users.Done()
	w, err := p.launch(digest, module)
	p.mu.Lock()
	defer p.mu.Unlock()
	defer close(l.done)
	if err == nil && w.isDead() { // already
		err = ErrGone
	}
	if err != nil {
		l.err = err
		delete(p.loads, digest)
		return
	}
	l.policy = &Policy{worker: w}
	// A worker that was forgotten may still be in use: it goes when nobody can reach its policy.
	runtime.AddCleanup(l.policy, func(w *worker) { w.kill() }, w)
	l.place = p.recent.PushFront(digest)
	for p.recent.Len() > p.cfg.Cached {
		delete(p.loads, p.recent.Remove(p.recent.Back()).(string))
	}
}

// forget drops a worker that is gone, so that the next Load starts another.
func (p *Pool) forget(w *worker) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.workers, w)
	if l := p.loads[w.digest]; l != nil && l.place != nil && l.policy.worker == w {
		p.recent.Remove(l.place)
		delete(p.loads, w.digest)
	}
}

// nextOwner gives the next worker's user.
func (p *Pool) nextOwner() int {
	if p.cfg.FirstOwner < 0 {
		return -1
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.owner = (p.owner + 1) % owners
	return p.cfg.FirstOwner + p.owner
}

// launch starts a worker and has it load its module.
func (p *Pool) launch(digest string, module []byte) (*worker, error) {
	ctx, cancel := context.WithTimeoutCause(context.Background(), p.cfg.Limits.CompileTime+grace, fmt.Errorf("%w: it did not start in time", ErrGone))
	defer cancel()
	control, other, err := wire.Pair()
	if err != nil {
		return nil, err
	}
	defer other.Close()
	process, err := p.start(ctx, sandbox.Spec{
		Init:   p.cfg.Init,
		Root:   p.cfg.Root,
		Mounts: []sandbox.Mount{{Source: p.cfg.Executable, Target: "/policy"}},
		Path:   "/policy",
		Owner:  p.nextOwner(),
		Limits: sandbox.Limits{Memory: workerMemory, Processes: workerThreads, OpenFiles: workerFiles, CPUs: 1},
		Files:  []*os.File{other},
	})
	if err != nil {
		_ = control.Close()
		return nil, err
	}
	w := &worker{digest: digest, limits: p.cfg.Limits, process: process, control: control, gone: make(chan struct{}), conns: map[*conn]struct{}{}}
	p.mu.Lock()
	p.workers[w] = struct{}{}
	closed := p.closed
	p.users.Add(1)
	p.mu.Unlock()
	go func() {
		defer p.users.Done()
		w.live()
		p.forget(w)
	}()
	if closed {
		w.kill()
		return nil, ErrClosed
	}
	if err := w.load(ctx, module); err != nil {
		w.kill()
		return nil, err
	}
	return w, nil
}
