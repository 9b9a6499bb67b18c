package process_test

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/plugins/executor"
	"github.com/cloister-run/cloister/plugins/process"
)

func TestEntrypoint(t *testing.T) {
	app := t.TempDir() + "/application"
	for _, err := range []error{
		os.MkdirAll(app+"/sub", 0o755),
		os.WriteFile(app+"/main.py", nil, 0o644),
		os.WriteFile(app+"/sub/main.py", nil, 0o644),
		os.WriteFile(app+"/../secret", nil, 0o755),
		os.Symlink("sub/main.py", app+"/inside"),
		os.Symlink("../secret", app+"/outside"),
		os.Symlink("..", app+"/up"),
		os.Symlink(app+"/main.py", app+"/absolute"),
		os.Symlink("nowhere", app+"/dangling"),
		unix.Mkfifo(app+"/pipe", 0o644),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for entrypoint, want := range map[string]string{
		"main.py": app + "/main.py", "sub/main.py": app + "/sub/main.py", "./main.py": app + "/main.py",
		"sub/../main.py": app + "/main.py", "inside": app + "/inside",
		"": "", ".": "", "sub": "", "missing": "", "main.py/": "", "../secret": "", "sub/../../secret": "",
		"/etc/passwd": "", "outside": "", "up/secret": "", "absolute": "", "dangling": "", "pipe": "",
	} {
		got, err := process.Entrypoint(executor.Task{Application: app, Entrypoint: entrypoint})
		if got != want || errors.Is(err, executor.ErrEntrypoint) != (want == "") {
			t.Errorf("%q: %q, %v, want %q", entrypoint, got, err, want)
		}
	}
	if _, err := process.Entrypoint(executor.Task{Application: app + "/missing", Entrypoint: "x"}); !errors.Is(err, executor.ErrEntrypoint) {
		t.Errorf("an application that is not there: %v", err)
	}
}

func TestEnv(t *testing.T) {
	t.Setenv("LEAK", "1")
	fixed := []string{"HOME=/work/tmp", "LANG=C.UTF-8", "PATH=/usr/local/bin:/usr/bin:/bin", "TMPDIR=/work/tmp"}
	for _, test := range []struct {
		rule string
		env  map[string]string
		want []string // beside fixed; nil: refused
	}{
		{"the fixed ones alone", nil, []string{}},
		{"the job's beside them", map[string]string{"B": "2\n", "A": ""}, []string{"A=", "B=2\n"}},
		{"the fixed ones win", map[string]string{"HOME": "/x", "PATH": "/x", "LANG": "x", "TMPDIR": "/x"}, []string{}},
		{"like a reserved name", map[string]string{"LDX": "1", "XLD_": "1", "MYPYTHONPATH": "1"}, []string{"LDX=1", "MYPYTHONPATH=1", "XLD_=1"}},
		{"the loader's", map[string]string{"LD_PRELOAD": "/x"}, nil},
		{"the runtime's", map[string]string{"PYTHONPATH": "/x"}, nil},
	} {
		got, err := process.Env(executor.Task{Env: test.env}, "PYTHON")
		want := slices.Concat(test.want, fixed)
		slices.Sort(want)
		switch {
		case test.want == nil && (err == nil || !strings.Contains(err.Error(), "reserved")):
			t.Errorf("%s: %q, %v", test.rule, got, err)
		case test.want != nil && (err != nil || !slices.Equal(got, want)):
			t.Errorf("%s: %q, %v, want %q", test.rule, got, err, want)
		}
	}
}
