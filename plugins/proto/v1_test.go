package proto_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/cloister-run/cloister/plugins/executor"
	"github.com/cloister-run/cloister/plugins/proto"
	executorv1 "github.com/cloister-run/cloister/plugins/proto/executor/v1"
)

const secret = "SECRET-9f3c"

// scripted answers every call with what it holds.
type scripted struct {
	description executor.Description
	runtime     executor.Runtime
	result      executor.Result
	err         error
	task        executor.Task
	timed       bool // a deadline came along with Run
}

func (s *scripted) Describe(context.Context) (executor.Description, error) {
	return s.description, s.err
}
func (s *scripted) Prepare(context.Context) (executor.Runtime, error) { return s.runtime, s.err }
func (s *scripted) Stop(context.Context) error                        { return s.err }
func (s *scripted) Run(ctx context.Context, t executor.Task) (executor.Result, error) {
	s.task = t
	_, s.timed = ctx.Deadline()
	return s.result, s.err
}

// dial serves what register registers, and gives the other end of the connection.
func dial(t *testing.T, register func(*grpc.Server)) *grpc.ClientConn {
	t.Helper()
	l := bufconn.Listen(1 << 20)
	s := grpc.NewServer()
	register(s)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	conn, err := grpc.NewClient("passthrough:///buffer",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func connect(t *testing.T, impl executor.Executor) executor.Executor {
	t.Helper()
	return proto.NewClient(dial(t, func(s *grpc.Server) { proto.Register(s, impl) }))
}

// calls makes every call and gives its error.
func calls(ctx context.Context, e executor.Executor) map[string]error {
	_, describe := e.Describe(ctx)
	_, prepare := e.Prepare(ctx)
	_, run := e.Run(ctx, task())
	return map[string]error{"Describe": describe, "Prepare": prepare, "Run": run, "Stop": e.Stop(ctx)}
}

func TestEverythingCrosses(t *testing.T) {
	s := &scripted{
		description: executor.Description{Name: "python", Version: "0.1.0"},
		runtime:     executor.Runtime{Name: "CPython", Version: "3.11.2"},
		result:      executor.Result{Status: 143},
	}
	e := connect(t, s)
	d, err := e.Describe(t.Context())
	if err != nil || d != s.description {
		t.Errorf("%+v, %v", d, err)
	}
	r, err := e.Prepare(t.Context())
	if err != nil || r != s.runtime {
		t.Errorf("%+v, %v", r, err)
	}
	want := task()
	result, err := e.Run(t.Context(), want)
	if err != nil || result != s.result || !reflect.DeepEqual(s.task, want) {
		t.Errorf("%+v, %v\n%+v, want\n%+v", result, err, s.task, want)
	}
	if err := e.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

// A field that is added to the Go contract must be added to the wire.
func TestEveryFieldHasAPlaceOnTheWire(t *testing.T) {
	for _, pair := range []struct{ contract, wire any }{
		{executor.Task{}, executorv1.RunRequest{}},
		{executor.Result{}, executorv1.RunResponse{}},
		{executor.Description{}, executorv1.DescribeResponse{}},
		{executor.Runtime{}, executorv1.PrepareResponse{}},
	} {
		wire := reflect.TypeOf(pair.wire)
		exported := 0
		for i := range wire.NumField() {
			if wire.Field(i).IsExported() {
				exported++
			}
		}
		if n := reflect.TypeOf(pair.contract).NumField(); n != exported {
			t.Errorf("%T has %d fields, %T %d", pair.contract, n, pair.wire, exported)
		}
	}
}

func TestSentinelsCrossAndNoText(t *testing.T) {
	for _, test := range []struct{ sent, want error }{
		{executor.ErrEntrypoint, executor.ErrEntrypoint},
		{executor.ErrRuntime, executor.ErrRuntime},
		{executor.ErrGone, executor.ErrGone},
		{context.Canceled, executor.ErrGone},
		{context.DeadlineExceeded, executor.ErrGone},
		{errors.New("anything else"), executor.ErrGone},
	} {
		t.Run(test.sent.Error(), func(t *testing.T) {
			e := connect(t, &scripted{err: fmt.Errorf("%s: %w", secret, test.sent)})
			for call, err := range calls(t.Context(), e) {
				wantOnly(t, call, err, test.want)
			}
		})
	}
}

// A plugin that uses the adapter keeps its words to itself: nothing relies on the other end.
func TestNoTextOnTheWire(t *testing.T) {
	conn := dial(t, func(s *grpc.Server) { proto.Register(s, &scripted{err: errors.New(secret)}) })
	_, err := executorv1.NewExecutorClient(conn).Describe(t.Context(), &executorv1.DescribeRequest{})
	if st := status.Convert(err); st.Code() != codes.Internal || st.Message() != "" || len(st.Details()) != 0 {
		t.Errorf("%v", err)
	}
}

func TestAnswersAreChecked(t *testing.T) {
	long := strings.Repeat("x", 65)
	for rule, s := range map[string]*scripted{
		"empty":        {result: executor.Result{Status: -1}},
		"too long":     {executor.Description{Name: long, Version: "1"}, executor.Runtime{Name: long, Version: "1"}, executor.Result{Status: 256}, nil, executor.Task{}, false},
		"no version":   {executor.Description{Name: "a"}, executor.Runtime{Name: "a"}, executor.Result{Status: 1 << 20}, nil, executor.Task{}, false},
		"unprintable":  {executor.Description{Name: "a", Version: secret + "\n"}, executor.Runtime{Name: secret + "\x1b", Version: "1"}, executor.Result{Status: -1 << 31}, nil, executor.Task{}, false},
		"beyond ASCII": {executor.Description{Name: "ä", Version: "1"}, executor.Runtime{Name: "a", Version: secret + "ä"}, executor.Result{Status: 1<<31 - 1}, nil, executor.Task{}, false},
	} {
		t.Run(rule, func(t *testing.T) {
			for call, err := range calls(t.Context(), connect(t, s)) {
				if call != "Stop" {
					wantOnly(t, call, err, executor.ErrGone)
				}
			}
		})
	}
}

// raw answers with any code and words of its own.
type raw struct {
	executorv1.UnimplementedExecutorServer
	code codes.Code
}

func (r raw) Run(context.Context, *executorv1.RunRequest) (*executorv1.RunResponse, error) {
	return nil, status.Error(r.code, secret)
}

func TestEveryCodeIsASentinel(t *testing.T) {
	for code := codes.Code(1); code <= 20; code++ {
		want := executor.ErrGone
		switch code {
		case codes.NotFound:
			want = executor.ErrEntrypoint
		case codes.FailedPrecondition:
			want = executor.ErrRuntime
		case codes.InvalidArgument:
			want = executor.ErrEnvironment
		}
		conn := dial(t, func(s *grpc.Server) { executorv1.RegisterExecutorServer(s, raw{code: code}) })
		_, err := proto.NewClient(conn).Run(t.Context(), task())
		wantOnly(t, code.String(), err, want)
	}
	_, err := proto.NewClient(dial(t, func(*grpc.Server) {})).Describe(t.Context())
	wantOnly(t, "no such service", err, executor.ErrGone)
}

func TestCauseOfTheContextWins(t *testing.T) {
	enough := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(enough)
	for call, err := range calls(ctx, connect(t, &scripted{})) {
		if !errors.Is(err, enough) {
			t.Errorf("%s: %v", call, err)
		}
	}
}

// If the deadline went along, the plugin's clock could be the first to say that time is up.
func TestNoDeadlineIsTold(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s := &scripted{}
	if _, err := connect(t, s).Run(ctx, task()); err != nil || s.timed {
		t.Errorf("%v, deadline told: %v", err, s.timed)
	}
}

func TestBadTaskStaysHere(t *testing.T) {
	s := &scripted{}
	_, err := connect(t, s).Run(t.Context(), task(func(t *executor.Task) { t.Entrypoint = "" }))
	if err == nil || !strings.Contains(err.Error(), "task.entrypoint") || s.task.Dir != "" {
		t.Errorf("%v, %+v", err, s.task)
	}
}

func wantOnly(t *testing.T, call string, err, want error) {
	t.Helper()
	for _, sentinel := range []error{
		executor.ErrEntrypoint, executor.ErrRuntime, executor.ErrGone, context.Canceled, context.DeadlineExceeded,
	} {
		if errors.Is(err, sentinel) != (sentinel == want) {
			t.Errorf("%s: %v, want %v and no other", call, err, want)
		}
	}
	var st interface{ GRPCStatus() *status.Status }
	if errors.As(err, &st) || strings.Contains(fmt.Sprintf("%+v %#v", err, err), "SECRET") {
		t.Errorf("%s: the plugin speaks through %+v", call, err)
	}
}
