package tree

import (
	"archive/tar"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"syscall"
)

// Source is a file or a folder that can be packed: looked at once, then streamed. Pack, Stream
// and Raw are safe for concurrent use once Digest has returned; nothing else is.
type Source struct {
	root *os.Root
	// only is the one entry of a file source; empty for a folder.
	only    string
	entries []Entry
	// strict refuses second names, and drops executable bits.
	strict bool
	// digested says that Digest has filled in the entries' sums and marks, against which
	// every chunk is held before it is written.
	digested bool
	marks    [][]mark
}

// errChanged says that a file is not what it was when it was looked at or digested.
var errChanged = errors.New("changed since it was looked at")

// Open looks at the file or folder at name, following links to it but none below it: a file
// source bears the name of the file that a link leads to. The caller closes the Source.
func Open(name string, limits Limits) (*Source, error) {
	name, err := filepath.EvalSymlinks(name)
	if err != nil {
		return nil, err
	}
	info, err := os.Lstat(name)
	if err != nil {
		return nil, err
	}
	dir, only := name, ""
	if !info.IsDir() {
		dir, only = filepath.Split(name)
	}
	root, err := os.OpenRoot(cmp.Or(dir, "."))
	if err != nil {
		return nil, err
	}
	return walk(&Source{root: root, only: only}, limits)
}

// Freeze looks at the file or folder called name below dir as an output: no link on the way
// or anywhere in it, no second names. Nobody may write below dir any more.
func Freeze(dir *os.Root, name string, limits Limits) (*Source, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	info, err := lstatAll(dir, name)
	if err != nil {
		return nil, err
	}
	parent, only := name, ""
	if !info.IsDir() {
		parent, only = path.Dir(name), path.Base(name)
	}
	root, err := dir.OpenRoot(parent)
	if err != nil {
		return nil, err
	}
	return walk(&Source{root: root, only: only, strict: true}, limits)
}

// lstatAll refuses a link or a special file at any component of name.
func lstatAll(dir *os.Root, name string) (info fs.FileInfo, err error) {
	for i := range len(name) + 1 {
		if i < len(name) && name[i] != '/' {
			continue
		}
		if info, err = dir.Lstat(name[:i]); err != nil {
			return nil, err
		}
		if err := checkMode(name[:i], info.Mode()); err != nil {
			return nil, err
		}
	}
	return info, nil
}

// walk fills in the entries, and owns s.root until it succeeds.
func walk(s *Source, limits Limits) (_ *Source, err error) {
	defer func() {
		if err != nil {
			_ = s.root.Close()
		}
	}()
	b := budget{limits: limits}
	if s.only != "" {
		if err := b.entry(len(s.only)); err != nil {
			return nil, err
		}
		return s, s.look(s.only, &b)
	}
	return s, s.list(".", &b)
}

// list looks at what a folder holds, in the order of the names.
func (s *Source) list(dir string, b *budget) error {
	names, err := s.names(dir, b)
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, name := range names {
		if err := s.look(path.Join(dir, name), b); err != nil {
			return err
		}
	}
	return nil
}

// names are what a folder holds. They are counted while they are read, before anything is looked at: those of every folder
// above are held meanwhile.
func (s *Source) names(dir string, b *budget) (names []string, err error) {
	f, err := s.root.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for {
		some, err := f.Readdirnames(min(namesAtOnce, b.left()+1))
		for _, name := range some {
			if err := b.entry(len(path.Join(dir, name))); err != nil {
				return nil, err
			}
		}
		names = append(names, some...)
		if errors.Is(err, io.EOF) {
			return names, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// namesAtOnce is how many names are read before they are counted.
const namesAtOnce = 1024

// look looks at a file or folder that was counted.
func (s *Source) look(name string, b *budget) error {
	if err := CheckName(name); err != nil {
		return err
	}
	info, err := s.root.Lstat(name)
	if err != nil {
		return err
	}
	if err := checkMode(name, info.Mode()); err != nil {
		return err
	}
	if info.IsDir() {
		s.entries = append(s.entries, Entry{Path: name, Kind: Folder})
		return s.list(name, b)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); s.strict && (!ok || st.Nlink != 1) {
		return fmt.Errorf("%w: %q has a second name (hard link)", ErrRefused, clip(name))
	}
	kind := byte(File)
	if !s.strict && info.Mode()&0o111 != 0 {
		kind = Executable
	}
	s.entries = append(s.entries, Entry{Path: name, Kind: kind, Size: info.Size()})
	return b.spend(info.Size())
}

// Size is the content in bytes and the number of files, as first looked at.
func (s *Source) Size() (bytes int64, files int) {
	for _, e := range s.entries {
		if e.Kind != Folder {
			bytes += e.Size
			files++
		}
	}
	return bytes, files
}

// Entries counts the files and folders below the root, as first looked at.
func (s *Source) Entries() int { return len(s.entries) }

// Names sums the bytes of the paths of everything in a folder: what a tree carries beside its
// content. The name of a file source is not carried, so it counts nothing.
func (s *Source) Names() (n int64) {
	if s.only != "" {
		return 0
	}
	for _, e := range s.entries {
		n += int64(len(e.Path))
	}
	return n
}

// IsFile reports whether the source is one file, and its name.
func (s *Source) IsFile() (name string, ok bool) { return s.only, s.only != "" }

// FS gives read access to what is packed.
func (s *Source) FS() fs.FS { return s.root.FS() }

// Close releases the folder.
func (s *Source) Close() error { return s.root.Close() }

// Digest reads everything once and says what it is. For a file source the digest is that of
// the tree that holds just this file.
func (s *Source) Digest(ctx context.Context) (Summary, error) {
	entries, marks, err := s.each(ctx, func(Entry) error { return nil }, io.Discard, true)
	if err != nil {
		return Summary{}, err
	}
	s.entries, s.marks, s.digested = entries, marks, true
	return Sum(entries), nil
}

// Pack writes the source as a tar stream whose bytes depend on content and names alone, and
// says what it wrote. A file that changed its size since it was looked at is an error.
//
// After Digest, Pack, Stream and Raw write nothing that Digest did not read: content is
// compared chunk by chunk before it is written, so a change is an error and leaves w with a
// proper prefix of what was digested.
func (s *Source) Pack(ctx context.Context, w io.Writer) (Summary, error) {
	entries, err := s.archive(ctx, w, true)
	if err != nil {
		return Summary{}, err
	}
	return Sum(entries), nil
}

// Stream writes the same tar stream as Pack and sums nothing, unless Digest was called. It is
// for content that something else authenticates, as the AEAD of a sealed bundle does.
func (s *Source) Stream(ctx context.Context, w io.Writer) error {
	_, err := s.archive(ctx, w, false)
	return err
}

func (s *Source) archive(ctx context.Context, w io.Writer, summed bool) ([]Entry, error) {
	archive := tar.NewWriter(w)
	entries, _, err := s.each(ctx, func(e Entry) error {
		h := &tar.Header{Name: e.Path, Typeflag: tar.TypeReg, Mode: 0o644, Size: e.Size, Format: tar.FormatPAX}
		switch e.Kind {
		case Folder:
			h.Name, h.Typeflag, h.Mode = e.Path+"/", tar.TypeDir, 0o755
		case Executable:
			h.Mode = 0o755
		}
		return archive.WriteHeader(h)
	}, archive, summed)
	if err != nil {
		return nil, err
	}
	return entries, archive.Close()
}

// Raw writes the content of a file source, and says what it wrote. See Pack.
func (s *Source) Raw(ctx context.Context, w io.Writer) (Summary, error) {
	if s.only == "" {
		return Summary{}, errors.New("a folder has no content of its own")
	}
	entries, _, err := s.each(ctx, func(Entry) error { return nil }, w, true)
	return Sum(entries), err
}

// each visits every entry: begin, then its content to w. It returns the entries with their
// sums, and their marks, if they were summed, and leaves s as it is.
func (s *Source) each(ctx context.Context, begin func(Entry) error, w io.Writer, summed bool) ([]Entry, [][]mark, error) {
	var m mover
	entries, marks := slices.Clone(s.entries), make([][]mark, len(s.entries))
	for i, e := range entries {
		if err := ctx.Err(); err != nil {
			return nil, nil, err
		}
		if err := begin(e); err != nil {
			return nil, nil, err
		}
		if e.Kind == Folder {
			continue
		}
		read, err := s.copy(ctx, w, i, &m, summed)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", clip(e.Path), err)
		}
		if last := len(read) - 1; last >= 0 {
			entries[i].Sum, marks[i] = read[last], read[:last]
		}
	}
	return entries, marks, nil
}

// copy writes the content of entry i to w and, if it is summed, returns a mark for each chunk;
// the last one is the sum of the whole file. What was digested is summed, whoever asks, and a
// chunk of it written only after it was found to be what it should be.
func (s *Source) copy(ctx context.Context, w io.Writer, i int, m *mover, summed bool) ([]mark, error) {
	f, err := s.root.OpenFile(s.entries[i].Path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	read := func(chunk []byte, last bool) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		return readExactly(f, chunk, last)
	}
	if !summed && !s.digested {
		return nil, m.move(ctx, w, s.entries[i].Size, read, nil)
	}
	var marks []mark
	err = m.move(ctx, w, s.entries[i].Size, read, func(at mark) error {
		marks = append(marks, at)
		if s.digested && !s.matches(i, marks) {
			return errChanged
		}
		return nil
	})
	return marks, err
}

// readExactly fills chunk, and makes sure that f ends there if it is the last one.
func readExactly(f *os.File, chunk []byte, last bool) error {
	if _, err := io.ReadFull(f, chunk); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errChanged
	} else if err != nil {
		return err
	}
	if !last {
		return nil
	}
	if more, _ := f.Read(make([]byte, 1)); more != 0 {
		return errChanged
	}
	return nil
}

// matches compares the last of marks with what Digest saw at the same place of entry i.
func (s *Source) matches(i int, marks []mark) bool {
	at := len(marks) - 1
	if at < len(s.marks[i]) {
		return marks[at] == s.marks[i][at]
	}
	return marks[at] == s.entries[i].Sum
}

// FileSum is the digest of the content of a file source, after Digest.
func (s *Source) FileSum() string {
	if s.only == "" || !s.digested {
		return ""
	}
	return Hex(s.entries[0].Sum[:])
}
