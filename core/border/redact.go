package border

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/cloister-run/cloister/core/tree"
	"github.com/cloister-run/cloister/policies/abi"
)

// redact lets every policy that declares one of the artifacts replace it, one after the other in
// the order of asking: each finds what the one before left. What comes of it counts for nothing
// until every policy has judged it at egress.
//
// To the operator this is a part of egress: how far a job got in here depends on what was judged.
func (b *Border) redact(ctx context.Context, request abi.Request, c *Clearance, leaving Leaving) error {
	request.Point = abi.Redact
	for start, end := range b.ranks() {
		var denials []Denial
		for i := start; i < end; i++ {
			if !redacts(b.parties[i].Manifest, c.Artifacts()) {
				continue
			}
			denial := b.redactOne(ctx, request, c, leaving, i)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if denial != nil {
				denials = append(denials, *denial)
			}
		}
		if err := b.verdict(abi.Egress, denials); err != nil {
			return err
		}
	}
	return nil
}

func redacts(m abi.Manifest, artifacts []abi.Artifact) bool {
	for _, a := range artifacts {
		if m.RedactsChannel(a.Channel) {
			return true
		}
	}
	return false
}

// redactOne asks party i and puts what it wrote in the place of what it named.
func (b *Border) redactOne(ctx context.Context, request abi.Request, c *Clearance, leaving Leaving, i int) *Denial {
	into, err := newSink(leaving, "redacted-"+strconv.Itoa(i), b.parties[i].Manifest, c.Artifacts(), maxEntries)
	if err != nil {
		return b.fail(abi.Redact, i, err)
	}
	defer into.close() // what was not taken goes
	files := c.shows(leaving)(b.parties[i])
	files.Redacted = into
	request.Artifacts = c.Artifacts()
	answer, denial := b.askOne(ctx, request, files, i)
	into.stop()
	if denial != nil {
		return denial
	}
	for _, ch := range answer.Redacted {
		if err := c.replace(ctx, ch, into, leaving.MaxBytes); err != nil {
			return b.fail(abi.Redact, i, fmt.Errorf("redacted: %s: %w", ch, err))
		}
	}
	return nil
}

// replace puts what is in a sink in the place of a channel's artifact. It is held to all that an
// application's output is held to, and stays what that was, a file or a folder.
func (c *Clearance) replace(ctx context.Context, ch abi.Channel, from *sink, maxBytes int64) error {
	old := c.find(ch)
	if old == nil {
		return ErrNotCleared
	}
	name := string(ch)
	f, err := freeze(ctx, Candidate{Channel: ch, Dir: from.root, Name: name, Tree: old.Kind == "tree"}, tree.Limits{Bytes: maxBytes, Entries: c.left(old)})
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New("nothing was written for it")
	}
	if err != nil {
		return err
	}
	f.drop, f.Recipients = from.keep(name), old.Recipients
	err = old.source.Close()
	if old.drop != nil {
		err = errors.Join(err, old.drop())
	}
	*old = f
	return err
}

// sink takes what one policy writes in the place of artifacts, in a folder of its own.
type sink struct {
	scratch *os.Root
	dir     string
	root    *os.Root
	// may are the channels that the policy can write.
	may map[string]bool
	// bytes and entries are what it may still write.
	bytes   int64
	entries int
	open    map[*sinkFile]struct{}
	stopped bool
	// kept are the channels whose replacement was taken.
	kept map[string]bool
}

var _ abi.Sink = (*sink)(nil)

func newSink(leaving Leaving, dir string, m abi.Manifest, artifacts []abi.Artifact, entries int) (*sink, error) {
	if err := leaving.Scratch.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	root, err := leaving.Scratch.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	s := &sink{
		scratch: leaving.Scratch, dir: dir, root: root, may: map[string]bool{},
		bytes: leaving.MaxBytes, entries: entries, open: map[*sinkFile]struct{}{}, kept: map[string]bool{},
	}
	for _, a := range artifacts {
		s.may[string(a.Channel)] = m.RedactsChannel(a.Channel)
	}
	return s, nil
}

// Mkdir makes a folder.
func (s *sink) Mkdir(name string) error {
	if err := s.enter(name); err != nil {
		return &fs.PathError{Op: "mkdir", Path: name, Err: err}
	}
	return s.root.Mkdir(name, 0o700)
}

// Create makes a file.
func (s *sink) Create(name string) (io.WriteCloser, error) {
	if err := s.enter(name); err != nil {
		return nil, &fs.PathError{Op: "create", Path: name, Err: err}
	}
	file, err := s.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	f := &sinkFile{sink: s, file: file}
	s.open[f] = struct{}{}
	return f, nil
}

// enter counts one more name, if it is one that may be written.
func (s *sink) enter(name string) error {
	channel, _, _ := strings.Cut(name, "/")
	switch {
	case !fs.ValidPath(name):
		return fs.ErrInvalid
	case s.stopped || !s.may[channel]:
		return fs.ErrPermission
	case s.entries == 0:
		return syscall.ENOSPC
	}
	s.entries--
	return nil
}

// stop ends all writing.
func (s *sink) stop() {
	s.stopped = true
	for f := range s.open {
		_ = f.Close()
	}
}

// keep keeps a replacement until the function that it returns is called.
func (s *sink) keep(name string) (drop func() error) {
	s.kept[name] = true
	scratch, at := s.scratch, s.dir+"/"+name
	return func() error { return scratch.RemoveAll(at) }
}

// close ends all writing and removes everything that was not kept; where it fails, what is left
// goes with the job.
func (s *sink) close() {
	s.stop()
	for name := range s.may {
		if !s.kept[name] {
			_ = s.root.RemoveAll(name)
		}
	}
	_ = s.root.Close()
}

// sinkFile is a file that a policy writes from its beginning to its end.
type sinkFile struct {
	sink *sink
	file *os.File
}

func (f *sinkFile) Write(p []byte) (int, error) {
	if int64(len(p)) > f.sink.bytes {
		return 0, syscall.ENOSPC
	}
	n, err := f.file.Write(p)
	f.sink.bytes -= int64(n)
	return n, err
}

func (f *sinkFile) Close() error {
	delete(f.sink.open, f)
	return f.file.Close()
}
