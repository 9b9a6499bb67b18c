package launch

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"github.com/cloister-run/cloister/enclave/image"
)

// console keeps the last of what an enclave writes, and waits for the line that it is ready.
type console struct {
	from *os.File
	keep int // bytes

	mu    sync.Mutex
	kept  []byte
	gone  int64         // bytes that were, before what is kept
	more  chan struct{} // closed when there is more
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
	buf := make([]byte, 4096)
	seen := false
	for {
		n, err := c.from.Read(buf)
		c.mu.Lock()
		c.kept = append(c.kept, buf[:n]...)
		over := max(0, len(c.kept)-c.keep)
		c.kept, c.gone = c.kept[over:], c.gone+int64(over)
		// The line may have begun in what was read before.
		found := !seen && bytes.Contains(c.kept[max(0, len(c.kept)-n-len(image.Ready)):], []byte(image.Ready+"\n"))
		close(c.more)
		c.more = make(chan struct{})
		c.mu.Unlock()
		if found {
			seen = true
			close(c.ready)
		}
		if err != nil {
			return
		}
	}
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
		return fmt.Errorf("%w: %s", ErrStart, strings.TrimSpace(c.String()))
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

func (c *console) close() {
	_ = c.from.Close() // a pipe that was only read
	<-c.ended
}
