package python_test

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/cloister-run/cloister/plugins/executor"
	"github.com/cloister-run/cloister/plugins/python"
)

// runIn is run in an environment.
func runIn(t *testing.T, application, environment map[string]string) (stdout string, err error) {
	t.Helper()
	root := t.TempDir()
	lay(t, root+"/application", application)
	lay(t, root+"/env", environment)
	if err := os.Mkdir(root+"/dir", 0o700); err != nil {
		t.Fatal(err)
	}
	e := python.New()
	found, err := e.Prepare(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if manifest := environment["environment.json"]; manifest != "" {
		lay(t, root+"/env", map[string]string{"environment.json": strings.ReplaceAll(manifest, "HERE", python.Runtime(found))})
	}
	r, err := e.Run(t.Context(), executor.Task{
		Application: root + "/application", Entrypoint: "main.py", Dir: root + "/dir", Environment: root + "/env",
		Stdout: root + "/stdout", Stderr: root + "/stderr",
	})
	raw, _ := os.ReadFile(root + "/stdout")
	if err == nil && !r.Succeeded() {
		stderr, _ := os.ReadFile(root + "/stderr")
		t.Fatalf("%+v\n%s", r, stderr)
	}
	return string(raw), err
}

const fitting = `{"version": 1, "executor": "python", "runtime": "HERE", "platform": "any", "packages": []}`

// TestEnvironment: the application has its packages, and so has every Python that it starts; what is
// installed on the machine is out of the way, and the standard library is still its own.
func TestEnvironment(t *testing.T) {
	out, err := runIn(t, map[string]string{"main.py": `
import os, subprocess, sys
import alpha, helper, json, added
print(alpha.x, helper.y, added.z, hasattr(json, "dumps"))
print([p for p in sys.path if "dist-packages" in p or "site-packages" in p and "/environment/" not in p])
child = "import alpha, sys; print(alpha.x, sys.flags.no_user_site)"
print(subprocess.run([sys.executable, "-s", "-c", child], capture_output=True, text=True).stdout, end="")
import importlib.metadata
print(importlib.metadata.version("alpha"))
print(sorted(n for n in os.environ if n.startswith(("PYTHON", "VIRTUAL"))))
`, "helper.py": "y = 2"}, map[string]string{
		"environment.json":                            fitting,
		"site-packages/alpha/__init__.py":             "x = 1",
		"site-packages/json.py":                       "raise Exception('the standard library comes first')",
		"site-packages/alpha-1.5.dist-info/METADATA":  "Metadata-Version: 2.1\nName: alpha\nVersion: 1.5\n",
		"site-packages/more.pth":                      "more\n",
		"site-packages/more/added.py":                 "z = 3",
		"site-packages/alpha-1.5.dist-info/top_level": "",
	})
	if want := "1 2 3 True\n[]\n1 1\n1.5\n[]\n"; err != nil || out != want {
		t.Errorf("%q, want %q, %v", out, want, err)
	}
}

// TestAnEnvironmentOfAnotherRuntime is refused before anything runs.
func TestAnEnvironmentOfAnotherRuntime(t *testing.T) {
	for rule, manifest := range map[string]string{
		"another executor": strings.Replace(fitting, `"python"`, `"ruby"`, 1),
		"another version":  strings.Replace(fitting, "HERE", "CPython 2.7", 1),
		"another machine":  strings.Replace(fitting, "any", "linux/mips", 1),
		"a newer format":   strings.Replace(fitting, "1", "2", 1),
		"more fields":      strings.Replace(fitting, "{", `{"more": 1, `, 1),
		"something behind": fitting + "{}",
		"no digest":        strings.Replace(fitting, "[]", `[{"name": "a", "version": "1", "archive": "a.whl", "sha256": "AB"}]`, 1),
		"a control":        strings.Replace(fitting, "any", `any\u001b`, 1),
		"no JSON":          "python",
		"a megabyte":       fitting + strings.Repeat(" ", 1<<20),
		"none":             "",
	} {
		out, err := runIn(t, map[string]string{"main.py": "print('ran')"}, map[string]string{"environment.json": manifest, "site-packages/a.py": ""})
		if !errors.Is(err, executor.ErrEnvironment) || out != "" {
			t.Errorf("%s: %q, %v", rule, out, err)
		}
	}
}
