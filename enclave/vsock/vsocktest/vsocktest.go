// Package vsocktest holds connections between two sides to what Cloister relies on, over AF_VSOCK or whatever
// stands in for it: one side runs [Serve], the other one [Exercise], in one process or in two machines. It is
// for tests, and needs nothing of package testing, so that a machine without tests can run one side of it.
//
// It trusts both sides. Every connection begins with one byte, which says what is tried.
package vsocktest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// What is tried. After the first byte:
const (
	echo  = 'e' // the server sends back what comes, and ends when the client has ended
	late  = 'l' // the server waits for the client's end, and then sends much
	early = 'y' // the server ends at once, takes all that comes, and tells whoever asks by count
	count = 'c' // the server sends how many early ones came to their end with as much as there was
	flood = 'f' // the server sends without end
	deaf  = 'd' // the server reads nothing until the client is gone
	leave = 'x' // the server goes without a word in the middle
)

// much is more than sockets hold by themselves, many is how many of each kind run side by side.
const (
	much = 4 << 20
	many = 8
)

// Serve serves whoever connects until the listener is closed, and then waits for all of them.
func Serve(l net.Listener) error {
	s := &server{gone: make(chan struct{})}
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			close(s.gone)
			s.running.Wait()
			return nil
		}
		if err != nil {
			return fmt.Errorf("vsocktest: %w", err)
		}
		s.running.Go(func() {
			defer conn.Close()
			s.serve(conn)
		})
	}
}

type server struct {
	running sync.WaitGroup
	gone    chan struct{}

	mu    sync.Mutex
	whole byte // early ones of which all came
}

func (s *server) serve(conn net.Conn) {
	what := make([]byte, 1)
	if _, err := io.ReadFull(conn, what); err != nil {
		return
	}
	switch what[0] {
	case echo:
		_, _ = io.Copy(conn, conn)
		_ = end(conn)
	case late:
		_, _ = io.Copy(io.Discard, conn)
		_, _ = conn.Write(make([]byte, much))
	case early:
		_ = end(conn)
		if n, err := io.Copy(io.Discard, conn); n == much && err == nil {
			s.mu.Lock()
			s.whole++
			s.mu.Unlock()
		}
	case count:
		s.mu.Lock()
		defer s.mu.Unlock()
		_, _ = conn.Write([]byte{s.whole})
	case flood:
		for err := error(nil); err == nil; {
			_, err = conn.Write(make([]byte, 64<<10))
		}
	case deaf:
		<-s.gone
	case leave:
		_, _ = io.CopyN(io.Discard, conn, much/2)
	}
}

// Exercise tries everything, many at once, and says all that is not as it should be.
func Exercise(ctx context.Context, dial func(ctx context.Context) (net.Conn, error)) error {
	c := &client{ctx: ctx, dial: dial}
	for _, try := range []func() error{c.echo, c.late, c.early, c.flood, c.deaf, c.leave} {
		for range many {
			c.running.Go(func() {
				if err := try(); err != nil {
					c.mu.Lock()
					c.problems = append(c.problems, err)
					c.mu.Unlock()
				}
			})
		}
	}
	c.running.Wait()
	if err := errors.Join(append(c.problems, c.count())...); err != nil {
		return fmt.Errorf("vsocktest: %w", err)
	}
	return nil
}

type client struct {
	ctx     context.Context //nolint:containedctx // that of Exercise
	dial    func(ctx context.Context) (net.Conn, error)
	running sync.WaitGroup

	mu       sync.Mutex
	problems []error
}

// open opens a connection on which something is tried.
func (c *client) open(what byte) (net.Conn, error) {
	conn, err := c.dial(c.ctx)
	if err != nil {
		return nil, err
	}
	if deadline, ok := c.ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	if _, err := conn.Write([]byte{what}); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

func (c *client) echo() error {
	conn, err := c.open(echo)
	if err != nil {
		return err
	}
	defer conn.Close()
	said := make([]byte, much)
	for i := range said {
		said[i] = byte(i * i >> 8)
	}
	sent := make(chan error, 1)
	go func() {
		_, err := conn.Write(said)
		sent <- errors.Join(err, end(conn))
	}()
	heard, err := io.ReadAll(conn)
	if err := errors.Join(err, <-sent); err != nil || !bytes.Equal(heard, said) {
		return fmt.Errorf("echo: %d of %d bytes came back: %w", len(heard), len(said), err)
	}
	return nil
}

func (c *client) late() error {
	conn, err := c.open(late)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := end(conn); err != nil {
		return fmt.Errorf("late: %w", err)
	}
	if n, err := io.Copy(io.Discard, conn); n != much || err != nil {
		return fmt.Errorf("late: after the end of this side %d of %d bytes came: %w", n, much, err)
	}
	return nil
}

func (c *client) early() error {
	conn, err := c.open(early)
	if err != nil {
		return err
	}
	defer conn.Close()
	if n, err := io.Copy(io.Discard, conn); n != 0 || err != nil {
		return fmt.Errorf("early: %d bytes: %w", n, err)
	}
	if _, err := conn.Write(make([]byte, much)); err != nil {
		return fmt.Errorf("early: after the end of the other side: %w", err)
	}
	return nil
}

// count waits until every early one has told that all came.
func (c *client) count() error {
	for {
		conn, err := c.open(count)
		if err != nil {
			return err
		}
		whole := make([]byte, 1)
		_, err = io.ReadFull(conn, whole)
		_ = conn.Close()
		if err != nil || whole[0]%many == 0 && whole[0] > 0 {
			return err
		}
		select {
		case <-c.ctx.Done():
			return fmt.Errorf("early: of %d only %d came whole: %w", many, whole[0], c.ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (c *client) flood() error {
	conn, err := c.open(flood)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := io.CopyN(io.Discard, conn, much); err != nil {
		return fmt.Errorf("flood: %w", err)
	}
	return nil
}

// deaf says whether a peer that reads nothing keeps nobody for longer than the deadline.
func (c *client) deaf() error {
	conn, err := c.open(deaf)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetWriteDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
		return err
	}
	if n, err := conn.Write(make([]byte, 16*much)); !errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("deaf: %d bytes were taken, and then: %w", n, err)
	}
	return nil
}

// leave says whether a peer that has gone is noticed by who writes.
func (c *client) leave() error {
	conn, err := c.open(leave)
	if err != nil {
		return err
	}
	defer conn.Close()
	if n, err := conn.Write(make([]byte, 16*much)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("leave: %d bytes went to nobody: %w", n, err)
	}
	return nil
}

// end ends one direction.
func end(conn net.Conn) error {
	half, ok := conn.(interface{ CloseWrite() error })
	if !ok {
		return fmt.Errorf("%T has no CloseWrite", conn)
	}
	return half.CloseWrite()
}
