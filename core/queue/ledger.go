// Package queue decides whether the enclave has room for one more job.
//
// An enclave has a fixed amount of memory and its files are in memory too, so a job that
// does not fit would end by killing others. The ledger counts what was promised, not what
// is used: it trusts no job to use less.
package queue

import (
	"errors"
	"fmt"
	"math"
	"sync"
)

// ErrNoRoom: the job needs more memory than is left.
var ErrNoRoom = errors.New("not enough memory in the enclave")

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
}

// Total is the sum, or the largest number where it does not fit.
func (n Need) Total() int64 {
	total := int64(0)
	for _, part := range []int64{n.Assets, n.Disk, n.Sealed, n.Memory} {
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
}

// NewLedger makes a ledger over size bytes.
func NewLedger(size int64) *Ledger { return &Ledger{balance: Balance{Size: size}} }

// Reservation is what a job was promised. It is safe for concurrent use.
type Reservation struct {
	ledger *Ledger
	held   int64 // guarded by ledger.mu
}

// Reserve promises a job what it needs. It fails with [ErrNoRoom].
func (l *Ledger) Reserve(need Need) (*Reservation, error) {
	total := need.Total()
	l.mu.Lock()
	defer l.mu.Unlock()
	if total > l.balance.Size-l.balance.Reserved {
		return nil, fmt.Errorf("%w: the job needs %d bytes (assets %d, disk %d, sealed outputs %d, memory %d); %d of %d are free",
			ErrNoRoom, total, need.Assets, need.Disk, need.Sealed, need.Memory, l.balance.Size-l.balance.Reserved, l.balance.Size)
	}
	l.balance.Reserved += total
	return &Reservation{ledger: l, held: total}, nil
}

// Keep gives back all but bytes. It never takes more than is held, so that of several calls
// the lowest counts.
func (r *Reservation) Keep(bytes int64) {
	r.ledger.mu.Lock()
	defer r.ledger.mu.Unlock()
	kept := min(r.held, max(0, bytes))
	r.ledger.balance.Reserved -= r.held - kept
	r.held = kept
}

// Release gives everything back. It may be called again.
func (r *Reservation) Release() { r.Keep(0) }

// Balance says what is promised at this moment.
func (l *Ledger) Balance() Balance {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.balance
}
