package host

import (
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/cloister-run/cloister/plugins/executor"
	"github.com/cloister-run/cloister/plugins/proto"
)

var _ executor.Executor = (*Session)(nil)

// Session is one launched executor, good for one job. It is safe for concurrent use: Stop,
// Kill and Done from any goroutine at any time. Errors wrap the sentinels of package executor,
// or the cause of the context, and begin with "executor(NAME): ".
type Session struct {
	cfg      Config
	manifest proto.Manifest
	walled   *walled
	conn     *grpc.ClientConn
	remote   executor.Executor
	endLife  context.CancelFunc

	mu   sync.Mutex
	next phase

	kill    sync.Once
	killErr error
}

// phase is the call that a session waits for.
type phase int

const (
	toDescribe phase = iota
	toPrepare
	toRun
	// spent: Prepare is under way or failed, or the one Run has begun.
	spent
)

func newSession(cfg Config, m proto.Manifest, w *walled, conn *grpc.ClientConn, endLife context.CancelFunc) *Session {
	return &Session{cfg: cfg, manifest: m, walled: w, conn: conn, remote: proto.NewClient(conn), endLife: endLife}
}

// Describe asks the plugin what it is; it must be what its manifest says.
func (s *Session) Describe(ctx context.Context) (executor.Description, error) {
	ctx, cancel := s.deadline(ctx, "describe", s.cfg.DescribeTimeout)
	defer cancel()
	d, err := s.remote.Describe(ctx)
	if err == nil && (d.Name != s.manifest.Name || d.Version != s.manifest.Version) {
		err = breach("it does not describe itself as its manifest does")
	}
	if err != nil {
		return executor.Description{}, s.wrap(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next == toDescribe {
		s.next = toPrepare
	}
	return d, nil
}

// Prepare has the plugin ready its runtime. It is called once, after Describe.
func (s *Session) Prepare(ctx context.Context) (executor.Runtime, error) {
	if err := s.leave(toPrepare, "prepare"); err != nil {
		return executor.Runtime{}, s.wrap(err)
	}
	ctx, cancel := s.deadline(ctx, "prepare", s.cfg.PrepareTimeout)
	defer cancel()
	r, err := s.remote.Prepare(ctx)
	if err != nil {
		return executor.Runtime{}, s.wrap(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next = toRun
	return r, nil
}

// Run runs the task to its end or to ctx's. It is called once, after Prepare.
func (s *Session) Run(ctx context.Context, task executor.Task) (executor.Result, error) {
	if err := s.leave(toRun, "run"); err != nil {
		return executor.Result{}, s.wrap(err)
	}
	r, err := s.remote.Run(ctx, task)
	if err != nil {
		return executor.Result{}, s.wrap(err)
	}
	return r, nil
}

// Stop asks the plugin to end the application. Kill comes next in any case.
func (s *Session) Stop(ctx context.Context) error {
	ctx, cancel := s.deadline(ctx, "stop", s.cfg.StopTimeout)
	defer cancel()
	if err := s.remote.Stop(ctx); err != nil {
		return s.wrap(err)
	}
	return nil
}

// Kill ends the sandbox and returns when nothing of it runs any more. It never waits for the
// plugin's consent, and may be called again.
func (s *Session) Kill() error {
	s.kill.Do(func() {
		err := s.walled.Kill(context.Background())
		s.endLife()
		<-s.walled.done
		if closing := s.conn.Close(); err == nil {
			err = closing
		}
		s.walled.sockets.Close()
		if err != nil {
			s.killErr = s.wrap(fmt.Errorf("killing: %w", err))
		}
	})
	return s.killErr
}

// Walls says what enforces each limit of the sandbox: "memory: cgroup" or "memory: per-process".
func (s *Session) Walls() []string { return s.walled.proc.Walls() }

// Done is closed when nothing of the sandbox runs any more.
func (s *Session) Done() <-chan struct{} { return s.walled.done }

// leave takes the session out of phase at, so that no other call can, or refuses.
func (s *Session) leave(at phase, call string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next != at {
		return fmt.Errorf("%s: %w", call, executor.ErrOrder)
	}
	s.next = spent
	return nil
}

func (s *Session) deadline(ctx context.Context, call string, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, d, breach("no answer to %s within %v", call, d))
}

func (s *Session) wrap(err error) error { return fmt.Errorf("executor(%s): %w", s.manifest.Name, err) }
