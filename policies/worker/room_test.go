package worker_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/cloister-run/cloister/policies/abi"
	"github.com/cloister-run/cloister/policies/worker"
	"github.com/cloister-run/cloister/policies/worker/wire"
)

// named is a small policy of its own name, and so of its own digest.
func named(t *testing.T, name string) []byte {
	t.Helper()
	module, err := os.ReadFile("../library/size-cap/size-cap.wasm")
	if err != nil {
		t.Fatal(err)
	}
	return pack(t, module, abi.Manifest{ABI: abi.Version, Name: name})
}

func allows(t *testing.T, p *worker.Policy) {
	t.Helper()
	if d, err := p.Decide(t.Context(), request(abi.Ingress, `{"max_total_bytes": 10}`), abi.Files{}); err != nil || !d.Allow {
		t.Errorf("%+v, %v", d, err)
	}
}

// TestMorePoliciesThanWorkers: they take turns, however many ask at once, and no decision is lost to it.
func TestMorePoliciesThanWorkers(t *testing.T) {
	pool := newPool(t, worker.Config{Workers: 2})
	var all []*worker.Policy
	for i := range 5 {
		all = append(all, load(t, pool, named(t, fmt.Sprintf("p%d", i))))
	}
	var asking sync.WaitGroup
	for range 4 {
		for _, p := range all {
			asking.Go(func() {
				for range 3 {
					allows(t, p)
				}
			})
		}
	}
	asking.Wait()
}

// TestNoMoreWorkersThanThereMayBe: whoever comes to a full house waits as long as it likes, gets a place
// when one ends, and takes none from a worker that is at work.
func TestNoMoreWorkersThanThereMayBe(t *testing.T) {
	var running, most atomic.Int64
	start := walled(filepath.Join(built, "policy"))
	pool := worker.New(worker.Config{Workers: 1, Limits: wire.Limits{CompileTime: 5 * time.Minute, DecideTime: time.Hour},
		Start: func(ctx context.Context, end *os.File) (worker.Process, error) {
			p, err := start(ctx, end)
			if err == nil {
				most.Store(max(most.Load(), running.Add(1)))
			}
			return counted{p, &running}, err
		}})
	defer pool.Close()
	other, hostile := load(t, pool, named(t, "other")), load(t, pool, probe(t))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error)
	atWork := announcing{fstest.MapFS{}, make(chan struct{}), new(sync.Once)}
	go func() {
		_, err := hostile.Decide(ctx, request(abi.Egress, `"look"`), abi.Files{Artifacts: atWork})
		ended <- err
	}()
	<-atWork.seen
	short, stop := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer stop()
	if _, err := pool.Load(short, named(t, "late")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("it came into a full house: %v", err)
	}
	if err := other.CheckConfig(short, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("it asked in a full house: %v", err)
	}
	loaded := make(chan *worker.Policy)
	go func() {
		p, err := pool.Load(t.Context(), named(t, "next"))
		if err != nil {
			t.Error(err)
		}
		loaded <- p
	}()
	select {
	case <-loaded:
		t.Fatal("it came into a full house")
	case err := <-ended:
		t.Fatalf("a worker at work was ended: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if p := <-loaded; p != nil {
		allows(t, p)
	}
	if most.Load() != 1 {
		t.Errorf("%d workers at once", most.Load())
	}
}

// announcing is a file system that says when somebody opens something in it.
type announcing struct {
	fstest.MapFS
	seen chan struct{}
	once *sync.Once
}

func (a announcing) Open(name string) (fs.File, error) {
	a.once.Do(func() { close(a.seen) })
	return a.MapFS.Open(name)
}

// counted counts a process as long as it runs.
type counted struct {
	worker.Process
	running *atomic.Int64
}

func (c counted) Wait() (int, error) {
	defer c.running.Add(-1)
	return c.Process.Wait()
}

// TestALoadThatNobodyWaitsForEnds: it holds no worker's place.
func TestALoadThatNobodyWaitsForEnds(t *testing.T) {
	begun := make(chan context.Context, 1)
	pool := worker.New(worker.Config{Workers: 1, Start: func(ctx context.Context, _ *os.File) (worker.Process, error) {
		begun <- ctx
		<-ctx.Done()
		return nil, ctx.Err()
	}})
	defer pool.Close()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() {
		_, err := pool.Load(ctx, named(t, "slow"))
		ended <- err
	}()
	shared := <-begun
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	<-shared.Done()
}
