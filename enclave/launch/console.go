package launch

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/enclave/image"
)

// maxPipe is the most that the kernel holds of a pipe that nobody widened (pipe(7)).
const maxPipe = 64 << 10

// console keeps the last of what an enclave writes, and waits for the line that it is ready.
type console struct {
	from *os.File
	keep int // bytes

	mu    sync.Mutex
	kept  []byte
	gone  int64         // bytes that were, before what is kept
	more  chan struct{} // closed when there is more
	seen  bool          // ready is closed
	ready chan struct{}
	ended chan struct{}
}

func newConsole(keep int) (*console, *os.File, error) {
	from, to, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	c := &console{from: from, keep: keep, more: make(chan struct{}), ready: make(chan struct{}), ended: make(chan struct{})}
	go c.read()
	return c, to, nil
}

func (c *console) read() {
	defer close(c.ended)
	defer c.from.Close() // a pipe that was only read
	buf := make([]byte, 4096)
	for {
		n, err := c.from.Read(buf)
		c.add(buf[:n])
		if err != nil {
			break
		}
	}
	c.drain(buf)
}

func (c *console) add(text []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kept = append(c.kept, text...)
	over := max(0, len(c.kept)-c.keep)
	c.kept, c.gone = c.kept[over:], c.gone+int64(over)
	close(c.more)
	c.more = make(chan struct{})
	// The line may have begun in what was read before.
	if !c.seen && bytes.Contains(c.kept[max(0, len(c.kept)-len(text)-len(image.Ready)):], []byte(image.Ready+"\n")) {
		c.seen = true
		close(c.ready)
	}
}

// drain takes what the pipe holds when the console is closed: the last words of whoever ended. It waits for nobody
// who still has the other end.
func (c *console) drain(buf []byte) {
	_ = c.from.SetReadDeadline(time.Time{}) // a pipe has deadlines
	raw, err := c.from.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Read(func(fd uintptr) bool { // fails where the pipe ended, and then is empty
		for left := maxPipe; left > 0; {
			n, err := unix.Read(int(fd), buf)
			if n <= 0 && err != unix.EINTR {
				break
			}
			c.add(buf[:max(n, 0)])
			left -= max(n, 0)
		}
		return true
	})
}

// wait returns when the enclave is ready, or says what it wrote instead.
func (c *console) wait(ctx context.Context) error {
	select {
	case <-c.ready:
		return nil
	case <-c.ended:
		select {
		case <-c.ready: // and ended at once
			return nil
		default:
		}
		return fmt.Errorf("%w:%s", ErrStart, lastWords(c.String()))
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (c *console) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(c.kept)
}

// follow writes what is kept, and then whatever comes, until the console ends or ctx does.
func (c *console) follow(ctx context.Context, w io.Writer) error {
	for at, last := int64(0), false; ; {
		c.mu.Lock()
		at = max(at, c.gone)
		text, more := bytes.Clone(c.kept[at-c.gone:]), c.more
		c.mu.Unlock()
		if len(text) > 0 {
			if _, err := w.Write(text); err != nil {
				return fmt.Errorf("launch: the console: %w", err)
			}
			at += int64(len(text))
			continue
		}
		if last {
			return nil
		}
		select {
		case <-more:
		case <-c.ended:
			last = true // what came before the end may have come since
		case <-ctx.Done():
			return nil
		}
	}
}

// Bounds of last words: what comes before says less, and they go through pipes and onto terminals.
const (
	maxLastLines = 20
	maxLastWords = 8 << 10 // bytes
)

// lastWords are the end of what a console says, if anything, below an error.
func lastWords(console string) string {
	said := strings.TrimSpace(console)
	if said == "" {
		return ""
	}
	said = said[max(0, len(said)-maxLastWords):]
	all := strings.Split(said, "\n")
	return "\n" + strings.ToValidUTF8(strings.Join(all[max(0, len(all)-maxLastLines):], "\n"), "�")
}

// close ends the console with what was written before, whoever still has the other end.
func (c *console) close() {
	_ = c.from.SetReadDeadline(time.Now()) // fails where it ended already
	<-c.ended
}
