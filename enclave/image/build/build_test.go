package build_test

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/enclave/image/build"
	"github.com/cloister-run/cloister/enclave/image/build/buildtest"
	"github.com/cloister-run/cloister/enclave/image/eif"
	"github.com/cloister-run/cloister/enclave/image/ramdisk"
	"github.com/cloister-run/cloister/jobspec"
)

// open opens what a recipe names, with changes of its text.
func open(t testing.TB, recipe string, change ...string) (*build.Plan, error) {
	t.Helper()
	text, err := os.ReadFile(recipe)
	if err != nil {
		t.Fatal(err)
	}
	r, err := jobspec.ParseRecipe("image.yaml", []byte(strings.NewReplacer(change...).Replace(string(text))))
	if err != nil {
		t.Fatal(err)
	}
	p, err := build.Open(t.Context(), r, filepath.Dir(recipe))
	if err == nil {
		t.Cleanup(func() { _ = p.Close() })
	}
	return p, err
}

// write builds an image into memory.
func write(t testing.TB, p *build.Plan) ([]byte, eif.PCRs) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "x.eif"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	pcrs, err := p.Write(t.Context(), f, nil)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	return raw, pcrs
}

func built(t testing.TB, recipe string, change ...string) ([]byte, eif.PCRs) {
	t.Helper()
	p, err := open(t, recipe, change...)
	if err != nil {
		t.Fatal(err)
	}
	return write(t, p)
}

// list is what the ramdisks of an image hold, one line for each name.
func list(t testing.TB, raw []byte) [][]string {
	t.Helper()
	img, err := eif.Read(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		t.Fatal(err)
	}
	var all [][]string
	for _, s := range img.Sections {
		if s.Kind != eif.Ramdisk {
			continue
		}
		var names []string
		r := ramdisk.NewReader(img.Data(s), 1<<30)
		for {
			h, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			line := strings.Join([]string{h.Kind.String(), mode(h.Mode), h.Name}, " ")
			if h.Target != "" {
				line += " -> " + h.Target
			}
			if h.Kind == ramdisk.File && h.Size < 100 {
				content, err := io.ReadAll(r)
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.HasPrefix(content, []byte("\x7fELF")) {
					line += ": " + string(content)
				}
			}
			names = append(names, line)
		}
		all = append(all, names)
	}
	return all
}

func mode(m uint32) string {
	return string([]byte{'0' + byte(m>>9), '0' + byte(m>>6&7), '0' + byte(m>>3&7), '0' + byte(m&7)})
}

// TestWhatIsInAnImage is docs/enclave-image.md: what boots is in the first ramdisk, the daemon first and the command line
// last; executors and their root are in the second, with the enclave's /etc over that of the root.
func TestWhatIsInAnImage(t *testing.T) {
	raw, _ := built(t, buildtest.Inputs(t, t.TempDir()))
	want := [][]string{{
		"folder 0755 cloister", "file 0755 cloister/cloisterd", "symbolic link 0777 init -> cloister/cloisterd",
		"folder 1777 tmp", "folder 0755 rootfs", "folder 0755 dev", "character device 0600 dev/console", "character device 0666 dev/null",
		"folder 0755 proc", "folder 0755 sys", "folder 0755 run", "folder 0755 run/cloister",
		"folder 0755 var", "folder 0755 var/lib", "folder 0755 var/lib/cloister",
		"folder 0755 cloister/modules", "file 0644 cloister/modules/00-rng_core.ko", "file 0644 cloister/modules/01-nsm.ko",
		"file 0755 cloister/policy", `file 0644 cloister/profile.json: {"realm": "test", "listen": "vsock"}` + "\n", "file 0755 cloister/walls",
		"file 0644 cloister/cmdline: " + commandLine,
	}, {
		"folder 0755 cloister", "folder 0755 cloister/executors", "file 0755 cloister/executors/cloister-executor",
		"folder 0755 cloister/executors/python", "file 0644 cloister/executors/python/manifest.json: {}\n",
		"folder 0755 rootfs", "symbolic link 0777 rootfs/bin -> usr/bin", "folder 0755 rootfs/etc",
		"file 0644 rootfs/etc/hosts: 127.0.0.1 localhost\n", "file 0644 rootfs/etc/os-release: ID=test\n",
		"file 0644 rootfs/etc/passwd: root:x:0:0::/:/sbin/nologin\n", "folder 0755 rootfs/usr", "folder 0755 rootfs/usr/bin",
		"symbolic link 0777 rootfs/usr/bin/python -> python3", "file 0755 rootfs/usr/bin/python3", "folder 0755 rootfs/usr/lib", "file 0644 rootfs/usr/lib/data",
	}}
	got := list(t, raw)
	if len(got) != 2 || !slices.Equal(got[0], want[0]) || !slices.Equal(got[1], want[1]) {
		t.Errorf("%q", got)
	}
	img, err := eif.Read(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		t.Fatal(err)
	}
	line, err := io.ReadAll(img.Data(img.Sections[1]))
	if err != nil || string(line) != commandLine || img.ARM || img.Memory != 4<<30 || img.CPUs != 2 {
		t.Errorf("%q, %v, %+v", line, err, img)
	}
}

// TestI10_TheSameInputsGiveTheSameImage: not where they are, who made them, in which order, when, under which
// umask or in which time zone.
func TestI10_TheSameInputsGiveTheSameImage(t *testing.T) {
	for name, change := range map[string][]string{"plain": {"", ""}, "gzip": {"metadata:", "compress: gzip\nmetadata:"}} {
		t.Run(name, func(t *testing.T) {
			first, pcrs := built(t, buildtest.Inputs(t, t.TempDir()), change...)
			other := filepath.Join(t.TempDir(), "another", "place")
			t.Setenv("TZ", "Pacific/Kiritimati")
			shuffle(t, filepath.Dir(buildtest.Inputs(t, t.TempDir())), other)
			second, again := built(t, filepath.Join(other, "image.yaml"), change...)
			if !bytes.Equal(first, second) || pcrs != again {
				t.Error("the images differ")
			}
			for _, file := range []string{"root/usr/lib/data", "enclave/executors/python/manifest.json"} {
				if err := os.WriteFile(filepath.Join(other, file), []byte("e"), 0o600); err != nil {
					t.Fatal(err)
				}
				_, changed := built(t, filepath.Join(other, "image.yaml"), change...)
				if changed.PCR1 != pcrs.PCR1 || changed.PCR2 == pcrs.PCR2 || changed.PCR2 == again.PCR2 {
					t.Errorf("%s that is another moves PCR2 and nothing of PCR1", file)
				}
				again = changed
			}
		})
	}
}

// shuffle copies a folder in another order, with other modes, times and owners.
func shuffle(t *testing.T, from, to string) {
	t.Helper()
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	var names []string
	if err := filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			names = append(names, strings.TrimPrefix(path, from+"/"))
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	rand.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	for _, name := range names {
		source, path := filepath.Join(from, name), filepath.Join(to, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			t.Fatal(err)
		}
		if target, err := os.Readlink(source); err == nil {
			if err := os.Symlink(target, path); err != nil {
				t.Fatal(err)
			}
			continue
		}
		data, err := os.ReadFile(source)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(source)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, info.Mode()); err != nil {
			t.Fatal(err)
		}
		when := time.Unix(rand.Int64N(1<<30), 0)
		if err := os.Chtimes(path, when, when); err != nil {
			t.Fatal(err)
		}
		if os.Geteuid() == 0 {
			if err := os.Chown(path, 1+rand.IntN(1000), 1+rand.IntN(1000)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestWhatCannotBeBuilt(t *testing.T) {
	remove := func(name string) func(string) error {
		return func(dir string) error { return os.RemoveAll(filepath.Join(dir, name)) }
	}
	put := func(name string, data []byte) func(string) error {
		return func(dir string) error {
			_ = os.Remove(filepath.Join(dir, name))
			return os.WriteFile(filepath.Join(dir, name), data, 0o755)
		}
	}
	fifo := func(name string) func(string) error {
		return func(dir string) error {
			return errors.Join(os.RemoveAll(filepath.Join(dir, name)), unix.Mkfifo(filepath.Join(dir, name), 0o600))
		}
	}
	nothing := func(string) error { return nil }
	for rule, test := range map[string]struct {
		change    []string
		prepare   func(dir string) error
		path, err string
	}{
		"no kernel":                    {nil, remove("bzImage"), "kernel.file", "no such file"},
		"a kernel that is a FIFO":      {nil, fifo("bzImage"), "kernel.file", "no regular file"},
		"a kernel of arm64":            {nil, put("bzImage", buildtest.Image("6.12.1", "")), "kernel.file", "for arm64"},
		"a kernel of x86_64":           {[]string{"x86_64", "arm64"}, nothing, "kernel.file", "for x86_64"},
		"no kernel at all":             {nil, put("bzImage", []byte("hello")), "kernel.file", "it is no kernel"},
		"a configuration that is none": {[]string{"file: bzImage", "file: bzImage\n  config: profile.json"}, nothing, "kernel.config", "sets no option"},
		"a module that is nowhere":     {[]string{"[nsm]", "[nsm, vsock]"}, nothing, "kernel.modules.load", `no module "vsock"`},
		"a hundred modules and one": {nil, func(dir string) error {
			var needs []string
			var err error
			for i := range 100 {
				needs = append(needs, fmt.Sprintf("m%d", i))
				err = errors.Join(err, put("modules/"+needs[i]+".ko", buildtest.Module())(dir))
			}
			return errors.Join(err, put("modules/kernel/drivers/nsm.ko", buildtest.Module(needs...))(dir))
		}, "kernel.modules.load", "101 modules would be loaded; 100 can be"},
		"no modules":                   {nil, remove("modules"), "kernel.modules.from", "no such file"},
		"modules that are a FIFO":      {nil, fifo("modules"), "kernel.modules.from", "not a directory"},
		"a FIFO modules.builtin":       {nil, fifo("modules/modules.builtin"), "kernel.modules.load", "modules.builtin is no regular file"},
		"an enclave that is a FIFO":    {nil, fifo("enclave"), "enclave", "not a directory"},
		"a root that is a FIFO":        {nil, fifo("root"), "root.folder", "not a directory"},
		"no enclave":                   {nil, remove("enclave"), "enclave", "no such file"},
		"no daemon":                    {nil, remove("enclave/cloisterd"), "enclave", "holds no cloisterd"},
		"no walls":                     {nil, remove("enclave/walls"), "enclave", "holds no walls"},
		"no policy worker":             {nil, remove("enclave/policy"), "enclave", "holds no policy"},
		"no executors":                 {nil, remove("enclave/executors"), "enclave", "holds no folder executors"},
		"no profile":                   {nil, remove("profile.json"), "profile", "no such file"},
		"no profile anywhere":          {[]string{"profile: profile.json\n", ""}, remove("enclave/profile.json"), "enclave", "holds no profile.json"},
		"a profile of a local enclave": {nil, put("profile.json", []byte(`{"listen": "unix"}`)), "enclave", "does not say that the enclave listens on vsock"},
		"a profile that is no JSON":    {nil, put("profile.json", []byte("realm: aws")), "enclave", "is not JSON"},
		"a daemon of another machine":  {nil, put("enclave/cloisterd", buildtest.Executable(elf.EM_AARCH64)), "enclave", "cloisterd is for EM_AARCH64"},
		"a daemon that needs a loader": {nil, put("enclave/cloisterd", buildtest.Dynamic(elf.EM_X86_64)), "enclave", "cloisterd needs a dynamic loader"},
		"a daemon that is a script":    {nil, put("enclave/cloisterd", []byte("#!/bin/sh\n")), "enclave", "cloisterd is no executable"},
		"a daemon that may not run":    {nil, func(dir string) error { return os.Chmod(dir+"/enclave/cloisterd", 0o644) }, "enclave", "may not be executed"},
		"executors that are a link": {nil, func(dir string) error {
			return errors.Join(os.Rename(dir+"/enclave/executors", dir+"/executors"), os.Symlink("../executors", dir+"/enclave/executors"))
		}, "enclave", "executors is a symbolic link"},
		"a daemon that is a link": {nil, func(dir string) error {
			return errors.Join(os.Rename(dir+"/enclave/cloisterd", dir+"/enclave/executors/x"), os.Symlink("executors/x", dir+"/enclave/cloisterd"))
		}, "enclave", "cloisterd is a symbolic link"},
		"what is no part of it":        {nil, put("enclave/model.bin", []byte("x")), "enclave", `"model.bin", which is no part`},
		"modules in the folder":        {nil, func(dir string) error { return os.Mkdir(dir+"/enclave/modules", 0o755) }, "enclave", `"modules", which is no part`},
		"a command line in the folder": {nil, put("enclave/cmdline", []byte("x")), "enclave", `"cmdline", which is no part`},
		"roots without a certificate":  {[]string{"profile:", "roots: image.yaml\nprofile:"}, nothing, "roots", "holds no certificate"},
		"no root":                      {nil, remove("root"), "root.folder", "no such file"},
		"a root with a FIFO":           {nil, func(dir string) error { return unix.Mkfifo(dir+"/root/etc/pipe", 0o600) }, "root.folder", `"etc/pipe" is a FIFO`},
		"a root whose /etc is a file": {nil, func(dir string) error {
			return errors.Join(os.RemoveAll(dir+"/root/etc"), os.WriteFile(dir+"/root/etc", nil, 0o600))
		}, "root.folder", "which is a file"},
		"a tar that is none":      {[]string{"folder: root", "tar: image.yaml"}, nothing, "root.tar", "no tar"},
		"a tar that is a FIFO":    {[]string{"folder: root", "tar: root"}, fifo("root"), "root.tar", "no regular file"},
		"a layout that is a FIFO": {[]string{"folder: root", "oci: root"}, fifo("root"), "root.oci", "not a directory"},
		"a layout that is none":   {[]string{"folder: root", "oci: enclave"}, nothing, "root.oci", "no OCI image layout"},
	} {
		t.Run(rule, func(t *testing.T) {
			recipe := buildtest.Inputs(t, t.TempDir())
			if err := test.prepare(filepath.Dir(recipe)); err != nil {
				t.Fatal(err)
			}
			_, err := open(t, recipe, test.change...)
			problems, ok := errors.AsType[*jobspec.Problems](err)
			if !ok || !slices.ContainsFunc(*problems, func(p jobspec.Problem) bool {
				return p.Path == test.path && strings.Contains(p.Message, test.err) && p.Line > 0
			}) {
				t.Errorf("%v, want %s: %s", err, test.path, test.err)
			}
		})
	}
}

// A file that is longer, shorter or another than it was when the plan was made ends the build.
func TestWhatChangesMeanwhileIsNotBuilt(t *testing.T) {
	for rule, change := range map[string]func(path string) error{
		"longer":  func(path string) error { return os.Truncate(path, 3<<20+1) },
		"shorter": func(path string) error { return os.Truncate(path, 1) },
		"another": func(path string) error {
			return errors.Join(os.Rename(path, path+".old"), os.WriteFile(path, make([]byte, 3<<20), 0o644))
		},
		"a FIFO": func(path string) error { return errors.Join(os.Rename(path, path+".old"), unix.Mkfifo(path, 0o600)) },
	} {
		recipe := buildtest.Inputs(t, t.TempDir())
		p, err := open(t, recipe)
		if err != nil {
			t.Fatal(err)
		}
		if err := change(filepath.Join(filepath.Dir(recipe), "root/usr/lib/data")); err != nil {
			t.Fatal(err)
		}
		if _, err := p.Write(t.Context(), &nowhere{}, nil); !errors.Is(err, ramdisk.ErrChanged) || !strings.Contains(err.Error(), "rootfs/usr/lib/data") {
			t.Errorf("%s: %v", rule, err)
		}
	}
}

// What an image was built from is digested behind the build, and waits for nothing either.
func TestAnInputThatBecameAFIFO(t *testing.T) {
	recipe := buildtest.Inputs(t, t.TempDir())
	p, err := open(t, recipe)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(filepath.Dir(recipe), "bzImage")
	if err := errors.Join(os.Remove(path), unix.Mkfifo(path, 0o600)); err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(p.Inputs(), func(in build.Input) bool { return in.Name == "bzImage" })
	if _, _, err := p.Inputs()[i].Digest(t.Context()); !errors.Is(err, ramdisk.ErrChanged) {
		t.Error(err)
	}
}

func TestBuildingCanBeCancelled(t *testing.T) {
	p, err := open(t, buildtest.Inputs(t, t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	cancel(why)
	if _, err := p.Write(ctx, &nowhere{}, nil); !errors.Is(err, why) {
		t.Error(err)
	}
	for _, in := range p.Inputs() {
		if _, _, err := in.Digest(ctx); !errors.Is(err, why) {
			t.Errorf("%s: %v", in.At, err)
		}
	}
	if _, err := build.Open(ctx, p.Recipe(), t.TempDir()); !errors.Is(err, why) {
		t.Error(err)
	}
}

func TestWarnings(t *testing.T) {
	recipe := buildtest.Inputs(t, t.TempDir())
	now := time.Date(2026, 11, 29, 0, 0, 0, 0, time.UTC)
	for rule, test := range map[string]struct {
		version, config string
		want            []string
	}{
		"nothing":                 {"6.12.41", buildtest.Config, nil},
		"an old kernel":           {"4.14.256-amzn2", buildtest.Config, []string{"4.14 is no line"}},
		"one without a parameter": {"6.12.41", strings.ReplaceAll(buildtest.Config, "CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES=y\n", ""), []string{"lacks CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES"}},
		"a module not loaded":     {"6.12.41", strings.ReplaceAll(buildtest.Config, "VSOCKETS=y", "VSOCKETS=m"), []string{"vsock, which kernel.modules.load does not name", "vmw_vsock_virtio_transport, which"}},
		"a kernel that says none": {"6.12.41", "", []string{"is not known"}},
	} {
		if err := os.WriteFile(filepath.Join(filepath.Dir(recipe), "bzImage"), buildtest.BzImage(test.version, test.config), 0o600); err != nil {
			t.Fatal(err)
		}
		p, err := open(t, recipe)
		if err != nil {
			t.Fatal(err)
		}
		got := p.Warnings(now)
		if len(got) != len(test.want) {
			t.Errorf("%s: %q", rule, got)
			continue
		}
		for i := range got {
			if !strings.Contains(got[i], test.want[i]) {
				t.Errorf("%s: %q", rule, got)
			}
		}
	}
}

// nowhere keeps nothing of an image.
type nowhere struct{ at int64 }

func (n *nowhere) Write(p []byte) (int, error) { n.at += int64(len(p)); return len(p), nil }

func (n *nowhere) Seek(offset int64, _ int) (int64, error) { n.at = offset; return offset, nil }
