// Package until ends reading with a context: what hashes or looks through gigabytes stops where it is asked to.
//
// It owns no reader and closes none.
package until

import (
	"context"
	"io"
)

// Done reads from r until ctx ends; the error is then ctx's cause. It is used by one goroutine.
func Done(ctx context.Context, r io.Reader) io.Reader { return reader{ctx, r} }

type reader struct {
	ctx  context.Context
	from io.Reader
}

func (r reader) Read(p []byte) (int, error) {
	if err := context.Cause(r.ctx); err != nil {
		return 0, err
	}
	return r.from.Read(p)
}
