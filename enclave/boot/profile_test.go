package boot_test

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cloister-run/cloister/enclave/boot"
)

const (
	good       = `{"realm":"local","listen":"unix","nsm":"socket","kms":{"partition":"cloister-dev","endpoint":"http://kms.cloister-dev.internal"}}`
	production = `{"realm":"aws","listen":"vsock","nsm":"device","kms":{"partition":"aws"}}`
	virtual    = `{"realm":"local","listen":"vsock","nsm":"device","kms":{"partition":"cloister-dev","endpoint":"http://kms.cloister-dev.internal"}}`
)

// with changes a profile in one place.
func with(profile, old, by string) string {
	if strings.Count(profile, old) != 1 {
		panic(old + " is not once in " + profile)
	}
	return strings.Replace(profile, old, by, 1)
}

var profiles = []struct {
	rule, raw string
	ok        bool
}{
	{"the local one", good, true},
	{"a local one on a machine with an NSM", with(good, "socket", "device"), true},
	{"with spaces", " " + strings.ReplaceAll(good, ",", " ,\n\t") + "\n", true},
	{"one for AWS", production, true},
	{"one for AWS in China", with(production, `"partition":"aws"`, `"partition":"aws-cn"`), true},
	{"nothing", "", false},
	{"null", "null", false},
	{"a list", "[]", false},
	{"no realm", with(good, `"realm":"local",`, ""), false},
	{"a rehearsal", with(good, `"realm"`, `"rehearsal":true,"realm"`), true},
	{"a rehearsal in AWS's realm", with(production, `"realm"`, `"rehearsal":true,"realm"`), false},
	{"an empty realm", with(good, `"local"`, `""`), false},
	{"another realm", with(good, `"local"`, `"test"`), false},
	{"a realm in capitals", with(production, `"realm":"aws"`, `"realm":"AWS"`), false},
	{"one for a virtual machine", virtual, true},
	{"a virtual machine with an NSM on a socket", with(virtual, "device", "socket"), false},
	{"a virtual machine in AWS's realm", with(virtual, `"realm":"local"`, `"realm":"aws"`), false},
	{"AWS's realm on a Unix socket", with(production, "vsock", "unix"), false},
	{"no listener", with(good, `"listen":"unix",`, ""), false},
	{"an unknown listener", with(good, "unix", "tcp"), false},
	{"no NSM", with(good, `"nsm":"socket",`, ""), false},
	{"an unknown NSM", with(good, "socket", "/dev/other"), false},
	{"no KMS", with(production, `,"kms":{"partition":"aws"}`, ""), false},
	{"AWS's realm with a simulated NSM", with(production, "device", "socket"), false},
	{"AWS's realm with the simulated KMS", with(production, `{"partition":"aws"}`, `{"partition":"cloister-dev","endpoint":"http://127.0.0.1"}`), false},
	{"AWS's realm with the simulated partition", with(production, `"partition":"aws"`, `"partition":"cloister-dev"`), false},
	{"AWS's realm with an endpoint", with(production, `"aws"}`, `"aws","endpoint":"https://kms.example"}`), false},
	{"the local realm with AWS's KMS", with(good, "cloister-dev\"", "aws\""), false},
	{"the local realm, AWS's KMS, no endpoint", with(with(good, "cloister-dev\"", "aws\""), `,"endpoint":"http://kms.cloister-dev.internal"`, ""), false},
	{"the local realm without an endpoint", with(good, `,"endpoint":"http://kms.cloister-dev.internal"`, ""), false},
	{"the local realm as AWS's", with(good, "local", "aws"), false},
	{"AWS's realm as the local one", with(production, `"realm":"aws"`, `"realm":"local"`), false},
	{"an unknown field", with(good, `"listen"`, `"debug":true,"listen"`), false},
	{"an unknown field of the KMS", with(good, `"endpoint"`, `"insecure":true,"endpoint"`), false},
	{"a field in capitals", with(good, `"realm"`, `"Realm"`), false},
	{"a field twice", with(good, `"listen"`, `"realm":"local","listen"`), false},
	{"something behind it", good + good, false},
	{"too large", good + strings.Repeat(" ", boot.MaxProfile), false},
}

func TestI8_AProfileIsReadStrictly(t *testing.T) {
	for _, test := range profiles {
		path := filepath.Join(t.TempDir(), "profile.json")
		if err := os.WriteFile(path, []byte(test.raw), 0o600); err != nil {
			t.Fatal(err)
		}
		p, err := boot.ReadProfile(path)
		if (err == nil) != test.ok || (err != nil && p != (boot.Profile{})) {
			t.Errorf("%s: %+v, %v", test.rule, p, err)
		}
	}
	for _, path := range []string{filepath.Join(t.TempDir(), "none"), t.TempDir()} {
		if _, err := boot.ReadProfile(path); err == nil {
			t.Errorf("%s was read", path)
		}
	}
}

func TestTheProfilesInDeployAreValid(t *testing.T) {
	files, err := filepath.Glob("../../deploy/*/*.json")
	if err != nil || len(files) < 4 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, file := range files {
		if _, err := boot.ReadProfile(file); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
}

func FuzzProfile(f *testing.F) {
	for _, test := range profiles {
		f.Add([]byte(test.raw))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		p, err := boot.ParseProfile(raw)
		simulated := p.Listen == "unix" || p.NSM == "socket" || p.KMS.Partition == "cloister-dev" || p.KMS.Endpoint != ""
		if err == nil && (p.Listen != "unix" && p.Listen != "vsock" || p.Realm == "aws" && simulated) || err != nil && p != (boot.Profile{}) {
			t.Errorf("%q: %+v, %v", raw, p, err)
		}
	})
}

func TestMemory(t *testing.T) {
	for _, test := range []struct {
		rule, raw string
		want      int64 // -1: refused
	}{
		{"as Linux writes it", "MemTotal:       24105 kB\nMemFree:        1 kB\n", 24105 << 10},
		{"not in the first line", "MemFree: 1 kB\nMemTotal: 2 kB", 2 << 10},
		{"nothing", "", -1},
		{"no total", "MemFree: 1 kB\n", -1},
		{"another unit", "MemTotal: 1 MB\n", -1},
		{"no unit", "MemTotal: 1\n", -1},
		{"negative", "MemTotal: -1 kB\n", -1},
		{"too much", "MemTotal: 9223372036854775807 kB\n", -1},
	} {
		got, err := boot.ParseMemory(test.raw, "MemTotal")
		if (err != nil) != (test.want < 0) || err == nil && got != test.want {
			t.Errorf("%s: %d, %v", test.rule, got, err)
		}
	}
}

func TestTheEnclaveKeepsSomeMemoryForItself(t *testing.T) {
	for memory, want := range map[int64]int64{
		0: 0, 1 << 30: 128 << 20, 8 << 30: 8<<30 - 512<<20 - 3*320<<20, math.MaxInt64: math.MaxInt64 - 512<<20 - 16*320<<20,
	} {
		if got := boot.ForJobs(memory); got != want {
			t.Errorf("of %d: %d, want %d", memory, got, want)
		}
	}
}

func TestEveryUser(t *testing.T) {
	for _, test := range []struct {
		rule, raw string
		want      bool
	}{
		{"the initial namespace", "         0          0 4294967295\n", true},
		{"an ordinary user's", "         0       1000          1\n", false},
		{"subordinate users", "0 1000 1\n1 100000 65536\n", false},
		{"shifted", "0 100000 4294967295\n", false},
		{"nothing", "", false},
	} {
		if got := boot.EveryUser(test.raw); got != test.want {
			t.Errorf("%s: %v", test.rule, got)
		}
	}
}

func TestThisMachine(t *testing.T) {
	memory, err := boot.ThisMachine()
	if err != nil || boot.ForJobs(memory) <= 0 || boot.ForJobs(memory) >= memory {
		t.Errorf("%d, %v", memory, err)
	}
}

// In a Nitro Enclave no executor runs without a cgroup that holds the memory of all its processes.
func TestAMemoryCgroupIsMandatoryInANitroEnclave(t *testing.T) {
	for raw, want := range map[string]bool{good: false, production: true} {
		path := filepath.Join(t.TempDir(), "profile.json")
		if err := os.WriteFile(path, []byte(raw), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := boot.Together(path); err != nil || got != want {
			t.Errorf("%s: %v, %v", raw, got, err)
		}
	}
}
