package environment_test

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/cloister-run/cloister/plugins/executor"
	"github.com/cloister-run/cloister/plugins/python/environment"
)

func TestMain(m *testing.M) {
	if exec.Command("python3", "-I", "-m", "pip", "--version").Run() != nil && os.Getenv("CI") == "" {
		fmt.Println("skipped: there is no pip here; on Debian: apt-get install python3-pip")
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// file is an entry of a wheel.
type file struct {
	name, content string
	mode          fs.FileMode
}

// wheel writes a wheel of a package, which needs others, and gives its digest.
func wheel(t *testing.T, dir, name, tag string, needs []string, files ...file) (digest string) {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	metadata := fmt.Sprintf("Metadata-Version: 2.1\nName: %s\nVersion: 1.0\n", name)
	for _, other := range needs {
		metadata += "Requires-Dist: " + other + "\n"
	}
	info := name + "-1.0.dist-info/"
	for _, f := range append(files,
		file{name: info + "METADATA", content: metadata},
		file{name: info + "WHEEL", content: "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: " + tag + "\n"},
		file{name: info + "RECORD"}) {
		h := &zip.FileHeader{Name: f.name, Method: zip.Deflate}
		h.SetMode(0o644 | f.mode)
		to, err := w.CreateHeader(h)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := to.Write([]byte(f.content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%s-1.0-%s.whl", name, tag)), b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", sha256.Sum256(b.Bytes()))
}

// lock writes a lock file of lines.
func lock(t *testing.T, lines ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "requirements.lock")
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func pinned(name, digest string) string { return name + "==1.0 --hash=sha256:" + digest }

var target = environment.Target{Python: "3.11", Glibc: "2.28", Arch: "amd64"}

const (
	pure   = "py3-none-any"
	native = "cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64"
)

// content gives everything below a folder, by name, with whether it can be executed.
func content(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		info, _ := d.Info()
		found[strings.TrimPrefix(path, dir+"/")] = fmt.Sprintf("%v %s", info.Mode().Perm(), raw)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestTheSameWheelsMakeTheSameEnvironment, whatever the umask; and it holds the packages and nothing else.
func TestTheSameWheelsMakeTheSameEnvironment(t *testing.T) {
	wheels := t.TempDir()
	a := wheel(t, wheels, "alpha", pure, []string{"beta_lib"},
		file{name: "alpha/__init__.py", content: "import beta\n"},
		file{name: "shared/LICENSE", content: "free"},
		file{name: "alpha/run.sh", content: "true", mode: 0o111},
		file{name: "alpha-1.0.data/purelib/alpha_extra.py", content: "y = 2\n"},
		file{name: "alpha-1.0.data/scripts/alpha", content: "#!python\n"})
	b := wheel(t, wheels, "beta_lib", native, nil,
		file{name: "beta/__init__.py", content: "x = 1\n"}, file{name: "shared/LICENSE", content: "free"})
	spec := environment.Spec{Wheels: wheels, Target: target, Lock: lock(t, "# as uv writes it", "alpha==1.0 \\", "    --hash=sha256:"+strings.Repeat("0", 64)+" \\",
		"    --hash=sha256:"+a, "    # via -r requirements.in", `beta-lib == 1.0 ; python_version >= "3" --hash=sha256:`+b+" # needed")}
	first := t.TempDir()
	built, err := environment.Build(t.Context(), spec, first)
	if err != nil {
		t.Fatal(err)
	}
	want := executor.Environment{Version: 1, Executor: "python", Runtime: "CPython 3.11", Platform: "linux/amd64", Packages: []executor.EnvironmentPackage{
		{Name: "alpha", Version: "1.0", Archive: "alpha-1.0-" + pure + ".whl", SHA256: a},
		{Name: "beta-lib", Version: "1.0", Archive: "beta_lib-1.0-" + native + ".whl", SHA256: b},
	}}
	read, err := executor.ReadEnvironment(os.DirFS(first))
	if err != nil || fmt.Sprint(read) != fmt.Sprint(want) || fmt.Sprint(built.Environment) != fmt.Sprint(want) {
		t.Errorf("%+v, %+v, %v", read, built, err)
	}
	if !slices.Equal(built.Left, []string{"alpha-1.0.data/scripts/alpha"}) {
		t.Errorf("left out %q", built.Left)
	}
	got := content(t, first)
	for name, want := range map[string]string{
		"site-packages/alpha/__init__.py": "-rw-r--r-- import beta\n",
		"site-packages/alpha/run.sh":      "-rwxr-xr-x true",
		"site-packages/alpha_extra.py":    "-rw-r--r-- y = 2\n",
		"site-packages/beta/__init__.py":  "-rw-r--r-- x = 1\n",
		"site-packages/shared/LICENSE":    "-rw-r--r-- free",
	} {
		if got[name] != want {
			t.Errorf("%s: %q, want %q", name, got[name], want)
		}
	}
	if len(got) != 12 { // these, two dist-info of three files each, and environment.json
		t.Errorf("%d files: %v", len(got), got)
	}
	defer syscall.Umask(syscall.Umask(0o077))
	second := t.TempDir()
	if _, err := environment.Build(t.Context(), spec, second); err != nil {
		t.Fatal(err)
	}
	if again := content(t, second); fmt.Sprint(again) != fmt.Sprint(got) {
		t.Errorf("another environment: %v", again)
	}
}

// TestAnEnvironmentOfPurePythonIsForAnyMachine.
func TestAnEnvironmentOfPurePythonIsForAnyMachine(t *testing.T) {
	wheels := t.TempDir()
	a := wheel(t, wheels, "alpha", pure, nil, file{name: "alpha.py"})
	arm := target
	arm.Arch = "arm64"
	built, err := environment.Build(t.Context(), environment.Spec{Lock: lock(t, pinned("alpha", a)), Wheels: wheels, Target: arm}, t.TempDir())
	if err != nil || built.Platform != "any" {
		t.Errorf("%+v, %v", built, err)
	}
}

// TestWhatALockMayNotSay: every lock that would let something in that nobody pinned, and every package that
// is not there as a wheel, is refused with a cure.
func TestWhatALockMayNotSay(t *testing.T) {
	wheels := t.TempDir()
	a := wheel(t, wheels, "alpha", pure, []string{"beta_lib"}, file{name: "alpha.py"})
	b := wheel(t, wheels, "beta_lib", native, nil, file{name: "beta.py"})
	if err := os.WriteFile(filepath.Join(wheels, "source-1.0.tar.gz"), []byte("setup.py would run"), 0o600); err != nil {
		t.Fatal(err)
	}
	other := strings.Repeat("e", 64)
	arm := target
	arm.Arch = "arm64"
	for _, test := range []struct {
		rule         string
		lock         []string
		target       environment.Target
		reason, hint string
	}{
		{"another wheel than the one locked", []string{pinned("alpha", other), pinned("beta-lib", b)}, target, "HASHES", "find out who changed it"},
		{"a package without a digest", []string{pinned("alpha", a), "beta-lib==1.0"}, target, `:2: "beta-lib==1.0" is no pinned package`, "--generate-hashes"},
		{"a version left open", []string{"alpha --hash=sha256:" + a, pinned("beta-lib", b)}, target, "no pinned package", "--generate-hashes"},
		{"a version within bounds", []string{"alpha>=1.0 --hash=sha256:" + a}, target, "no pinned package", "--generate-hashes"},
		{"an option that has source built", []string{"--no-binary alpha", pinned("alpha", a)}, target, `:1: "--no-binary alpha" is no`, "no options"},
		{"an option behind a package", []string{pinned("alpha", a) + " --config-settings=x"}, target, "no pinned package", "no options"},
		{"an option on a line of its own behind a backslash", []string{"alpha==1.0 \\", "  --hash=sha256:" + a + " \\", "  --global-option=x"}, target, ":1: ", "no options"},
		{"an index of its own", []string{"--index-url https://example.com", pinned("alpha", a)}, target, "no pinned package", "no options"},
		{"another file", []string{"-r other.txt"}, target, "no pinned package", "paths"},
		{"an address", []string{"alpha @ file:///tmp/alpha.tar.gz --hash=sha256:" + a}, target, "no pinned package", "addresses"},
		{"an address with a version", []string{"alpha==1.0 ; python_version > '3' @ https://x --hash=sha256:" + a}, target, "no pinned package", "addresses"},
		{"a path", []string{"./alpha-1.0.tar.gz --hash=sha256:" + a}, target, "no pinned package", "paths"},
		{"a dependency left out", []string{pinned("alpha", a)}, target, "pinned with ==", "dependencies too"},
		{"a package from source", []string{pinned("source", other)}, target, "No matching distribution", "nothing is built from source"},
		{"another machine", []string{pinned("beta-lib", b)}, arm, "No matching distribution", "this platform"},
		{"an older C library", []string{pinned("beta-lib", b)}, environment.Target{Python: "3.11", Glibc: "2.16", Arch: "amd64"}, "No matching distribution", "raise --glibc"},
		{"another Python", []string{pinned("beta-lib", b)}, environment.Target{Python: "3.12", Glibc: "2.28", Arch: "amd64"}, "No matching distribution", "this version of Python"},
		{"no package", []string{"# nothing", ""}, target, "names no package", "uv pip compile"},
		{"no version of Python", []string{pinned("alpha", a)}, environment.Target{Python: "3", Glibc: "2.28", Arch: "amd64"}, "no version of Python", "3.11"},
		{"an option in its place", []string{pinned("alpha", a)}, environment.Target{Python: "3.11", Glibc: "--help", Arch: "amd64"}, "C library", "2.28"},
		{"an unknown machine", []string{pinned("alpha", a)}, environment.Target{Python: "3.11", Glibc: "2.28", Arch: "mips"}, "no architecture", "amd64"},
	} {
		t.Run(test.rule, func(t *testing.T) {
			t.Parallel()
			_, err := environment.Build(t.Context(), environment.Spec{Lock: lock(t, test.lock...), Wheels: wheels, Target: test.target}, t.TempDir())
			wrong, ok := errors.AsType[*environment.Error](err)
			if !ok || !strings.Contains(wrong.Reason, test.reason) || !strings.Contains(wrong.Hint, test.hint) {
				t.Errorf("%#v, want %q and the hint %q", err, test.reason, test.hint)
			}
		})
	}
	_, err := environment.Build(t.Context(), environment.Spec{Lock: "/nowhere", Wheels: wheels, Target: target}, t.TempDir())
	if wrong, ok := errors.AsType[*environment.Error](err); !ok || !strings.Contains(wrong.Reason, "no such file") {
		t.Error(err)
	}
}

// TestI6_AWheelWritesNowhereButIntoItsFolder.
func TestI6_AWheelWritesNowhereButIntoItsFolder(t *testing.T) {
	for _, test := range []struct {
		rule   string
		file   file
		reason string
	}{
		{"above it", file{name: "../../evil.py"}, "leaves the folder"},
		{"above it, from below", file{name: "a/../../evil.py"}, "leaves the folder"},
		{"at the root", file{name: "/tmp/evil.py"}, "leaves the folder"},
		{"by a backslash", file{name: `a\..\evil.py`}, "leaves the folder"},
		{"above it, out of data", file{name: "alpha-1.0.data/purelib/../evil.py"}, "leaves the folder"},
		{"through a link", file{name: "link", content: "/etc", mode: fs.ModeSymlink}, "no regular file"},
		{"a pipe", file{name: "pipe", mode: fs.ModeNamedPipe}, "no regular file"},
		{"over another's file", file{name: "beta.py", content: "evil"}, "another wheel has a file of this name"},
		{"a name of a kilobyte", file{name: strings.Repeat("a/", 600) + "b"}, "leaves the folder"},
	} {
		t.Run(test.rule, func(t *testing.T) {
			t.Parallel()
			wheels, outer := t.TempDir(), t.TempDir()
			dir := filepath.Join(outer, "env")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			a := wheel(t, wheels, "alpha", pure, nil, file{name: "beta.py", content: "x = 1"})
			b := wheel(t, wheels, "zeta", pure, nil, test.file)
			_, err := environment.Build(t.Context(), environment.Spec{
				Lock: lock(t, pinned("alpha", a), pinned("zeta", b)), Wheels: wheels, Target: target,
			}, dir)
			wrong, ok := errors.AsType[*environment.Error](err)
			if !ok || !strings.Contains(wrong.Reason, test.reason) || !strings.Contains(wrong.Reason, "zeta-1.0") {
				t.Errorf("%v, want %q", err, test.reason)
			}
			for name, text := range content(t, outer) {
				if strings.Contains(name, "evil") || strings.Contains(text, "evil") {
					t.Errorf("%s was written", name)
				}
			}
		})
	}
}

// TestAWheelIsNoBomb: what it unpacks to is counted, whatever it says of itself.
func TestAWheelIsNoBomb(t *testing.T) {
	wheels := t.TempDir()
	digest := wheel(t, wheels, "alpha", pure, nil, file{name: "zeros", content: strings.Repeat("\x00", 1<<20)})
	path := filepath.Join(wheels, "alpha-1.0-"+pure+".whl")
	for _, test := range []struct {
		bytes int64
		files int
		want  string
	}{
		{2 << 20, 4, ""},
		{1 << 20, 4, "the environment is over 1048576 bytes"}, // its metadata are beside the zeros
		{2 << 20, 3, "the environment has more than 3 files"},
	} {
		err := environment.Unpack(t.Context(), filepath.Join(t.TempDir(), "env"), path, digest, test.bytes, test.files)
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%+v: %v", test, err)
		}
	}
	other := strings.Repeat("0", 64) // pip would have said so before
	if err := environment.Unpack(t.Context(), filepath.Join(t.TempDir(), "env"), path, other, 2<<20, 4); err == nil || !strings.Contains(err.Error(), "its digest is none that the lock has") {
		t.Errorf("another wheel: %v", err)
	}
}

func TestBuildingCanBeCancelled(t *testing.T) {
	wheels := t.TempDir()
	a := wheel(t, wheels, "alpha", pure, nil)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	cancel(why)
	_, err := environment.Build(ctx, environment.Spec{Lock: lock(t, pinned("alpha", a)), Wheels: wheels, Target: target}, t.TempDir())
	if !errors.Is(err, why) {
		t.Error(err)
	}
}

// What pip says of the machine is not blamed on the requirements.
func TestAFullDiskIsSaid(t *testing.T) {
	err := environment.Explain("Saved ./a.whl\nERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n")
	wrong, ok := errors.AsType[*environment.Error](err)
	if !ok || !strings.Contains(wrong.Reason, "No space left") || !strings.Contains(wrong.Hint, "TMPDIR") {
		t.Errorf("%+v", wrong)
	}
}
