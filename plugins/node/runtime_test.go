package node_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cloister-run/cloister/plugins/executor"
	"github.com/cloister-run/cloister/plugins/node"
)

func run(t *testing.T, entrypoint string, files map[string]string) string {
	t.Helper()
	needsNode(t)
	dir := t.TempDir()
	for name, content := range files {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	e := node.New()
	if _, err := e.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	r, err := e.Run(t.Context(), executor.Task{
		Application: dir + "/app", Entrypoint: entrypoint, Dir: dir + "/work", Stdout: dir + "/stdout", Stderr: dir + "/stderr",
	})
	said, _ := os.ReadFile(dir + "/stderr")
	if err != nil || !r.Succeeded() {
		t.Fatalf("%+v, %v\n%s", r, err, said)
	}
	out, err := os.ReadFile(dir + "/stdout")
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// I8: neither the environment of the plugin's process nor what lies in the working directory steers it.
func TestI8_NothingSteersNode(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{"evil.js": "console.log('EVIL')", "node": "#!/bin/sh\necho EVIL node\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, value := range map[string]string{
		"PATH": dir, "HOME": dir, "NODE_OPTIONS": "--require " + dir + "/evil.js", "NODE_PATH": dir, "NODE_EXTRA_CA_CERTS": dir,
	} {
		t.Setenv(name, value)
	}
	out := run(t, "main.js", map[string]string{
		"app/main.js":                    "console.log(Object.keys(process.env).filter(n => n.startsWith('NODE')).length, require('dep'))",
		"app/node_modules/dep/index.js":  "module.exports = 'own'",
		"work/node_modules/dep/index.js": "module.exports = 'EVIL'",
	})
	if out != "0 own\n" {
		t.Errorf("%q", out)
	}
}

func TestModuleOfTheLanguage(t *testing.T) {
	out := run(t, "src/main.mjs", map[string]string{
		"app/src/main.mjs": "import {x} from './near.mjs'; console.log(x, await Promise.resolve(2))", "app/src/near.mjs": "export const x = 1", "work/x": "",
	})
	if out != "1 2\n" {
		t.Errorf("%q", out)
	}
}

func TestVariablesOfTheRuntimeAreRefused(t *testing.T) {
	needsNode(t)
	e := node.New()
	if _, err := e.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/main.js", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	task := executor.Task{Application: dir, Entrypoint: "main.js", Dir: dir, Env: map[string]string{"NODE_OPTIONS": "x"}}
	if r, err := e.Run(t.Context(), task); err == nil || !strings.Contains(err.Error(), "env.NODE_OPTIONS") {
		t.Errorf("%+v, %v", r, err)
	}
}
