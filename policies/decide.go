package policies

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/experimental"
	"github.com/tetratelabs/wazero/sys"

	"github.com/cloister-run/cloister/policies/abi"
)

// Decide asks the policy, in an instance made for this one call, and checks the answer.
//
// The policy sees req as JSON on standard input, and files as package abi has them: artifacts
// where the point has them, a Sink at redact and only there. What it reads is read-only; links
// are refused if the file system implements [fs.ReadLinkFS], as [os.Root.FS] does.
//
// With every error comes the zero Decision. Errors wrap [ErrTimeout], [ErrMemory], [ErrTrap],
// [ErrAnswer], [ErrClosed] or the context's error; any other is the caller's mistake, a
// request that cannot be asked.
func (p *Policy) Decide(ctx context.Context, req abi.Request, files abi.Files) (abi.Decision, error) {
	answer, err := p.decide(ctx, req, files)
	if err != nil {
		return abi.Decision{}, fmt.Errorf("policies: %s: %w", p.manifest.Name, err)
	}
	return answer, nil
}

func (p *Policy) decide(ctx context.Context, req abi.Request, files abi.Files) (abi.Decision, error) {
	question, err := json.Marshal(req)
	if err != nil {
		return abi.Decision{}, fmt.Errorf("encoding the request: %w", err)
	}
	written, err := p.ask(ctx, question, req.Point, req.ReadTime(), files)
	if err != nil {
		return abi.Decision{}, err
	}
	answer, err := abi.DecodeDecision(written)
	if err == nil {
		err = answer.Check(req, p.manifest)
	}
	if err != nil {
		return abi.Decision{}, fmt.Errorf("%w: %w", ErrAnswer, err)
	}
	return answer, nil
}

// Ask is Decide for a caller who has the request as JSON, asked at point, and who holds the answer,
// whatever the policy wrote, against it: [abi.DecodeDecision] and [abi.Decision.Check]. reading is
// [abi.Request.ReadTime].
func (p *Policy) Ask(ctx context.Context, question []byte, point abi.Point, reading time.Duration, files abi.Files) ([]byte, error) {
	written, err := p.ask(ctx, question, point, reading, files)
	if err != nil {
		return nil, fmt.Errorf("policies: %s: %w", p.manifest.Name, err)
	}
	return written, nil
}

func (p *Policy) ask(ctx context.Context, question []byte, point abi.Point, reading time.Duration, files abi.Files) ([]byte, error) {
	// The code of a policy is freed when nobody can reach it.
	defer runtime.KeepAlive(p)
	if (files.Artifacts != nil) != point.HasFiles() || (files.Own != nil && !point.HasFiles()) ||
		(files.Redacted != nil) != (point == abi.Redact) {
		return nil, fmt.Errorf("these files are not those of the point: asked at %q", point)
	}
	if int64(len(question)) > p.engine.limits.RequestBytes {
		return nil, fmt.Errorf("a request of %d bytes is over the limit of %s", len(question), size(p.engine.limits.RequestBytes))
	}
	if err := p.engine.use(); err != nil {
		return nil, err
	}
	defer p.engine.users.Done()
	select {
	case p.engine.deciding <- struct{}{}:
		defer func() { <-p.engine.deciding }()
	case <-ctx.Done():
		return nil, waited(ctx)
	}
	limit := p.engine.limits.DecideTime + reading
	live, stop := context.WithTimeoutCause(ctx, limit, fmt.Errorf("%w after %s", ErrTimeout, limit))
	defer stop()
	if p.rego != nil {
		return p.evaluate(ctx, live, question, files)
	}
	return p.run(ctx, live, stop, question, files)
}

// run executes the module once and returns what it wrote, if it ended with status 0. live is ctx with the
// decision's limit; stop ends it.
func (p *Policy) run(ctx, live context.Context, stop func(), question []byte, files abi.Files) (written []byte, err error) {
	limits := p.engine.limits
	ram := &memory{limit: uint64(limits.MemoryBytes)}
	defer ram.release()
	out := &answer{limit: int(limits.DecisionBytes), full: stop}
	config := wazero.NewModuleConfig().
		WithName("").
		WithStartFunctions(). // _start is called below, once the instance can be closed
		WithStdin(&until{live, bytes.NewReader(question)}).
		WithStdout(out).
		WithRandSource(&until{live, rand.NewChaCha8([32]byte{})})
	around := newSurroundings(live, files, limits)
	defer around.close()
	err = p.execute(experimental.WithMemoryAllocator(live, ram), config.WithFSConfig(around.mounts))
	if err = p.classify(ctx, live, err, out, ram); err != nil && around.full() {
		err = fmt.Errorf("%w; it was out of room for what it redacts", err)
	}
	return out.written, err
}

// execute makes the instance, runs its start function and _start, and closes it. It returns
// nil if the policy ended with status 0.
func (p *Policy) execute(ctx context.Context, config wazero.ModuleConfig) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%v", r)
		}
	}()
	instance, err := p.code.runtime.InstantiateModule(ctx, p.code.module, config)
	if err != nil {
		// An exit from the start function counts as an exit: _start has not run, and nothing
		// but an answer on standard output would be believed.
		return ended(err)
	}
	defer func() { _ = instance.Close(ctx) }()
	_, err = instance.ExportedFunction("_start").Call(ctx)
	return ended(err)
}

// ended makes an exit with status 0 no error.
func ended(err error) error {
	if exit, ok := errors.AsType[*sys.ExitError](err); ok && exit.ExitCode() == 0 {
		return nil
	}
	return err
}

// classify names the cause of a failure. What stopped the instance is asked of the contexts
// and of what the instance used, never of its exit status, which a policy chooses.
func (p *Policy) classify(ctx, live context.Context, err error, out *answer, ram *memory) error {
	switch exit, exited := errors.AsType[*sys.ExitError](err); {
	case out.overflown:
		return fmt.Errorf("%w: over %s", ErrAnswer, size(int64(out.limit)))
	case ctx.Err() != nil:
		return waited(ctx)
	case live.Err() != nil:
		return context.Cause(live)
	case err == nil:
		return nil
	case ram.wasRefused():
		return fmt.Errorf("%w: it has %s", ErrMemory, size(p.engine.limits.MemoryBytes))
	case exited:
		return fmt.Errorf("%w: exit status %d", ErrAnswer, exit.ExitCode())
	default:
		return fmt.Errorf("%w: %s", ErrTrap, firstLine(err))
	}
}

// waited is the error of a caller's context that ended.
func waited(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("%w: %w", ErrTimeout, ctx.Err())
	}
	return ctx.Err()
}

// firstLine cuts a stack trace, whose names come from the module, off an error. The error is
// not wrapped: nothing that a module did is to look like another outcome.
func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	if len(line) > 200 {
		line = line[:200]
	}
	return strings.ToValidUTF8(strings.TrimSuffix(line, " (recovered by wazero)"), "?")
}

// answer collects standard output up to a limit. One byte more ends the instance.
type answer struct {
	written   []byte
	limit     int
	overflown bool
	full      func()
}

func (a *answer) Write(p []byte) (int, error) {
	if a.overflown || len(p) > a.limit-len(a.written) {
		a.overflown = true
		a.full()
		return 0, syscall.EIO
	}
	a.written = append(a.written, p...)
	return len(p), nil
}

// until is a reader that ends with its context and reads at most readChunk at a time.
type until struct {
	ctx  context.Context
	from io.Reader
}

func (u *until) Read(buf []byte) (int, error) {
	if u.ctx.Err() != nil {
		return 0, syscall.EIO
	}
	return u.from.Read(buf[:min(len(buf), readChunk)])
}
