package envelope

import (
	"errors"
	"io"
)

// encrypter is the sealing side of a payload: what is written to it reaches w encrypted, on
// another goroutine. It is used by one goroutine.
type encrypter struct {
	*stream
	w     io.Writer
	now   *segment
	index uint32
	free  chan *segment
	order chan *segment
	ended bool // order is closed
	// done is closed when the goroutine has ended; err is why, and may be read then.
	done chan struct{}
	err  error
}

// errClosed says that nothing may be written any more.
var errClosed = errors.New("write after close")

// newEncrypter writes the stream's header. The caller closes the encrypter, whatever happens.
func newEncrypter(w io.Writer, key, aad []byte) (*encrypter, error) {
	opening := newStreamHeader()
	s, err := newStream(key, opening, aad)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(opening); err != nil {
		return nil, err
	}
	free := newSegments()
	e := &encrypter{stream: s, w: w, free: free, order: make(chan *segment, cap(free)), done: make(chan struct{})}
	e.now = (<-free).reuse(0)
	go e.run()
	return e, nil
}

// run writes sealed segments in their order until the first error.
func (e *encrypter) run() {
	defer close(e.done)
	for seg := range e.order {
		seg.work()
		if _, e.err = e.w.Write(seg.data); e.err != nil {
			return
		}
		e.free <- seg
	}
}

// Write takes p over. It may fail for what was written earlier.
func (e *encrypter) Write(p []byte) (n int, err error) {
	if e.now == nil {
		return 0, errClosed
	}
	for len(p) > 0 {
		room := limit(e.index) - tagSize - len(e.now.data)
		if room == 0 { // and something follows: it is not the last
			if err := e.advance(); err != nil {
				return n, err
			}
			continue
		}
		took := min(room, len(p))
		e.now.data = append(e.now.data, p[:took]...)
		p, n = p[took:], n+took
	}
	return n, nil
}

// advance hands the full segment over and takes an empty one.
func (e *encrypter) advance() (err error) {
	if e.index, err = next(e.index); err != nil {
		return err
	}
	e.seal(e.now, false)
	e.order <- e.now // there is room: it holds as many as there are segments
	select {
	case seg := <-e.free:
		e.now = seg.reuse(e.index)
		return nil
	case <-e.done:
		e.now = nil
		return e.err
	}
}

// finish seals what is left as the last segment and waits until all is written.
func (e *encrypter) finish() error {
	if e.now != nil {
		e.seal(e.now, true)
		e.order <- e.now
	}
	return e.abandon()
}

// abandon waits for what was handed over, and leaves the stream without an end if it has none
// yet: it will not open. It may be called after finish.
func (e *encrypter) abandon() error {
	e.now = nil
	if !e.ended {
		e.ended = true
		close(e.order)
	}
	<-e.done
	return e.err
}
