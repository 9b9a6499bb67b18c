package worker

import (
	"container/list"
	"context"
	"sync"
)

// room bounds how many workers there are, whatever they decide. Whoever wants one more where all are
// there gets the place of one that is idle, the longest idle first, or waits for one that ends or
// comes back: in the order of asking, so that nobody who asks often is served more often.
type room struct {
	mu   sync.Mutex
	free int
	// waiting holds the channels of those who wait; one is closed when its turn has come. Where
	// somebody waits, nothing is free.
	waiting list.List
	// idle holds the workers that do nothing, the longest idle first.
	idle list.List
	// ending counts the workers that were ended for somebody's sake and have not left yet.
	ending int
}

// enter takes a place. It fails with the cause of ctx's end alone.
func (r *room) enter(ctx context.Context) error {
	r.mu.Lock()
	if r.free > 0 {
		r.free--
		r.mu.Unlock()
		return nil
	}
	turn := make(chan struct{})
	place := r.waiting.PushBack(turn)
	if first := r.idle.Front(); first != nil && r.wanting() {
		r.end(first.Value.(*worker))
	}
	r.mu.Unlock()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case <-turn: // it came meanwhile
		r.pass()
	default:
		r.waiting.Remove(place)
	}
	return context.Cause(ctx)
}

// wanting reports whether more wait than there are places on their way.
func (r *room) wanting() bool { return r.waiting.Len() > r.ending }

// end ends a worker; when it leaves there is its place.
func (r *room) end(w *worker) {
	r.forget(w)
	w.evicted = true
	r.ending++
	w.kill()
}

func (r *room) forget(w *worker) {
	if w.place != nil {
		r.idle.Remove(w.place)
		w.place = nil
	}
}

// leave gives back a place that no worker took.
func (r *room) leave() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pass()
}

// left gives back the place of a worker of which nothing runs any more.
func (r *room) left(w *worker) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.forget(w)
	if w.evicted {
		r.ending--
	}
	r.pass()
}

func (r *room) pass() {
	if first := r.waiting.Front(); first != nil {
		close(r.waiting.Remove(first).(chan struct{}))
		return
	}
	r.free++
}

// rest notes that a worker does nothing, or ends it if somebody waits for its place.
func (r *room) rest(w *worker) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.wanting() {
		r.end(w)
		return
	}
	w.place = r.idle.PushBack(w)
}

// use takes a worker that rests. False: it was ended for its place.
func (r *room) use(w *worker) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	rested := w.place != nil && !w.dead.Load()
	r.forget(w)
	return rested
}

// drop ends a worker that rests.
func (r *room) drop(w *worker) {
	if r.use(w) {
		w.kill()
	}
}
