package executortest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/cloister-run/cloister/plugins/executor"
	"github.com/cloister-run/cloister/plugins/proto"
)

var _ Session = (*Fake)(nil)

// Fake is an executor in memory that behaves as a launched one: it insists on the order of
// calls and refuses the tasks that a host would refuse, ends when it is stopped or killed, and
// says [executor.ErrGone] from then on. The zero value succeeds at everything. Set the fields before
// its first use; it is safe for concurrent use then.
type Fake struct {
	// Place says where the folders of package executor really are, so that a task's paths
	// lead somewhere. Without it a path is taken as it stands.
	Place executor.Place
	// Description and Runtime are what it says of itself ["fake" "1" both].
	Description executor.Description
	Runtime     executor.Runtime
	// DescribeErr, PrepareErr and StopErr are what these calls answer.
	DescribeErr, PrepareErr, StopErr error
	// Application is what Run does [Exit(0)].
	Application Application
	// Deaf makes Stop end nothing, as an application does that ignores signals.
	Deaf bool
	// Limits is what Walls says ["fake: none"].
	Limits []string

	mu      sync.Mutex
	calls   []string
	tasks   []executor.Task
	next    int
	stopped bool
	stop    context.CancelCauseFunc // ends what runs

	once sync.Once
	gone chan struct{}
}

// Application stands for a program. ctx ends when it is stopped (its cause is ErrStopped), when
// it is killed, or when nobody waits for it.
type Application func(ctx context.Context, run Running) (executor.Result, error)

// Running is what an application may do while it runs.
type Running struct {
	executor.Task
	fake *Fake
}

// ErrStopped is the cause of an application's context once Stop was called.
var ErrStopped = errors.New("stopped")

// Exit ends with status.
func Exit(status int) Application {
	return func(context.Context, Running) (executor.Result, error) {
		return executor.Result{Status: status}, nil
	}
}

// Refuse cannot start: err is executor.ErrEntrypoint or executor.ErrRuntime.
func Refuse(err error) Application {
	return func(context.Context, Running) (executor.Result, error) { return executor.Result{}, err }
}

// Hang runs until it is stopped, with status 143, or until nobody waits for it.
func Hang() Application {
	return func(ctx context.Context, _ Running) (executor.Result, error) {
		<-ctx.Done()
		if errors.Is(context.Cause(ctx), ErrStopped) {
			return executor.Result{Status: 128 + 15}, nil
		}
		return executor.Result{}, context.Cause(ctx)
	}
}

// Die takes the executor along.
func Die() Application {
	return func(_ context.Context, run Running) (executor.Result, error) {
		return executor.Result{}, run.fake.Kill()
	}
}

// Write creates files, keyed by their path as the application sees it (relative ones are in
// its working directory), with the folders above them, and goes on with then.
func Write(files map[string]string, then Application) Application {
	return func(ctx context.Context, run Running) (executor.Result, error) {
		for _, name := range slices.Sorted(maps.Keys(files)) {
			outside := run.Outside(name)
			if err := os.MkdirAll(filepath.Dir(outside), 0o755); err != nil {
				return executor.Result{}, err
			}
			if err := os.WriteFile(outside, []byte(files[name]), 0o644); err != nil {
				return executor.Result{}, err
			}
		}
		return then(ctx, run)
	}
}

// Print writes to the logs that the task asked for, and goes on with then.
func Print(stdout, stderr string, then Application) Application {
	return func(ctx context.Context, run Running) (executor.Result, error) {
		for name, text := range map[string]string{run.Stdout: stdout, run.Stderr: stderr} {
			if name == "" {
				continue
			}
			f, err := os.OpenFile(run.Outside(name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
			if err != nil {
				return executor.Result{}, err
			}
			_, err = f.WriteString(text)
			if err := errors.Join(err, f.Close()); err != nil {
				return executor.Result{}, err
			}
		}
		return then(ctx, run)
	}
}

// Outside is where a path of the application's really is.
func (r Running) Outside(name string) string {
	if !filepath.IsAbs(name) {
		name = filepath.Join(r.Dir, name)
	}
	for inside, outside := range map[string]string{executor.AssetsDir: r.fake.Place.Assets, executor.WorkDir: r.fake.Place.Work} {
		if rest, ok := strings.CutPrefix(name, inside+"/"); ok && outside != "" {
			return filepath.Join(outside, rest)
		}
	}
	return name
}

// Calls lists the methods that were called, in order, Kill among them.
func (f *Fake) Calls() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.calls)
}

// Tasks lists the tasks that were run: one at most.
func (f *Fake) Tasks() []executor.Task {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.tasks)
}

// Describe implements executor.Executor.
func (f *Fake) Describe(ctx context.Context) (executor.Description, error) {
	if err := f.enter(ctx, "Describe", -1); err != nil {
		return executor.Description{}, err
	}
	if f.DescribeErr != nil {
		return executor.Description{}, f.DescribeErr
	}
	f.advance(0)
	return orElse(f.Description, executor.Description{Name: "fake", Version: "1"}), nil
}

// Prepare implements executor.Executor.
func (f *Fake) Prepare(ctx context.Context) (executor.Runtime, error) {
	if err := f.enter(ctx, "Prepare", 1); err != nil {
		return executor.Runtime{}, err
	}
	if f.PrepareErr != nil {
		return executor.Runtime{}, f.PrepareErr
	}
	f.advance(1)
	return orElse(f.Runtime, executor.Runtime{Name: "fake", Version: "1"}), nil
}

// Run implements executor.Executor.
func (f *Fake) Run(ctx context.Context, t executor.Task) (executor.Result, error) {
	if err := f.enter(ctx, "Run", 2); err != nil {
		return executor.Result{}, err
	}
	if err := proto.CheckTask(t); err != nil {
		return executor.Result{}, err
	}
	running, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	f.mu.Lock()
	stopped := f.stopped
	f.stop = stop
	f.tasks = append(f.tasks, t)
	f.mu.Unlock()
	if stopped {
		return executor.Result{}, fmt.Errorf("%w: it was stopped before", executor.ErrGone)
	}
	application := f.Application
	if application == nil {
		application = Exit(0)
	}
	type end struct {
		executor.Result
		err error
	}
	ended := make(chan end, 1)
	go func() {
		r, err := application(running, Running{Task: t, fake: f})
		ended <- end{r, err}
	}()
	select {
	case e := <-ended:
		return f.answer(ctx, e.Result, e.err)
	case <-ctx.Done():
		return executor.Result{}, context.Cause(ctx)
	case <-f.Done():
		return executor.Result{}, fmt.Errorf("%w: it was killed", executor.ErrGone)
	}
}

// answer is what crosses of an end: whoever is gone, or is not waited for, says nothing.
func (f *Fake) answer(ctx context.Context, r executor.Result, err error) (executor.Result, error) {
	select {
	case <-f.Done():
		return executor.Result{}, fmt.Errorf("%w: it died", executor.ErrGone)
	default:
	}
	if cause := context.Cause(ctx); cause != nil {
		return executor.Result{}, cause
	}
	for _, sentinel := range []error{executor.ErrEntrypoint, executor.ErrRuntime, executor.ErrEnvironment} {
		if errors.Is(err, sentinel) {
			return executor.Result{}, sentinel
		}
	}
	if err != nil {
		return executor.Result{}, fmt.Errorf("%w: %w", executor.ErrGone, err)
	}
	return r, nil
}

// Stop implements executor.Executor.
func (f *Fake) Stop(ctx context.Context) error {
	if err := f.enter(ctx, "Stop", -1); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.Deaf {
		return f.StopErr
	}
	f.stopped = true
	if f.stop != nil {
		f.stop(ErrStopped)
	}
	return f.StopErr
}

// Kill implements Session.
func (f *Fake) Kill() error {
	done := f.ended()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, "Kill")
	select {
	case <-done:
		return nil
	default:
	}
	close(done)
	if f.stop != nil {
		f.stop(executor.ErrGone)
	}
	return nil
}

// Done implements Session.
func (f *Fake) Done() <-chan struct{} { return f.ended() }

// Walls implements Session.
func (f *Fake) Walls() []string {
	if f.Limits == nil {
		return []string{"fake: none"}
	}
	return f.Limits
}

func (f *Fake) ended() chan struct{} {
	f.once.Do(func() { f.gone = make(chan struct{}) })
	return f.gone
}

// enter records a call and takes its turn; -1 may come at any time.
func (f *Fake) enter(ctx context.Context, call string, turn int) error {
	done := f.ended()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, call)
	if turn >= 0 && f.next != turn {
		return fmt.Errorf("%s: %w", call, executor.ErrOrder)
	}
	if turn >= 0 {
		f.next = -1 // nobody's until advance
	}
	select {
	case <-done:
		return fmt.Errorf("%w: it was killed", executor.ErrGone)
	default:
		return context.Cause(ctx)
	}
}

// advance gives the turn after one that was taken well.
func (f *Fake) advance(from int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if from > 0 || f.next == 0 {
		f.next = from + 1
	}
}

func orElse[T comparable](value, fallback T) T {
	var zero T
	if value == zero {
		return fallback
	}
	return value
}
