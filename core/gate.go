package core

import (
	"sync"
	"time"
)

// gate counts the calls that use a job's files. It is safe for concurrent use.
type gate struct {
	mu     sync.Mutex
	isShut bool
	inside sync.WaitGroup
}

// enter begins a call, unless the gate is shut. Whoever entered leaves.
func (g *gate) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.isShut {
		return false
	}
	g.inside.Add(1)
	return true
}

func (g *gate) leave() { g.inside.Done() }

// shut lets nobody in any more, and returns when nobody is inside. It may be called again.
func (g *gate) shut() {
	g.mu.Lock()
	g.isShut = true
	g.mu.Unlock()
	g.inside.Wait()
}

// patience ends a job whose operator sends nothing for too long. Its clock stands still while
// something arrives or the enclave itself is at work. It is safe for concurrent use.
type patience struct {
	mu      sync.Mutex
	timer   *time.Timer
	limit   time.Duration
	holds   int
	stopped bool
}

// newPatience starts the clock, and calls lost when it has run for limit without a break.
func newPatience(limit time.Duration, lost func()) *patience {
	return &patience{limit: limit, timer: time.AfterFunc(limit, lost)}
}

// hold stops the clock until resume was called as often.
func (p *patience) hold() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.holds++
	p.timer.Stop()
}

// resume starts the clock anew if nothing else holds it.
func (p *patience) resume() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.holds--; p.holds == 0 && !p.stopped {
		p.timer.Reset(p.limit)
	}
}

// stop ends the clock for good.
func (p *patience) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopped = true
	p.timer.Stop()
}
