package policies

import (
	"sync"

	"github.com/tetratelabs/wazero/experimental"
	"golang.org/x/sys/unix"
)

// smallMemory is the size up to which a linear memory comes from Go's heap: for a small policy
// a mapping costs more than everything else that its memory does.
const smallMemory = 1 << 20

// memory gives one instance its linear memory. It holds the limit, notes that more was asked
// for, and gives everything back when the decision is made, whichever way the instance ended
// (wazero does not free the memory of an instance whose start function failed).
//
// A memory over smallMemory is reserved once, at its limit, so growing copies nothing and the
// kernel backs a page only when it is touched: the limit is what an instance really uses.
type memory struct {
	limit uint64
	// spare is how many bytes a small memory has room for from the beginning; 0 for what it asks for.
	spare uint64

	mu      sync.Mutex
	taken   bool
	most    uint64 // what the module says that it needs at most
	small   []byte
	mapped  []byte
	refused bool
}

var (
	_ experimental.MemoryAllocator = (*memory)(nil)
	_ experimental.LinearMemory    = (*memory)(nil)
)

// Allocate is called once: there is one memory in a module. Another would get none.
func (m *memory) Allocate(_, most uint64) experimental.LinearMemory {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.taken {
		return &memory{}
	}
	m.taken, m.most = true, min(most, m.limit)
	return m
}

// Reallocate returns size bytes that begin with what was there and end in zeros, or nil if
// the limit forbids it.
func (m *memory) Reallocate(size uint64) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	if size > m.limit || size > m.most {
		m.refused = m.refused || size > m.limit
		return nil
	}
	if size <= uint64(cap(m.small)) {
		m.small = m.small[:size]
		return m.small
	}
	if size <= smallMemory {
		grown := make([]byte, size, max(size, m.spare))
		copy(grown, m.small)
		m.small = grown
		return grown
	}
	if m.mapped == nil {
		mapped, err := unix.Mmap(-1, 0, int(m.most), unix.PROT_READ|unix.PROT_WRITE,
			unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
		if err != nil {
			m.refused = true
			return nil
		}
		copy(mapped, m.small)
		m.mapped, m.small = mapped, nil
	}
	return m.mapped[:size:len(m.mapped)]
}

// Free does nothing: wazero calls it while it closes an instance, [memory.release] after it.
func (m *memory) Free() {}

// release unmaps the memory. Nothing may run in the instance any more.
func (m *memory) release() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mapped != nil {
		_ = unix.Munmap(m.mapped)
		m.mapped = nil
	}
}

// wasRefused reports whether the instance asked for more than it may have.
func (m *memory) wasRefused() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.refused
}
