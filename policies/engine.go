package policies

import (
	"container/list"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/tetratelabs/wazero"

	"github.com/cloister-run/cloister/policies/module"
)

// compilations bounds how many modules are compiled at once, those given up on included.
const compilations = 2

// Engine loads policies. It is safe for concurrent use.
type Engine struct {
	limits        Limits
	interruptible bool
	// compiling and deciding hold one token for each compilation and decision under way.
	compiling, deciding chan struct{}

	mu     sync.Mutex
	closed bool
	// users counts decisions and compilations under way; Close waits for them.
	users sync.WaitGroup
	// loads holds every load under way or done and kept, by digest; recent orders those done.
	loads  map[string]*load
	recent *list.List
	// compiled holds what was not given back yet, cached or in use.
	compiled map[*compiled]struct{}
}

// load is one digest's load: done is closed once policy or err is set.
type load struct {
	done   chan struct{}
	policy *Policy
	err    error
	place  *list.Element
}

// compiled is a module's machine code and the runtime that owns it.
type compiled struct {
	runtime wazero.Runtime
	module  wazero.CompiledModule
}

// New makes an engine. Errors are problems of the configuration, all of them.
func New(_ context.Context, cfg Config) (*Engine, error) {
	limits, err := cfg.Limits.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Engine{
		limits:        limits,
		interruptible: !cfg.Uninterruptible,
		compiling:     make(chan struct{}, compilations),
		deciding:      make(chan struct{}, limits.Parallel),
		loads:         map[string]*load{},
		recent:        list.New(),
		compiled:      map[*compiled]struct{}{},
	}, nil
}

// Close waits for the decisions and compilations under way, or for ctx, and frees everything.
// After it every Load and Decide fails with [ErrClosed].
func (e *Engine) Close(ctx context.Context) error {
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
	idle := make(chan struct{})
	go func() { e.users.Wait(); close(idle) }()
	select {
	case <-idle:
	case <-ctx.Done():
		return fmt.Errorf("policies: closing: %w", ctx.Err())
	}
	e.mu.Lock()
	left := e.compiled
	e.compiled, e.loads = map[*compiled]struct{}{}, map[string]*load{}
	e.recent.Init()
	e.mu.Unlock()
	var problems []error
	for c := range left {
		problems = append(problems, c.runtime.Close(ctx))
	}
	return errors.Join(problems...)
}

// Load checks and compiles a module, or finds it compiled. Callers that load one digest at
// the same time share one compilation. An error wraps [ErrInvalid] if the module is at fault,
// [ErrTimeout] beside it if compiling took too long, else [ErrClosed] or the context's error.
// The caller must not change the module's bytes while Load runs.
func (e *Engine) Load(ctx context.Context, binary []byte) (*Policy, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("policies: loading: %w", err)
	}
	if int64(len(binary)) > e.limits.ModuleBytes {
		return nil, fmt.Errorf("policies: %w: %d bytes are over the limit of %s", ErrInvalid, len(binary), size(e.limits.ModuleBytes))
	}
	digest := fmt.Sprintf("sha256:%x", sha256.Sum256(binary))
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return nil, fmt.Errorf("policies: loading: %w", ErrClosed)
	}
	l, found := e.loads[digest]
	if !found {
		l = &load{done: make(chan struct{})}
		e.loads[digest] = l
		e.users.Add(1)
		go e.load(l, digest, append([]byte(nil), binary...))
	} else if l.place != nil {
		e.recent.MoveToFront(l.place)
	}
	e.mu.Unlock()
	select {
	case <-l.done:
		if l.err != nil {
			return nil, fmt.Errorf("policies: %w", l.err)
		}
		return l.policy, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("policies: loading: %w", ctx.Err())
	}
}

// load does the work of one load and keeps its result if it is a policy.
func (e *Engine) load(l *load, digest string, binary []byte) {
	defer e.users.Done()
	l.policy, l.err = e.prepare(digest, binary)
	e.mu.Lock()
	if l.err != nil {
		delete(e.loads, digest)
	} else {
		l.place = e.recent.PushFront(digest)
		for e.recent.Len() > e.limits.Cached {
			oldest := e.recent.Remove(e.recent.Back()).(string)
			delete(e.loads, oldest)
		}
	}
	e.mu.Unlock()
	close(l.done)
}

// prepare checks a module, in the order of what is cheap, and compiles it.
func (e *Engine) prepare(digest string, binary []byte) (*Policy, error) {
	shape, err := module.Scan(binary)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	declared, err := manifest(shape)
	shape, unfit := runnable(shape, declared)
	err = errors.Join(unfit, err)
	if most := e.limits.MemoryBytes; int64(shape.MemoryPages)*module.PageBytes > most {
		err = errors.Join(err, fmt.Errorf("memory minimum %s over the limit of %s",
			size(int64(shape.MemoryPages)*module.PageBytes), size(most)))
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	schema, err := newSchema(declared.ConfigSchema)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	c, err := e.compile(shape.Bare())
	if err != nil {
		return nil, err
	}
	p := &Policy{engine: e, digest: digest, manifest: declared, schema: schema, code: c}
	if p.rego, err = e.inspect(c, shape, declared); err != nil {
		e.discard(c)
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	// An evicted policy may still be in use: its code goes when nobody can reach it.
	runtime.AddCleanup(p, e.discard, c)
	return p, nil
}

// compile compiles on a goroutine of its own, which may outlive the call (see the package
// comment).
func (e *Engine) compile(binary []byte) (*compiled, error) {
	type result struct {
		code *compiled
		err  error
	}
	late := time.NewTimer(e.limits.CompileTime)
	defer late.Stop()
	tooLate := fmt.Errorf("%w: %w: compiling took over %s", ErrInvalid, ErrTimeout, e.limits.CompileTime)
	select {
	case e.compiling <- struct{}{}:
	case <-late.C:
		return nil, tooLate
	}
	results := make(chan result)
	gaveUp := make(chan struct{})
	e.users.Add(1)
	go func() {
		defer e.users.Done()
		defer func() { <-e.compiling }()
		c, err := e.build(binary)
		select {
		case results <- result{c, err}:
		case <-gaveUp:
			if err == nil {
				e.discard(c)
			}
		}
	}()
	select {
	case r := <-results:
		return r.code, r.err
	case <-late.C:
		close(gaveUp)
		return nil, tooLate
	}
}

// build compiles in a runtime of the module's own. A panic of the compiler is an error.
func (e *Engine) build(binary []byte) (c *compiled, err error) {
	ctx := context.Background() // what is built outlives the call that asked for it
	var runtime wazero.Runtime
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: the compiler failed on it: %v", ErrInvalid, r)
		}
		if err != nil && runtime != nil {
			_ = runtime.Close(ctx)
		}
	}()
	if runtime, err = newRuntime(ctx, e.limits, e.interruptible); err != nil {
		return nil, err
	}
	code, err := runtime.CompileModule(ctx, binary)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	c = &compiled{runtime, code}
	e.mu.Lock()
	e.compiled[c] = struct{}{}
	e.mu.Unlock()
	return c, nil
}

// discard frees compiled code, once.
func (e *Engine) discard(c *compiled) {
	e.mu.Lock()
	_, held := e.compiled[c]
	delete(e.compiled, c)
	e.mu.Unlock()
	if held {
		_ = c.runtime.Close(context.Background())
	}
}

// use counts a decision as under way, unless the engine is closed.
func (e *Engine) use() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return ErrClosed
	}
	e.users.Add(1)
	return nil
}

// size spells a number of bytes.
func size(bytes int64) string {
	for _, unit := range []struct {
		bytes int64
		name  string
	}{{1 << 30, "GiB"}, {1 << 20, "MiB"}, {1 << 10, "KiB"}} {
		if bytes >= unit.bytes && bytes%unit.bytes == 0 {
			return fmt.Sprintf("%d %s", bytes/unit.bytes, unit.name)
		}
	}
	return fmt.Sprintf("%d bytes", bytes)
}
