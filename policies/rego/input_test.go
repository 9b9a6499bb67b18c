package rego_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/cloister-run/cloister/policies/abi"
	"github.com/cloister-run/cloister/policies/rego"
)

// ask makes the input of an egress over one artifact.
func ask(t testing.TB, kind string, files fs.FS) (input []byte, err error) {
	t.Helper()
	question, err := json.Marshal(abi.Request{
		ABI: 1, Point: abi.Egress, Job: json.RawMessage(`{"artifacts":[{"channel":"x"}]}`), Config: json.RawMessage("null"),
		Time: "2026-01-02T03:04:05Z", Artifacts: []abi.Artifact{{Channel: "outputs.a", Kind: kind, Bytes: 1, Files: 1}},
	})
	if err != nil {
		t.Fatal(err)
	}
	input, _, err = rego.Input(question, files)
	return input, err
}

// artifact is the one artifact of an input, without what every artifact has.
func artifact(t testing.TB, input []byte) string {
	t.Helper()
	var all struct {
		ABI       int             `json:"abi"`
		Job       json.RawMessage `json:"job"`
		Artifacts []map[string]json.RawMessage
	}
	if err := json.Unmarshal(input, &all); err != nil {
		t.Fatalf("%v: %s", err, input)
	}
	if len(all.Artifacts) != 1 || all.ABI != 1 || len(all.Job) < 20 {
		t.Fatalf("the input is %s", input)
	}
	for _, name := range []string{"channel", "kind", "digest", "bytes", "files"} {
		delete(all.Artifacts[0], name)
	}
	text, err := json.Marshal(all.Artifacts[0])
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestContent: what a policy sees of a file.
func TestContent(t *testing.T) {
	table := func(columns, rows string) string {
		return fmt.Sprintf(`{"content":{"columns":[%s],"rows":[%s]},"format":"csv"}`, columns, rows)
	}
	const none = `{"format":"none"}`
	for _, row := range []struct{ rule, file, want string }{
		{"an object", `{"a": [1, 1.50, "x"]}`, `{"content":{"a":[1,1.50,"x"]},"format":"json"}`},
		{"an array after white space", " \r\n\t[]\n", `{"content":[],"format":"json"}`},
		{"a table", "id,digit\n1,7\n\"a \"\"b\"\"\",é\n", table(`"id","digit"`, `["1","7"],["a \"b\"","é"]`)},
		{"a header alone", "id\n", table(`"id"`, ``)},
		{"a number, which is a column", "7", table(`"7"`, ``)},
		{"CRLF and empty lines", "a,b\r\n\r\n1,2\r\n", table(`"a","b"`, `["1","2"]`)},
		{"control characters", "a\tb\x01", table(`"a\tb\u0001"`, ``)},
		{"a key twice, which other readers read otherwise", `{"a":1,"a":2}`, none},
		{"a key twice, spelt in two ways", `{"a":1,"\u0061":2}`, none},
		{"a key twice, far apart", `{` + strings.Repeat(`"a":1,`, 1) + many(100) + `"a":1}`, none},
		{"a key twice among many", `{` + many(100) + `"k99":1}`, none},
		{"nothing", "", none},
		{"not UTF-8", "a\xff\n", none},
		{"not UTF-8 in JSON", "[\"a\xff\"]", none},
		{"rows of another length", "a,b\n1\n", none},
		{"a quote without an end", "a\n\"b\n", none},
		{"nested too deep", strings.Repeat("[", 100) + strings.Repeat("]", 100), none},
		{"a byte over the limit", strings.Repeat("a", 1<<20+1), none},
	} {
		t.Run(row.rule, func(t *testing.T) {
			input, err := ask(t, "file", fstest.MapFS{"outputs.a": {Data: []byte(row.file), Mode: 0o444}})
			if err != nil {
				t.Fatal(err)
			}
			if got := artifact(t, input); got != row.want {
				t.Errorf("shown as %.300s, want %s", got, row.want)
			}
		})
	}
}

func many(n int) string {
	var out strings.Builder
	for i := range n {
		fmt.Fprintf(&out, `"k%d":%d,`, i, i)
	}
	return out.String()
}

// TestTree: what a policy sees of a folder.
func TestTree(t *testing.T) {
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text), Mode: 0o444} }
	input, err := ask(t, "tree", fstest.MapFS{
		"outputs.a/b/z.csv": file("x\n1\n"), "outputs.a/b.json": file("{}"), "outputs.a/a\"": file("\xff"), "outputs.ab": file("other"),
	})
	if err != nil {
		t.Fatal(err)
	}
	want := `{"tree":[{"path":"a\"","bytes":1,"format":"none"},{"path":"b.json","bytes":2,"format":"json","content":{}},` +
		`{"path":"b/z.csv","bytes":4,"format":"csv","content":{"columns":["x"],"rows":[["1"]]}}]}`
	if got := artifact(t, input); got != want {
		t.Errorf("shown as %s, want %s", got, want)
	}

	large := fstest.MapFS{}
	for i := range 6 {
		large[fmt.Sprintf("outputs.a/%d", i)] = file(strings.Repeat("a", 1<<20))
	}
	if input, err = ask(t, "tree", large); err != nil {
		t.Fatal(err)
	}
	if got := bytes.Count(input, []byte(`"format":"csv"`)); got != 4 {
		t.Errorf("%d files of 1 MiB are shown, want 4", got)
	}
	if len(input) > 5<<20 {
		t.Errorf("the input has %d bytes", len(input))
	}

	crowd := fstest.MapFS{}
	for i := range 1001 {
		crowd[fmt.Sprintf("outputs.a/%d", i)] = file("")
	}
	for _, row := range []struct {
		rule  string
		files fs.FS
	}{
		{"too many files", crowd},
		{"a link", fstest.MapFS{"outputs.a/b": {Data: []byte("/etc"), Mode: fs.ModeSymlink}}},
		{"a device", fstest.MapFS{"outputs.a/b": {Mode: fs.ModeDevice}}},
	} {
		if input, err := ask(t, "tree", row.files); !errors.Is(err, rego.ErrInput) || input != nil {
			t.Errorf("%s: got %d bytes, %v", row.rule, len(input), err)
		}
	}
	if input, err := ask(t, "file", fstest.MapFS{}); err == nil || input != nil {
		t.Errorf("a file that is not there: got %s, %v", input, err)
	}
}

// TestQuestion: a request that says a thing twice is not asked.
func TestQuestion(t *testing.T) {
	for _, question := range []string{
		``, `[]`, `{"time":"2026-01-02T03:04:05Z","config":{"a":1,"a":2}}`, `{"time":"yesterday"}`,
		`{"time":"2026-01-02T03:04:05Z","config":` + strings.Repeat("[", 99) + strings.Repeat("]", 99) + `}`,
	} {
		if input, _, err := rego.Input([]byte(question), nil); !errors.Is(err, rego.ErrInput) || input != nil {
			t.Errorf("%.40s: got %s, %v", question, input, err)
		}
	}
	const plain = `{"time":"2026-01-02T03:04:05Z","artifacts":[{"channel":"outputs.a"}]}`
	if input, now, err := rego.Input([]byte(plain), nil); err != nil || string(input) != plain || now.Unix() != 1767323045 {
		t.Errorf("got %s, %v, %v", input, now, err)
	}
}

// bundle packs files as OPA does.
func bundle(t testing.TB, files ...[2]string) []byte {
	t.Helper()
	var out bytes.Buffer
	zip := gzip.NewWriter(&out)
	archive := tar.NewWriter(zip)
	for _, file := range files {
		if err := archive.WriteHeader(&tar.Header{Name: file[0], Size: int64(len(file[1])), Mode: 0o600}); err != nil {
			t.Fatal(err)
		}
		if _, err := archive.Write([]byte(file[1])); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(archive.Close(), zip.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestUnbundle(t *testing.T) {
	good := bundle(t, [2]string{"/.manifest", "{}"}, [2]string{"/data.json", `{"a":1}`}, [2]string{"/policy.wasm", "module"})
	wasm, data, err := rego.Unbundle(bytes.NewReader(good))
	if err != nil || string(wasm) != "module" || string(data) != `{"a":1}` || !rego.IsBundle(good) {
		t.Errorf("got %q, %q, %v", wasm, data, err)
	}
	empty := bundle(t, [2]string{"data.json", "{}\n"}, [2]string{"policy.wasm", "module"})
	if _, data, err := rego.Unbundle(bytes.NewReader(empty)); err != nil || data != nil {
		t.Errorf("no data gave %q, %v", data, err)
	}
	for _, row := range []struct {
		rule   string
		bundle []byte
		reason string
	}{
		{"no bundle", []byte("\x1f\x8b and no more than that"), "gzip"},
		{"cut short", good[:len(good)-20], "unexpected EOF"},
		{"no module", bundle(t, [2]string{"/data.json", "{}"}, [2]string{"/a/policy.wasm", "x"}), "no /policy.wasm"},
		{"two modules", bundle(t, [2]string{"/policy.wasm", "x"}, [2]string{"policy.wasm", "y"}), "there twice"},
		{"data twice", bundle(t, [2]string{"/data.json", `{"a":1}`}, [2]string{"./data.json", `{"a":2}`}), "there twice"},
		{"large data", bundle(t, [2]string{"/data.json", strings.Repeat(" ", 1<<20+1)}), "/data.json: over 1048576 bytes"},
		{"a large module", bundle(t, [2]string{"/policy.wasm", strings.Repeat("x", 16<<20+1)}), "/policy.wasm: over 16777216 bytes"},
		{"a bomb", bundle(t, [2]string{"/a", strings.Repeat("x", 65<<20)}, [2]string{"/policy.wasm", "x"}), "unexpected EOF"},
	} {
		t.Run(row.rule, func(t *testing.T) {
			if _, _, err := rego.Unbundle(bytes.NewReader(row.bundle)); err == nil || !strings.Contains(err.Error(), row.reason) {
				t.Errorf("got %v; wanted %q", err, row.reason)
			}
		})
	}
}

// FuzzContent: whatever a file holds, the input is JSON that says of it what is there.
func FuzzContent(f *testing.F) {
	for _, seed := range []string{`{"a":[1]}`, "a,b\n1,2\n", "\"a\n", "[", "\xff", `{"a":1,"\u0061":1}`, "{}{}", "[1,]"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		input, err := ask(t, "file", fstest.MapFS{"outputs.a": {Data: file, Mode: 0o444}})
		if err != nil {
			t.Fatal(err)
		}
		shown := artifact(t, input)
		if strings.Contains(shown, `"format":"json"`) {
			var document any
			if err := abi.DecodeExact(bytes.TrimSpace(file), len(file), &document); err != nil {
				t.Errorf("shown as JSON: %v", err)
			}
		}
	})
}

// FuzzUnbundle: a bundle gives a module or an error.
func FuzzUnbundle(f *testing.F) {
	f.Add(bundle(f, [2]string{"/policy.wasm", "x"}, [2]string{"/data.json", "{}"}))
	f.Add([]byte("\x1f\x8b"))
	f.Fuzz(func(t *testing.T, file []byte) {
		if wasm, _, err := rego.Unbundle(bytes.NewReader(file)); (err == nil) == (wasm == nil) {
			t.Errorf("got %d bytes, %v", len(wasm), err)
		}
	})
}
