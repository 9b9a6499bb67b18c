package core

import (
	"fmt"
	"io"
	"os"
	"path"
	"syscall"

	"github.com/cloister-run/cloister/core/border"
	"github.com/cloister-run/cloister/core/space"
	"github.com/cloister-run/cloister/policies/abi"
)

// maxRehearsed bounds what is shown of one log in a rehearsal, in bytes.
const maxRehearsed = 1 << 20

// rehearse keeps the beginning of the application's logs, when nothing can write there any more. Only an
// image whose profile is for rehearsals comes here.
func (c *course) rehearse() {
	work, err := os.OpenRoot(c.space.Work)
	if err != nil {
		return // of a rehearsal nothing depends on it
	}
	defer work.Close()
	logs := map[abi.Channel][]byte{}
	for ch, name := range map[abi.Channel]string{abi.Stdout: "stdout", abi.Stderr: "stderr"} {
		// What stands there is the application's choice: a link, a pipe that nobody writes.
		f, err := work.OpenFile(path.Join(space.Logs, name), os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
		if err != nil {
			continue
		}
		if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
			if log, err := io.ReadAll(io.LimitReader(f, maxRehearsed)); err == nil {
				logs[ch] = log
			}
		}
		_ = f.Close() // it was only read
	}
	c.job.mu.Lock()
	defer c.job.mu.Unlock()
	c.job.rehearsed = logs
}

// Rehearsed gives the beginning of a log of a job that is done, in an image for rehearsals. In any other it
// is [border.ErrNotCleared]; before the job is done [ErrOrder].
func (j *Job) Rehearsed(ch abi.Channel) ([]byte, error) {
	select {
	case <-j.done:
	default:
		return nil, fmt.Errorf("%w: the job is not done", ErrOrder)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	log, ok := j.rehearsed[ch]
	if !ok {
		return nil, fmt.Errorf("%s: %w", ch, border.ErrNotCleared)
	}
	return log, nil
}
