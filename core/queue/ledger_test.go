package queue_test

import (
	"errors"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/cloister-run/cloister/core/queue"
)

func TestTotal(t *testing.T) {
	for _, test := range []struct {
		rule string
		need queue.Need
		want int64
	}{
		{"nothing", queue.Need{}, 0},
		{"a sum", queue.Need{Assets: 1, Disk: 2, Memory: 4, Sealed: 8, Notes: 16}, 31},
		{"the largest", queue.Need{Memory: math.MaxInt64}, math.MaxInt64},
		{"an overflow", queue.Need{Assets: math.MaxInt64, Disk: 1}, math.MaxInt64},
		{"an overflow twice over", queue.Need{Assets: math.MaxInt64, Disk: math.MaxInt64, Memory: math.MaxInt64}, math.MaxInt64},
		{"a negative part", queue.Need{Assets: -5, Disk: 10}, math.MaxInt64},
	} {
		if got := test.need.Total(); got != test.want {
			t.Errorf("%s: %d, want %d", test.rule, got, test.want)
		}
	}
}

func TestReserve(t *testing.T) {
	l := queue.NewLedger(100)
	all, err := l.Reserve(queue.Need{Assets: 50, Disk: 30, Memory: 20}, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Reserve(queue.Need{Disk: 1}, false); err == nil {
		t.Error("a byte more than there is")
	}
	if _, err := l.Reserve(queue.Need{}, false); err != nil {
		t.Errorf("nothing at all: %v", err)
	}
	for _, step := range []struct{ keep, reserved int64 }{{200, 100}, {30, 30}, {80, 30}, {-1, 0}, {30, 0}} {
		all.Keep(step.keep)
		if got := l.Balance(); got.Reserved != step.reserved || got.Size != 100 {
			t.Errorf("keep %d: %+v, want %d", step.keep, got, step.reserved)
		}
	}
	all.Release()
	all.Release()
	if got := l.Balance().Reserved; got != 0 {
		t.Errorf("%d reserved after two releases", got)
	}
}

// The ledger never promises more than there is, nor gives back what it did not promise; who waits is served in
// order, as soon as there is room.
func TestTheLedgerBalances(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := queue.NewLedger(1000)
		held := map[*queue.Reservation]int64{}
		var waiting []*queue.Reservation
		needs := map[*queue.Reservation]int64{}
		sum := func() (n int64) {
			for _, h := range held {
				n += h
			}
			return n
		}
		serve := func() {
			for len(waiting) > 0 && sum()+needs[waiting[0]] <= 1000 {
				held[waiting[0]] = needs[waiting[0]]
				waiting = waiting[1:]
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"reserve": func(t *rapid.T) {
				need := queue.Need{Disk: rapid.Int64Range(-1, 600).Draw(t, "disk"), Memory: rapid.Int64Range(0, 500).Draw(t, "memory")}
				wait := rapid.Bool().Draw(t, "wait")
				r, err := l.Reserve(need, wait)
				total := need.Total()
				switch {
				case total > 1000:
					if !errors.Is(err, queue.ErrTooLarge) {
						t.Fatalf("%+v: %v", need, err)
					}
				case len(waiting) == 0 && sum()+total <= 1000:
					if err != nil {
						t.Fatalf("%+v beside %d: %v", need, sum(), err)
					}
					held[r] = total
				case !wait || len(waiting) == 64:
					if !errors.Is(err, queue.ErrNoRoom) {
						t.Fatalf("%+v beside %d: %v", need, sum(), err)
					}
				case err != nil:
					t.Fatalf("%+v cannot wait: %v", need, err)
				default:
					waiting, needs[r] = append(waiting, r), total
				}
			},
			"keep": func(t *rapid.T) {
				keep := rapid.Int64Range(0, 1000).Draw(t, "keep")
				for r, h := range held {
					r.Keep(keep)
					held[r] = min(h, keep)
					break
				}
				serve()
			},
			"give up": func(t *rapid.T) {
				if len(waiting) == 0 {
					t.Skip("nobody waits")
				}
				i := rapid.IntRange(0, len(waiting)-1).Draw(t, "who")
				waiting[i].Release()
				waiting = slices.Delete(waiting, i, i+1)
				serve()
			},
			"": func(t *rapid.T) {
				if got := l.Balance().Reserved; got != sum() {
					t.Fatalf("%d reserved, %d held", got, sum())
				}
				for r := range held {
					if !isReady(r) {
						t.Fatal("somebody who has room was not told")
					}
				}
				for _, r := range waiting {
					if isReady(r) {
						t.Fatal("somebody was served out of order")
					}
				}
			},
		})
	})
}

func TestReserveIsSafeForConcurrentUse(t *testing.T) {
	l := queue.NewLedger(10)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if r, err := l.Reserve(queue.Need{Memory: 3}, true); err == nil {
				<-r.Ready()
				wg.Go(r.Release)
				r.Release()
			}
		})
	}
	wg.Wait()
	if got := l.Balance().Reserved; got != 0 {
		t.Errorf("%d reserved", got)
	}
}

func isReady(r *queue.Reservation) bool {
	select {
	case <-r.Ready():
		return true
	default:
		return false
	}
}

// TestWhoWaitsIsServedInOrder: a small job overtakes no large one, and who gives up its place lets the
// next one on.
func TestWhoWaitsIsServedInOrder(t *testing.T) {
	l := queue.NewLedger(10)
	reserve := func(memory int64) *queue.Reservation {
		r, err := l.Reserve(queue.Need{Memory: memory}, true)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	first, large, givesUp, small, last := reserve(6), reserve(8), reserve(3), reserve(1), reserve(2)
	if !isReady(first) || isReady(large) || isReady(givesUp) || isReady(small) || isReady(last) {
		t.Fatal("somebody was served out of order")
	}
	if _, err := l.Reserve(queue.Need{Memory: 1}, false); !errors.Is(err, queue.ErrNoRoom) || !strings.Contains(err.Error(), "4 jobs wait") {
		t.Errorf("one that waits for nothing came before those who wait: %v", err)
	}
	givesUp.Release()
	first.Keep(3)
	if isReady(large) || isReady(small) {
		t.Fatal("there is no room for it yet")
	}
	first.Release()
	if !isReady(large) || !isReady(small) || isReady(last) || isReady(givesUp) {
		t.Fatal("the next two fit, and no other")
	}
	if got := l.Balance().Reserved; got != 9 {
		t.Errorf("%d reserved", got)
	}
	large.Release()
	if !isReady(last) {
		t.Error("the last one was forgotten")
	}
}

// TestNoMoreThanSoManyWait: each who waits holds a connection.
func TestNoMoreThanSoManyWait(t *testing.T) {
	l := queue.NewLedger(1)
	for i := range 1 + 64 { // one has room
		if _, err := l.Reserve(queue.Need{Memory: 1}, true); err != nil {
			t.Fatalf("%d: %v", i, err)
		}
	}
	if _, err := l.Reserve(queue.Need{Memory: 1}, true); !errors.Is(err, queue.ErrNoRoom) {
		t.Errorf("one more: %v", err)
	}
}

// TestWhatNeverFitsIsRefusedAtOnce, with the numbers.
func TestWhatNeverFitsIsRefusedAtOnce(t *testing.T) {
	l := queue.NewLedger(10)
	_, err := l.Reserve(queue.Need{Assets: 4, Memory: 7}, true)
	if !errors.Is(err, queue.ErrTooLarge) || !strings.Contains(err.Error(), "needs 11 bytes (assets 4, disk 0, sealed outputs 0, memory 7, the enclave's notes 0), and jobs may use 10 together") {
		t.Error(err)
	}
}
