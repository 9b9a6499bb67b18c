package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/cloister-run/cloister/core"
	"github.com/cloister-run/cloister/enclave/wire"
)

// exchange is one call and its answer. A caller that does nothing for the grace is cut off
// wherever the call is: every read and write through reader and writer extends a deadline, and
// end leaves one for what net/http reads and writes after the handler. One goroutine uses it.
type exchange struct {
	http.ResponseWriter
	request *http.Request
	control *http.ResponseController
	grace   time.Duration
	// begun says that the answer has a status.
	begun bool
	open  []*quiet
}

func newExchange(w http.ResponseWriter, r *http.Request, grace time.Duration) *exchange {
	x := &exchange{ResponseWriter: w, request: r, control: http.NewResponseController(w), grace: grace}
	if r.ContentLength != 0 {
		// Whoever does not read the body leaves that to net/http. Without a body there must be
		// no deadline: net/http waits for the caller to go away, and would take it for that.
		_ = x.control.SetReadDeadline(time.Now().Add(grace)) // it fails on no connection of ours
	}
	return x
}

// linger is how long a caller whose upload was cut off may go on sending before it is answered:
// whoever is in the midst of it reads the answer only then.
const linger = 500 * time.Millisecond

// end lets nothing of this call touch the connection any more.
func (x *exchange) end() {
	now := time.Now()
	reads := now.Add(x.grace)
	for _, q := range x.open {
		if cut := q.end(); cut && q.from != nil {
			reads = now.Add(min(x.grace, linger)) // net/http reads on before it answers
		}
	}
	_ = x.control.SetReadDeadline(reads)
	_ = x.control.SetWriteDeadline(now.Add(x.grace))
}

func (x *exchange) WriteHeader(status int) {
	x.begun = true
	x.ResponseWriter.WriteHeader(status)
}

func (x *exchange) Write(p []byte) (int, error) {
	x.begun = true
	return x.ResponseWriter.Write(p)
}

func (x *exchange) flush() error {
	if err := x.writer().extend(); err != nil {
		return err
	}
	return x.control.Flush()
}

// reader reads the body. Its errors are the caller's doing.
func (x *exchange) reader() *quiet {
	return x.quiet(&quiet{from: x.request.Body, set: x.control.SetReadDeadline})
}

// writer writes the answer.
func (x *exchange) writer() *quiet {
	return x.quiet(&quiet{to: x, set: x.control.SetWriteDeadline})
}

func (x *exchange) quiet(q *quiet) *quiet {
	q.grace = x.grace
	x.open = append(x.open, q)
	return q
}

func (x *exchange) answer(status int, body any) error {
	raw, err := json.Marshal(body)
	if err != nil {
		return err
	}
	x.Header().Set("Content-Type", wire.JSONType)
	x.WriteHeader(status)
	_, err = x.writer().Write(raw)
	return err
}

// quiet extends a deadline before every read or write, so that a caller that does nothing is
// cut off and one that is slow is not. Close may come from another goroutine, and ends a read
// or write under way.
type quiet struct {
	from  io.Reader
	to    io.Writer
	grace time.Duration

	mu sync.Mutex
	// set sets the deadline of the connection; nil when it is somebody else's.
	set    func(time.Time) error
	closed bool
}

var errCut = errors.New("cut off")

func (q *quiet) Read(p []byte) (int, error) {
	if err := q.extend(); err != nil {
		return 0, err
	}
	n, err := q.from.Read(p)
	if errors.Is(err, io.EOF) {
		q.lift()
		return n, err
	}
	if err != nil {
		return n, fmt.Errorf("%w: reading the body: %w", core.ErrInvalid, err)
	}
	return n, nil
}

func (q *quiet) Write(p []byte) (int, error) {
	if err := q.extend(); err != nil {
		return 0, err
	}
	return q.to.Write(p)
}

// Close lets no read or write begin, and ends one under way: a write at once, a read soon. A read
// that is cut spoils the body for net/http, which then hangs up on whoever is in the midst of
// sending before they read the answer; most reads end by themselves.
func (q *quiet) Close() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	switch {
	case q.set == nil:
		return nil
	case q.from != nil:
		return q.set(time.Now().Add(min(q.grace, linger)))
	default:
		return q.set(time.Unix(1, 0)) // long ago
	}
}

func (q *quiet) extend() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || q.set == nil {
		return errCut
	}
	return q.set(time.Now().Add(q.grace))
}

// lift takes the deadline away at the end of the body, behind which net/http waits for the
// caller to go away.
func (q *quiet) lift() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.closed && q.set != nil {
		_ = q.set(time.Time{})
	}
}

// end is called when the call is over. It says whether Close came before.
func (q *quiet) end() (cut bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.set = nil
	return q.closed
}

// releaseWriter sends headers with the first byte, so that an error before it can still be
// answered as one.
type releaseWriter struct {
	*quiet
	x *exchange
}

func (r *releaseWriter) begin() {
	if !r.x.begun {
		r.x.Header().Set("Content-Type", wire.BulkType)
		r.x.Header().Set("Trailer", wire.EndTrailer)
		r.x.WriteHeader(http.StatusOK)
	}
}

func (r *releaseWriter) Write(p []byte) (int, error) {
	r.begin()
	return r.quiet.Write(p)
}
