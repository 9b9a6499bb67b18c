package core

import (
	"context"
	"errors"
	"strings"
	"sync"

	"github.com/cloister-run/cloister/plugins/executor"
)

// launch starts an executor while the assets are still on their way.
type launch struct {
	executors Executors
	name      string
	place     executor.Place

	// ready is closed when the executor is prepared, failed when it never will be.
	ready, failed chan struct{}
	err           error
	session       Session
	runtime       executor.Runtime

	started bool
	ending  sync.Once
	stopped chan struct{}
	cancel  context.CancelFunc
	killErr error
}

func newLaunch(executors Executors, name string, place executor.Place) *launch {
	return &launch{
		executors: executors, name: name, place: place,
		ready: make(chan struct{}), failed: make(chan struct{}), stopped: make(chan struct{}),
	}
}

// start begins; it is called once.
func (l *launch) start(ctx context.Context) {
	ctx, l.cancel = context.WithCancel(ctx)
	l.started = true
	go func() {
		defer close(l.stopped)
		if l.err = l.prepare(ctx); l.err != nil {
			close(l.failed)
			return
		}
		close(l.ready)
	}()
}

func (l *launch) prepare(ctx context.Context) (err error) {
	if l.session, err = l.executors.Launch(ctx, l.name, l.place); err != nil {
		return launchError(err)
	}
	if _, err := l.session.Describe(ctx); err != nil {
		return launchError(err)
	}
	found, err := l.session.Prepare(ctx)
	if err != nil {
		return launchError(err)
	}
	if !label(found.Name) || !label(found.Version) { // it goes into the record
		return &faultError{FaultExecutor, errors.New("the executor does not name its runtime properly")}
	}
	l.runtime = found
	return nil
}

// label reports whether s is 1 to 64 bytes of printable ASCII, as package executor has it.
func label(s string) bool {
	return s != "" && len(s) <= 64 && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}

func launchError(err error) error {
	if unavailable, ok := errors.AsType[*UnavailableError](err); ok {
		return &faultError{FaultMachine, unavailable}
	}
	if errors.Is(err, executor.ErrRuntime) {
		return &faultError{FaultRuntime, err}
	}
	return &faultError{FaultExecutor, err}
}

// wait returns when the executor is ready, or says why it is not.
func (l *launch) wait(ctx context.Context) error {
	select {
	case <-l.ready:
		return nil
	case <-l.failed:
		return l.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// kill ends the executor and everything that it started. It may be called again, and where
// nothing was started.
func (l *launch) kill() error {
	if l == nil || !l.started {
		return nil
	}
	l.ending.Do(func() {
		l.cancel()
		<-l.stopped
		if l.session != nil {
			l.killErr = l.session.Kill()
		}
	})
	return l.killErr
}
