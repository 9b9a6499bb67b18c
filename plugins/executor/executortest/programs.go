package executortest

import (
	"bytes"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/cloister-run/cloister/plugins/executor"
)

func testDescribe(t T, j *job) {
	d, err := j.Describe(j.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if d != j.cfg.Description {
		t.Errorf("%+v, want %+v", d, j.cfg.Description)
	}
}

func testPrepare(t T, j *job) {
	if _, err := j.Describe(j.ctx); err != nil {
		t.Fatal(err)
	}
	r, err := j.Prepare(j.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if r.Name == "" || r.Version == "" {
		t.Errorf("%+v lacks a name or a version", r)
	}
}

func testOrder(t T, j *job) {
	inOrder := func(step string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", step, err)
		}
	}
	outOfOrder := func(step string, err error) {
		t.Helper()
		if !errors.Is(err, executor.ErrOrder) {
			t.Errorf("%s: %v, want ErrOrder", step, err)
		}
	}
	_, err := j.Prepare(j.ctx)
	outOfOrder("Prepare before Describe", err)
	_, err = j.Run(j.ctx, j.task("exit", "0"))
	outOfOrder("Run before Describe", err)
	_, err = j.Describe(j.ctx)
	inOrder("Describe", err)
	_, err = j.Run(j.ctx, j.task("exit", "0"))
	outOfOrder("Run before Prepare", err)
	_, err = j.Prepare(j.ctx)
	inOrder("Prepare", err)
	_, err = j.Prepare(j.ctx)
	outOfOrder("Prepare again", err)
	_, err = j.Run(j.ctx, j.task("exit", "0"))
	inOrder("Run", err)
	_, err = j.Run(j.ctx, j.task("exit", "0"))
	outOfOrder("Run again", err)
}

func testStatus(t T, cfg Config) {
	for _, test := range []struct {
		rule string
		args []string
		want int
	}{
		{"0 is success", []string{"exit", "0"}, 0},
		{"any status is told", []string{"exit", "3"}, 3},
		{"255 is the largest", []string{"exit", "255"}, 255},
		{"SIGTERM is 128+15", []string{"signal", "15"}, 143},
		{"SIGINT is 128+2, and not ignored", []string{"signal", "2"}, 130},
		{"SIGKILL is 128+9", []string{"signal", "9"}, 137},
	} {
		t.Run(test.rule, func(t T) {
			if cfg.Alone && test.args[0] == "signal" {
				t.Skip("its programs send no signal")
			}
			j := cfg.launch(t)
			j.prepare(t)
			r, err := j.Run(j.ctx, j.task(test.args...))
			if err != nil {
				t.Fatal(err)
			}
			if r.Status != test.want || r.Succeeded() != (test.want == 0) {
				t.Errorf("status %d, want %d; stderr: %s", r.Status, test.want, j.log(t, "stderr"))
			}
		})
	}
}

func testArgs(t T, j *job) {
	args := []string{
		"", " two  words ", "line\nline\r\n", "\ttab", "naïve Ω 文 \U0001F600 e\u0301", "",
		"--flag=1", "-c", "--", "-", "$HOME `id` \"q\" 'p' \\ * ? ~ & | ; <>", "\x01\x7f", "",
	}
	out := j.run(t, j.task(append([]string{"args"}, args...)...))
	if want := strings.Join(args, "\x00") + "\x00"; string(out) != want {
		t.Errorf("%q\nwant %q", out, want)
	}
}

func testLongArg(t T, j *job) {
	long := strings.Repeat("0123456789abcdef", 8<<10)[1:] // MAX_ARG_STRLEN less its NUL
	out := j.run(t, j.task("args", long))
	if string(out) != long+"\x00" {
		t.Errorf("%d bytes arrived of %d", len(out), len(long)+1)
	}
}

func testEnv(t T, j *job) {
	task := j.task("env")
	task.Env = map[string]string{
		"CITY": "Zürich\n=x ", "EMPTY": "", "lower_1": "y",
		"HOME": "/elsewhere", "PATH": "/elsewhere", "TMPDIR": "/elsewhere",
	}
	env := make(map[string]string)
	for v := range strings.SplitSeq(strings.TrimSuffix(string(j.run(t, task)), "\x00"), "\x00") {
		name, value, _ := strings.Cut(v, "=")
		env[name] = value
	}
	for name, value := range task.Env {
		got, ok := env[name]
		switch {
		case value == "/elsewhere" && got == value:
			t.Errorf("%s is the job's, not the executor's", name)
		case value != "/elsewhere" && (!ok || got != value):
			t.Errorf("%s is %q, want %q", name, got, value)
		}
	}
	for name := range env {
		if strings.HasPrefix(name, "PLUGIN_") || strings.HasPrefix(name, "CLOISTER_") {
			t.Errorf("%s, which is the plugin's, reached the application", name)
		}
	}
}

func testDir(t T, j *job) {
	if out := j.run(t, j.task("dir")); string(out) != j.cfg.Work+"/dir" {
		t.Errorf("%q, want %q", out, j.cfg.Work+"/dir")
	}
}

func testLogs(t T, j *job) {
	before := j.files(t)
	if out := j.run(t, j.task("print", "to\nout", "to err\n")); string(out) != "to\nout" {
		t.Errorf("stdout: %q", out)
	}
	if got := j.log(t, "stderr"); string(got) != "to err\n" {
		t.Errorf("stderr: %q", got)
	}
	before = append(before, "logs/stderr", "logs/stdout")
	if after := j.files(t); !slices.Equal(after, before) {
		t.Errorf("files %q, want %q", after, before)
	}
}

func testDiscard(t T, j *job) {
	before := j.files(t)
	task := j.task("print", "out", "err")
	task.Stdout, task.Stderr = "", ""
	j.run(t, task)
	if after := j.files(t); !slices.Equal(after, before) {
		t.Errorf("files %q, want %q", after, before)
	}
}

func testNoOverwrite(t T, j *job) {
	name := filepath.Join(j.place.Work, "logs/stdout")
	if err := os.WriteFile(name, []byte("kept"), 0o666); err != nil {
		t.Fatal(err)
	}
	j.prepare(t)
	if r, err := j.Run(j.ctx, j.task("print", "out", "err")); err == nil {
		t.Errorf("it ran: %+v", r)
	}
	if got := j.log(t, "stdout"); string(got) != "kept" {
		t.Errorf("the file now holds %q", got)
	}
}

func testNoLink(t T, j *job) {
	if err := os.Symlink("../dir/elsewhere", filepath.Join(j.place.Work, "logs/stderr")); err != nil {
		t.Fatal(err)
	}
	j.prepare(t)
	if r, err := j.Run(j.ctx, j.task("print", "out", "err")); err == nil {
		t.Errorf("it ran: %+v", r)
	}
	if _, err := os.Lstat(filepath.Join(j.place.Work, "dir/elsewhere")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the link was followed: %v", err)
	}
}

func testStdin(t T, j *job) {
	if out := j.run(t, j.task("stdin")); strings.TrimSpace(string(out)) != "0" {
		t.Errorf("%q bytes of stdin", out)
	}
}

func testLargeOutput(t T, j *job) {
	const size = 16 << 20
	out := j.run(t, j.task("fill", strconv.Itoa(size)))
	if want := bytes.Repeat([]byte("0123456789abcdef"), size/16); !bytes.Equal(out, want) {
		t.Errorf("%d bytes that are not the %d bytes written", len(out), size)
	}
}

// files lists what lies in the job's writable folder. tmp belongs to the executor.
func (j *job) files(t T) []string {
	t.Helper()
	found := make(map[string]bool)
	err := filepath.WalkDir(j.place.Work, func(name string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(j.place.Work, name)
		if err == nil && d.IsDir() && rel == "tmp" {
			return fs.SkipDir
		}
		if err == nil && !d.IsDir() {
			found[rel] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return slices.Sorted(maps.Keys(found))
}
