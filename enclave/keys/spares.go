package keys

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"errors"
)

// spareKeys is how many single-use keys lie ready: as many as assets of one job commonly have, since
// making one takes longer than all the rest of a request.
const spareKeys = 4

// spares makes single-use keys ahead of the requests. It is safe for concurrent use.
type spares struct {
	ready         chan *rsa.PrivateKey
	stop, stopped chan struct{}
	// err is set before stopped is closed.
	err error
}

func newSpares() *spares {
	s := &spares{ready: make(chan *rsa.PrivateKey, spareKeys-1), stop: make(chan struct{}), stopped: make(chan struct{})}
	go s.fill()
	return s
}

func (s *spares) fill() {
	defer close(s.stopped)
	for {
		key, err := rsa.GenerateKey(rand.Reader, keyBits)
		if err != nil {
			s.err = err
			return
		}
		select {
		case s.ready <- key:
		case <-s.stop:
			s.err = errClosed
			return
		}
	}
}

var errClosed = errors.New("closed")

// take gives a key that nobody else is given.
func (s *spares) take(ctx context.Context) (*rsa.PrivateKey, error) {
	select {
	case key := <-s.ready:
		return key, nil
	case <-s.stopped:
		return nil, s.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// close forgets every key that was not taken.
func (s *spares) close() {
	close(s.stop)
	<-s.stopped
	for len(s.ready) > 0 {
		<-s.ready
	}
}
