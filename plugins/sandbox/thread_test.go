package sandbox

import (
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// A thread that enters the cgroup of a sandbox is not the one whose cgroup /proc/self/cgroup has: otherwise a sandbox
// that starts meanwhile is put inside of the other, and goes with it.
func TestNeverOnTheFirstThread(t *testing.T) {
	const goroutines = 5000
	var running sync.WaitGroup
	tids := make(chan int, goroutines)
	for range goroutines {
		running.Add(1)
		onThread(func() {
			defer running.Done()
			tids <- unix.Gettid()
		})
	}
	running.Wait()
	close(tids)
	seen := map[int]bool{}
	for tid := range tids {
		if tid == unix.Getpid() {
			t.Fatal("on the first thread")
		}
		seen[tid] = true
	}
	t.Logf("%d threads", len(seen))
}
