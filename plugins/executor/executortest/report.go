package executortest

import (
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// TB is the part of [testing.TB] that the suite uses.
type TB interface {
	Helper()
	Error(args ...any)
	Errorf(format string, args ...any)
	Fatal(args ...any)
	Fatalf(format string, args ...any)
	Skip(args ...any)
	Cleanup(func())
}

// T is one rule of the suite, under test.
type T interface {
	TB
	// Run runs a part of the rule.
	Run(name string, f func(T)) bool
}

// goTest is a rule as a test of Go.
type goTest struct{ *testing.T }

func (g goTest) Run(name string, f func(T)) bool {
	return g.T.Run(name, func(t *testing.T) { f(goTest{t}) })
}

// Result is what came of one rule, or of one part of a rule.
type Result struct {
	// Rule says what an executor does: "tells how the application ended: 0 is success".
	Rule string
	// Skipped says why it was not looked at; empty if it was.
	Skipped string
	// Problems is empty if the executor keeps the rule.
	Problems []string
	Took     time.Duration
}

// Check runs the suite for people who have no test of Go, one rule after the other, and tells of each.
func Check(cfg Config, each func(Result)) {
	suite(&checked{each: each}, cfg)
}

// checked is a rule that is checked without package testing.
type checked struct {
	rule string
	each func(Result)

	mu       sync.Mutex
	parts    int
	skipped  string
	problems []string
	cleanups []func()
}

// Run implements T. A rule that has parts tells of those alone.
func (c *checked) Run(name string, f func(T)) bool {
	c.mu.Lock()
	c.parts++
	c.mu.Unlock()
	part := &checked{rule: strings.TrimPrefix(c.rule+": "+name, ": "), each: c.each}
	start := time.Now()
	done := make(chan struct{})
	go func() { // which Fatal and Skip can end
		defer close(done)
		defer part.clean()
		defer part.catch()
		f(part)
	}()
	<-done
	if part.parts == 0 || len(part.problems) > 0 {
		c.each(Result{Rule: part.rule, Skipped: part.skipped, Problems: part.problems, Took: time.Since(start)})
	}
	return len(part.problems) == 0
}

func (c *checked) catch() {
	if r := recover(); r != nil {
		c.Errorf("panic: %v", r)
	}
}

func (c *checked) clean() {
	for i := len(c.cleanups) - 1; i >= 0; i-- {
		c.cleanups[i]()
	}
}

func (c *checked) Helper() {}

func (c *checked) Error(args ...any) { c.add(fmt.Sprintln(args...)) }

func (c *checked) Errorf(format string, args ...any) { c.add(fmt.Sprintf(format, args...)) }

func (c *checked) Fatal(args ...any) {
	c.Error(args...)
	runtime.Goexit()
}

func (c *checked) Fatalf(format string, args ...any) {
	c.Errorf(format, args...)
	runtime.Goexit()
}

func (c *checked) Skip(args ...any) {
	c.skipped = strings.TrimSpace(fmt.Sprintln(args...))
	runtime.Goexit()
}

func (c *checked) Cleanup(f func()) { c.cleanups = append(c.cleanups, f) }

func (c *checked) add(problem string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.problems = append(c.problems, strings.TrimSpace(problem))
}
