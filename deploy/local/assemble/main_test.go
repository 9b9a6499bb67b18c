package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cloister-run/cloister/plugins/proto"
	"github.com/cloister-run/cloister/plugins/shipped"
	"github.com/cloister-run/cloister/policies"
)

// sources is the folder of the example policies; size-cap is the one with its module checked in.
const sources = "../../../policies/library"

func put(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func must(t *testing.T, args ...string) {
	t.Helper()
	var stderr strings.Builder
	if status := run(args, &stderr); status != 0 {
		t.Fatalf("assemble %s: status %d: %s", strings.Join(args, " "), status, &stderr)
	}
}

// TestLibrary: a module is packed, a second time writes nothing, and a policy that is gone goes.
func TestLibrary(t *testing.T) {
	raw, out := t.TempDir(), t.TempDir()
	put(t, filepath.Join(raw, "built.wasm"), read(t, sources+"/size-cap/size-cap.wasm"))
	folder := t.TempDir()
	put(t, filepath.Join(folder, "built", "manifest.json"), read(t, sources+"/size-cap/manifest.json"))
	put(t, filepath.Join(folder, "size-cap", "manifest.json"), read(t, sources+"/size-cap/manifest.json"))
	put(t, filepath.Join(folder, "size-cap", "size-cap.wasm"), read(t, sources+"/size-cap/size-cap.wasm"))
	put(t, filepath.Join(out, "gone.wasm"), nil)
	must(t, "library", folder, out, raw)

	packed := filepath.Join(out, "size-cap.wasm")
	m, err := policies.ReadManifest(read(t, packed))
	if err != nil || m.Name != "size-cap" {
		t.Errorf("the packed module's manifest: name %q, error %v", m.Name, err)
	}
	if _, err := os.Stat(filepath.Join(out, "built.wasm")); err != nil {
		t.Errorf("a policy that was built: %v", err)
	}
	if _, err := os.Stat(filepath.Join(out, "gone.wasm")); err == nil {
		t.Error("a policy without a source stays in the library")
	}

	long := time.Unix(1, 0)
	if err := os.Chtimes(packed, long, long); err != nil {
		t.Fatal(err)
	}
	must(t, "library", folder, out, raw)
	if info, err := os.Stat(packed); err != nil || !info.ModTime().Equal(long) {
		t.Errorf("an unchanged module was written again (%v)", err)
	}
}

// TestEnclave: the manifest is one that the enclave accepts, with the digest of the binary beside it.
func TestEnclave(t *testing.T) {
	image, sources := t.TempDir(), t.TempDir()
	binary, text := []byte("an executor"), []byte(`{"realm": "x"}`)
	put(t, filepath.Join(image, "executors/cloister-executor"), binary)
	put(t, filepath.Join(sources, "profile.json"), text)
	put(t, filepath.Join(sources, "etc/group"), []byte("root:x:0:"))
	rehearsal, other := filepath.Join(t.TempDir(), "rehearsal"), []byte(`{"rehearsal": true}`)
	put(t, filepath.Join(sources, "rehearsal.json"), other)
	put(t, filepath.Join(rehearsal, "executors/old/manifest.json"), nil)
	put(t, filepath.Join(rehearsal, "executors/cloister-executor"), []byte("of an older image"))
	must(t, "enclave", sources, image, rehearsal)
	must(t, "enclave", sources, image, rehearsal)
	if got := read(t, filepath.Join(rehearsal, "profile.json")); !bytes.Equal(got, other) {
		t.Errorf("the profile of the rehearsal is %q", got)
	}
	if got := read(t, filepath.Join(rehearsal, "executors/cloister-executor")); !bytes.Equal(got, binary) {
		t.Errorf("its executor is %q", got)
	}
	if _, err := os.Stat(filepath.Join(rehearsal, "executors/old/manifest.json")); err == nil {
		t.Error("something of an older image is left in it")
	}
	if got := read(t, filepath.Join(image, "etc/group")); string(got) != "root:x:0:" {
		t.Errorf("etc/group is %q", got)
	}

	if got := read(t, filepath.Join(image, "profile.json")); !bytes.Equal(got, text) {
		t.Errorf("the profile is %q, want %q", got, text)
	}
	sum := sha256.Sum256(binary)
	for _, e := range shipped.All() {
		m, err := proto.ParseManifest(read(t, filepath.Join(image, "executors", e.Name, "manifest.json")))
		if err != nil {
			t.Fatal(err)
		}
		if want := hex.EncodeToString(sum[:]); m.SHA256 != want || m.Version != e.Version || m.Name != e.Name || len(m.Args) != 1 || m.Args[0] != e.Name {
			t.Errorf("manifest %+v, want version %s and digest %s", m, e.Version, want)
		}
	}
}

// TestRefuses: what is missing is an error, not a smaller image.
func TestRefuses(t *testing.T) {
	empty := t.TempDir()
	unknown := t.TempDir()
	put(t, filepath.Join(unknown, "unknown.wasm"), read(t, sources+"/size-cap/size-cap.wasm"))
	folder := t.TempDir()
	put(t, filepath.Join(folder, "profile.json"), []byte("{}"))
	for rule, row := range map[string]struct {
		status int
		args   []string
	}{
		"a library of nothing":         {1, []string{"library", empty, t.TempDir()}},
		"nothing was built":            {1, []string{"library", sources, t.TempDir(), empty}},
		"a module without a manifest":  {1, []string{"library", sources, t.TempDir(), unknown}},
		"an image without an executor": {1, []string{"enclave", folder, empty, empty}},
		"an image without a profile":   {1, []string{"enclave", filepath.Join(empty, "none"), empty, empty}},
		"another command":              {2, []string{"all"}},
		"no arguments":                 {2, nil},
	} {
		t.Run(rule, func(t *testing.T) {
			var stderr strings.Builder
			if status := run(row.args, &stderr); status != row.status || stderr.Len() == 0 {
				t.Errorf("status %d, want %d; it said %q", status, row.status, &stderr)
			}
		})
	}
}
