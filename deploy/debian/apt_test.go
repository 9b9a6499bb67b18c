// Package debian_test holds what the scripts of this folder share against what they promise.
package debian_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestOldListsAreRefused: a machine whose own apt takes lists of any age hands that on to no script.
func TestOldListsAreRefused(t *testing.T) {
	dir := t.TempDir()
	for tool, script := range map[string]string{
		"apt-config": `cat <<'END'
Acquire::http::Proxy "http://proxy.example:3128";
Acquire::https::Timeout "7";
Acquire::ForceIPv4 "true";
Acquire::Check-Valid-Until "false";
Acquire::Check-Date "false";
Acquire::Max-ValidTime "0";
Acquire::AllowInsecureRepositories "true";
END
`,
		"apt-get": "true\n", "apt-cache": "true\n", "dpkg-deb": "true\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, tool), []byte("#!/bin/sh\n"+script), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	shared, err := os.ReadFile("apt.sh")
	if err != nil {
		t.Fatal(err)
	}
	const then = `keyring() { echo /keys; }; part=$1; open_apt amd64; cat "$APT_CONFIG"`
	cmd := exec.Command("bash", "-euo", "pipefail", "-c", string(shared)+then, "test", dir)
	cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"))
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		`Acquire::http::Proxy "http://proxy.example:3128"`, `Acquire::https::Timeout "7"`, `Acquire::ForceIPv4 "true"`, // how it reaches a mirror
		`Acquire::Check-Valid-Until "true"`, `Acquire::Check-Date "true"`, `Acquire::AllowInsecureRepositories "false"`,
	} {
		if strings.Count(string(out), line+";\n") != 1 {
			t.Errorf("no %s in\n%s", line, out)
		}
	}
	for _, line := range []string{`Acquire::Check-Valid-Until "false"`, `Acquire::Check-Date "false"`, "Max-ValidTime", `Acquire::AllowInsecureRepositories "true"`} {
		if strings.Contains(string(out), line) {
			t.Errorf("%s in\n%s", line, out)
		}
	}
}
