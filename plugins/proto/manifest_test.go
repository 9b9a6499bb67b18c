package proto_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/cloister-run/cloister/plugins/proto"
)

var digest = strings.Repeat("0123456789abcdef", 4)

const good = `{"name": "python", "version": "0.1.0", "protocol": 1, "executable": "cloister-executor", "args": ["python"], "sha256": "DIGEST"}`

func manifest(edit ...string) []byte {
	return []byte(strings.NewReplacer(append(edit, "DIGEST", digest)...).Replace(good))
}

func TestParseManifest(t *testing.T) {
	got, err := proto.ParseManifest(manifest())
	if err != nil {
		t.Fatal(err)
	}
	want := proto.Manifest{
		Name: "python", Version: "0.1.0", Protocol: 1, Executable: "cloister-executor", Args: []string{"python"}, SHA256: digest,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	for rule, raw := range map[string][]byte{
		"args may be missing":            manifest(`"args": ["python"], `, ``),
		"an executable may be absolute":  manifest(`"cloister-executor"`, `"/usr/libexec/x"`),
		"an executable may lie deeper":   manifest(`"cloister-executor"`, `"python/bin/x"`),
		"a name may hold digits, hyphen": manifest(`"name": "python"`, `"name": "r-4-2"`),
		"an argument may be empty":       manifest(`["python"]`, `[""]`),
		"white space may follow":         append(manifest(), "\n \n"...),
	} {
		if _, err := proto.ParseManifest(raw); err != nil {
			t.Errorf("%s: %v", rule, err)
		}
	}
}

func TestParseManifestRefuses(t *testing.T) {
	for _, test := range []struct {
		rule string
		raw  []byte
		want string
	}{
		{"nothing", nil, "EOF"},
		{"no object", []byte(`[]`), "cannot unmarshal array"},
		{"more than a manifest", append(manifest(), "{}"...), "something follows the object"},
		{"more bytes than a manifest has", append(manifest(), strings.Repeat(" ", proto.MaxManifest)...), "more than 16384 bytes"},
		{"an unknown field", manifest(`"args"`, `"env"`), `unknown field "env"`},
		{"null is no manifest", []byte(`null`), "name: "},
		{"an upper-case name", manifest(`"python", "v`, `"Python", "v`), "name: "},
		{"a name with a slash", manifest(`"python", "v`, `"a/b", "v`), "name: "},
		{"a name with dots", manifest(`"python", "v`, `"..", "v`), "name: "},
		{"a name that begins with a hyphen", manifest(`"python", "v`, `"-a", "v`), "name: "},
		{"a name that ends with a hyphen", manifest(`"python", "v`, `"a-", "v`), "name: "},
		{"two hyphens", manifest(`"python", "v`, `"a--b", "v`), "name: "},
		{"a name of 64 bytes", manifest(`"python", "v`, `"`+strings.Repeat("a", 64)+`", "v`), "name: "},
		{"no version", manifest(`"0.1.0"`, `""`), "version: "},
		{"a version of 65 bytes", manifest(`0.1.0`, strings.Repeat("1", 65)), "version: "},
		{"a version with a control character", manifest(`0.1.0`, `1\u001b[2J`), "version: "},
		{"another protocol", manifest(`: 1,`, `: 0,`), "protocol: 0, this host speaks 1"},
		{"no executable", manifest(`"cloister-executor"`, `""`), "executable: is empty"},
		{"an executable that climbs", manifest(`"cloister-executor"`, `"../x"`), "leaves the folder"},
		{"an executable that climbs from within", manifest(`"cloister-executor"`, `"a/../../x"`), "not written plainly"},
		{"an executable with a dot", manifest(`"cloister-executor"`, `"./x"`), "not written plainly"},
		{"an executable with NUL", manifest(`"cloister-executor"`, `"x\u0000"`), "contains NUL"},
		{"an executable longer than a path", manifest(`"cloister-executor"`, `"`+strings.Repeat("x", 4096)+`"`), "at most 4095"},
		{"17 arguments", manifest(`["python"]`, `[`+strings.Repeat(`"",`, 16)+`""]`), "args: 17, at most 16"},
		{"a long argument", manifest(`["python"]`, `["`+strings.Repeat("x", 257)+`"]`), "args[0]: 257 bytes"},
		{"an argument with NUL", manifest(`["python"]`, `["", "\u0000"]`), "args[1]: contains NUL"},
		{"an upper-case digest", manifest("DIGEST", strings.ToUpper(digest)), "sha256: "},
		{"a short digest", manifest("DIGEST", digest[2:]), "sha256: "},
		{"a digest that names its kind", manifest("DIGEST", "sha256:"+digest), "sha256: "},
		{"no digest", manifest("DIGEST", ""), "sha256: "},
	} {
		t.Run(test.rule, func(t *testing.T) {
			m, err := proto.ParseManifest(test.raw)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v does not say %q", err, test.want)
			}
			if !reflect.DeepEqual(m, proto.Manifest{}) {
				t.Errorf("a manifest beside an error: %+v", m)
			}
		})
	}
}

func TestManifestProblemsAllAtOnce(t *testing.T) {
	_, err := proto.ParseManifest([]byte(`{"args": ["\u0000"]}`))
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"name: ", "version: ", "protocol: ", "executable: ", "args[0]: ", "sha256: "} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
}

func FuzzParseManifest(f *testing.F) {
	f.Add(manifest())
	f.Add(manifest(`"cloister-executor"`, `"/bin/../x"`))
	f.Add(manifest(`["python"]`, `null`))
	f.Add([]byte(`{"name": "a", "name": "b"}`))
	f.Add([]byte(`nul`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, err := proto.ParseManifest(raw)
		if err != nil {
			return
		}
		if err := m.Check(); err != nil {
			t.Errorf("parsed, and yet: %v", err)
		}
		again, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		m2, err := proto.ParseManifest(again)
		if err != nil && len(again) <= proto.MaxManifest {
			t.Errorf("written and read again: %v", err)
		}
		if err == nil && !reflect.DeepEqual(m, m2) {
			t.Errorf("%+v became %+v", m, m2)
		}
	})
}
