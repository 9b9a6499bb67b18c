package tree

import (
	"context"
	"crypto/sha256"
	"hash"
	"io"
)

// chunkSize is how much is read, summed and written at a time: large enough that neither
// system calls nor changes of goroutine show in the throughput.
const chunkSize = 1 << 20

// mark is the SHA-256 of a file from its start to the end of one of its chunks. The last one
// is the sum of the file.
type mark = [sha256.Size]byte

// mover carries the content of files, one after another. It is used by one goroutine.
type mover struct {
	bufs [2][]byte
}

// move carries size bytes to w: read fills a chunk with those that come next, and is told which
// is the last. If seen is nil nothing is summed. Otherwise it gets the mark of every chunk, and
// a chunk is written only after seen took its mark.
//
// While a chunk is summed, on another goroutine, the one before it is written and the one
// after it is read. An error of read or seen leaves w with all chunks before the one that it is
// about; once ctx has ended nothing more is written.
func (m *mover) move(ctx context.Context, w io.Writer, size int64, read func(chunk []byte, last bool) error, seen func(mark) error) error {
	s := summer{seen: seen, beside: size > chunkSize, marks: make(chan mark, 1)}
	defer s.stop()
	var held []byte // read and handed to s, not written
	for i := 0; i == 0 || size > 0; i++ {
		chunk := m.buffer(i, size)
		size -= int64(len(chunk))
		readErr := read(chunk, size == 0)
		if err := s.finish(); err != nil {
			return err
		}
		if readErr == nil {
			s.start(chunk)
		}
		if err := put(ctx, w, held); err != nil {
			return err
		}
		if readErr != nil {
			return readErr
		}
		held = chunk
	}
	if err := s.finish(); err != nil {
		return err
	}
	return put(ctx, w, held)
}

// buffer is the one for chunk i where left bytes are left.
func (m *mover) buffer(i int, left int64) []byte {
	n := min(left, chunkSize)
	buf := &m.bufs[i%len(m.bufs)]
	if int64(len(*buf)) < n {
		*buf = make([]byte, n)
	}
	return (*buf)[:n]
}

func put(ctx context.Context, w io.Writer, chunk []byte) error {
	if err := ctx.Err(); err != nil || len(chunk) == 0 {
		return err
	}
	_, err := w.Write(chunk)
	return err
}

// summer sums the chunks of one file in their order, one at a time.
type summer struct {
	seen   func(mark) error // nil: nothing is summed
	beside bool             // on other goroutines; else by whoever calls start
	hash   hash.Hash
	marks  chan mark // has room for one, so that nobody waits to send it
	busy   bool
}

// start begins to sum a chunk. Nobody may change it until finish or stop has returned.
func (s *summer) start(chunk []byte) {
	if s.seen == nil {
		return
	}
	if s.hash == nil {
		s.hash = sha256.New()
	}
	s.busy = true
	sum := func() {
		s.hash.Write(chunk)
		s.marks <- mark(s.hash.Sum(nil))
	}
	if s.beside {
		go sum()
	} else {
		sum()
	}
}

// finish waits for the chunk that was started, if one was, and hands over its mark.
func (s *summer) finish() error {
	if !s.busy {
		return nil
	}
	s.busy = false
	return s.seen(<-s.marks)
}

// stop returns when nothing reads a chunk any more.
func (s *summer) stop() {
	if s.busy {
		<-s.marks
	}
}
