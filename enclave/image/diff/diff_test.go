package diff_test

import (
	"bytes"
	"compress/gzip"
	"errors"
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
	for rule, other := range map[string][]byte{"gzip": zipped(disk), "padding": append(bytes.Clone(disk), 0, 0, 0, 0), "in two archives": slices.Concat(files(t, map[string]string{"a": "0"}), disk)} {
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

// Names of one file share its content, wherever that stands.
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
