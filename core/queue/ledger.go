// Package queue decides when the enclave has room for one more job.
//
// An enclave has a fixed amount of memory and its files are in memory too, so a job that
// does not fit would end by killing others. The ledger counts what was promised, not what
// is used: it trusts no job to use less.
package queue

import (
	"container/list"
	"errors"
	"fmt"
	"math"
	"sync"
)

// ErrNoRoom: the job needs more memory than is left.
var ErrNoRoom = errors.New("not enough memory in the enclave")

// ErrTooLarge: the job needs more memory than there is, however long it waits.
var ErrTooLarge = errors.New("the job is too large for the enclave")

// maxWaiting bounds the jobs that wait: each has a caller who listens.
const maxWaiting = 64

// Need is what a job takes, in bytes.
type Need struct {
	// Assets holds the application and the inputs, in memory.
	Assets int64 `json:"assets"`
	// Disk is the job's disk limit: outputs, logs and temporary files, in memory too.
	Disk int64 `json:"disk"`
	// Sealed holds the outputs that are sealed, once more.
	Sealed int64 `json:"sealed"`
	// Memory is the job's memory limit.
	Memory int64 `json:"memory"`
	// Notes holds what the enclave itself keeps of the job: its policies' modules, and the names in outputs that are
	// folders.
	Notes int64 `json:"notes"`
}

// Total is the sum, or the largest number where it does not fit.
func (n Need) Total() int64 {
	total := int64(0)
	for _, part := range []int64{n.Assets, n.Disk, n.Sealed, n.Memory, n.Notes} {
		if part < 0 || part > math.MaxInt64-total {
			return math.MaxInt64
		}
		total += part
	}
	return total
}

// Balance is a ledger at one moment, in bytes.
type Balance struct {
	// Size is what jobs may use together; Reserved is what was promised to jobs.
	Size     int64 `json:"size"`
	Reserved int64 `json:"reserved"`
}

// Ledger is safe for concurrent use.
type Ledger struct {
	mu      sync.Mutex
	balance Balance
	// waiting holds the reservations that wait for room, in the order of asking.
	waiting list.List
}

// NewLedger makes a ledger over size bytes.
func NewLedger(size int64) *Ledger { return &Ledger{balance: Balance{Size: size}} }

// Reservation is what a job was promised, or waits to be. It is safe for concurrent use.
type Reservation struct {
	ledger *Ledger
	total  int64
	ready  chan struct{}
	// held and place are guarded by ledger.mu; place is nil for one that does not wait.
	held  int64
	place *list.Element
}

// Reserve promises a job what it needs. Where that is not free now the reservation waits, if wait
// says so, behind those that wait already: a small job overtakes no large one, which would wait for
// ever. What needs more than the ledger has fails at once. Errors are [ErrNoRoom] or [ErrTooLarge].
func (l *Ledger) Reserve(need Need, wait bool) (*Reservation, error) {
	r := &Reservation{ledger: l, total: need.Total(), ready: make(chan struct{})}
	l.mu.Lock()
	defer l.mu.Unlock()
	fits := l.waiting.Len() == 0 && r.total <= l.balance.Size-l.balance.Reserved
	switch {
	case fits:
		l.hold(r)
	case r.total > l.balance.Size:
		return nil, fmt.Errorf("%w: %s, and jobs may use %d together", ErrTooLarge, need, l.balance.Size)
	case !wait || l.waiting.Len() >= maxWaiting:
		return nil, fmt.Errorf("%w: %s; %d of %d are free and %d jobs wait for them",
			ErrNoRoom, need, l.balance.Size-l.balance.Reserved, l.balance.Size, l.waiting.Len())
	default:
		r.place = l.waiting.PushBack(r)
	}
	return r, nil
}

// String is for an operator.
func (n Need) String() string {
	return fmt.Sprintf("the job needs %d bytes (assets %d, disk %d, sealed outputs %d, memory %d, the enclave's notes %d)", n.Total(), n.Assets, n.Disk, n.Sealed, n.Memory, n.Notes)
}

func (l *Ledger) hold(r *Reservation) {
	l.balance.Reserved += r.total
	r.held = r.total
	close(r.ready)
}

// serve gives those who wait what is free, in their order.
func (l *Ledger) serve() {
	for first := l.waiting.Front(); first != nil; first = l.waiting.Front() {
		r := first.Value.(*Reservation)
		if r.total > l.balance.Size-l.balance.Reserved {
			return
		}
		l.waiting.Remove(first)
		r.place = nil
		l.hold(r)
	}
}

// Ready is closed once the job has what it needs.
func (r *Reservation) Ready() <-chan struct{} { return r.ready }

// Keep gives back all but bytes, and the place of one that waits. It never takes more than is held,
// so that of several calls the lowest counts.
func (r *Reservation) Keep(bytes int64) {
	l := r.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.place != nil {
		l.waiting.Remove(r.place)
		r.place = nil
	}
	kept := min(r.held, max(0, bytes))
	l.balance.Reserved -= r.held - kept
	r.held = kept
	l.serve()
}

// Release gives everything back. It may be called again.
func (r *Reservation) Release() { r.Keep(0) }

// Balance says what is promised at this moment.
func (l *Ledger) Balance() Balance {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.balance
}
