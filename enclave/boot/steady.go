package boot

import (
	"sync"
	"time"
)

// steady is a clock that never runs backwards: the machine's is set by the module's, and may have been ahead. It
// is safe for concurrent use.
type steady struct {
	now  func() time.Time
	mu   sync.Mutex
	last time.Time
}

// time is the time of requests and records.
func (s *steady) time() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := s.now().Round(0); now.After(s.last) { // as the clock on the wall has it
		s.last = now
	}
	return s.last
}
