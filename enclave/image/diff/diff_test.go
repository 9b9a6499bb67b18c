package diff_test

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cloister-run/cloister/enclave/image/diff"
	"github.com/cloister-run/cloister/enclave/image/eif"
	"github.com/cloister-run/cloister/enclave/image/ramdisk"
)

// files is a ramdisk with files of that content; a name that ends in a slash is a folder's.
func files(t testing.TB, content map[string]string) []byte {
	t.Helper()
	var entries []ramdisk.Entry
	for name, text := range content {
		n := &ramdisk.Node{Kind: ramdisk.File, Mode: 0o644, Size: int64(len(text)), Open: func() (io.ReadCloser, error) {
			return io.NopCloser(strings.NewReader(text)), nil
		}}
		if folder, ok := strings.CutSuffix(name, "/"); ok {
			name, n = folder, &ramdisk.Node{Kind: ramdisk.Folder, Mode: 0o755}
		} else if target, ok := strings.CutPrefix(text, "->"); ok {
			n = &ramdisk.Node{Kind: ramdisk.Symlink, Mode: 0o777, Target: target}
		}
		entries = append(entries, ramdisk.Entry{Name: name, Node: n})
	}
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

// spec is an image; its zero value is one too.
type spec struct {
	kernel, line, metadata string
	first, second          []byte
	memory                 uint64
}

func image(t testing.TB, s spec) *eif.Image {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "x.eif"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	parts := []eif.Part{eif.Bytes(eif.Kernel, []byte(s.kernel)), eif.Bytes(eif.CommandLine, []byte(s.line))}
	if s.metadata != "" {
		parts = append(parts, eif.Bytes(eif.Metadata, []byte(s.metadata)))
	}
	parts = append(parts, eif.Bytes(eif.Ramdisk, s.first))
	if s.second != nil {
		parts = append(parts, eif.Bytes(eif.Ramdisk, s.second))
	}
	if _, err := eif.Write(t.Context(), f, eif.Spec{Memory: s.memory}, parts); err != nil {
		t.Fatal(err)
	}
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	img, err := eif.Read(f, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func between(t testing.TB, a, b spec) *diff.Report {
	t.Helper()
	r, err := diff.Images(t.Context(), image(t, a), image(t, b))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestWhatMovesWhichRegister(t *testing.T) {
	disk := files(t, map[string]string{"a": "1"})
	base := spec{kernel: "k", line: "quiet", first: disk, second: disk, memory: 1}
	for rule, test := range map[string]struct {
		change func(*spec)
		pcrs   []int
		what   string
	}{
		"nothing":            {func(*spec) {}, nil, ""},
		"the kernel":         {func(s *spec) { s.kernel = "l" }, []int{0, 1}, "kernel"},
		"the command line":   {func(s *spec) { s.line = "debug" }, []int{0, 1}, "command line"},
		"the first ramdisk":  {func(s *spec) { s.first = files(t, nil) }, []int{0, 1}, "ramdisk 0"},
		"the second ramdisk": {func(s *spec) { s.second = files(t, nil) }, []int{0, 2}, "ramdisk 1"},
		"no second ramdisk":  {func(s *spec) { s.second = nil }, []int{0, 2}, "ramdisk 1"},
		"metadata":           {func(s *spec) { s.metadata = "{}" }, nil, "metadata"},
		"memory":             {func(s *spec) { s.memory = 2 }, nil, "memory"},
	} {
		other := base
		test.change(&other)
		r := between(t, base, other)
		if !slices.Equal(r.PCRs, test.pcrs) || r.Same() != (test.what == "") {
			t.Errorf("%s: %+v", rule, r)
		}
		if test.what != "" && (len(r.Measured)+len(r.Claims) != 1 || append(r.Measured, r.Claims...)[0].What != test.what) {
			t.Errorf("%s: %+v", rule, r)
		}
	}
	if r := between(t, base, spec{kernel: "k", line: "debug", first: disk, second: disk, memory: 1}); r.Measured[0].Before != "quiet" || r.Measured[0].After != "debug" {
		t.Errorf("%+v", r)
	}
}

func TestWhichFilesDiffer(t *testing.T) {
	before := spec{first: files(t, map[string]string{"gone": "1", "same": "2", "text": "3", "link": "->a", "dir/": "", "dir/deep": "4"})}
	after := spec{first: zipped(files(t, map[string]string{"same": "2", "text": "three", "link": "->b", "dir/": "", "dir/deep": "4", "dir/new": "5"}))}
	r := between(t, before, after)
	var got []string
	for _, f := range r.Files {
		got = append(got, f.Change+" "+f.Path)
	}
	if want := []string{"added dir/new", "removed gone", "changed link", "changed text"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if f := r.Files[3]; f.Before != "file 0644, 1 bytes, sha256:4e07408562bedb8b60ce05c1decfe3ad16b72230967de01f640b7e4729b49fce" || !strings.HasPrefix(f.After, "file 0644, 5 bytes") {
		t.Errorf("%+v", f)
	}
	if f := r.Files[2]; f.Before != `symbolic link 0777 to "a"` || f.After != `symbolic link 0777 to "b"` {
		t.Errorf("%+v", f)
	}
}

func TestTheSameFilesPackedOtherwise(t *testing.T) {
	disk := files(t, map[string]string{"a": "1"})
	for rule, other := range map[string][]byte{"gzip": zipped(disk), "padding": append(bytes.Clone(disk), 0, 0, 0, 0), "behind another archive": slices.Concat(files(t, nil), disk)} {
		r := between(t, spec{first: disk}, spec{first: other})
		if r.Same() || len(r.Files) > 0 || len(r.Measured) != 2 || !strings.Contains(r.Measured[1].What, "ramdisk 0 has the same files") {
			t.Errorf("%s: %+v", rule, r)
		}
	}
}

func TestARamdiskThatCannotBeReadThrough(t *testing.T) {
	r := between(t, spec{first: files(t, nil)}, spec{first: []byte("\xfd7zXZ\x00 something else that is compressed, and long enough to be a header of an archive, if it were one at all")})
	if r.Same() || len(r.Measured) != 2 || !strings.Contains(r.Measured[1].What, "ramdisk 0 cannot be read through") {
		t.Errorf("%+v", r)
	}
}

// A listing is bounded, whatever two images hold.
func TestManyDifferences(t *testing.T) {
	many := map[string]string{}
	for i := range diff.Most + 7 {
		many[strings.Repeat("x", i%200+1)+"-"+string(rune('a'+i/200))] = "x"
	}
	r := between(t, spec{first: files(t, nil)}, spec{first: files(t, many)})
	if len(r.Files) != diff.Most || r.Others != 7 {
		t.Errorf("%d, %d", len(r.Files), r.Others)
	}
}

// entry is one as it stands in an archive; its kind is a file's unless it says otherwise.
type entry struct {
	name, content string
	kind          ramdisk.Kind
	inode, names  int
}

// archive is one of any entries, whatever the kernel makes of them.
func archive(entries ...entry) []byte {
	var b bytes.Buffer
	for _, e := range append(entries, entry{name: "TRAILER!!!"}) {
		kind := cmp.Or(e.kind, ramdisk.File)
		_, _ = fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%s%08x%08x", e.inode, uint32(kind)|0o755, 0, 0, max(e.names, 1), 0, len(e.content),
			strings.Repeat("0", 32), len(e.name)+1, 0)
		for _, part := range []string{e.name + "\x00", e.content} {
			b.WriteString(part)
			b.Write(make([]byte, -b.Len()&3))
		}
	}
	return b.Bytes()
}

// Two images that boot otherwise never "have the same files": each row holds what the kernel makes another daemon of.
func TestNoArchivePassesForAnother(t *testing.T) {
	dir, evil, good := entry{name: "cloister", kind: ramdisk.Folder}, entry{name: "cloister/cloisterd", content: "evil"}, entry{name: "cloister/cloisterd", content: "good"}
	x := entry{name: "x", kind: ramdisk.Folder}
	named := func(e entry, name string) entry { e.name = name; return e }
	linked := func(e entry, name string) entry { e.name, e.inode, e.names = name, 7, 2; return e }
	folded := archive(dir, good)
	for rule, test := range map[string]struct {
		honest, forged []byte
		want           string
	}{
		"a name through a folder that is not there": {folded, archive(dir, evil, named(good, "absent/../cloister/cloisterd")), "no plain path"},
		"a name that ends in a slash":               {folded, archive(dir, evil, named(good, "cloister/cloisterd/")), "no plain path"},
		"a name twice":                              {folded, archive(dir, evil, good), "more than once"},
		"a name twice, with a slash in front":       {folded, archive(dir, evil, named(good, "/cloister/cloisterd")), "more than once"},
		"a name in no folder":                       {folded, archive(good, dir), "in no folder"},
		"a link that becomes a folder": {
			archive(x, named(good, "x/m"), named(x, "y"), named(good, "y/m")),
			archive(x, named(good, "x/m"), entry{name: "y", kind: ramdisk.Symlink, content: "x"}, named(evil, "y/m"), named(x, "y"), named(good, "y/m")),
			"in no folder",
		},
		"a folder that is left out":  {archive(x), archive(named(x, "x"), entry{name: "z", kind: ramdisk.Folder, content: "x"}), "is left out"},
		"a device that is another's": {archive(x), archive(entry{name: "d", kind: ramdisk.Device, names: 2}), "with 2 names"},
	} {
		r := between(t, spec{first: test.honest}, spec{first: test.forged})
		if len(r.Measured) != 2 || !strings.Contains(r.Measured[1].What, "holds what the kernel does not unpack as it reads") || !strings.Contains(r.Measured[1].After, test.want) || r.Measured[1].Before != "" {
			t.Errorf("%s: %+v", rule, r)
		}
		r = between(t, spec{first: test.forged}, spec{first: slices.Concat(test.forged, files(t, nil))})
		if len(r.Measured) != 2 || strings.Contains(r.Measured[1].What, "the same files") {
			t.Errorf("%s, against itself: %+v", rule, r)
		}
	}
	// Behind a trailer an inode is another one, and what links to it is empty: the kernel has forgotten it.
	one, other := linked(evil, "a"), linked(entry{}, "b")
	r := between(t, spec{first: archive(one, other)}, spec{first: slices.Concat(archive(one), archive(other))})
	if len(r.Files) != 1 || r.Files[0].Path != "b" || !strings.Contains(r.Files[0].After, "0 bytes") {
		t.Errorf("names of one file over the end of an archive: %+v", r)
	}
}

// What shifts the sections of an image over the same bytes moves no register, and boots something else.
func TestTheSameBytesInOtherSections(t *testing.T) {
	disk := files(t, map[string]string{"a": "1"})
	a := spec{kernel: "kernel", line: "quiet init=/init", first: disk, second: disk}
	for rule, b := range map[string]spec{
		"a longer kernel": {kernel: "kernelquiet ", line: "init=/init", first: disk, second: disk},
		"a longer line":   {kernel: "kernel", line: "quiet init=/init" + string(disk[:1]), first: disk[1:], second: disk},
	} {
		r := between(t, a, b)
		if len(r.PCRs) > 0 || !r.Recut || r.Same() || len(r.Measured) < 2 {
			t.Errorf("%s: %+v", rule, r)
		}
	}
	for rule, b := range map[string]spec{"the same": a, "another line": {kernel: "kernel", line: "quiet", first: disk, second: disk}, "other metadata": {kernel: a.kernel, line: a.line, metadata: "{}", first: disk, second: disk}} {
		if r := between(t, a, b); r.Recut {
			t.Errorf("%s: %+v", rule, r)
		}
	}
}

// A report is of the same images only where nothing is in it.
func TestSame(t *testing.T) {
	change := []diff.Change{{What: "kernel"}}
	for rule, r := range map[string]diff.Report{"a register": {PCRs: []int{8}}, "what is measured": {Measured: change}, "what is not": {Claims: change}} {
		if r.Same() {
			t.Error(rule)
		}
	}
	if r := (&diff.Report{}); !r.Same() {
		t.Error("nothing")
	}
}

// Names of one file share its content and its mode, wherever they stand.
func TestHardLinks(t *testing.T) {
	n := &ramdisk.Node{Kind: ramdisk.File, Mode: 0o644, Size: 1, Open: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("1")), nil }}
	var linked bytes.Buffer
	if err := ramdisk.Write(t.Context(), &linked, []ramdisk.Entry{{Name: "a", Node: n}, {Name: "b", Node: n}}); err != nil {
		t.Fatal(err)
	}
	if r := between(t, spec{first: linked.Bytes()}, spec{first: files(t, map[string]string{"a": "1", "b": "1"})}); len(r.Files) > 0 {
		t.Errorf("%+v", r)
	}
	if r := between(t, spec{first: linked.Bytes()}, spec{first: files(t, map[string]string{"a": "1", "b": ""})}); len(r.Files) != 1 {
		t.Errorf("%+v", r)
	}
}

func TestADamagedImage(t *testing.T) {
	raw := bytes.NewBuffer(nil)
	img := image(t, spec{first: files(t, nil)})
	_, _ = io.Copy(raw, img.Data(img.Sections[2]))
	img.CRC++
	if _, err := diff.Images(t.Context(), image(t, spec{first: raw.Bytes()}), img); err == nil {
		t.Error("a damaged image is compared")
	} else if _, ok := errors.AsType[*eif.Error](err); !ok {
		t.Error(err)
	}
}
