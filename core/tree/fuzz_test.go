package tree_test

import (
	"archive/tar"
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cloister-run/cloister/core/tree"
)

var update = flag.Bool("update", false, "write the seeds of FuzzUnpack again")

// seeds are archives by name; TestSeeds keeps testdata/archives equal to them.
func seeds(t testing.TB) map[string][]byte {
	whole := archive(t, file("a", 3), file("b/c", 600))
	return map[string][]byte{
		"files":       whole,
		"folder":      archive(t, &tar.Header{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o755}, file("d/x", 0)),
		"executable":  archive(t, &tar.Header{Name: "x", Typeflag: tar.TypeReg, Mode: 0o755}),
		"climbs":      archive(t, file("../x", 1)),
		"link":        archive(t, &tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}),
		"twice":       archive(t, file("a", 1), file("a", 1)),
		"pax":         archive(t, file(strings.Repeat("n", 200), 1)),
		"cut":         whole[:700],
		"trailing":    append(bytes.Clone(whole), "more"...),
		"no-archive":  []byte("garbage"),
		"file-folder": archive(t, file("a", 1), file("a/b", 1)),
	}
}

func TestSeeds(t *testing.T) {
	for name, data := range seeds(t) {
		path := "testdata/archives/" + name + ".tar"
		if *update {
			if err := os.WriteFile(path, data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if found, err := os.ReadFile(path); err != nil || !bytes.Equal(found, data) {
			t.Errorf("%s is not the seed that it was (%v): run the test with -update", path, err)
		}
	}
}

// FuzzUnpack: Extract accepts what Unpack accepts; that is on the disk with the digest that was
// returned, and packs and unpacks to the same again.
func FuzzUnpack(f *testing.F) {
	paths, err := filepath.Glob("testdata/archives/*.tar")
	if err != nil || len(paths) == 0 {
		f.Fatalf("no seeds: %v", err)
	}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, stream []byte) {
		limits := tree.Limits{Bytes: 1 << 16, Entries: 32}
		dir := t.TempDir()
		got, err := tree.Unpack(t.Context(), bytes.NewReader(stream), openRoot(t, dir), limits)
		x, extractErr := tree.Extract(t.Context(), bytes.NewReader(stream), openRoot(t, t.TempDir()), limits)
		if (extractErr == nil) != (err == nil) || x.Bytes != got.Bytes {
			t.Fatalf("unpacked %+v, %v; extracted %+v, %v", got, err, x, extractErr)
		}
		if err != nil {
			return
		}
		s, err := tree.Open(dir, limits)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		var packed bytes.Buffer
		if again, err := s.Digest(t.Context()); err != nil || again != got {
			t.Fatalf("wrote %+v, found %+v (%v)", got, again, err)
		}
		if again, err := s.Pack(t.Context(), &packed); err != nil || again != got {
			t.Fatalf("wrote %+v, packed %+v (%v)", got, again, err)
		}
		if again, err := tree.Unpack(t.Context(), &packed, openRoot(t, t.TempDir()), limits); err != nil || again != got {
			t.Fatalf("wrote %+v, then %+v (%v)", got, again, err)
		}
	})
}
