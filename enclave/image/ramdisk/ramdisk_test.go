package ramdisk_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/cloister-run/cloister/enclave/image/ramdisk"
)

func file(content string) *ramdisk.Node {
	return &ramdisk.Node{Kind: ramdisk.File, Mode: 0o644, Size: int64(len(content)), Open: func() (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(content)), nil
	}}
}

func folder() *ramdisk.Node { return &ramdisk.Node{Kind: ramdisk.Folder, Mode: 0o755} }

func link(target string) *ramdisk.Node {
	return &ramdisk.Node{Kind: ramdisk.Symlink, Mode: 0o777, Target: target}
}

func sample() []ramdisk.Entry {
	twice := file("shared")
	return []ramdisk.Entry{
		{Name: "etc/passwd", Node: file("root\n")}, {Name: "etc", Node: folder()}, {Name: "empty", Node: file("")},
		{Name: "b", Node: twice}, {Name: "a", Node: twice}, {Name: "etc-more", Node: link("etc")},
		{Name: "dev", Node: folder()}, {Name: "dev/console", Node: &ramdisk.Node{Kind: ramdisk.Device, Mode: 0o600, Major: 5, Minor: 1}},
		{Name: "not \xff utf-8\n", Node: file("x")},
	}
}

func archive(t testing.TB, entries []ramdisk.Entry) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := ramdisk.Write(t.Context(), &b, entries); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func zipped(data []byte) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = z.Write(data)
	_ = z.Close()
	return b.Bytes()
}

// listed is what a reader finds, one line for each name.
func listed(data []byte, most int64) (lines []string, err error) {
	r := ramdisk.NewReader(bytes.NewReader(data), most)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return lines, nil
		}
		if err != nil {
			return lines, err
		}
		content, err := io.ReadAll(r)
		if err != nil {
			return lines, err
		}
		lines = append(lines, fmt.Sprintf("%d/%d %s %o %q %q%s %d:%d", h.Inode, h.Names, h.Kind, h.Mode, h.Name, content, h.Target, h.Major, h.Minor))
	}
}

func wanted() []string {
	return []string{
		`1/2 file 644 "a" "shared" 0:0`, `1/2 file 644 "b" "" 0:0`, `2/1 folder 755 "dev" "" 0:0`, `3/1 character device 600 "dev/console" "" 5:1`,
		`4/1 file 644 "empty" "" 0:0`, `5/1 folder 755 "etc" "" 0:0`, `6/1 symbolic link 777 "etc-more" ""etc 0:0`, `7/1 file 644 "etc/passwd" "root\n" 0:0`,
		`8/1 file 644 "not \xff utf-8\n" "x" 0:0`,
	}
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	data := archive(t, sample())
	if len(data)%512 != 0 {
		t.Errorf("%d bytes", len(data))
	}
	lines, err := listed(data, 1<<20)
	if err != nil || !slices.Equal(lines, wanted()) {
		t.Errorf("%v\n%s", err, strings.Join(lines, "\n"))
	}
}

// An archive's first entry, byte for byte as the kernel's documentation has it.
func TestTheFormat(t *testing.T) {
	data := archive(t, []ramdisk.Entry{{Name: "init", Node: link("cloisterd")}})
	const want = "070701" + "00000001" + "0000a1ff" + "00000000" + "00000000" + "00000001" + "00000000" + "00000009" +
		"00000000" + "00000000" + "00000000" + "00000000" + "00000005" + "00000000" + "init\x00\x00" + "cloisterd\x00\x00\x00" +
		"070701" + "00000000" + "00000000" + "00000000" + "00000000" + "00000001" + "00000000" + "00000000" +
		"00000000" + "00000000" + "00000000" + "00000000" + "0000000b" + "00000000" + "TRAILER!!!\x00\x00\x00\x00"
	if !bytes.HasPrefix(data, []byte(want)) {
		t.Errorf("%q", data)
	}
	if rest := data[len(want):]; len(bytes.Trim(rest, "\x00")) > 0 {
		t.Errorf("%q follows", rest)
	}
}

func TestI10_TheOrderOfEntriesDoesNotCount(t *testing.T) {
	entries := sample()
	first := archive(t, entries)
	slices.Reverse(entries)
	if !bytes.Equal(first, archive(t, entries)) {
		t.Error("the archives differ")
	}
}

func TestAnOrderIsKept(t *testing.T) {
	entries := []ramdisk.Entry{{Name: "z", Node: folder()}, {Name: "z/b", Node: file("1")}, {Name: "a", Node: file("2")}}
	var b bytes.Buffer
	if err := ramdisk.WriteInOrder(t.Context(), &b, entries); err != nil {
		t.Fatal(err)
	}
	want := []string{`1/1 folder 755 "z" "" 0:0`, `2/1 file 644 "z/b" "1" 0:0`, `3/1 file 644 "a" "2" 0:0`}
	if lines, err := listed(b.Bytes(), 1<<20); err != nil || !slices.Equal(lines, want) {
		t.Errorf("%q, %v", lines, err)
	}
	for rule, wrong := range map[string][]ramdisk.Entry{
		"in no folder": {entries[1], entries[0]}, "twice": {entries[2], entries[0], entries[2]},
	} {
		if err := ramdisk.WriteInOrder(t.Context(), io.Discard, wrong); err == nil || !strings.Contains(err.Error(), rule) {
			t.Errorf("%s: %v", rule, err)
		}
	}
}

func TestWriteRefuses(t *testing.T) {
	node := folder()
	long := strings.Repeat("d/", 2047)
	for rule, test := range map[string]struct {
		entries []ramdisk.Entry
		want    string
	}{
		"no name":                {[]ramdisk.Entry{{Name: "", Node: file("")}}, "is empty"},
		"an absolute name":       {[]ramdisk.Entry{{Name: "/a", Node: file("")}}, "no plain path"},
		"a name that leads up":   {[]ramdisk.Entry{{Name: "a/../b", Node: file("")}}, "no plain path"},
		"a name with a NUL":      {[]ramdisk.Entry{{Name: "a\x00b", Node: file("")}}, "NUL"},
		"the trailer's name":     {[]ramdisk.Entry{{Name: "TRAILER!!!", Node: file("")}}, "ends an archive"},
		"a long step":            {[]ramdisk.Entry{{Name: strings.Repeat("x", 256), Node: file("")}}, "255"},
		"a long path":            {[]ramdisk.Entry{{Name: long + "xx", Node: file("")}}, "4095"},
		"a name twice":           {[]ramdisk.Entry{{Name: "a", Node: file("")}, {Name: "a", Node: file("")}}, "twice"},
		"no folder above":        {[]ramdisk.Entry{{Name: "a/b", Node: file("")}}, "in no folder"},
		"a file above":           {[]ramdisk.Entry{{Name: "a", Node: file("")}, {Name: "a/b", Node: file("")}}, "in no folder"},
		"a folder with two":      {[]ramdisk.Entry{{Name: "a", Node: node}, {Name: "b", Node: node}}, "has one name"},
		"4 GiB":                  {[]ramdisk.Entry{{Name: "a", Node: &ramdisk.Node{Kind: ramdisk.File, Size: 1 << 32}}}, "4 GiB less one"},
		"less than nothing":      {[]ramdisk.Entry{{Name: "a", Node: &ramdisk.Node{Kind: ramdisk.File, Size: -1}}}, "-1 bytes"},
		"a link to nothing":      {[]ramdisk.Entry{{Name: "a", Node: link("")}}, "no path"},
		"a link with a NUL":      {[]ramdisk.Entry{{Name: "a", Node: link("a\x00")}}, "no path"},
		"a link to a long path":  {[]ramdisk.Entry{{Name: "a", Node: link(strings.Repeat("a", 4096))}}, "no path"},
		"a mode of another kind": {[]ramdisk.Entry{{Name: "a", Node: &ramdisk.Node{Kind: ramdisk.File, Mode: 0o100644}}}, "mode"},
		"a FIFO":                 {[]ramdisk.Entry{{Name: "a", Node: &ramdisk.Node{Kind: 0o010000}}}, "kind"},
		"a million entries":      {slices.Repeat([]ramdisk.Entry{{Name: "a", Node: folder()}}, ramdisk.MaxEntries+1), "1048577 entries"},
	} {
		var b bytes.Buffer
		err := ramdisk.Write(t.Context(), &b, test.entries)
		if wrong, ok := errors.AsType[*ramdisk.Error](err); !ok || !strings.Contains(wrong.Reason, test.want) || b.Len() > 0 {
			t.Errorf("%s: %v, want %q; %d bytes were written", rule, err, test.want, b.Len())
		}
	}
	// The largest file may be: nothing is read of it here.
	stop := errors.New("enough")
	largest := &ramdisk.Node{Kind: ramdisk.File, Size: ramdisk.MaxFile, Open: func() (io.ReadCloser, error) { return nil, stop }}
	if err := ramdisk.Write(t.Context(), io.Discard, []ramdisk.Entry{{Name: "a", Node: largest}}); !errors.Is(err, stop) {
		t.Error(err)
	}
}

func TestContentIsAsLongAsItWas(t *testing.T) {
	for _, size := range []int64{3, 5} {
		n := file("four")
		n.Size = size
		if err := ramdisk.Write(t.Context(), io.Discard, []ramdisk.Entry{{Name: "a", Node: n}}); !errors.Is(err, ramdisk.ErrChanged) {
			t.Errorf("%d: %v", size, err)
		}
	}
}

func TestWritingCanBeCancelled(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	cancel(why)
	if err := ramdisk.Write(ctx, io.Discard, sample()); !errors.Is(err, why) {
		t.Error(err)
	}
}

// What a kernel takes for one ramdisk: archives one after the other, zeros between them, compressed or not.
func TestArchivesOneAfterTheOther(t *testing.T) {
	plain := archive(t, sample())
	zeros := make([]byte, 12)
	for rule, data := range map[string][]byte{
		"plain, plain": slices.Concat(plain, plain), "plain, zeros, plain": slices.Concat(zeros, plain, zeros, plain, zeros),
		"gzip, gzip": slices.Concat(zipped(plain), zipped(plain)), "plain, gzip": slices.Concat(plain, zipped(plain)),
		"gzip, zeros, gzip": slices.Concat(zipped(plain), zeros, zipped(plain), zeros), "gzip, plain": slices.Concat(zipped(plain), plain),
		"both in one gzip": zipped(slices.Concat(plain, plain)),
	} {
		lines, err := listed(data, 1<<20)
		if err != nil || !slices.Equal(lines, slices.Concat(wanted(), wanted())) {
			t.Errorf("%s: %v, %d names", rule, err, len(lines))
		}
	}
	if lines, err := listed(nil, 10); err != nil || len(lines) > 0 {
		t.Errorf("%q, %v", lines, err)
	}
}

// change is a good archive of one file with something of its header otherwise.
func change(at int, with string) []byte {
	data := []byte("070701" + "00000001" + "000081a4" + strings.Repeat("00000000", 4) + "00000004" + strings.Repeat("00000000", 4) +
		"00000002" + "00000000" + "a\x00" + "four" + "070701" + strings.Repeat("00000000", 11) + "0000000b" + "00000000" + "TRAILER!!!\x00\x00\x00\x00")
	copy(data[at:], with)
	return data
}

func TestReadRefuses(t *testing.T) {
	const size, name = 6 + 6*8, 6 + 11*8
	for rule, test := range map[string]struct {
		data []byte
		want string
	}{
		"other bytes":             {[]byte("hello, this is no archive"), "ends in the middle"},
		"another format":          {change(0, "070707"), "begins no entry"},
		"letters for a number":    {change(size, "0000000g"), "for a number"},
		"a signed number":         {change(size, "+0000004"), "for a number"},
		"no name":                 {change(name, "00000000"), "a name of 0 bytes"},
		"a name of 4 GiB":         {change(name, "ffffffff"), "a name of 4294967295 bytes"},
		"a name without its end":  {change(110, "ab"), "does not end in"},
		"a name with two ends":    {change(name, "00000003"), "does not end in"},
		"a name with more behind": {slices.Concat(change(name, "00000004")[:110], []byte("a\x00x\x00\x00\x00"), change(0, "")[112:]), "does not end in"},
		"a file of 4 GiB":         {change(size, "ffffffff"), "larger than is allowed"},
		"a link to a path of 1 M": {change(6+8, "0000a1ff00000000000000000000000000000000"+"00100000"), "a link to a path of 1048576"},
		"cut in a header":         {change(0, "")[:50], "ends in the middle"},
		"cut in a name":           {change(0, "")[:111], "ends in the middle"},
		"cut in content":          {change(0, "")[:114], "ends in the middle"},
		"cut before the trailer":  {change(0, "")[:116], "ends in the middle"},
		"cut in gzip":             {zipped(change(0, ""))[:40], "ends in the middle"},
		"gzip that is none":       {[]byte{0x1f, 0x8b, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9}, "cannot be unpacked"},
		"a bomb":                  {zipped(make([]byte, 1<<22)), "larger than is allowed"},
		"xz":                      {[]byte("\xfd7zXZ\x00" + strings.Repeat("x", 200)), "begins no entry"},
	} {
		_, err := listed(test.data, 1<<20)
		if wrong, ok := errors.AsType[*ramdisk.Error](err); !ok || !strings.Contains(wrong.Reason, test.want) {
			t.Errorf("%s: %v, want %q", rule, err, test.want)
		}
	}
	if lines, err := listed(change(0, ""), 1<<20); err != nil || len(lines) != 1 {
		t.Errorf("%q, %v", lines, err)
	}
}

// What a name reads like, and why the kernel makes something else of it.
func TestNames(t *testing.T) {
	type entry = ramdisk.Header
	dir := func(name string) entry { return entry{Name: name, Kind: ramdisk.Folder, Names: 2} }
	plain := func(name string) entry { return entry{Name: name, Kind: ramdisk.File, Names: 1, Size: 1} }
	for rule, test := range map[string]struct {
		entries []entry
		name    string
		odd     string
	}{
		"a file": {[]entry{plain("a")}, "a", ""}, "one in a folder": {[]entry{dir("a"), plain("a/b")}, "a/b", ""}, "the root": {[]entry{dir(".")}, ".", ""},
		"the root, as a slash": {[]entry{dir("/")}, ".", ""}, "a slash in front": {[]entry{plain("/a")}, "a", ""}, "the root in front": {[]entry{plain("./a")}, "a", ""},
		"a folder twice": {[]entry{dir("a"), dir("./a")}, "a", ""}, "a FIFO": {[]entry{{Name: "a", Kind: 0o010000, Names: 1}}, "a", ""},
		"up":                     {[]entry{dir("a"), plain("a/../b")}, "a/../b", "no plain path"},
		"a slash behind":         {[]entry{plain("a/")}, "a/", "no plain path"},
		"two slashes in front":   {[]entry{plain("//a")}, "/a", "no plain path"},
		"a step that is no step": {[]entry{dir("a"), plain("a/./b")}, "a/./b", "no plain path"},
		"a long step":            {[]entry{plain(strings.Repeat("x", 256))}, strings.Repeat("x", 256), "Linux takes 255"},
		"in no folder":           {[]entry{plain("a/b")}, "a/b", "in no folder"},
		"in a file":              {[]entry{plain("a"), plain("a/b")}, "a/b", "in no folder"},
		"in a link":              {[]entry{{Name: "a", Kind: ramdisk.Symlink, Target: "b"}, plain("a/b")}, "a/b", "in no folder"},
		"twice":                  {[]entry{plain("a"), plain("a")}, "a", "more than once"},
		"a folder over a file":   {[]entry{plain("a"), dir("a")}, "a", "more than once"},
		"a file over a folder":   {[]entry{dir("a"), plain("a")}, "a", "more than once"},
		"a file for the root":    {[]entry{plain(".")}, ".", "more than once"},
		"a link with a NUL":      {[]entry{{Name: "a", Kind: ramdisk.Symlink, Target: "b\x00c"}}, "a", "no path that Linux takes"},
		"a link to nothing":      {[]entry{{Name: "a", Kind: ramdisk.Symlink}}, "a", "no path that Linux takes"},
		"a folder with content":  {[]entry{{Name: "a", Kind: ramdisk.Folder, Size: 1}}, "a", "is left out"},
		"a device with content":  {[]entry{{Name: "a", Kind: ramdisk.Device, Size: 1}}, "a", "is left out"},
		"a device of two names":  {[]entry{{Name: "a", Kind: ramdisk.Device, Names: 2}}, "a", "with 2 names"},
		"no kind":                {[]entry{{Name: "a"}}, "a", "of which nothing is made"},
	} {
		var names ramdisk.Names
		for i, e := range test.entries {
			name, odd := names.Add(&e)
			if i < len(test.entries)-1 {
				if odd != "" {
					t.Errorf("%s, entry %d: %s", rule, i, odd)
				}
				continue
			}
			if name != test.name || (odd == "") != (test.odd == "") || !strings.Contains(odd, test.odd) {
				t.Errorf("%s: %q, %q", rule, name, odd)
			}
		}
	}
}

// again reads the same bytes for ever.
type again struct {
	data []byte
	at   int
}

func (a *again) Read(p []byte) (int, error) {
	n := copy(p, a.data[a.at:])
	a.at = (a.at + n) % len(a.data)
	return n, nil
}

// TestNamesAreBoundedTogether: a few megabytes of gzip do not become gigabytes of names.
func TestNamesAreBoundedTogether(t *testing.T) {
	target := strings.Repeat("x", ramdisk.MaxName)
	entry := []byte("070701" + "00000001" + "0000a1ff" + strings.Repeat("00000000", 4) + "00000fff" + strings.Repeat("00000000", 4) +
		"00000002" + "00000000" + "a\x00" + target + "\x00")
	r := ramdisk.NewReader(&again{data: entry}, 1<<40)
	for held := 0; ; {
		h, err := r.Next()
		if err != nil {
			if wrong, ok := errors.AsType[*ramdisk.Error](err); !ok || !strings.Contains(wrong.Reason, "over 256 MiB") {
				t.Error(err)
			}
			break
		}
		if held += len(h.Name) + len(h.Target); held > ramdisk.MaxNames {
			t.Fatal("more is read")
		}
	}
	var entries []ramdisk.Entry
	for i := range ramdisk.MaxNames/ramdisk.MaxName + 1 {
		entries = append(entries, ramdisk.Entry{Name: fmt.Sprint(i), Node: &ramdisk.Node{Kind: ramdisk.Symlink, Target: target}})
	}
	if err := ramdisk.Write(t.Context(), io.Discard, entries); err == nil || !strings.Contains(err.Error(), "over 256 MiB") {
		t.Errorf("more is written: %v", err)
	}
}

// TestEntriesAreBounded, whatever is short enough in each.
func TestEntriesAreBounded(t *testing.T) {
	entry := []byte("070701" + "00000001" + "000081a4" + strings.Repeat("00000000", 9) + "00000002" + "00000000" + "a\x00")
	r := ramdisk.NewReader(&again{data: entry}, 1<<40)
	for n := 0; ; n++ {
		_, err := r.Next()
		if err == nil && n < ramdisk.MaxEntries {
			continue
		}
		if wrong, ok := errors.AsType[*ramdisk.Error](err); !ok || n != ramdisk.MaxEntries || !strings.Contains(wrong.Reason, "more than 1048576 entries") {
			t.Errorf("%d: %v", n, err)
		}
		return
	}
}

// FuzzReader: whatever it is given, it ends, gives names and contents within bounds, and what it reads can be
// written again to the same, where names are such that they may be.
func FuzzReader(f *testing.F) {
	f.Add(archive(f, sample()))
	f.Add(zipped(archive(f, sample())))
	f.Add(slices.Concat(archive(f, sample()), make([]byte, 3), zipped(archive(f, sample()))))
	f.Add(change(0, ""))
	f.Add(change(6+6*8, "ffffffff"))
	f.Fuzz(func(t *testing.T, data []byte) {
		const most = 1 << 22
		r := ramdisk.NewReader(bytes.NewReader(data), most)
		var sum int64
		for {
			h, err := r.Next()
			if err != nil {
				if _, ok := errors.AsType[*ramdisk.Error](err); !ok && !errors.Is(err, io.EOF) {
					t.Fatal(err)
				}
				return
			}
			if len(h.Name) > ramdisk.MaxName || len(h.Target) > ramdisk.MaxName+1 {
				t.Fatalf("%d, %d", len(h.Name), len(h.Target))
			}
			n, err := io.Copy(io.Discard, r)
			if sum += n; sum > most || err == nil && h.Kind != ramdisk.Symlink && n != h.Size {
				t.Fatalf("%d of %d bytes, %v", n, h.Size, err)
			}
		}
	})
}
