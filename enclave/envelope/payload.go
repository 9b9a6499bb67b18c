package envelope

import (
	"context"
	"errors"
	"hash"
	"io"

	"github.com/cloister-run/cloister/core/tree"
)

// Payload is the content of a bundle on its way out: a tar stream. It is used by one goroutine.
type Payload struct {
	*stream
	ctx    context.Context
	cancel context.CancelFunc
	r      io.Reader
	free   chan *segment
	order  chan *segment
	// now is the segment being given out, rest what is left of it.
	now  *segment
	rest []byte
	err  error
	// whole hashes the bundle. It belongs to the goroutine until order is closed.
	whole hash.Hash
	// readErr is how r ended, and may be read when order is closed; nil for a good end.
	readErr error
}

var _ io.ReadCloser = (*Payload)(nil)

// newPayload reads the stream's header, and begins to read ahead.
func newPayload(ctx context.Context, r io.Reader, whole hash.Hash, key, aad []byte) (*Payload, error) {
	opening := make([]byte, streamHeader)
	if n, err := io.ReadFull(r, opening); n < streamHeader && ended(err) {
		return nil, fail(ErrTruncated, "get it again, whole", "it ends before the payload begins")
	} else if err != nil {
		return nil, err
	}
	if opening[0] != streamHeader {
		return nil, fail(ErrTampered, "get the bundle from its owner again", "the payload does not begin as one does")
	}
	whole.Write(opening)
	s, err := newStream(key, opening, aad)
	if err != nil {
		return nil, err
	}
	free := newSegments()
	p := &Payload{stream: s, r: r, whole: whole, free: free, order: make(chan *segment, cap(free))}
	p.ctx, p.cancel = context.WithCancel(ctx)
	go p.run()
	return p, nil
}

func ended(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }

// run reads segments, hashes them and sends each on to be opened. A segment waits until the
// next one has begun, or r has ended: only then it is known whether it is the last.
func (p *Payload) run() {
	defer close(p.order)
	var held *segment
	for index := uint32(0); ; {
		seg, err := p.read(index)
		if err != nil {
			p.readErr = err
			return
		}
		if len(seg.data) == 0 {
			if held == nil {
				p.readErr = fail(ErrTruncated, "get it again, whole", "it ends where the payload begins")
				return
			}
			p.open(held, true)
			p.order <- held
			return
		}
		if held != nil {
			p.open(held, false)
			p.order <- held // there is room: it holds as many as there are segments
		}
		held = seg
		if index, p.readErr = next(index); p.readErr != nil {
			return
		}
	}
}

// read fills a segment as far as r has bytes for it.
func (p *Payload) read(index uint32) (*segment, error) {
	var seg *segment
	select {
	case seg = <-p.free:
	case <-p.ctx.Done():
		return nil, p.ctx.Err()
	}
	n, err := io.ReadFull(p.r, seg.reuse(index).buf[:limit(index)])
	if err != nil && !ended(err) {
		return nil, err
	}
	seg.data = seg.buf[:n]
	p.whole.Write(seg.data)
	return seg, nil
}

// Read gives authenticated plaintext. It returns io.EOF if and only if the payload was read to
// its authenticated end and nothing follows it; the error of a payload that was changed wraps
// [ErrTampered] or [ErrTruncated]. Every later Read returns the same.
func (p *Payload) Read(b []byte) (int, error) {
	for len(p.rest) == 0 && p.err == nil {
		p.advance()
	}
	if len(p.rest) == 0 {
		return 0, p.err
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

// advance takes the next segment, or the end.
func (p *Payload) advance() {
	if p.now != nil {
		p.free <- p.now // there is room: it came from there
		p.now = nil
	}
	if p.ctx.Err() != nil {
		p.err = wrap(p.ctx.Err())
		return
	}
	select {
	case seg, more := <-p.order:
		if !more {
			p.err = io.EOF
			if p.readErr != nil {
				p.err = wrap(p.readErr)
			}
			return
		}
		seg.work()
		if seg.err != nil {
			p.err = wrap(seg.err)
			p.cancel()
			return
		}
		p.now, p.rest = seg, seg.data
	case <-p.ctx.Done():
		p.err = wrap(p.ctx.Err())
	}
}

// errReadClosed says that the payload was closed.
var errReadClosed = errors.New("envelope: read after close")

// Close stops reading ahead. It does not close the reader that the bundle came from: one that
// blocks for ever keeps a goroutine until it is closed.
func (p *Payload) Close() error {
	p.cancel()
	p.rest = nil
	if p.err == nil {
		p.err = errReadClosed
	}
	return nil
}

// Digest is the "sha256:…" of all bytes of the bundle, from the first to the last. It is empty
// until Read has returned io.EOF.
func (p *Payload) Digest() string {
	if p.err != io.EOF { //nolint:errorlint // this very value, set above
		return ""
	}
	return tree.Hex(p.whole.Sum(nil))
}
