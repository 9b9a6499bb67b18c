package main

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/cloister-run/cloister/core/tree"
	"github.com/cloister-run/cloister/enclave/envelope"
)

const sealKey = "arn:cloister-dev:kms:local:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"

// fakeKMS answers GenerateDataKey and remembers what it gave.
type fakeKMS struct {
	url string

	mu sync.Mutex
	// answer, if not nil, answers in its place where it returns true.
	answer func(w http.ResponseWriter) bool
	keys   map[string][]byte // by wrapped key
	bound  map[string]map[string]string
	asked  int
}

func newFakeKMS(t *testing.T) *fakeKMS {
	t.Helper()
	k := &fakeKMS{keys: map[string][]byte{}, bound: map[string]map[string]string{}}
	server := httptest.NewServer(k)
	t.Cleanup(server.Close)
	k.url = server.URL
	return k
}

// env is what a process needs to ask it, and to find nothing else.
func (k *fakeKMS) env() []string {
	return []string{"AWS_ENDPOINT_URL_KMS=" + k.url, "AWS_ACCESS_KEY_ID=AKIDTEST", "AWS_SECRET_ACCESS_KEY=secret", "AWS_SESSION_TOKEN=",
		"AWS_PROFILE=", "AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null"}
}

func (k *fakeKMS) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var in struct {
		KeyID             string `json:"KeyId"`
		EncryptionContext map[string]string
	}
	body, _ := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err := json.Unmarshal(body, &in); err != nil || r.Header.Get("X-Amz-Target") != "TrentService.GenerateDataKey" {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	k.mu.Lock()
	k.asked++
	answer := k.answer
	k.mu.Unlock()
	if answer != nil && answer(w) {
		return
	}
	key, wrapped := make([]byte, 32), make([]byte, 64)
	_, _ = rand.Read(key)
	_, _ = rand.Read(wrapped)
	k.mu.Lock()
	k.keys[string(wrapped)], k.bound[string(wrapped)] = key, in.EncryptionContext
	k.mu.Unlock()
	_ = json.NewEncoder(w).Encode(map[string]any{"KeyId": in.KeyID, "Plaintext": key, "CiphertextBlob": wrapped})
}

// answers has the KMS answer otherwise from now on.
func (k *fakeKMS) answers(answer func(http.ResponseWriter) bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.answer = answer
}

func (k *fakeKMS) requests() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.asked
}

// vendor is a folder of an owner.
type vendor struct {
	kms    *fakeKMS
	dir    string
	before map[string]string
}

const vendorBundle = `asset: {name: digits-app, kind: application, from: app}
command:
  entrypoint: main.py
  args: ["${inputs.scans}", "--out", "${outputs.result}", "two\nlines"]
  outputs: {result: result.csv}
  parameters: {threshold: {default: "0.5", pattern: "0?\\.[0-9]+"}}
key: ` + sealKey + `
policy: {module: probe.wasm}
`

// newVendor writes a bundle file and what it names, and leads this process to a KMS.
func newVendor(t *testing.T) *vendor {
	t.Helper()
	v := &vendor{kms: newFakeKMS(t), dir: t.TempDir()}
	for name, content := range map[string]string{
		"bundle.yaml": vendorBundle, "app/main.py": "print('hello')\n", "app/lib/weights": strings.Repeat("w", 3<<20), "app/empty/.keep": "",
		"tmp/.keep": "", "data.csv": "id,digit\n1,2\n",
		"data.yaml": "asset: {name: scans, kind: dataset, from: data.csv}\nkey: " + sealKey + "\npolicy: {module: probe.wasm}\n",
	} {
		v.write(t, name, content)
	}
	probe, err := newProbe(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := probe.pack(v.path("probe.wasm")); err != nil {
		t.Fatal(err)
	}
	for _, pair := range v.kms.env() {
		name, value, _ := strings.Cut(pair, "=")
		t.Setenv(name, value)
	}
	v.before = listTree(v.dir)
	return v
}

func (v *vendor) path(name string) string { return filepath.Join(v.dir, name) }

func (v *vendor) write(t *testing.T, name, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(v.path(name)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(v.path(name), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// unchanged fails if anything in the folder is not as it was.
func (v *vendor) unchanged(t *testing.T) {
	t.Helper()
	if after := listTree(v.dir); !maps.Equal(v.before, after) {
		t.Errorf("the folder was\n%v\nand is\n%v", v.before, after)
	}
}

// cloister runs the command and gives its status and what it printed.
func cloister(t *testing.T, args ...string) (int, string, string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	status := run(t.Context(), args, &stdout, &stderr)
	return status, stdout.String(), stderr.String()
}

// open decrypts a sealed file and unpacks it into a folder.
func (v *vendor) open(t *testing.T, name string) (*envelope.Bundle, string) {
	t.Helper()
	f, err := os.Open(v.path(name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := envelope.Read(f)
	if err != nil {
		t.Fatal(err)
	}
	wrapped := b.Header.WrappedKey
	if bound := v.kms.bound[string(wrapped)]; !maps.Equal(bound, b.Context()) {
		t.Errorf("bound to %v, is %v", bound, b.Context())
	}
	payload, err := b.Open(t.Context(), bytes.Clone(v.kms.keys[string(wrapped)]))
	if err != nil {
		t.Fatal(err)
	}
	defer payload.Close()
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if _, err := tree.Unpack(t.Context(), payload, root, b.Header.Asset.Limits()); err != nil {
		t.Fatal(err)
	}
	return b, dir
}

// contents are the files below a folder with their bytes.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		rel, _ := filepath.Rel(dir, path) // path is below dir
		found[rel] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestSeal: what the command sealed opens with the data key of the KMS, and is what was sealed.
func TestSeal(t *testing.T) {
	v := newVendor(t)
	status, out, text := cloister(t, "seal", v.path("bundle.yaml"), "-o", v.path("app.sealed"))
	if status != 0 || !strings.Contains(text, "SIMULATED KMS") {
		t.Fatalf("status %d: %s%s", status, out, text)
	}
	b, dir := v.open(t, "app.sealed")
	if got, want := contents(t, dir), contents(t, v.path("app")); !maps.Equal(got, want) {
		t.Errorf("sealed %v, opened %v", slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(got)))
	}
	if len(b.Header.Policy.Codes) != 1 || b.Header.Policy.Codes[0].Code != "no" || b.Header.Command.Entrypoint != "main.py" {
		t.Errorf("%+v", b.Header)
	}
	whole, err := os.ReadFile(v.path("app.sealed"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"sealed    application digits-app, 3 MiB in 5 files and folders", fmt.Sprintf("to        %s, %d bytes", v.path("app.sealed"), len(whole)),
		fmt.Sprintf("digest    sha256:%x", sha256.Sum256(whole)), "key       " + sealKey, "policy    " + b.Header.Policy.Digest,
		"denies    no: the probe says no", "public    name, kind, sizes, command, policy and configuration",
	} {
		if !strings.Contains(out, want+"\n") && !strings.Contains(out, want+":") {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if info, err := os.Stat(v.path("app.sealed")); err != nil || info.Mode() != 0o644 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if bytes.Contains(whole, []byte("print('hello')")) {
		t.Error("the application is in it in plain")
	}
}

// TestSealFile: a data set of one file, into the current folder, as JSON, over an older one.
func TestSealFile(t *testing.T) {
	v := newVendor(t)
	t.Chdir(v.dir)
	v.write(t, "scans.sealed", "an older one")
	status, out, text := cloister(t, "--json", "seal", "data.yaml")
	var report sealReport
	if err := json.Unmarshal([]byte(out), &report); err != nil || status != 0 {
		t.Fatalf("status %d, %v: %s%s", status, err, out, text)
	}
	b, dir := v.open(t, "scans.sealed")
	if got := contents(t, dir); !maps.Equal(got, map[string]string{"data.csv": "id,digit\n1,2\n"}) {
		t.Errorf("%v", got)
	}
	if report.Asset != b.Header.Asset || report.ID != b.Header.ID || report.Path != "scans.sealed" || report.Asset.Form != "file" || report.Status != 0 {
		t.Errorf("%+v", report)
	}
	if listed, err := os.ReadDir(v.dir); err != nil || len(listed) != len(topLevel(v.before))+1 {
		t.Errorf("%v, %v", listed, err)
	}
}

func topLevel(listing map[string]string) (names []string) {
	for name := range listing {
		if !strings.Contains(name, "/") {
			names = append(names, name)
		}
	}
	return names
}

// TestSealKMS: what the KMS answers has its status and its cure, and nothing is written.
func TestSealKMS(t *testing.T) {
	says := func(status int, code string) func(http.ResponseWriter) bool {
		return func(w http.ResponseWriter) bool {
			w.WriteHeader(status)
			_ = json.NewEncoder(w).Encode(map[string]string{"__type": code, "message": "no \x1b[31m"})
			return true
		}
	}
	for name, row := range map[string]struct {
		answer func(http.ResponseWriter) bool
		status int
		hint   string
	}{
		"denied":    {says(400, "AccessDeniedException"), 4, "the key's policy must allow you kms:GenerateDataKey"},
		"no key":    {says(400, "NotFoundException"), 4, "check account, region and id"},
		"disabled":  {says(400, "DisabledException"), 4, "enable the key"},
		"expired":   {says(400, "ExpiredTokenException"), 4, "log in again"},
		"new":       {says(400, "SomethingNewException"), 4, "its message says why"},
		"nonsense":  {func(w http.ResponseWriter) bool { fmt.Fprint(w, `{}`); return true }, 5, "check AWS_ENDPOINT_URL"},
		"not a KMS": {says(404, ""), 5, "check AWS_ENDPOINT_URL"},
	} {
		t.Run(name, func(t *testing.T) {
			v := newVendor(t)
			v.write(t, "app.sealed", "an older one")
			v.before = listTree(v.dir)
			v.kms.answers(row.answer)
			status, out, text := cloister(t, "seal", v.path("bundle.yaml"), "-o", v.path("app.sealed"))
			if status != row.status || out != "" || !strings.Contains(text, "\ncloister: hint: ") || !strings.Contains(text, row.hint) || strings.Contains(text, "\x1b") {
				t.Errorf("status %d: %s%q", status, out, text)
			}
			v.unchanged(t)
		})
	}
}

// TestSealReplacesNothing of what is sealed, and asks no KMS before it knows that.
func TestSealReplacesNothing(t *testing.T) {
	v := newVendor(t)
	for link, to := range map[string]string{"link.sealed": "data.csv", "inside": "app"} {
		if err := os.Symlink(to, v.path(link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(v.path("data.csv"), v.path("second.csv")); err != nil {
		t.Fatal(err)
	}
	v.before = listTree(v.dir)
	for name, row := range map[string]struct{ bundle, out, says string }{
		"the bundle file":         {"bundle.yaml", "bundle.yaml", "is what is to be sealed"},
		"the policy":              {"bundle.yaml", "probe.wasm", "is what is to be sealed"},
		"the data":                {"data.yaml", "data.csv", "is what is to be sealed"},
		"its second name":         {"data.yaml", "second.csv", "is what is to be sealed"},
		"a link":                  {"data.yaml", "link.sealed", "is no regular file"},
		"a folder":                {"bundle.yaml", "tmp", "is a folder"},
		"the application":         {"bundle.yaml", "app", "is a folder"},
		"a file of it":            {"bundle.yaml", "app/main.py", "is in the folder that is to be sealed"},
		"a new file in it":        {"bundle.yaml", "app/new.sealed", "is in the folder that is to be sealed"},
		"a new folder in it":      {"bundle.yaml", "app/new/x.sealed", "is in the folder that is to be sealed"},
		"through a link":          {"bundle.yaml", "inside/x.sealed", "is in the folder that is to be sealed"},
		"through a file":          {"bundle.yaml", "data.csv/x.sealed", "not a directory"},
		"by way of another place": {"bundle.yaml", "tmp/../app/x.sealed", "is in the folder that is to be sealed"},
	} {
		status, out, text := cloister(t, "seal", v.path(row.bundle), "-o", v.dir+"/"+row.out)
		if status != 2 || out != "" || !strings.Contains(text, row.says) {
			t.Errorf("%s: status %d: %s%s", name, status, out, text)
		}
	}
	if n := v.kms.requests(); n != 0 {
		t.Errorf("%d requests", n)
	}
	v.unchanged(t)
}

// TestSealNoRoom: where the file cannot be written nothing is left.
func TestSealNoRoom(t *testing.T) {
	v := newVendor(t)
	status, out, text := cloister(t, "seal", v.path("bundle.yaml"), "-o", "/proc/x.sealed")
	if status != 5 || out != "" || !strings.Contains(text, "hint: nothing was written; make room") {
		t.Errorf("status %d: %s%s", status, out, text)
	}
	if n := v.kms.requests(); n != 0 {
		t.Errorf("%d requests: the place was not tried first", n)
	}
	v.unchanged(t)
}

// TestI9_SealInterrupted ends the command while it waits for the KMS and while it seals, in every way: the
// destination is as it was, and nothing is left beside it.
func TestI9_SealInterrupted(t *testing.T) {
	for point, shows := range map[string]string{"KMS": "asking the KMS for a data key", "sealing": "sealing"} {
		for way, want := range map[string]int{"Ctrl-C": 130, "SIGKILL": 137} {
			t.Run(point+"/"+way, func(t *testing.T) {
				v := newVendor(t)
				v.write(t, "scans.sealed", "an older one")
				held := make(chan struct{})
				if point == "KMS" {
					v.kms.answers(func(http.ResponseWriter) bool { <-held; return true })
				} else if err := os.Truncate(v.path("data.csv"), 64<<30); err != nil {
					t.Fatal(err)
				}
				v.before = listTree(v.dir)
				s := onTerminalWith(t, v.dir, v.kms.env(), "seal", "data.yaml")
				s.await(t, shows)
				eventually(t, "the KMS was asked", func() bool { return v.kms.requests() > 0 })
				if way == "Ctrl-C" {
					s.press(t, "\x03")
				} else if err := s.cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
				status := s.wait(t)
				close(held)
				if status != want || want == 130 && !strings.Contains(s.shown(), "cloister: error: cancelled\r\ncloister: hint: nothing was written") {
					t.Errorf("status %d:\n%q", status, s.shown())
				}
				v.unchanged(t)
			})
		}
	}
}

// TestSealQuiet: in a pipe nothing but the result is shown.
func TestSealQuiet(t *testing.T) {
	v := newVendor(t)
	_, _, text := cloister(t, "seal", v.path("data.yaml"), "-o", v.path("x.sealed"))
	if strings.Count(text, "\n") != 1 || !strings.HasPrefix(text, "SIMULATED KMS: ") {
		t.Errorf("%q", text)
	}
}

// TestSealFailures: every error of sealing has its status.
func TestSealFailures(t *testing.T) {
	if f, ok := errors.AsType[*failure](sealFailure(t.Context(), errors.New("changed"))); !ok || f.status != statusUsage || !strings.Contains(f.hint, "leave what is sealed alone") {
		t.Errorf("%+v", f)
	}
	header := &envelope.Error{Kind: envelope.ErrHeader, Detail: "d", Hint: "shorten the command"}
	if f, ok := errors.AsType[*failure](sealFailure(t.Context(), header)); !ok || f.status != statusUsage || f.hint != "shorten the command" {
		t.Errorf("%+v", f)
	}
}
