package proto

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cloister-run/cloister/plugins/executor"
	executorv1 "github.com/cloister-run/cloister/plugins/proto/executor/v1"
)

// This file alone sees generated code.

var (
	_ executor.Executor         = (*client)(nil)
	_ executorv1.ExecutorServer = (*server)(nil)
)

// Register serves impl on s.
func Register(s grpc.ServiceRegistrar, impl executor.Executor) {
	executorv1.RegisterExecutorServer(s, &server{impl: impl})
}

type server struct {
	executorv1.UnimplementedExecutorServer
	impl executor.Executor
}

func (s *server) Describe(ctx context.Context, _ *executorv1.DescribeRequest) (*executorv1.DescribeResponse, error) {
	d, err := s.impl.Describe(ctx)
	if err != nil {
		return nil, toStatus(err)
	}
	return &executorv1.DescribeResponse{Name: d.Name, Version: d.Version}, nil
}

func (s *server) Prepare(ctx context.Context, _ *executorv1.PrepareRequest) (*executorv1.PrepareResponse, error) {
	r, err := s.impl.Prepare(ctx)
	if err != nil {
		return nil, toStatus(err)
	}
	return &executorv1.PrepareResponse{RuntimeName: r.Name, RuntimeVersion: r.Version}, nil
}

func (s *server) Run(ctx context.Context, req *executorv1.RunRequest) (*executorv1.RunResponse, error) {
	r, err := s.impl.Run(ctx, executor.Task{
		Application: req.GetApplication(),
		Entrypoint:  req.GetEntrypoint(),
		Args:        req.GetArgs(),
		Env:         req.GetEnv(),
		Dir:         req.GetDir(),
		Stdout:      req.GetStdout(),
		Stderr:      req.GetStderr(),
		Environment: req.GetEnvironment(),
	})
	if err != nil {
		return nil, toStatus(err)
	}
	return &executorv1.RunResponse{Status: int32(r.Status)}, nil
}

func (s *server) Stop(ctx context.Context, _ *executorv1.StopRequest) (*executorv1.StopResponse, error) {
	if err := s.impl.Stop(ctx); err != nil {
		return nil, toStatus(err)
	}
	return &executorv1.StopResponse{}, nil
}

// toStatus keeps the kind of an error and drops its words: they would be a way out.
func toStatus(err error) error {
	code := codes.Internal
	switch {
	case errors.Is(err, executor.ErrEntrypoint):
		code = codes.NotFound
	case errors.Is(err, executor.ErrRuntime):
		code = codes.FailedPrecondition
	case errors.Is(err, executor.ErrEnvironment):
		code = codes.InvalidArgument
	case errors.Is(err, context.Canceled):
		code = codes.Canceled
	case errors.Is(err, context.DeadlineExceeded):
		code = codes.DeadlineExceeded
	}
	return status.Error(code, "")
}

// NewClient is the executor at the other end of conn. Every answer is checked against the
// bounds of executor.proto. Errors are an error of CheckTask, the cause of ctx, or one of the
// sentinels of package executor.
func NewClient(conn grpc.ClientConnInterface) executor.Executor {
	return &client{rpc: executorv1.NewExecutorClient(conn)}
}

type client struct{ rpc executorv1.ExecutorClient }

func (c *client) Describe(ctx context.Context) (executor.Description, error) {
	inner, cancel := untimed(ctx)
	defer cancel()
	r, err := c.rpc.Describe(inner, &executorv1.DescribeRequest{})
	if err != nil {
		return executor.Description{}, fromStatus(ctx, err)
	}
	d := executor.Description{Name: r.GetName(), Version: r.GetVersion()}
	if !Label(d.Name) || !Label(d.Version) {
		return executor.Description{}, breach("describe", "a name or version of 1 to 64 printable characters was expected")
	}
	return d, nil
}

func (c *client) Prepare(ctx context.Context) (executor.Runtime, error) {
	inner, cancel := untimed(ctx)
	defer cancel()
	r, err := c.rpc.Prepare(inner, &executorv1.PrepareRequest{})
	if err != nil {
		return executor.Runtime{}, fromStatus(ctx, err)
	}
	rt := executor.Runtime{Name: r.GetRuntimeName(), Version: r.GetRuntimeVersion()}
	if !Label(rt.Name) || !Label(rt.Version) {
		return executor.Runtime{}, breach("prepare", "a name or version of 1 to 64 printable characters was expected")
	}
	return rt, nil
}

func (c *client) Run(ctx context.Context, t executor.Task) (executor.Result, error) {
	if err := CheckTask(t); err != nil {
		return executor.Result{}, err
	}
	inner, cancel := untimed(ctx)
	defer cancel()
	r, err := c.rpc.Run(inner, &executorv1.RunRequest{
		Application: t.Application,
		Entrypoint:  t.Entrypoint,
		Args:        t.Args,
		Env:         t.Env,
		Dir:         t.Dir,
		Stdout:      t.Stdout,
		Stderr:      t.Stderr,
		Environment: t.Environment,
	})
	if err != nil {
		return executor.Result{}, fromStatus(ctx, err)
	}
	if r.GetStatus() < 0 || r.GetStatus() > 255 {
		return executor.Result{}, breach("run", "an exit status of 0 to 255 was expected")
	}
	return executor.Result{Status: int(r.GetStatus())}, nil
}

func (c *client) Stop(ctx context.Context) error {
	inner, cancel := untimed(ctx)
	defer cancel()
	if _, err := c.rpc.Stop(inner, &executorv1.StopRequest{}); err != nil {
		return fromStatus(ctx, err)
	}
	return nil
}

// untimed ends when ctx does and has no deadline of its own. gRPC would tell a deadline to the
// plugin, whose end of the call may run out a moment before ours; and then nobody could say
// whether the plugin failed or the time was up. How long it may run is none of its business.
func untimed(ctx context.Context) (context.Context, context.CancelFunc) {
	inner, cancel := context.WithCancel(context.WithoutCancel(ctx))
	release := context.AfterFunc(ctx, cancel)
	return inner, func() { release(); cancel() }
}

func breach(call, expected string) error {
	return fmt.Errorf("%w: its answer to %s breaks the protocol: %s", executor.ErrGone, call, expected)
}

// fromStatus reads nothing but the code of an answer, and of the codes only those that the
// protocol knows. The cause is hidden on purpose: its message is the plugin's.
func fromStatus(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	switch status.Code(err) {
	case codes.NotFound:
		return executor.ErrEntrypoint
	case codes.FailedPrecondition:
		return executor.ErrRuntime
	case codes.InvalidArgument:
		return executor.ErrEnvironment
	case codes.Unavailable:
		return fmt.Errorf("%w: the connection broke", executor.ErrGone)
	case codes.ResourceExhausted:
		return fmt.Errorf("%w: its answer is too large", executor.ErrGone)
	default:
		return fmt.Errorf("%w: it answered with an error of its own", executor.ErrGone)
	}
}
