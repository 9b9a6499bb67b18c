package python_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cloister-run/cloister/plugins/executor"
	"github.com/cloister-run/cloister/plugins/python"
)

// lay writes files below dir.
func lay(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// run runs the entrypoint of an application of files, in a folder of its own, and gives its stdout.
func run(t *testing.T, entrypoint string, application, dir map[string]string) string {
	t.Helper()
	root := t.TempDir()
	lay(t, root+"/application", application)
	lay(t, root+"/dir", dir)
	if err := os.MkdirAll(root+"/dir", 0o755); err != nil {
		t.Fatal(err)
	}
	e := python.New()
	if _, err := e.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	r, err := e.Run(t.Context(), executor.Task{
		Application: root + "/application", Entrypoint: entrypoint, Dir: root + "/dir",
		Stdout: root + "/stdout", Stderr: root + "/stderr",
	})
	stderr, _ := os.ReadFile(root + "/stderr")
	if err != nil || !r.Succeeded() {
		t.Fatalf("%+v, %v\n%s", r, err, stderr)
	}
	stdout, err := os.ReadFile(root + "/stdout")
	if err != nil {
		t.Fatal(err)
	}
	if found, _ := filepath.Glob(root + "/application/*/__pycache__"); len(found) > 0 {
		t.Errorf("bytecode was written: %q", found)
	}
	return string(stdout)
}

// evil shows itself when Python loads it by itself, or instead of the standard library.
func evil() map[string]string {
	files := make(map[string]string)
	for _, module := range []string{"sitecustomize", "usercustomize", "startup", "json", "colorsys"} {
		for _, dir := range []string{"", ".local/lib/python3.11/site-packages/"} {
			files[dir+module+".py"] = "print('EVIL', __file__, flush=True)\n"
		}
	}
	return files
}

// I8: nothing unmeasured changes behaviour: neither the environment of the plugin's process
// nor what lies in the working directory.
func TestI8_NothingSteersPython(t *testing.T) {
	dir := t.TempDir()
	lay(t, dir, evil())
	lay(t, dir, map[string]string{"bin/python3": "#!/bin/sh\necho EVIL python3\n"})
	for name, value := range map[string]string{
		"PATH": dir + "/bin", "HOME": dir, "PYTHONHOME": dir, "PYTHONPATH": dir, "PYTHONSTARTUP": dir + "/startup.py",
		"PYTHONUSERBASE": dir + "/.local", "PYTHONINSPECT": "1", "PYTHONWARNINGS": "error", "PYTHONEXECUTABLE": dir + "/bin/python3",
		"PYTHONPLATLIBDIR": dir, "PYTHONDONTWRITEBYTECODE": "", "PYTHONUTF8": "0", "LC_ALL": "POSIX", "LD_LIBRARY_PATH": dir,
	} {
		t.Setenv(name, value)
	}
	out := run(t, "main.py", map[string]string{"main.py": `
import sys, os, json, colorsys
print(sys.executable)
print([p for p in sys.path if not p.startswith(("/usr/", "/opt/"))] == [os.path.dirname(__file__)])
print(sorted(n for n in os.environ if n.startswith(("PYTHON", "LD_", "LC_ALL"))))
f = sys.flags
print(f.ignore_environment, f.no_user_site, f.dont_write_bytecode, f.utf8_mode, f.inspect)
`}, evil())
	lines := strings.Split(out, "\n")
	want := []string{"True", "[]", "1 1 1 1 0", ""}
	if strings.Contains(out, "EVIL") || strings.Join(lines[1:], "\n") != strings.Join(want, "\n") {
		t.Errorf("%s", out)
	}
	if place := lines[0]; place != "/usr/local/bin/python3" && place != "/opt/python/bin/python3" && place != "/usr/bin/python3" {
		t.Errorf("ran with %s", place)
	}
}

// An application's own sitecustomize is a module like any other: nothing loads it unasked.
func TestApplicationIsNotOnThePathBeforeItRuns(t *testing.T) {
	application := evil()
	application["main.py"] = "print('ran')"
	if out := run(t, "main.py", application, nil); out != "ran\n" {
		t.Errorf("%s", out)
	}
}

func TestScriptImportsItsNeighbours(t *testing.T) {
	out := run(t, "src/main.py", map[string]string{
		"src/main.py":          "import helper, package.deep\nprint(helper.x, package.deep.y, __name__)",
		"src/helper.py":        "x = 1",
		"src/package/deep.py":  "y = 2",
		"helper.py":            "x = 'from the root'",
		"src/package/other.py": "",
	}, nil)
	if out != "1 2 __main__\n" {
		t.Errorf("%q", out)
	}
}

// TestPackage: a folder with a __main__.py runs as python -m does it, whatever lies in the job's folder.
func TestPackage(t *testing.T) {
	for _, entrypoint := range []string{"src/tool", "src/tool/", "./src/tool"} {
		out := run(t, entrypoint, map[string]string{
			"src/tool/__main__.py": "import sys, json\nfrom . import near\nimport src.tool.deep.far as far, helper\nprint(near.x, far.y, helper.z, __name__, __package__, sys.argv[1:], sys.argv[0].endswith('src/tool/__main__.py'))",
			"src/tool/near.py":     "x = 1",
			"src/tool/deep/far.py": "y = 2",
			"helper.py":            "z = 3",
			"src/tool/sys.py":      "raise Exception",
		}, map[string]string{"helper.py": "z = 'EVIL'", "src/tool/near.py": "x = 'EVIL'"})
		if out != "1 2 3 __main__ src.tool [] True\n" {
			t.Errorf("%s: %q", entrypoint, out)
		}
	}
}

func TestNoPackage(t *testing.T) {
	e := python.New()
	if _, err := e.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	lay(t, dir, map[string]string{"app/a-b/__main__.py": "", "app/a/b.py": "", "app/__main__.py": "", "out/__main__.py": ""})
	for _, entrypoint := range []string{"a-b", "a", "a/b", ".", "../out", dir + "/out"} {
		r, err := e.Run(t.Context(), executor.Task{Application: dir + "/app", Entrypoint: entrypoint, Dir: dir})
		if !errors.Is(err, executor.ErrEntrypoint) {
			t.Errorf("%s: %+v, %v", entrypoint, r, err)
		}
	}
}

func TestVariablesOfTheRuntimeAreRefused(t *testing.T) {
	e := python.New()
	if _, err := e.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	lay(t, dir, map[string]string{"main.py": ""})
	for _, name := range []string{"PYTHONPATH", "LD_PRELOAD"} {
		task := executor.Task{Application: dir, Entrypoint: "main.py", Dir: dir, Env: map[string]string{name: "x"}}
		if r, err := e.Run(t.Context(), task); err == nil || !strings.Contains(err.Error(), "env."+name) {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
}

func TestRuntimeIsMissing(t *testing.T) {
	dir := t.TempDir()
	lay(t, dir, map[string]string{
		"fails":   "#!/bin/sh\nexit 1\n",
		"silent":  "#!/bin/sh\n",
		"talks":   "#!/bin/sh\nyes 'cpython 3'\n",
		"one":     "#!/bin/sh\necho cpython\n",
		"garbage": "\x7fnothing",
	})
	if err := os.WriteFile(dir+"/data", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		rule   string
		places []string
		want   string
	}{
		{"nowhere", []string{dir + "/a", dir + "/b"}, dir + "/a, " + dir + "/b"},
		{"a folder", []string{dir}, dir},
		{"not executable", []string{dir + "/data"}, dir + "/data"},
		{"no program", []string{dir + "/garbage"}, dir + "/garbage"},
		{"it fails", []string{dir + "/fails"}, dir + "/fails"},
		{"it says nothing", []string{dir + "/silent"}, dir + "/silent"},
		{"it says half", []string{dir + "/one"}, dir + "/one"},
		{"it never stops talking", []string{dir + "/talks"}, dir + "/talks"},
	} {
		t.Run(test.rule, func(t *testing.T) {
			e := python.NewAt(test.places...)
			r, err := e.Prepare(t.Context())
			if !errors.Is(err, executor.ErrRuntime) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%+v, %v, want ErrRuntime at %s", r, err, test.want)
			}
			if _, err := e.Run(t.Context(), executor.Task{}); !errors.Is(err, executor.ErrRuntime) {
				t.Errorf("Run: %v", err)
			}
		})
	}
}

func TestRuntimeThatHangs(t *testing.T) {
	dir := t.TempDir()
	lay(t, dir, map[string]string{"hangs": "#!/bin/sh\nexec sleep 1000\n"})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := python.NewAt(dir + "/hangs").Prepare(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func TestFirstPlaceWins(t *testing.T) {
	dir := t.TempDir()
	lay(t, dir, map[string]string{"a": "#!/bin/sh\necho CPython 3.1.4\n", "b": "#!/bin/sh\necho pypy 3.2\n"})
	for want, places := range map[executor.Runtime][]string{
		{Name: "CPython", Version: "3.1.4"}: {dir + "/missing", dir + "/a", dir + "/b"},
		{Name: "pypy", Version: "3.2"}:      {dir + "/b", dir + "/a"},
	} {
		if got, err := python.NewAt(places...).Prepare(t.Context()); err != nil || got != want {
			t.Errorf("%+v, %v, want %+v", got, err, want)
		}
	}
}

func TestNamesTheRealInterpreter(t *testing.T) {
	const place = "/usr/bin/python3"
	raw, err := exec.Command(place, "-c", "import platform; print(platform.python_version())").Output()
	if err != nil {
		t.Fatal(err)
	}
	want := executor.Runtime{Name: "CPython", Version: strings.TrimSpace(string(raw))}
	if got, err := python.NewAt(place).Prepare(t.Context()); err != nil || got != want {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
}
