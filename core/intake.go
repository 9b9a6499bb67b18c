package core

import (
	"fmt"
	"slices"
	"sync"
)

// intake counts what an operator must still send. Each thing is sent once.
type intake struct {
	mu      sync.Mutex
	missing map[string]bool // value: being sent
	want    []string
	started bool
	// begun is closed with the first thing that begins to arrive, full with the last that did.
	begun, full chan struct{}
}

// newIntake waits for names, each once however often it is given.
func newIntake(names []string) *intake {
	in := &intake{missing: map[string]bool{}, begun: make(chan struct{}), full: make(chan struct{})}
	for _, name := range names {
		if !slices.Contains(in.want, name) {
			in.want = append(in.want, name)
			in.missing[name] = false
		}
	}
	if len(in.want) == 0 {
		close(in.full)
	}
	return in
}

func (in *intake) names() []string { return slices.Clone(in.want) }

// take begins to receive name.
func (in *intake) take(name string) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	sending, missing := in.missing[name]
	switch {
	case !slices.Contains(in.want, name):
		return fmt.Errorf("%w: the job has no %.80q", ErrInvalid, name)
	case !missing || sending:
		return fmt.Errorf("%w: %s was sent before", ErrConflict, name)
	}
	in.missing[name] = true
	if !in.started {
		in.started = true
		close(in.begun)
	}
	return nil
}

// fill says that name arrived whole.
func (in *intake) fill(name string) {
	in.mu.Lock()
	defer in.mu.Unlock()
	delete(in.missing, name)
	if len(in.missing) == 0 {
		close(in.full)
	}
}
