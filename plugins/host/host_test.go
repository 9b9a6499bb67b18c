package host_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/plugins/host"
	"github.com/cloister-run/cloister/plugins/sandbox"
)

const program = "any bytes: New hashes and runs nothing"

func programDigest() string {
	sum := sha256.Sum256([]byte(program))
	return hex.EncodeToString(sum[:])
}

// manifest is one that is right for a program file in the folder of executors; edit breaks it.
func manifest(name string, edit ...string) string {
	m := fmt.Sprintf(`{"name": %q, "version": "1", "protocol": 1, "executable": "program", "args": [], "sha256": %q}`,
		name, programDigest())
	return strings.NewReplacer(edit...).Replace(m)
}

func write(t *testing.T, name, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func try(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func config(dir string) host.Config { return host.Config{Dir: dir, Rootfs: "/", Init: "/init"} }

func TestNewRefuses(t *testing.T) {
	for _, test := range []struct {
		rule string
		lay  func(t *testing.T, dir string)
		want []string
	}{
		{"a folder without a manifest", func(t *testing.T, dir string) {
			try(t, os.Mkdir(dir+"/a", 0o755))
		}, []string{"a: ", "manifest.json"}},
		{"an unknown field", func(t *testing.T, dir string) {
			write(t, dir+"/a/manifest.json", manifest("a", `"args"`, `"arguments"`))
		}, []string{"a: manifest: ", `unknown field "arguments"`}},
		{"something after the object", func(t *testing.T, dir string) {
			write(t, dir+"/a/manifest.json", manifest("a")+"{}")
		}, []string{"something follows the object"}},
		{"every problem of a manifest at once", func(t *testing.T, dir string) {
			write(t, dir+"/a/manifest.json", manifest("a", `"1"`, `""`, `: 1,`, `: 2,`, `"program"`, `"../program"`))
		}, []string{"version: ", "protocol: 2, this host speaks 1", "leaves the folder of executors"}},
		{"every plugin's problems at once", func(t *testing.T, dir string) {
			write(t, dir+"/a/manifest.json", manifest("b"))
			write(t, dir+"/good/manifest.json", manifest("good"))
			write(t, dir+"/z/manifest.json", manifest("z", programDigest(), strings.Repeat("0", 64)))
		}, []string{`a: name: the manifest says "b"`, "z: executable: its digest is " + programDigest() + ", the manifest says 0000"}},
		{"a name that is not the folder's", func(t *testing.T, dir string) {
			write(t, dir+"/a/manifest.json", manifest("b"))
		}, []string{`a: name: the manifest says "b"`}},
		{"a digest that is another file's", func(t *testing.T, dir string) {
			write(t, dir+"/a/manifest.json", manifest("a"))
			write(t, dir+"/program", program+".")
		}, []string{"a: executable: its digest is "}},
		{"an executable that is missing", func(t *testing.T, dir string) {
			write(t, dir+"/a/manifest.json", manifest("a", `"program"`, `"missing"`))
		}, []string{"a: executable: ", "no such file"}},
		{"an executable that is a link inside the folder", func(t *testing.T, dir string) {
			write(t, dir+"/a/manifest.json", manifest("a", `"program"`, `"link"`))
			try(t, os.Symlink("program", dir+"/link"))
		}, []string{"a: executable: is a link"}},
		{"an absolute executable that is a link", func(t *testing.T, dir string) {
			write(t, dir+"/a/manifest.json", manifest("a", `"program"`, `"`+dir+`/link"`))
			try(t, os.Symlink("program", dir+"/link"))
		}, []string{"a: executable: ", "too many levels of symbolic links"}},
		{"an executable behind a link out of the folder", func(t *testing.T, dir string) {
			outside := t.TempDir()
			write(t, outside+"/program", program)
			try(t, os.Symlink(outside, dir+"/bin"))
			try(t, os.Mkdir(dir+"/a", 0o755))
			write(t, dir+"/a/manifest.json", manifest("a", `"program"`, `"bin/program"`))
		}, []string{"a: executable: ", "escapes"}},
		{"an executable that is a device", func(t *testing.T, dir string) {
			write(t, dir+"/a/manifest.json", manifest("a", `"program"`, `"/dev/zero"`))
		}, []string{"a: executable: is no regular file"}},
		{"an executable that is a pipe, without waiting for it", func(t *testing.T, dir string) {
			write(t, dir+"/a/manifest.json", manifest("a", `"program"`, `"pipe"`))
			try(t, unix.Mkfifo(dir+"/pipe", 0o755))
		}, []string{"a: executable: is no regular file"}},
		{"an executable that is a folder", func(t *testing.T, dir string) {
			write(t, dir+"/a/manifest.json", manifest("a", `"program"`, `"a"`))
		}, []string{"a: executable: is no regular file"}},
		{"an executable that is too large", func(t *testing.T, dir string) {
			write(t, dir+"/a/manifest.json", manifest("a", `"program"`, `"large"`))
			write(t, dir+"/large", "")
			try(t, os.Truncate(dir+"/large", 256<<20+1))
		}, []string{"a: executable: has more than 268435456 bytes"}},
		{"a manifest that is a link out of the folder", func(t *testing.T, dir string) {
			outside := t.TempDir()
			write(t, outside+"/manifest.json", manifest("a"))
			try(t, os.Mkdir(dir+"/a", 0o755))
			try(t, os.Symlink(outside+"/manifest.json", dir+"/a/manifest.json"))
		}, []string{"a: ", "escapes"}},
		{"a manifest that is a pipe, without waiting for it", func(t *testing.T, dir string) {
			try(t, os.Mkdir(dir+"/a", 0o755))
			try(t, unix.Mkfifo(dir+"/a/manifest.json", 0o644))
		}, []string{"a: is no regular file"}},
		{"a manifest that is too large", func(t *testing.T, dir string) {
			write(t, dir+"/a/manifest.json", manifest("a")+strings.Repeat(" ", 16<<10))
		}, []string{"a: manifest of more than 16384 bytes"}},
		{"a plugin's folder that is a link", func(t *testing.T, dir string) {
			try(t, os.Symlink(t.TempDir(), dir+"/a"))
		}, []string{"a: is a link"}},
		{"more entries than an image has", func(t *testing.T, dir string) {
			for i := range 256 {
				write(t, fmt.Sprintf("%s/file%d", dir, i), "")
			}
		}, []string{"more than 256 entries"}},
	} {
		t.Run(test.rule, func(t *testing.T) {
			leaves(t)
			dir := t.TempDir()
			write(t, dir+"/program", program)
			test.lay(t, dir)
			h, err := host.New(config(dir))
			if err == nil {
				h.Close()
				t.Fatal("accepted")
			}
			for _, want := range append(test.want, "host: ") {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
		})
	}
}

func TestNewRefusesConfig(t *testing.T) {
	_, err := host.New(host.Config{
		Dir: "executors", Init: "./init",
		Mounts: []sandbox.Mount{{Source: "/usr", Target: "/usr"}, {Source: "/tmp", Target: "/tmp", Writable: true}},
	})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{`Dir: "executors"`, `Rootfs: ""`, `Init: "./init"`, "mounts[1]: /tmp is writable"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
	if _, err := host.New(config("/nonexistent")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a folder that is missing: %v", err)
	}
}

func TestFind(t *testing.T) {
	leaves(t)
	dir := t.TempDir()
	write(t, dir+"/program", program)
	write(t, dir+"/README", "no plugin")
	write(t, dir+"/a/manifest.json", manifest("a"))
	write(t, dir+"/b/manifest.json", manifest("b", `"program"`, `"`+dir+`/program"`))
	h, err := host.New(config(dir))
	try(t, err)
	defer h.Close()
	for _, name := range []string{"a", "b"} {
		got, err := h.Find(name)
		try(t, err)
		if want := (host.Info{Name: name, Version: "1", Digest: "sha256:" + programDigest()}); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
	for _, name := range []string{"", "c", "../a", "README", "program"} {
		if _, err := h.Find(name); !errors.Is(err, host.ErrNotFound) || !strings.Contains(err.Error(), "installed: a, b") {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestFindInAnEmptyFolder(t *testing.T) {
	h, err := host.New(config(t.TempDir()))
	try(t, err)
	defer h.Close()
	if _, err := h.Find("python"); !errors.Is(err, host.ErrNotFound) || !strings.Contains(err.Error(), "none is installed") {
		t.Error(err)
	}
}
