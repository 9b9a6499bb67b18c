package manifest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cloister-run/cloister/enclave/image/build"
	"github.com/cloister-run/cloister/enclave/image/build/buildtest"
	"github.com/cloister-run/cloister/enclave/image/manifest"
	"github.com/cloister-run/cloister/jobspec"
)

func plan(t testing.TB, recipe string) *build.Plan {
	t.Helper()
	text, err := os.ReadFile(recipe)
	if err != nil {
		t.Fatal(err)
	}
	r, err := jobspec.ParseRecipe("image.yaml", text)
	if err != nil {
		t.Fatal(err)
	}
	p, err := build.Open(t.Context(), r, filepath.Dir(recipe))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

func made(t testing.TB, recipe string) *manifest.Manifest {
	t.Helper()
	m, err := manifest.Make(t.Context(), plan(t, recipe), "abcdef0")
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// text is a whole manifest.
func text(t testing.TB) string {
	t.Helper()
	recipe := buildtest.Inputs(t, t.TempDir())
	m := made(t, recipe)
	f, err := os.Create(filepath.Join(t.TempDir(), "x.eif"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := plan(t, recipe).Write(t.Context(), f, nil); err != nil {
		t.Fatal(err)
	}
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	file, pcrs, err := manifest.Look(t.Context(), f, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	if d := m.Registers(pcrs, true); len(d) > 0 {
		t.Fatalf("%+v", d)
	}
	m.Image = file
	data, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestWhatIsMadeParses(t *testing.T) {
	raw := text(t)
	m, err := manifest.Parse([]byte(raw))
	if err != nil {
		t.Fatal(err)
	}
	again, err := json.Marshal(m)
	if err != nil || string(again) != raw {
		t.Errorf("%v\n%s\n%s", err, raw, again)
	}
	for _, want := range []string{`"at":"kernel.file"`, `"at":"kernel.modules.from"`, `"at":"enclave"`, `"at":"profile"`, `"at":"root.folder"`, `"commit":"abcdef0"`, `"load":["nsm"]`} {
		if !strings.Contains(raw, want) {
			t.Errorf("no %s in %s", want, raw)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	raw := text(t)
	digest := raw[strings.Index(raw, `"sha384":"`)+len(`"sha384":"`):][:96]
	for rule, data := range map[string]string{
		"nothing": "", "text": "hello", "an unknown field": strings.Replace(raw, `"tool"`, `"more":1,"tool"`, 1), "something behind it": raw + "{}",
		"another version": strings.Replace(raw, `"version":1`, `"version":2`, 1), "no recipe": strings.Replace(raw, `"recipe":{`, `"recipe":null,"x":{`, 1),
		"no image": raw[:strings.Index(raw, `,"image"`)] + "}", "no PCR2": strings.Replace(raw, `,"2":"`, `,"3":"`, 1), "a short PCR": strings.Replace(raw, `"0":"`, `"0":"00`, 1),
		"a commit of two lines": strings.Replace(raw, `"abcdef0"`, `"abcdef0\nVERIFIED"`, 1), "a short commit": strings.Replace(raw, `"abcdef0"`, `"abcdef"`, 1), "a long one": strings.Replace(raw, `"abcdef0"`, `"`+strings.Repeat("a", 65)+`"`, 1),
		"a file of less than nothing": strings.Replace(raw, `"image":{"bytes":`, `"image":{"bytes":-`, 1), "a short digest": strings.Replace(raw, `"sha384":"`, `"sha384":"0`, 1),
		"a digest that is none": strings.Replace(raw, `"sha384":"`+digest, `"sha384":"`+strings.Repeat("x", 96), 1), "a digest in capitals": strings.Replace(raw, `"sha384":"`+digest, `"sha384":"`+strings.Repeat("A", 96), 1),
		"a megabyte": raw + strings.Repeat(" ", manifest.MaxSize),
	} {
		if data == raw {
			t.Errorf("%s: nothing is changed", rule)
		}
		if _, err := manifest.Parse([]byte(data)); !errors.Is(err, manifest.ErrInvalid) {
			t.Errorf("%s: %v", rule, err)
		}
	}
}

func TestTheInputThatDiffersIsNamed(t *testing.T) {
	recipe := buildtest.Inputs(t, t.TempDir())
	first := made(t, recipe)
	other := buildtest.Inputs(t, t.TempDir())
	if d := first.Differences(made(t, other)); len(d) > 0 {
		t.Errorf("somewhere else: %+v", d)
	}
	for name, at := range map[string]string{
		"bzImage": "kernel.file", "modules/kernel/drivers/nsm.ko": "kernel.modules.from", "enclave/executors/python/manifest.json": "enclave",
		"enclave/etc/hosts": "enclave", "profile.json": "profile", "root/etc/os-release": "root.folder",
	} {
		dir := t.TempDir()
		recipe := buildtest.Inputs(t, dir)
		path := filepath.Join(dir, name)
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, append(bytes.Clone(data), '\n'), 0o600); err != nil {
			t.Fatal(err)
		}
		again := made(t, recipe)
		if d := first.Differences(again); len(d) != 1 || d[0].What != at {
			t.Errorf("%s: %+v", name, d)
		}
		if len(first.Registers(again.PCRs, false)) == 0 {
			t.Errorf("%s moves no register", name)
		}
	}
	for change, at := range map[string]string{"quiet/debug": "command_line", "[nsm]/[nsm, rng-core]": "kernel.modules.load", "metadata/compress: gzip\nmetadata": "compress"} {
		dir := t.TempDir()
		recipe := buildtest.Inputs(t, dir)
		from, to, _ := strings.Cut(change, "/")
		if err := os.WriteFile(recipe, []byte(strings.Replace(buildtest.Recipe, from, to, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		if d := first.Differences(made(t, recipe)); len(d) != 1 || d[0].What != at {
			t.Errorf("%s: %+v", change, d)
		}
	}
}

// TestLookingCanBeCancelled, also while the file is hashed.
func TestLookingCanBeCancelled(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	f, err := os.Create(filepath.Join(t.TempDir(), "x.eif"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := plan(t, buildtest.Inputs(t, t.TempDir())).Write(t.Context(), f, nil); err != nil {
		t.Fatal(err)
	}
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	// Measured once to its end, and then read again from its beginning.
	starts := 0
	from := readerAt(func(p []byte, at int64) (int, error) {
		if at == 0 {
			if starts++; starts == 3 { // the header, what is measured, what is hashed
				cancel(why)
			}
		}
		return f.ReadAt(p, at)
	})
	if _, _, err := manifest.Look(ctx, from, info.Size()); !errors.Is(err, why) || starts != 3 {
		t.Errorf("%v, read from its beginning %d times", err, starts)
	}
}

type readerAt func([]byte, int64) (int, error)

func (r readerAt) ReadAt(p []byte, at int64) (int, error) { return r(p, at) }

// FuzzParse: what parses has everything that verifying needs.
func FuzzParse(f *testing.F) {
	f.Add([]byte(text(f)))
	f.Add([]byte(`{"version":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := manifest.Parse(data)
		if err != nil {
			if !errors.Is(err, manifest.ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		_ = m.Differences(m)
		if len(m.Registers(m.PCRs, true)) > 0 || m.Recipe == nil || m.Image == nil || m.PCRs["2"] == "" {
			t.Fatalf("%+v", m)
		}
	})
}
