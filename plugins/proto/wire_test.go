package proto_test

import (
	"maps"
	"path"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/cloister-run/cloister/plugins/executor"
	"github.com/cloister-run/cloister/plugins/proto"
)

func task(edit ...func(*executor.Task)) executor.Task {
	t := executor.Task{
		Application: "/job/application", Entrypoint: "main.py", Args: []string{"", "line\nline", "Ω"},
		Env: map[string]string{"CITY": "Zürich", "_x1": ""}, Dir: "/work/tmp",
		Stdout: "/work/logs/stdout", Stderr: "/work/logs/stderr",
	}
	for _, e := range edit {
		e(&t)
	}
	return t
}

func TestCheckTask(t *testing.T) {
	env := func(name, value string) func(*executor.Task) {
		return func(t *executor.Task) { t.Env = map[string]string{name: value} }
	}
	args := func(a ...string) func(*executor.Task) { return func(t *executor.Task) { t.Args = a } }
	for _, test := range []struct {
		rule string
		edit func(*executor.Task)
		want string // empty: accepted
	}{
		{"a whole task", func(*executor.Task) {}, ""},
		{"no arguments, no variables, no logs", func(t *executor.Task) { t.Args, t.Env, t.Stdout, t.Stderr = nil, nil, "", "" }, ""},
		{"the longest argument", args(strings.Repeat("x", proto.MaxArg)), ""},
		{"as many arguments as there may be", args(make([]string, proto.MaxArgs)...), ""},
		{"the longest variable", env("A", strings.Repeat("x", proto.MaxArg-2)), ""},

		{"no application", func(t *executor.Task) { t.Application = "" }, "task.application: is empty"},
		{"a relative application", func(t *executor.Task) { t.Application = "job" }, "task.application: is no clean"},
		{"an application that climbs", func(t *executor.Task) { t.Application = "/job/../etc" }, "task.application: is no clean"},
		{"an application with a slash too many", func(t *executor.Task) { t.Application = "/job/" }, "task.application: is no clean"},
		{"no folder to work in", func(t *executor.Task) { t.Dir = "" }, "task.dir: is empty"},
		{"a folder with NUL", func(t *executor.Task) { t.Dir = "/a\x00" }, "task.dir: contains NUL"},
		{"a path that is too long", func(t *executor.Task) { t.Dir = "/" + strings.Repeat("x", proto.MaxPath) }, "task.dir: 4096 bytes"},
		{"a relative log", func(t *executor.Task) { t.Stdout = "stdout" }, "task.stdout: is no clean"},
		{"a log that climbs", func(t *executor.Task) { t.Stderr = "/work/../x" }, "task.stderr: is no clean"},
		{"no entrypoint", func(t *executor.Task) { t.Entrypoint = "" }, "task.entrypoint: is empty"},
		{"an entrypoint that is no UTF-8", func(t *executor.Task) { t.Entrypoint = "\xff" }, "task.entrypoint: is no UTF-8"},
		{"an argument with NUL", args("a", "b\x00"), "task.args[1]: contains NUL"},
		{"an argument that is no UTF-8", args("\xc3"), "task.args[0]: is no UTF-8"},
		{"an argument that is too long", args(strings.Repeat("x", proto.MaxArg+1)), "task.args[0]: 131072 bytes"},
		{"too many arguments", args(make([]string, proto.MaxArgs+1)...), "task.args: 4097 arguments"},
		{"too much of it all", args(strings.Split(strings.Repeat(strings.Repeat("x", 128<<10-1)+" ", 9), " ")...), "arguments and environment take"},
		{"a variable without a name", env("", "x"), `task.env: "" is no variable name`},
		{"a name that begins with a digit", env("1A", "x"), "is no variable name"},
		{"a name with an equals sign", env("A=B", "x"), "is no variable name"},
		{"a name with a newline", env("A\nB", "x"), "is no variable name"},
		{"a name beyond ASCII", env("Ä", "x"), "is no variable name"},
		{"a name of 256 bytes", env(strings.Repeat("A", 256), "x"), "is no variable name"},
		{"a value with NUL", env("A", "\x00"), "task.env.A: contains NUL"},
		{"a variable that is too long", env("A", strings.Repeat("x", proto.MaxArg-1)), "task.env.A: 131070 bytes, at most 131069"},
		{"too many variables", func(t *executor.Task) {
			t.Env = make(map[string]string)
			for i := range proto.MaxEnv + 1 {
				t.Env["V"+strconv.Itoa(i)] = ""
			}
		}, "task.env: 257 variables"},
	} {
		t.Run(test.rule, func(t *testing.T) {
			err := proto.CheckTask(task(test.edit))
			switch {
			case test.want == "" && err != nil:
				t.Error(err)
			case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
				t.Errorf("%v does not say %q", err, test.want)
			}
		})
	}
}

func TestTaskProblemsAllAtOnce(t *testing.T) {
	err := proto.CheckTask(executor.Task{Args: []string{"\x00"}, Env: map[string]string{"=": ""}, Stdout: "x", Stderr: "y"})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"application", "entrypoint", "dir", "stdout", "stderr", "args[0]", "env"} {
		if !strings.Contains(err.Error(), "task."+want+": ") {
			t.Errorf("%q does not name %s", err, want)
		}
	}
}

func TestLabel(t *testing.T) {
	for s, want := range map[string]bool{
		"3.11.2": true, "CPython": true, " ~": true, strings.Repeat("x", 64): true,
		"": false, strings.Repeat("x", 65): false, "a\n": false, "a\x1b[2J": false, "Ω": false, "\x7f": false, "\x00": false,
	} {
		if got := proto.Label(s); got != want {
			t.Errorf("Label(%q) = %v", s, got)
		}
	}
}

// A task that passes can be started as it stands, and fits the request that carries it.
func FuzzCheckTask(f *testing.F) {
	f.Add("/job/application", "main.py", "a\x1fb", "NAME", "value", "/work/dir", "/work/logs/stdout")
	f.Add("/", "../x", "", "1", "\x00", "//", "")
	f.Add("/a/..", ".", "\xff", "A=B", "x", "/\x00", "x")
	f.Fuzz(func(t *testing.T, application, entrypoint, args, name, value, dir, stdout string) {
		task := executor.Task{
			Application: application, Entrypoint: entrypoint, Args: strings.Split(args, "\x1f"),
			Env: map[string]string{name: value}, Dir: dir, Stdout: stdout,
		}
		before := maps.Clone(task.Env)
		if err := proto.CheckTask(task); err != nil {
			return
		}
		if !maps.Equal(before, task.Env) {
			t.Error("the task was changed")
		}
		for _, p := range []string{application, dir} {
			if !path.IsAbs(p) || path.Clean(p) != p {
				t.Errorf("path %q", p)
			}
		}
		total := 0
		for _, s := range append(task.Args, name+"="+value, entrypoint, stdout, application, dir) {
			total += len(s)
			if strings.Contains(s, "\x00") || !utf8.ValidString(s) || len(s) > proto.MaxArg {
				t.Errorf("string %.100q", s)
			}
		}
		if total > proto.MaxRequest {
			t.Errorf("%d bytes", total)
		}
		if name == "" || strings.ContainsAny(name, "=\n ") {
			t.Errorf("variable %q", name)
		}
	})
}
