package machine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// orphansEvery is how often PID 1 looks for children that it never had. Walls are process namespaces of
// their own and leave none, so that this is for what nobody thought of.
const orphansEvery = time.Minute

// process names one for good: numbers come again, with another start (proc(5)).
type process struct {
	pid   int
	start string
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
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("machine: %w", err)
	}
	ended := map[process]bool{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		raw, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("machine: %w", err)
		}
		// "PID (NAME) STATE PARENT …"; a name may hold brackets. The start is the 22nd field.
		fields := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:]))
		if len(fields) >= 20 && fields[0] == "Z" && fields[1] == strconv.Itoa(os.Getpid()) {
			ended[process{pid, fields[19]}] = true
		}
	}
	return ended, nil
}
