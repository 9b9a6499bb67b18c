// Package debian_test holds what the scripts of this folder share against what they promise.
package debian_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// run runs a script in a folder of its own, $1, after what the scripts share, with some tools of the machine replaced.
func run(t *testing.T, packages, script string, tools map[string]string) (string, error) {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"apt-config", "apt-get", "apt-cache", "dpkg-deb"} {
		does := tools[name]
		if does == "" {
			does = "true\n"
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+does), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	shared, err := os.ReadFile("apt.sh")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("bash", "-euo", "pipefail", "-c", string(shared)+script, "test", dir)
	cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "DEBIAN_PACKAGES="+packages)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestOldListsAreRefused: a machine whose own apt takes lists of any age hands that on to no script.
func TestOldListsAreRefused(t *testing.T) {
	out, err := run(t, "", `keyring() { echo /keys; }; part=$1; open_apt amd64; cat "$APT_CONFIG"`, map[string]string{
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
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		`Acquire::http::Proxy "http://proxy.example:3128"`, `Acquire::https::Timeout "7"`, `Acquire::ForceIPv4 "true"`, // how it reaches a mirror
		`Acquire::Check-Valid-Until "true"`, `Acquire::Check-Date "true"`, `Acquire::AllowInsecureRepositories "false"`,
	} {
		if strings.Count(out, line+";\n") != 1 {
			t.Errorf("no %s in\n%s", line, out)
		}
	}
	for _, line := range []string{`Acquire::Check-Valid-Until "false"`, `Acquire::Check-Date "false"`, "Max-ValidTime", `Acquire::AllowInsecureRepositories "true"`} {
		if strings.Contains(out, line) {
			t.Errorf("%s in\n%s", line, out)
		}
	}
}

// TestThosePackagesOrNone: whoever names a list gets the packages that it holds, from a mirror of any age, or an error
// that says which one differs.
func TestThosePackagesOrNone(t *testing.T) {
	const list = `# kernel amd64
kmod 34.2-2 amd64 c535b48ac92deb8665b87ff3ce86ca6c64e65bae7ba8b4f2cde94fb4b0b6b0d2
tzdata 2026b-0 all ` + empty + "\n"
	const script = `keyring() { echo /keys; }
begin "$1/made" 1 "$1/made/packages" "kernel amd64"
open_apt amd64
cat "$APT_CONFIG" "$apt/preferences"
: >"$apt/cache/archives/tzdata.deb"
packages "$part/packages"
echo used
`
	for name, row := range map[string]struct {
		list, says string
		used       bool
	}{
		"another request": {strings.Replace(list, "kernel", "qemu", 1), `is for "qemu amd64", and this is "kernel amd64"`, false},
		"one too many":    {list, "asked for: kmod 34.2-2", false},
		"another hash":    {"# kernel amd64\ntzdata 2026b-0 all " + strings.Replace(empty, "e3", "00", 1) + "\n", "there is:  tzdata 2026b-0 all e3", false},
		"those":           {"# kernel amd64\ntzdata 2026b-0 all " + empty + "\n", "Package: tzdata\nPin: version 2026b-0\nPin-Priority: 1001\n", true},
	} {
		path := filepath.Join(t.TempDir(), "packages")
		if err := os.WriteFile(path, []byte(row.list), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := run(t, path, script, map[string]string{"dpkg-deb": "printf 'tzdata 2026b-0 all '\n"})
		if (err == nil) != row.used || strings.Contains(out, "used\n") != row.used || !strings.Contains(out, row.says) {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
		if row.used && !strings.Contains(out, `Acquire::Check-Valid-Until "false";`) {
			t.Errorf("%s: lists have to be new\n%s", name, out)
		}
		if name == "one too many" && !strings.Contains(out, "Package: kmod:amd64\nPin: version 34.2-2\n") {
			t.Errorf("%s: \n%s", name, out)
		}
	}
	if out, err := run(t, "/nowhere", script, nil); err == nil || !strings.Contains(out, "/nowhere cannot be read") {
		t.Errorf("%v\n%s", err, out)
	}
}

// empty is the SHA-256 of no bytes.
const empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
