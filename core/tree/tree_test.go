package tree_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/cloister-run/cloister/core/tree"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// unpackers are the ways to unpack a stream, which have the same rules.
var unpackers = map[string]func(ctx context.Context, r io.Reader, root *os.Root, limits tree.Limits) error{
	"Unpack": func(ctx context.Context, r io.Reader, root *os.Root, limits tree.Limits) error {
		_, err := tree.Unpack(ctx, r, root, limits)
		return err
	},
	"Extract": func(ctx context.Context, r io.Reader, root *os.Root, limits tree.Limits) error {
		_, err := tree.Extract(ctx, r, root, limits)
		return err
	},
}

var plenty = tree.Limits{Bytes: 1 << 20, Entries: 100}

func write(t *testing.T, dir, name, content string, mode fs.FileMode) {
	t.Helper()
	file := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
}

func openRoot(t *testing.T, dir string) *os.Root {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return root
}

func TestATreeSurvivesPackAndUnpackWithTheSameDigest(t *testing.T) {
	src, dst := t.TempDir(), t.TempDir()
	write(t, src, "b/run.sh", "#!/bin/sh\n", 0o755)
	write(t, src, "a.txt", "hello", 0o600)
	write(t, src, "b/empty", "", 0o644)
	if err := os.Mkdir(filepath.Join(src, "hollow"), 0o700); err != nil {
		t.Fatal(err)
	}
	source, err := tree.Open(src, plenty)
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	before, err := source.Digest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var stream bytes.Buffer
	packed, err := source.Pack(t.Context(), &stream)
	if err != nil {
		t.Fatal(err)
	}
	got, err := tree.Unpack(t.Context(), &stream, openRoot(t, dst), plenty)
	if err != nil {
		t.Fatal(err)
	}
	if got != packed || got != before || got.Files != 3 || got.Bytes != 15 {
		t.Errorf("digest %+v, pack %+v, unpack %+v", before, packed, got)
	}
	info, err := os.Stat(filepath.Join(dst, "b/run.sh"))
	if err != nil || info.Mode().Perm()&0o111 == 0 {
		t.Errorf("run.sh lost its executable bit: %v %v", info, err)
	}
	if info, err := os.Stat(filepath.Join(dst, "hollow")); err != nil || !info.IsDir() {
		t.Errorf("the empty folder is gone: %v", err)
	}
}

func TestTheDigestTellsContentNamesAndKindsApart(t *testing.T) {
	base := []tree.Entry{{Path: "a", Kind: tree.File, Size: 1}, {Path: "b", Kind: tree.Folder}}
	seen := map[string]string{tree.Sum(base).Digest: "base"}
	for name, entries := range map[string][]tree.Entry{
		"another name":                       {{Path: "aa", Kind: tree.File, Size: 1}, {Path: "b", Kind: tree.Folder}},
		"another kind":                       {{Path: "a", Kind: tree.Executable, Size: 1}, {Path: "b", Kind: tree.Folder}},
		"another size":                       {{Path: "a", Kind: tree.File, Size: 2}, {Path: "b", Kind: tree.Folder}},
		"another content":                    {{Path: "a", Kind: tree.File, Size: 1, Sum: [32]byte{1}}, {Path: "b", Kind: tree.Folder}},
		"no folder":                          {{Path: "a", Kind: tree.File, Size: 1}},
		"a name that swallows its neighbour": {{Path: "a\x00b", Kind: tree.File, Size: 1}},
	} {
		digest := tree.Sum(entries).Digest
		if other, ok := seen[digest]; ok {
			t.Errorf("%s has the digest of %s", name, other)
		}
		seen[digest] = name
	}
	reversed := []tree.Entry{base[1], base[0]}
	if tree.Sum(reversed) != tree.Sum(base) {
		t.Error("the digest depends on the order of entries")
	}
}

func archive(t testing.TB, headers ...*tar.Header) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, h := range headers {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(w, zeros{}, h.Size); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func file(name string, size int64) *tar.Header {
	return &tar.Header{Name: name, Typeflag: tar.TypeReg, Size: size, Mode: 0o644}
}

// Threat 28: no path leaves the root, no links out, no devices, counts and sizes bounded.
func TestUnpackRefuses(t *testing.T) {
	long := strings.Repeat("x", 256)
	for rule, stream := range map[string][]byte{
		"an absolute path":            archive(t, file("/etc/passwd", 1)),
		"a path that climbs":          archive(t, file("../x", 1)),
		"a path that climbs later":    archive(t, file("a/../../x", 1)),
		"an unclean path":             archive(t, file("a/./x", 1)),
		"an empty name":               archive(t, &tar.Header{Name: "/", Typeflag: tar.TypeDir}),
		"a control character":         archive(t, file("a\nb", 1)),
		"a backslash":                 archive(t, file(`a\b`, 1)),
		"a name that is not UTF-8":    archive(t, &tar.Header{Name: "a\xff", Typeflag: tar.TypeReg, Format: tar.FormatGNU}),
		"a name over 255 bytes":       archive(t, file(long, 1)),
		"65 folders deep":             archive(t, file(strings.Repeat("d/", 65)+"x", 1)),
		"a symbolic link":             archive(t, &tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}),
		"a hard link":                 archive(t, file("a", 1), &tar.Header{Name: "l", Typeflag: tar.TypeLink, Linkname: "a"}),
		"a device":                    archive(t, &tar.Header{Name: "d", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}),
		"a pipe":                      archive(t, &tar.Header{Name: "p", Typeflag: tar.TypeFifo}),
		"the same name twice":         archive(t, file("a", 1), file("a", 1)),
		"a file where a folder stood": archive(t, file("a/b", 1), file("a", 1)),
		"a folder where a file stood": archive(t, file("a", 1), file("a/b", 1)),
		"more bytes than allowed":     archive(t, file("a", 60), file("b", 60)),
		"more entries than allowed":   archive(t, file("a", 1), file("b", 1), file("c", 1), file("d", 1), file("e", 1)),
		"more folders than allowed":   archive(t, file("a/b/c/d/e", 1)),
		"data after the end":          append(archive(t, file("a", 1)), "more"...),
		"a long tail of zeros":        append(archive(t, file("a", 1)), make([]byte, 1<<20)...),
		"no archive at all":           []byte(strings.Repeat("not a tar archive ", 100)),
	} {
		t.Run(rule, func(t *testing.T) {
			for name, unpack := range unpackers {
				err := unpack(t.Context(), bytes.NewReader(stream), openRoot(t, t.TempDir()), tree.Limits{Bytes: 100, Entries: 4})
				if !errors.Is(err, tree.ErrRefused) {
					t.Errorf("%s: got %v, want a refusal", name, err)
				}
			}
		})
	}
}

func TestUnpackOfACutStreamFails(t *testing.T) {
	whole := archive(t, file("a", 1000), file("b", 1000))
	for _, n := range []int{1, 511, 513, 600, 1600, 2100} {
		for name, unpack := range unpackers {
			if err := unpack(t.Context(), bytes.NewReader(whole[:n]), openRoot(t, t.TempDir()), plenty); err == nil {
				t.Errorf("%s: cut after %d bytes: accepted", name, n)
			}
		}
	}
}

func TestUnpackStopsWhenItIsCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, unpack := range unpackers {
		err := unpack(ctx, bytes.NewReader(archive(t, file("a", 1))), openRoot(t, t.TempDir()), plenty)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// Threat 29b: no links, no second names, no special files among outputs.
func TestFreezeRefuses(t *testing.T) {
	outside := t.TempDir()
	write(t, outside, "secret", "secret", 0o600)
	link := func(t *testing.T, target, name string) {
		t.Helper()
		if err := os.Symlink(target, name); err != nil {
			t.Fatal(err)
		}
	}
	for rule, make := range map[string]func(t *testing.T, dir string){
		"a link in its place":      func(t *testing.T, dir string) { link(t, outside+"/secret", dir+"/out/x") },
		"a link to a folder":       func(t *testing.T, dir string) { link(t, outside, dir+"/out/x") },
		"a link inside the folder": func(t *testing.T, dir string) { write(t, dir, "out/x/a", "", 0o600); link(t, "a", dir+"/out/x/b") },
		"a link on the way": func(t *testing.T, dir string) {
			write(t, dir, "real/x", "", 0o600)
			os.Remove(dir + "/out")
			link(t, "real", dir+"/out")
		},
		"a second name": func(t *testing.T, dir string) {
			write(t, dir, "out/x", "", 0o600)
			if err := os.Link(dir+"/out/x", dir+"/other"); err != nil {
				t.Fatal(err)
			}
		},
		"a pipe": func(t *testing.T, dir string) {
			if err := syscall.Mkfifo(dir+"/out/x", 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"a socket in the folder": func(t *testing.T, dir string) {
			if err := os.Mkdir(dir+"/out/x", 0o700); err != nil {
				t.Fatal(err)
			}
			fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer syscall.Close(fd)
			if err := syscall.Bind(fd, &syscall.SockaddrUnix{Name: dir + "/out/x/s"}); err != nil {
				t.Fatal(err)
			}
		},
		"a name with a newline": func(t *testing.T, dir string) { write(t, dir, "out/x/a\nb", "", 0o600) },
		"too many bytes":        func(t *testing.T, dir string) { write(t, dir, "out/x", strings.Repeat("x", 101), 0o600) },
		"too many files": func(t *testing.T, dir string) {
			for _, n := range "abcde" {
				write(t, dir, "out/x/"+string(n), "", 0o600)
			}
		},
	} {
		t.Run(rule, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.Mkdir(dir+"/out", 0o700); err != nil {
				t.Fatal(err)
			}
			make(t, dir)
			s, err := tree.Freeze(openRoot(t, dir), "out/x", tree.Limits{Bytes: 100, Entries: 4})
			if err == nil {
				s.Close()
			}
			if !errors.Is(err, tree.ErrRefused) {
				t.Errorf("got %v, want a refusal", err)
			}
		})
	}
}

func TestFreezeOfAMissingOutputSaysSo(t *testing.T) {
	if _, err := tree.Freeze(openRoot(t, t.TempDir()), "x", plenty); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestFreezeDropsWhatModeBitsCouldCarry(t *testing.T) {
	digest := func(mode fs.FileMode) string {
		dir := t.TempDir()
		write(t, dir, "x", "same", mode)
		s, err := tree.Freeze(openRoot(t, dir), "x", plenty)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		sum, err := s.Digest(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return sum.Digest
	}
	if digest(0o600) != digest(0o755) {
		t.Error("an executable bit crosses")
	}
}
