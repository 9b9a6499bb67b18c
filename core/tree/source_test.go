package tree_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cloister-run/cloister/core/tree"
)

func open(t *testing.T, name string) *tree.Source {
	t.Helper()
	s, err := tree.Open(name, tree.Limits{Bytes: 1 << 30, Entries: 100})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// TestAfterDigestOnlyWhatWasDigestedIsWritten: every chunk is compared before it is written.
func TestAfterDigestOnlyWhatWasDigestedIsWritten(t *testing.T) {
	const chunk = 1 << 20
	content := strings.Repeat("a", chunk) + strings.Repeat("b", chunk) + "c"
	for rule, row := range map[string]struct {
		content string
		written int
	}{
		"the same":                   {content, len(content)},
		"another first chunk":        {"X" + content[1:], 0},
		"another second chunk":       {content[:chunk] + "X" + content[chunk+1:], chunk},
		"another last chunk":         {content[:2*chunk] + "X", 2 * chunk},
		"chunks that changed places": {content[chunk:2*chunk] + content[:chunk] + "c", 0},
		"shorter":                    {content[:chunk+7], chunk},
		"longer":                     {content + "X", 2 * chunk},
	} {
		t.Run(rule, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, "x", content, 0o600)
			s := open(t, dir+"/x")
			first, err := s.Digest(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			write(t, dir, "x", row.content, 0o600)
			var out bytes.Buffer
			sum, err := s.Raw(t.Context(), &out)
			if same := row.content == content; (err == nil) != same || (same && sum != first) {
				t.Errorf("got %+v, %v", sum, err)
			}
			if out.Len() != row.written || out.String() != content[:row.written] {
				t.Errorf("wrote %d bytes, want the first %d", out.Len(), row.written)
			}
			out.Reset()
			if _, err := s.Pack(t.Context(), &out); (err == nil) != (row.content == content) || strings.Contains(out.String(), "X") {
				t.Errorf("packed %d bytes, %v", out.Len(), err)
			}
			out.Reset()
			if err := s.Stream(t.Context(), &out); (err == nil) != (row.content == content) || strings.Contains(out.String(), "X") {
				t.Errorf("streamed %d bytes, %v", out.Len(), err)
			}
			if _, err := s.Digest(t.Context()); (err == nil) != (row.content == content) {
				t.Errorf("digested again: %v", err)
			}
		})
	}
}

func TestALinkToAnAssetIsFollowedAndNoneBelowIt(t *testing.T) {
	dir, elsewhere := t.TempDir(), t.TempDir()
	write(t, elsewhere, "model-v3.bin", "weights", 0o600)
	write(t, elsewhere, "scans/1", "scan", 0o600)
	for link, target := range map[string]string{"model": "model-v3.bin", "scans": "scans"} {
		if err := os.Symlink(elsewhere+"/"+target, dir+"/"+link); err != nil {
			t.Fatal(err)
		}
	}
	s := open(t, dir+"/model")
	if name, ok := s.IsFile(); name != "model-v3.bin" || !ok {
		t.Errorf("a file source called %q, %v", name, ok)
	}
	var out bytes.Buffer
	if _, err := s.Raw(t.Context(), &out); err != nil || out.String() != "weights" {
		t.Errorf("read %q, %v", out.String(), err)
	}
	if bytes, files := open(t, dir+"/scans").Size(); bytes != 4 || files != 1 {
		t.Errorf("%d bytes in %d files", bytes, files)
	}
	if _, err := tree.Open(dir, plenty); !errors.Is(err, tree.ErrRefused) {
		t.Errorf("links in a folder: %v", err)
	}
}

func TestWhatHasNoContentOfItsOwn(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "ab/c", "x", 0o600)
	folder, file := open(t, dir), open(t, dir+"/ab/c")
	if _, err := folder.Raw(t.Context(), io.Discard); err == nil {
		t.Error("the raw content of a folder")
	}
	if file.FileSum() != "" {
		t.Error("a sum before Digest")
	}
	for _, s := range []*tree.Source{folder, file} {
		if _, err := s.Digest(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	// SHA-256 of "x", from sha256sum.
	if got := file.FileSum(); got != "sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881" {
		t.Errorf("got %s", got)
	}
	if folder.FileSum() != "" {
		t.Error("the sum of a folder")
	}
	if folder.Names() != int64(len("ab")+len("ab/c")) || file.Names() != 0 {
		t.Errorf("names of %d and %d bytes", folder.Names(), file.Names())
	}
}

// What is not summed is the same as what is: as a stream and as files.
func TestStreamAndExtractAreAsPackAndUnpack(t *testing.T) {
	for name, row := range map[string]struct {
		files map[string]string
		want  tree.Extent
	}{
		"nothing":              {nil, tree.Extent{}},
		"one file":             {map[string]string{"model.bin": "weights"}, tree.Extent{Bytes: 7, Entries: 1, Only: "model.bin"}},
		"an empty file":        {map[string]string{"a": ""}, tree.Extent{Entries: 1, Only: "a"}},
		"one file in a folder": {map[string]string{"a/b": "x"}, tree.Extent{Bytes: 1, Entries: 2}},
		"two files":            {map[string]string{"a": "x", "b": "yz"}, tree.Extent{Bytes: 3, Entries: 2}},
		"files of many sizes": {map[string]string{"a": strings.Repeat("a", 3<<20), "b": strings.Repeat("b", 1<<20), "c": strings.Repeat("c", 2<<20+1), "d": "d"},
			tree.Extent{Bytes: 6<<20 + 2, Entries: 4}},
	} {
		t.Run(name, func(t *testing.T) {
			src, dst := t.TempDir(), t.TempDir()
			for file, content := range row.files {
				write(t, src, file, content, 0o700)
			}
			s := open(t, src)
			var packed, streamed bytes.Buffer
			want, err := s.Pack(t.Context(), &packed)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Stream(t.Context(), &streamed); err != nil || !bytes.Equal(streamed.Bytes(), packed.Bytes()) {
				t.Fatalf("streamed %d bytes, packed %d: %v", streamed.Len(), packed.Len(), err)
			}
			x, err := tree.Extract(t.Context(), &streamed, openRoot(t, dst), tree.Limits{Bytes: 1 << 30, Entries: 9})
			if err != nil || x != row.want {
				t.Errorf("extracted %+v, %v; want %+v", x, err, row.want)
			}
			if got, err := open(t, dst).Digest(t.Context()); err != nil || got != want {
				t.Errorf("extracted %+v, %v; packed %+v", got, err, want)
			}
		})
	}
}

// A folder alone is no file, though it is one entry.
func TestAFolderIsNoFile(t *testing.T) {
	stream := archive(t, &tar.Header{Name: "d/", Typeflag: tar.TypeDir})
	x, err := tree.Extract(t.Context(), bytes.NewReader(stream), openRoot(t, t.TempDir()), plenty)
	if err != nil || x != (tree.Extent{Entries: 1}) {
		t.Errorf("extracted %+v, %v", x, err)
	}
}

// A folder is never listed beyond what may be carried, however many names it has.
func TestTheEntriesOfAllFoldersCount(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a/1", "a/2", "b/1", "b/2"} {
		write(t, dir, name, "", 0o600)
	}
	for entries, ok := range map[int]bool{6: true, 5: false, 4: false, 3: false, 1: false, 0: false} {
		s, err := tree.Open(dir, tree.Limits{Bytes: 1, Entries: entries})
		if (err == nil) != ok || (err != nil && !errors.Is(err, tree.ErrTooLarge)) {
			t.Errorf("6 entries where %d may be: %v", entries, err)
		}
		if err == nil {
			s.Close()
		}
	}
}

func TestReadingEndsWithItsContext(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "x", strings.Repeat("x", 3<<20), 0o600)
	s := open(t, dir)
	var packed bytes.Buffer
	if _, err := s.Pack(t.Context(), &packed); err != nil {
		t.Fatal(err)
	}
	for name, run := range map[string]func(ctx context.Context, counter io.Writer) error{
		"pack":   func(ctx context.Context, counter io.Writer) error { _, err := s.Pack(ctx, counter); return err },
		"stream": s.Stream,
		"unpack": func(ctx context.Context, counter io.Writer) error {
			r := io.TeeReader(bytes.NewReader(packed.Bytes()), counter)
			return unpackers["Unpack"](ctx, r, openRoot(t, t.TempDir()), tree.Limits{Bytes: 1 << 30, Entries: 9})
		},
		"extract": func(ctx context.Context, counter io.Writer) error {
			r := io.TeeReader(bytes.NewReader(packed.Bytes()), counter)
			return unpackers["Extract"](ctx, r, openRoot(t, t.TempDir()), tree.Limits{Bytes: 1 << 30, Entries: 9})
		},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		n := 0
		err := run(ctx, writer(func(p []byte) (int, error) {
			if ctx.Err() != nil {
				t.Errorf("%s: goes on after its end", name)
			}
			if n += len(p); n > 1<<20 {
				cancel()
			}
			return len(p), nil
		}))
		if !errors.Is(err, context.Canceled) || n > 2<<20+1024 {
			t.Errorf("%s: %d bytes: %v", name, n, err)
		}
	}
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

// The sizes in headers are the archive's to choose: nothing is allocated or written for them.
func TestUnpackRefusesWhatAHeaderPromises(t *testing.T) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	if err := w.WriteHeader(file("huge", 1<<50)); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if _, err := tree.Unpack(t.Context(), &out, openRoot(t, dir), plenty); !errors.Is(err, tree.ErrTooLarge) {
		t.Errorf("got %v", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("wrote %v, %v", entries, err)
	}
}

func TestNothingIsOverwritten(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a", "mine", 0o600)
	if _, err := tree.Unpack(t.Context(), bytes.NewReader(archive(t, file("a", 1))), openRoot(t, dir), plenty); !errors.Is(err, os.ErrExist) {
		t.Errorf("got %v", err)
	}
	if content, err := os.ReadFile(dir + "/a"); err != nil || string(content) != "mine" {
		t.Errorf("now %q, %v", content, err)
	}
}

// CheckName is what keeps every name of a stream or a folder below the root and on one line.
func TestCheckName(t *testing.T) {
	for _, name := range []string{"a", "a/b", "..a", "a b", "ü", strings.Repeat("x", 255), strings.Repeat("d/", 63) + "x"} {
		if err := tree.CheckName(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{
		"", ".", "..", "../a", "/", "/a", "a/", "a//b", "a/./b", "a/../b", "a/..", "a\\b", "a\x00", "a\nb", "a\x1b", "a\u202eb", "a\u00a0b",
		"\xff", strings.Repeat("x", 256), strings.Repeat("d/", 64) + "x", strings.Repeat(strings.Repeat("d", 250)+"/", 20) + "x",
	} {
		if err := tree.CheckName(name); !errors.Is(err, tree.ErrRefused) {
			t.Errorf("%q: got %v", name, err)
		}
	}
}

// The order in which a folder was filled does not show in what it packs to.
func TestPackDependsOnContentAndNamesAlone(t *testing.T) {
	var streams [2]bytes.Buffer
	names := strings.Split("dhbfacge", "")
	for i := range streams {
		dir := t.TempDir()
		for _, name := range names {
			write(t, dir, "f/"+name, name, 0o600)
		}
		if _, err := open(t, dir).Pack(t.Context(), &streams[i]); err != nil {
			t.Fatal(err)
		}
		slices.Reverse(names)
	}
	if !bytes.Equal(streams[0].Bytes(), streams[1].Bytes()) {
		t.Error("two folders with the same content pack to different bytes")
	}
	if at := func(name string) int { return bytes.Index(streams[0].Bytes(), []byte("f/"+name)) }; at("a") > at("h") {
		t.Error("the names are not in their order")
	}
}

// TestI1_OnlyContentAndNamesLeave: nothing of what a file system keeps beside them is in what a frozen
// folder packs to, so nobody need judge it.
func TestI1_OnlyContentAndNamesLeave(t *testing.T) {
	pack := func(change func(name string) error) (stream, raw string) {
		dir := t.TempDir()
		write(t, dir, "out/f/x", "same", 0o600)
		for _, name := range []string{"out/f/x", "out/f", "out"} { // a file before the folder that it may vanish in
			if err := change(dir + "/" + name); err != nil {
				t.Fatal(err)
			}
		}
		for name, into := range map[string]*string{"out": &stream, "out/f/x": &raw} {
			s, err := tree.Freeze(openRoot(t, dir), name, plenty)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			var out bytes.Buffer
			if name == "out" {
				_, err = s.Pack(t.Context(), &out)
			} else {
				_, err = s.Raw(t.Context(), &out)
			}
			if err != nil {
				t.Fatal(err)
			}
			*into = out.String()
		}
		return stream, raw
	}
	stream, raw := pack(func(string) error { return nil })
	for what, change := range map[string]func(name string) error{
		"times": func(name string) error { return os.Chtimes(name, time.Unix(4711, 4712), time.Unix(4713, 4714)) },
		"modes": func(name string) error { return os.Chmod(name, 0o777|os.ModeSetuid|os.ModeSetgid|os.ModeSticky) },
		"owners": func(name string) error {
			if os.Geteuid() != 0 {
				return nil // an ordinary user cannot give a file away
			}
			return os.Lchown(name, 4711, 4712)
		},
		"attributes": func(name string) error {
			if err := syscall.Setxattr(name, "user.secret", []byte("SECRET"), 0); !errors.Is(err, syscall.ENOTSUP) {
				return err
			}
			t.Log("there are no attributes here")
			return nil
		},
	} {
		t.Run(what, func(t *testing.T) {
			gotStream, gotRaw := pack(change)
			if gotStream != stream || gotRaw != raw || raw != "same" {
				t.Errorf("%q and %q leave, without them %q and %q", gotStream, gotRaw, stream, raw)
			}
		})
	}
}

// What unpacks has nothing of what an archive says beside names and content either, but for one bit.
func TestI6_UnpackDropsWhatElseAnArchiveSays(t *testing.T) {
	for mode, want := range map[int64]os.FileMode{0o7777: 0o555, 0o6644: 0o444} {
		h := &tar.Header{
			Name: "x", Typeflag: tar.TypeReg, Mode: mode, Uid: 4711, Gid: 4712, ModTime: time.Unix(4713, 0), Format: tar.FormatPAX,
			PAXRecords: map[string]string{"SCHILY.xattr.user.secret": "SECRET"},
		}
		for name, unpack := range unpackers {
			dir := t.TempDir()
			if err := unpack(t.Context(), bytes.NewReader(archive(t, h)), openRoot(t, dir), plenty); err != nil {
				t.Fatal(err)
			}
			info, err := os.Stat(dir + "/x")
			if err != nil {
				t.Fatal(err)
			}
			_, attribute := syscall.Getxattr(dir+"/x", "user.secret", nil)
			if st := info.Sys().(*syscall.Stat_t); info.Mode() != want || int(st.Uid) != os.Geteuid() || st.Mtim.Sec == 4713 || attribute == nil {
				t.Errorf("%s: %v of %d, with %v as attribute, from %v", name, info.Mode(), st.Uid, attribute, info.ModTime())
			}
		}
	}
}

// A hostile folder may have millions of names; they are not read to be refused.
func TestAFolderIsNotReadBeyondItsLimit(t *testing.T) {
	dir := t.TempDir()
	for i := range 3000 {
		write(t, dir, strconv.Itoa(i), "", 0o600)
	}
	allocs := testing.AllocsPerRun(1, func() {
		if _, err := tree.Open(dir, tree.Limits{Bytes: 1, Entries: 1}); !errors.Is(err, tree.ErrTooLarge) {
			t.Errorf("got %v", err)
		}
	})
	if allocs > 1000 {
		t.Errorf("%v allocations for a folder of which 1 entry is allowed", allocs)
	}
}

// Paths are held in memory, for every entry and for every folder that is being read: a hundred thousand empty files with
// long names would take hundreds of megabytes that nobody counts.
func TestPathsAreBoundedTogether(t *testing.T) {
	dir := t.TempDir()
	deep := strings.Repeat(strings.Repeat("d", 250)+"/", 15)
	for i := range 100 {
		write(t, dir, deep+strings.Repeat("f", 200)+strconv.Itoa(i), "", 0o600)
	}
	var stream bytes.Buffer
	s, err := tree.Open(dir, tree.Limits{Bytes: 1, Entries: 2000})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Stream(t.Context(), &stream); err != nil {
		t.Fatal(err)
	}
	// 100 paths of 3970 bytes and their 15 folders; what is freely given is 128 KiB.
	for entries, fits := range map[int]bool{2000: true, 1000: false} {
		limits := tree.Limits{Bytes: 1, Entries: entries}
		looked, err := tree.Open(dir, limits)
		if (err == nil) != fits || !fits && (!errors.Is(err, tree.ErrTooLarge) || !strings.Contains(err.Error(), "paths")) {
			t.Errorf("looking at %d entries: %v", entries, err)
		}
		if err == nil {
			_ = looked.Close()
		}
		_, err = tree.Unpack(t.Context(), bytes.NewReader(stream.Bytes()), openRoot(t, t.TempDir()), limits)
		if (err == nil) != fits || !fits && !errors.Is(err, tree.ErrTooLarge) {
			t.Errorf("unpacking %d entries: %v", entries, err)
		}
	}
}

// One deep file fits, whatever the limit.
func TestTheDeepestFileFits(t *testing.T) {
	name := strings.Repeat(strings.Repeat("d", 60)+"/", 63) + strings.Repeat("f", 60)
	dir := t.TempDir()
	write(t, dir, name, "", 0o600)
	s, err := tree.Open(dir, tree.Limits{Bytes: 1, Entries: 64})
	if err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
}

// What is no longer the file that was looked at is an error, and never a wait.
func TestAFileThatChangedBeforePackIsAnError(t *testing.T) {
	for rule, change := range map[string]func(name string) error{
		"shorter":    func(name string) error { return os.WriteFile(name, []byte("sho"), 0o600) },
		"longer":     func(name string) error { return os.WriteFile(name, []byte("longer"), 0o600) },
		"gone":       os.Remove,
		"a pipe":     func(name string) error { return errors.Join(os.Remove(name), syscall.Mkfifo(name, 0o600)) },
		"a folder":   func(name string) error { return errors.Join(os.Remove(name), os.Mkdir(name, 0o700)) },
		"a link out": func(name string) error { return errors.Join(os.Remove(name), os.Symlink("/etc/hostname", name)) },
	} {
		t.Run(rule, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, "x", "short", 0o600)
			s := open(t, dir)
			if err := change(dir + "/x"); err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 2)
			go func() {
				_, err := s.Pack(context.Background(), io.Discard)
				done <- err
				done <- s.Stream(context.Background(), io.Discard)
			}()
			for range 2 {
				select {
				case err := <-done:
					if err == nil {
						t.Error("packed")
					}
				case <-time.After(10 * time.Second):
					t.Fatal("waits")
				}
			}
		})
	}
}

func TestAFolderWithoutFilesEndsWithItsContext(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(dir+"/d", 0o700); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := open(t, dir).Pack(ctx, io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestFreezeRefusesANameThatIsNotBelow(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "in/x", "", 0o600)
	for _, name := range []string{"", ".", "..", "../x", "/etc/passwd", "in//x", "in/../in/x"} {
		if _, err := tree.Freeze(openRoot(t, dir), name, plenty); !errors.Is(err, tree.ErrRefused) {
			t.Errorf("%q: got %v", name, err)
		}
	}
}
