package rootfs_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/enclave/image/ramdisk"
	"github.com/cloister-run/cloister/enclave/image/rootfs"
)

// lines is what a tree holds, one for each name; names that share a file are marked alike.
func lines(t testing.TB, tree *rootfs.Tree) []string {
	t.Helper()
	var all []string
	shared := map[*ramdisk.Node]int{}
	for _, e := range tree.Entries("") {
		shared[e.Node]++
	}
	marks := map[*ramdisk.Node]string{}
	for _, e := range tree.Entries("") {
		line := fmt.Sprintf("%s %o %s", e.Kind, e.Mode, e.Name)
		switch e.Kind {
		case ramdisk.File:
			from, err := e.Open()
			if err != nil {
				t.Fatal(err)
			}
			content, err := io.ReadAll(from)
			if err != nil || int64(len(content)) != e.Size {
				t.Fatalf("%s: %d of %d bytes, %v", e.Name, len(content), e.Size, err)
			}
			_ = from.Close()
			line += fmt.Sprintf(" = %.40q", content)
		case ramdisk.Symlink:
			line += " -> " + e.Target
		case ramdisk.Folder, ramdisk.Device:
		}
		if shared[e.Node] > 1 {
			if marks[e.Node] == "" {
				marks[e.Node] = fmt.Sprintf(" #%d", len(marks))
			}
			line += marks[e.Node]
		}
		all = append(all, line)
	}
	return all
}

func same(t *testing.T, tree *rootfs.Tree, want ...string) {
	t.Helper()
	if got := lines(t, tree); !slices.Equal(got, want) {
		t.Errorf("it holds\n%s\nand should\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// item is an entry of a tar: a file unless kind says otherwise.
type item struct {
	name, content, link string
	kind                byte
	mode                int64
}

func packed(t testing.TB, items ...item) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, i := range items {
		h := &tar.Header{Name: i.name, Typeflag: tar.TypeReg, Linkname: i.link, Mode: i.mode, Size: int64(len(i.content)), ModTime: time.Unix(1, 0), Uid: 1000}
		if i.kind != 0 {
			h.Typeflag = i.kind
		}
		if i.mode == 0 {
			h.Mode = 0o644
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, i.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func fromTar(t testing.TB, data []byte) (*rootfs.Tree, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "x.tar")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	tree, err := rootfs.Tar(t.Context(), path)
	if err == nil {
		t.Cleanup(func() { _ = tree.Close() })
	}
	return tree, err
}

func dir(name string) item         { return item{name: name, kind: tar.TypeDir, mode: 0o755} }
func sym(name, target string) item { return item{name: name, kind: tar.TypeSymlink, link: target} }
func hard(name, target string) item {
	return item{name: name, kind: tar.TypeLink, link: target}
}

func everything() []item {
	return []item{
		dir("./"), dir("./tmp/"), {name: "./tmp", kind: tar.TypeDir, mode: 0o1777}, {name: "./usr/bin/su", content: "su", mode: 0o4711},
		{name: "/etc/shadow", content: "x", mode: 0o600}, sym("bin", "usr/bin"), {name: "bin/late", content: "through a link", mode: 0o755},
		hard("usr/bin/sudo", "./usr/bin/su"), hard("bin2", "bin"), {name: "etc/shadow", content: "again", mode: 0o640},
		{name: "dev/null", kind: tar.TypeChar, mode: 0o666}, {name: strings.Repeat("long/", 60) + "name", content: "pax"},
		{name: "odd\xff\n", content: "bytes"},
	}
}

func TestTar(t *testing.T) {
	plain := packed(t, everything()...)
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = z.Write(plain)
	_ = z.Close()
	standard, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	for kind, data := range map[string][]byte{"plain": plain, "gzip": zipped.Bytes(), "zstd": standard.EncodeAll(plain, nil)} {
		tree, err := fromTar(t, data)
		if err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		all := lines(t, tree)
		all = slices.DeleteFunc(all, func(s string) bool { return strings.HasPrefix(s, "folder 755 long") })
		want := []string{
			"symbolic link 777 bin -> usr/bin", "symbolic link 777 bin2 -> usr/bin", `folder 755 etc`, `file 644 etc/shadow = "again"`,
			`file 644 ` + strings.Repeat("long/", 60) + `name = "pax"`, "file 644 odd\xff\n = \"bytes\"", "folder 1777 tmp", "folder 755 usr", "folder 755 usr/bin",
			`file 755 usr/bin/late = "through a link"`, `file 755 usr/bin/su = "su" #0`, `file 755 usr/bin/sudo = "su" #0`,
		}
		if !slices.Equal(all, want) {
			t.Errorf("%s:\n%s", kind, strings.Join(all, "\n"))
		}
	}
}

// Whatever leads out of the root leads to the root, or nowhere: nothing of this machine is touched.
func TestNothingLeadsOutOfTheRoot(t *testing.T) {
	outside := t.TempDir()
	tree, err := fromTar(t, packed(t,
		sym("up", "../../../../../.."), item{name: "up/a", content: "a"}, sym("out", outside), item{name: "out/b", content: "b"},
		sym("etc", "/up/other"), item{name: "etc/c", content: "c"}, sym("x", "y"), sym("y", "z"), item{name: "x/d", content: "d"},
	))
	if err != nil {
		t.Fatal(err)
	}
	if made, err := os.ReadDir(outside); err != nil || len(made) > 0 {
		t.Errorf("%v, %v", made, err)
	}
	got := strings.Join(lines(t, tree), "\n")
	for _, want := range []string{`file 644 a = "a"`, `file 644 ` + outside[1:] + `/b = "b"`, `file 644 other/c = "c"`, `file 644 z/d = "d"`} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}

func TestTarRefuses(t *testing.T) {
	deep := []item{sym("l0", strings.Repeat("0123456789/", 200)+"x")}
	for i := 1; i < 4; i++ {
		deep = append(deep, sym(fmt.Sprintf("l%d/m", i-1), strings.Repeat("0123456789/", 100)), sym(fmt.Sprintf("l%d", i), fmt.Sprintf("l%d/m", i-1)))
	}
	many := make([]item, 0, 41)
	for i := range 41 {
		many = append(many, sym(fmt.Sprintf("h%d", i), fmt.Sprintf("h%d", i+1)))
	}
	huge := packed(t, item{name: "a"})
	copy(huge[124:], "77777777777\x00") // 8 GiB
	rechecksum(huge)
	for rule, test := range map[string]struct {
		data []byte
		want string
	}{
		"a name that leads up":       {packed(t, item{name: "../../etc/passwd", content: "x"}), "leads out of the root"},
		"one in the middle":          {packed(t, item{name: "a/../../b", content: "x"}), "leads out of the root"},
		"a hard link that leads up":  {packed(t, hard("a", "../../etc/passwd")), "leads out of the root"},
		"a hard link to nothing":     {packed(t, hard("a", "b")), "no such file"},
		"a hard link to a folder":    {packed(t, dir("b"), hard("a", "b")), "no such file"},
		"a device":                   {packed(t, item{name: "etc/null", kind: tar.TypeChar}), `"etc/null" is a device`},
		"a block device":             {packed(t, item{name: "devices/sda", kind: tar.TypeBlock}), "is a device"},
		"a FIFO":                     {packed(t, item{name: "dev/initctl", kind: tar.TypeFifo}), `"dev/initctl" is a FIFO`},
		"a file in a file":           {packed(t, item{name: "a", content: "x"}, item{name: "a/b", content: "y"}), `in "a", which is a file`},
		"links that lead in circles": {packed(t, sym("a", "b"), sym("b", "a"), item{name: "a/c", content: "x"}), "more than 40 links"},
		"a link to nothing":          {packed(t, sym("a", "")), `a link to "", which is no path`},
		"many links":                 {packed(t, append(many, item{name: "h0/x", content: "x"})...), "more than 40 links"},
		"a long path":                {packed(t, item{name: strings.Repeat("0123456789/", 370) + "xxxxxxxxx", content: "x"}), "a path of"},
		"a long path through links":  {packed(t, append(deep, item{name: "l3/" + strings.Repeat("0123456789/", 100), kind: tar.TypeDir}, item{name: "l3/" + strings.Repeat("0123456789/", 300), kind: tar.TypeDir})...), "links followed"},
		"a file of 8 GiB":            {huge, "takes files of 4 GiB"},
		"cut":                        {packed(t, item{name: "a", content: strings.Repeat("x", 5000)})[:3000], "cut, damaged or no tar"},
		"no tar":                     {[]byte(strings.Repeat("hello", 1000)), "cut, damaged or no tar"},
		"gzip of nothing":            {[]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3}, "cut, damaged or no tar"},
		"zstd of nothing":            {[]byte{0x28, 0xb5, 0x2f, 0xfd, 9, 9, 9, 9}, "cut, damaged or no tar"},
		"a type of the future":       {packed(t, item{name: "a", kind: 'Z'}), "is of the type"},
	} {
		_, err := fromTar(t, test.data)
		if wrong, ok := errors.AsType[*rootfs.Error](err); !ok || !strings.Contains(wrong.Reason, test.want) {
			t.Errorf("%s: %.300v, want %q", rule, err, test.want)
		}
	}
}

// TestBounds: a tree holds so many names and bytes, and a tar so many entries, and none more.
func TestBounds(t *testing.T) {
	three := func(name string) []item {
		return []item{{name: name, content: "12"}, {name: "b", content: "12"}, {name: "c/d", content: "12"}} // c is one too
	}
	for rule, test := range map[string]struct {
		items   []item
		entries int
		bytes   int64
		want    string
	}{
		"as much as is allowed":                 {three("a"), 4, 6, ""},
		"a name more":                           {three("a"), 3, 6, "more than 3 files and folders"},
		"a byte more":                           {three("a"), 4, 5, "more than 0 GiB"},
		"a name again":                          {three("b"), 3, 6, ""},
		"names that are left out, but are read": {slices.Repeat([]item{{name: "dev/null", kind: tar.TypeChar}}, 6), 4, 6, "more than 4 entries"},
	} {
		tree, err := rootfs.TarUpTo(t.Context(), bytes.NewReader(packed(t, test.items...)), test.entries, test.bytes)
		if err == nil {
			_ = tree.Close()
		}
		if wrong, ok := errors.AsType[*rootfs.Error](err); ok != (test.want != "") || ok && !strings.Contains(wrong.Reason, test.want) {
			t.Errorf("%s: %v, want %q", rule, err, test.want)
		}
	}
}

// TestAnotherFile: a folder's file is the one that was looked at, however the other one resembles it.
func TestAnotherFile(t *testing.T) {
	root := t.TempDir()
	path := filepath.Join(root, "a")
	if err := os.WriteFile(path, []byte("one"), 0o600); err != nil {
		t.Fatal(err)
	}
	tree, err := rootfs.Folder(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	if err := errors.Join(os.Rename(path, path+".old"), os.WriteFile(path, []byte("two"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := tree.Find("a").Open(); !errors.Is(err, ramdisk.ErrChanged) {
		t.Error(err)
	}
}

// rechecksum sets the checksum of a header right.
func rechecksum(h []byte) {
	copy(h[148:156], "        ")
	sum := 0
	for _, b := range h[:512] {
		sum += int(b)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
}

func TestFolder(t *testing.T) {
	root := t.TempDir()
	for name, mode := range map[string]os.FileMode{"usr/bin/su": 0o755 | os.ModeSetuid, "etc/shadow": 0o600, "etc/odd\xff": 0o444} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.WriteFile(path, []byte(name[:3]), 0o600), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Link(root+"/usr/bin/su", root+"/usr/bin/sudo"), os.Symlink("/etc/passwd", root+"/etc/passwd"), os.Mkdir(root+"/tmp", 0o700),
		os.Chmod(root+"/tmp", 0o777|os.ModeSticky)); err != nil {
		t.Fatal(err)
	}
	tree, err := rootfs.Folder(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	same(t, tree, "folder 755 etc", "file 644 etc/odd\xff = \"etc\"", "symbolic link 777 etc/passwd -> /etc/passwd", `file 644 etc/shadow = "etc"`, "folder 1777 tmp",
		"folder 755 usr", "folder 755 usr/bin", `file 755 usr/bin/su = "usr" #0`, `file 755 usr/bin/sudo = "usr" #0`)
	for rule, special := range map[string]func(string) error{
		"is a FIFO": func(path string) error { return unix.Mkfifo(path, 0o600) },
		"is a socket": func(path string) error {
			return unix.Mknod(path, unix.S_IFSOCK|0o600, 0)
		},
	} {
		path := filepath.Join(root, "etc", "special")
		if err := special(path); err != nil {
			t.Fatal(err)
		}
		if _, err := rootfs.Folder(t.Context(), root); err == nil || !strings.Contains(err.Error(), `"etc/special" `+rule) {
			t.Errorf("%s: %v", rule, err)
		}
		_ = os.Remove(path)
	}
	// A file that is sparse, so that nothing has to be written.
	if err := errors.Join(os.WriteFile(root+"/large", nil, 0o600), os.Truncate(root+"/large", 1<<32)); err != nil {
		t.Fatal(err)
	}
	if _, err := rootfs.Folder(t.Context(), root); err == nil || !strings.Contains(err.Error(), `"large": a file of 4294967296 bytes`) {
		t.Error(err)
	}
}

// TestDevicesOfAFolder needs root to make any.
func TestDevicesOfAFolder(t *testing.T) {
	root := t.TempDir()
	if err := errors.Join(os.Mkdir(root+"/dev", 0o755), unix.Mknod(root+"/dev/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3)))); err != nil {
		t.Skip(err)
	}
	tree, err := rootfs.Folder(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	same(t, tree, "folder 755 dev")
	if err := os.Rename(root+"/dev/null", root+"/null"); err != nil {
		t.Fatal(err)
	}
	if _, err := rootfs.Folder(t.Context(), root); err == nil || !strings.Contains(err.Error(), `"null" is a device`) {
		t.Error(err)
	}
}

func TestFind(t *testing.T) {
	tree, err := fromTar(t, packed(t, item{name: "a/b", content: "x"}, sym("a/up", "../c"), sym("c", "/a/b"), sym("d", "d"), sym("e", "/nowhere/at/all")))
	if err != nil {
		t.Fatal(err)
	}
	for name, found := range map[string]bool{"a": true, "a/b": true, "a/up": true, "c": true, "d": false, "e": false, "f": false, "a/b/c": false, "x/y": false} {
		if n := tree.Find(name); (n != nil) != found {
			t.Errorf("%s: %+v", name, n)
		}
	}
}

// TestManyFiles: a hundred thousand take seconds, not minutes.
func TestManyFiles(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := range 100_000 {
		_ = w.WriteHeader(&tar.Header{Name: fmt.Sprintf("usr/lib/%d/%d/%d", i%100, i/100%100, i), Mode: 0o644, Size: 1})
		_, _ = w.Write([]byte{1})
	}
	_ = w.Close()
	start := time.Now()
	tree, err := fromTar(t, b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if err := ramdisk.Write(t.Context(), io.Discard, tree.Entries("")); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > 60*time.Second { // about a second on a machine with nothing else to do
		t.Errorf("%v", took)
	}
	if entries, bytes := tree.Size(); entries != 110_102 || bytes != 100_000 {
		t.Errorf("%d entries, %d bytes", entries, bytes)
	}
}

// TestNamesAreBoundedTogether: a few megabytes of gzip do not become gigabytes of names.
func TestNamesAreBoundedTogether(t *testing.T) {
	const many = 80_000 // of 4000 bytes each
	deep := strings.Repeat(strings.Repeat("d", 249)+"/", 16)
	target := strings.Repeat("x", 4000)
	for rule, test := range map[string]struct {
		first item
		next  func(i int) item
		fits  bool
	}{
		"targets":                  {sym("s", target), func(i int) item { return hard(fmt.Sprint(i), "s") }, false},
		"paths":                    {sym("s", deep), func(i int) item { return item{name: fmt.Sprintf("s/%d", i)} }, false},
		"what is replaced is gone": {sym("s", target), func(int) item { return hard("a", "s") }, true},
		"and what was in a folder": {sym("s", target), func(i int) item {
			switch i % 40 {
			case 38:
				return item{name: "a"}
			case 39:
				return dir("a")
			}
			return hard(fmt.Sprint("a/", i), "s")
		}, true},
	} {
		all := []item{test.first}
		for i := range many {
			all = append(all, test.next(i))
		}
		_, err := fromTar(t, packed(t, all...))
		if wrong, ok := errors.AsType[*rootfs.Error](err); !test.fits && (!ok || !strings.Contains(wrong.Reason, "over 256 MiB")) || test.fits && err != nil {
			t.Errorf("%s: %v", rule, err)
		}
	}
}

// What a tar says of an entry is not kept, but for its name and target.
func TestHeadersAreNotKept(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	comment := map[string]string{"comment": strings.Repeat("x", 1_000_000)}
	for i := range 40 {
		for _, h := range []tar.Header{
			{Typeflag: tar.TypeSymlink, Name: fmt.Sprint("l", i), Linkname: "é", PAXRecords: comment}, {Typeflag: tar.TypeReg, Name: fmt.Sprint("é", i), PAXRecords: comment},
		} {
			h.Format = tar.FormatPAX
			if err := w.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = w.Close()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	tree, err := fromTar(t, b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if held := int64(after.HeapAlloc) - int64(before.HeapAlloc); held > 10<<20 {
		t.Errorf("%d MiB are held for %d names", held>>20, len(tree.Entries("")))
	}
	runtime.KeepAlive(&b)
}

func TestReadingCanBeCancelled(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	cancel(why)
	path := filepath.Join(t.TempDir(), "x.tar")
	if err := os.WriteFile(path, packed(t, item{name: "a"}), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := rootfs.Tar(ctx, path); !errors.Is(err, why) {
		t.Error(err)
	}
	if _, err := rootfs.Folder(ctx, t.TempDir()); !errors.Is(err, why) {
		t.Error(err)
	}
}

// FuzzTar: a tree of whatever parses holds nothing that a ramdisk would refuse.
func FuzzTar(f *testing.F) {
	f.Add(packed(f, item{name: "usr/bin/su", content: "su"}, hard("b", "./usr/bin/su"), item{name: "dev/null", kind: tar.TypeChar})) // small: what is found is made smaller first
	f.Add(packed(f, sym("a", "b"), sym("b", "a"), item{name: "a/c"}))
	f.Add(packed(f, sym("up", "../.."), item{name: "up/x"}, hard("y", "up/x")))
	f.Fuzz(func(t *testing.T, data []byte) {
		tree, err := fromTar(t, data)
		if err != nil {
			if _, ok := errors.AsType[*rootfs.Error](err); !ok {
				t.Fatal(err)
			}
			return
		}
		if err := ramdisk.Write(t.Context(), io.Discard, tree.Entries("")); err != nil {
			t.Fatal(err)
		}
	})
}
