package machine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
)

// orphansEvery is how often PID 1 looks for children that it never had. Walls are process namespaces of
// their own and leave none, so that this is for what nobody thought of.
const orphansEvery = time.Minute

// process names one for good: numbers come again, with another start (proc(5)).
type process struct {
	pid   int
	start uint64
}

// ReapOrphans lets go of ended processes that fell to PID 1 because whoever started them is gone, until ctx ends.
// One that this process started itself is waited for by whoever did so, at once: what is still there
// the next time belongs to nobody.
func ReapOrphans(ctx context.Context) {
	tick := time.NewTicker(orphansEvery)
	defer tick.Stop()
	var before map[process]bool
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		before = reap(before)
	}
}

// reap lets go of those ended children that were there before, and gives the others.
func reap(before map[process]bool) map[process]bool {
	ended, err := endedChildren()
	if err != nil {
		return nil // there is a next time
	}
	for child := range ended {
		if before[child] {
			_, _ = unix.Wait4(child.pid, nil, unix.WNOHANG, nil) // somebody else may have been faster
			delete(ended, child)
		}
	}
	return ended
}

// endedChildren are the children of this process that ended and that nobody waited for.
func endedChildren() (map[process]bool, error) {
	all, err := procfs.AllProcs()
	if err != nil {
		return nil, fmt.Errorf("machine: %w", err)
	}
	ended := map[process]bool{}
	for _, p := range all {
		stat, err := p.Stat()
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("machine: %w", err)
		}
		if stat.State == "Z" && stat.PPID == os.Getpid() {
			ended[process{p.PID, stat.Starttime}] = true
		}
	}
	return ended, nil
}
