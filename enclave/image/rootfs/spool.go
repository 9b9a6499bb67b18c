package rootfs

import (
	"context"
	"errors"
	"io"
	"os"
)

// spool keeps the content of files that come as a stream, in a file that has no name: nothing is left of it
// when it is closed, however this process ends.
type spool struct {
	file *os.File
	at   int64
	buf  []byte
}

func newSpool() (*spool, error) {
	f, err := os.CreateTemp("", "cloister-image-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &spool{file: f, buf: make([]byte, 256<<10)}, nil
}

func (s *spool) Close() error { return s.file.Close() }

// keep takes size bytes, and gives what opens them.
func (s *spool) keep(from io.Reader, size int64) (func() (io.ReadCloser, error), error) {
	at := s.at
	n, err := io.CopyBuffer(struct{ io.Writer }{s.file}, struct{ io.Reader }{io.LimitReader(from, size)}, s.buf)
	s.at += n
	if err == nil && n != size {
		err = io.ErrUnexpectedEOF
	}
	return func() (io.ReadCloser, error) { return io.NopCloser(io.NewSectionReader(s.file, at, size)), nil }, err
}

// bounded reads what is unpacked: until ctx ends, and no more than a source may hold, with what holds it.
type bounded struct {
	ctx  context.Context
	from io.Reader
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	if err := context.Cause(b.ctx); err != nil {
		return 0, err
	}
	n, err := b.from.Read(p[:min(int64(len(p)), b.left+1)])
	if b.left -= int64(n); b.left < 0 {
		return 0, refuse("it holds more than %d GiB", maxBytes>>30)
	}
	return n, err
}
