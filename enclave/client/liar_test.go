package client_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/cloister-run/cloister/core"
	"github.com/cloister-run/cloister/core/coretest"
	"github.com/cloister-run/cloister/core/receipt"
	"github.com/cloister-run/cloister/core/tree"
	"github.com/cloister-run/cloister/enclave/attest"
	"github.com/cloister-run/cloister/enclave/client"
	"github.com/cloister-run/cloister/enclave/envelope"
	"github.com/cloister-run/cloister/enclave/wire"
	"github.com/cloister-run/cloister/jobspec"
	"github.com/cloister-run/cloister/policies/abi"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// liar is an enclave that says what a test wants; by default it is honest, and its job
// succeeds with a file and a tree.
type liar struct {
	// handle, where it answers true, is all that the enclave does about a call.
	handle func(w http.ResponseWriter, r *http.Request) bool
	// outcome is what it calls the job [succeeded].
	outcome receipt.Outcome
	// record changes the record before it is made.
	record func(*receipt.Run)
	// file and tree are what leaves.
	file, tree []byte

	// late holds the answer to an upload back until the end of the job was told.
	late bool

	// attest makes the answer to a client's nonce [honest].
	attest func(nonce []byte) ([]byte, error)
	// seal changes the receipt once it was made.
	seal func([]byte) []byte
	// job is the job file [jobText]; now is the client's clock [time.Now].
	job string
	now func() time.Time

	mu        *sync.Mutex
	nsm       *coretest.NSM
	submitted wire.Submit
	modules   int // that were sent
	calls     []string
	fronts    map[string][]byte
	secrets   []string // every credential that was sent
	assets    map[string]tree.Summary
	deleted   bool
}

const (
	fileContent = "the result\n"
	jobText     = `version: 1
name: lied-to
application: {from: app, command: {entrypoint: main.py, args: ["${outputs.file}"], outputs: {file: file, tree: tree/}}}
outputs: {file: {save_to: out/deep/file}, tree: {save_to: out/tree}}
`
)

// sealedJob is jobText, whose file is sealed.
var sealedJob = strings.Replace(jobText, "out/deep/file", "out/deep/file, seal_to: [age1zfuwet82s9375u8w36yfs2c6mnv8n4h78x0ca0sh0p4fga9wlvnsu2weu9]", 1)

// tarOf makes a tar stream of one entry.
func tarOf(t *testing.T, h tar.Header, content string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	h.Size = int64(len(content))
	if err := w.WriteHeader(&h); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func honestTree(t *testing.T) ([]byte, tree.Summary) {
	sum := tree.Sum([]tree.Entry{{Path: "run.sh", Kind: tree.Executable, Size: 3, Sum: sha256.Sum256([]byte("abc"))}})
	return tarOf(t, tar.Header{Name: "run.sh", Typeflag: tar.TypeReg, Mode: 0o755}, "abc"), sum
}

func (l *liar) routes(t *testing.T) http.Handler {
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter, v any) { _ = json.NewEncoder(w).Encode(v) }
	mux.HandleFunc("GET "+wire.AttestPath+"{nonce}", func(w http.ResponseWriter, r *http.Request) {
		nonce, err := hex.DecodeString(r.PathValue("nonce"))
		if err != nil {
			t.Error(err)
		}
		document, err := l.attest(nonce)
		if err != nil {
			t.Error(err)
		}
		_, _ = w.Write(document)
	})
	mux.HandleFunc("POST "+wire.JobsPath, func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewDecoder(r.Body).Decode(&l.submitted)
		got := wire.Submitted{Token: "token"}
		for _, claim := range l.submitted.Assets {
			if claim.Front != "" {
				got.Fronts = append(got.Fronts, claim.Name)
			}
		}
		answer(w, got)
	})
	mux.HandleFunc("PUT "+wire.FrontPath+"{asset}", func(_ http.ResponseWriter, r *http.Request) {
		front, _ := io.ReadAll(r.Body)
		l.fronts = map[string][]byte{r.PathValue("asset"): front}
	})
	mux.HandleFunc("PUT "+wire.CredentialsPath, func(_ http.ResponseWriter, r *http.Request) {
		raw, _ := io.ReadAll(r.Body)
		l.secrets = append(l.secrets, string(raw))
	})
	mux.HandleFunc("GET "+wire.AdmitPath, func(w http.ResponseWriter, _ *http.Request) { answer(w, wire.Admission{}) })
	received, told := make(chan struct{}), make(chan struct{})
	mux.HandleFunc("PUT "+wire.ModulePath+"{digest}", func(http.ResponseWriter, *http.Request) { l.modules++ })
	l.assets = map[string]tree.Summary{}
	mux.HandleFunc("PUT "+wire.AssetPath+"{asset}", func(w http.ResponseWriter, r *http.Request) {
		if l.fronts[r.PathValue("asset")] != nil {
			h := sha256.New()
			n, err := io.Copy(h, r.Body)
			if err != nil { // an honest enclave ends the job then
				l.outcome = receipt.Cancelled
			}
			l.assets[r.PathValue("asset")] = tree.Summary{Digest: tree.Hex(h.Sum(nil)), Bytes: n}
			close(received)
			return
		}
		dir, err := os.OpenRoot(t.TempDir())
		if err != nil {
			t.Error(err)
			return
		}
		defer dir.Close()
		sum, err := tree.Unpack(r.Context(), r.Body, dir, tree.Limits{Bytes: 1 << 20, Entries: 100})
		if err != nil {
			return // the client let go, as it may
		}
		l.assets[r.PathValue("asset")] = sum
		if len(l.fronts) == 0 {
			close(received)
		}
		if l.late {
			<-told
		}
	})
	mux.HandleFunc("GET "+wire.PhasesPath, func(w http.ResponseWriter, r *http.Request) {
		defer close(told)
		select {
		case <-received:
		case <-r.Context().Done():
		}
		all := []wire.Progress{
			{Number: 1, Phase: core.Receiving}, {Number: 2, Phase: core.Executing},
			{Number: 3, Phase: core.Done, Result: &core.Result{Outcome: l.outcome}},
		}
		after, err := strconv.Atoi(r.URL.Query().Get(wire.AfterQuery))
		if err != nil || after > len(all) {
			t.Errorf("after: %d, %v", after, err)
		}
		for _, p := range all[after:] {
			answer(w, p)
		}
	})
	mux.HandleFunc("GET "+wire.ReceiptPath, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(l.receipt(t)) })
	mux.HandleFunc("GET "+wire.ReleasePath+"{channel}", func(w http.ResponseWriter, r *http.Request) {
		if r.PathValue("channel") == "outputs.tree" {
			_, _ = w.Write(l.tree)
			return
		}
		_, _ = w.Write(l.file)
	})
	mux.HandleFunc("DELETE "+wire.JobPath, func(http.ResponseWriter, *http.Request) { l.deleted = true })
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		l.note(r)
		if l.handle == nil || !l.handle(w, r) {
			mux.ServeHTTP(w, r)
		}
	})
}

// note keeps the kind of a call, in the order in which they came.
func (l *liar) note(r *http.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	parts := strings.Split(r.URL.Path, "/")
	l.calls = append(l.calls, r.Method+" "+parts[min(len(parts)-1, 4)])
}

// receipt is the statement with its own enclave's document over it.
func (l *liar) receipt(t *testing.T) []byte {
	t.Helper()
	statement := l.statement(t)
	document, err := attest.ForReceipt(t.Context(), l.nsm, receipt.Message(statement))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := receipt.Encode(statement, document)
	if err != nil {
		t.Fatal(err)
	}
	if l.seal != nil {
		raw = l.seal(raw)
	}
	return raw
}

func (l *liar) statement(t *testing.T) []byte {
	t.Helper()
	spec, err := jobspec.ParseCanonical([]byte(l.submitted.Job))
	if err != nil {
		t.Fatal(err)
	}
	_, treeSum := honestTree(t)
	fileSum := sha256.Sum256([]byte(fileContent))
	run := receipt.Run{
		Job:      receipt.Job{ID: l.submitted.ID, Name: spec.Name, Digest: spec.Digest()},
		Enclave:  receipt.Enclave{Realm: string(attest.RealmLocal), ModuleID: l.nsm.ModuleID(), Version: "0", Sequence: 1},
		Executor: receipt.Executor{Walls: []string{}},
		Started:  receipt.Time(time.Now()), Finished: receipt.Time(time.Now()),
		Consented: []receipt.Consent{{Channel: "outputs.file"}, {Channel: "outputs.tree"}}, Policies: []abi.PolicyRef{}, Decisions: []receipt.Decision{},
		Outcome: l.outcome, Assets: []abi.Asset{}, Released: []abi.Artifact{},
	}
	for _, name := range slices.Sorted(maps.Keys(l.assets)) {
		sum := l.assets[name]
		run.Assets = append(run.Assets, abi.Asset{Name: name, Verified: true, Digest: sum.Digest, Bytes: sum.Bytes})
	}
	for name, front := range l.fronts {
		l.unseal(t, &run, name, front)
	}
	if l.outcome == receipt.Succeeded {
		run.Released = []abi.Artifact{
			{Channel: "outputs.file", Kind: "file", Digest: tree.Hex(fileSum[:]), Bytes: int64(len(fileContent)), Files: 1},
			{Channel: "outputs.tree", Kind: "tree", Digest: treeSum.Digest, Bytes: treeSum.Bytes, Files: treeSum.Files},
		}
	}
	if l.record != nil {
		l.record(&run)
	}
	raw, err := run.Statement()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// unseal states of a sealed asset what an honest enclave would.
func (l *liar) unseal(t *testing.T, run *receipt.Run, name string, front []byte) {
	t.Helper()
	b, err := envelope.Read(bytes.NewReader(front))
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(run.Assets, func(a abi.Asset) bool { return a.Name == name })
	run.Assets[i].Sealed, run.Assets[i].Owner = true, b.Header.Key
	module, config := sha256.Sum256(b.Module), sha256.Sum256(b.Header.Policy.Config)
	run.Keys = []receipt.Key{{Asset: name, Key: b.Header.Key, RequestID: "request"}}
	run.Policies = []abi.PolicyRef{{Owner: b.Header.Key, Asset: name, Module: tree.Hex(module[:]), Config: tree.Hex(config[:])}}
	first := 0
	for _, point := range []abi.Point{abi.Admit, abi.Ingress, abi.Egress} {
		run.Decisions = append(run.Decisions, receipt.Decision{Point: point, Policy: &first, Allow: true})
	}
}

// meet runs the job of dir in the enclave that l is.
func (l *liar) meet(ctx context.Context, t *testing.T, dir string, keep func(*client.Report) error) (*client.Report, error) {
	t.Helper()
	if l.outcome == "" {
		l.outcome = receipt.Succeeded
	}
	if l.file == nil {
		l.file = []byte(fileContent)
	}
	if l.tree == nil {
		l.tree, _ = honestTree(t)
	}
	l.nsm, l.mu = coretest.NewNSM(t), new(sync.Mutex)
	if l.attest == nil {
		l.attest = func(nonce []byte) ([]byte, error) { return attest.ForClient(context.Background(), l.nsm, nonce) }
	}
	folder, err := os.MkdirTemp("", "liar") // a short name: a socket's is limited
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(folder)
	socket := filepath.Join(folder, "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &httptest.Server{Listener: listener, Config: &http.Server{Handler: l.routes(t)}}
	server.Start()
	defer server.Close()
	var d net.Dialer
	c, err := client.New(client.Config{
		Dial: func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, "unix", socket) },
		Root: coretest.Root(t), Realm: attest.RealmLocal, PCRs: coretest.PCRs(), Now: l.now,
		Credentials: func(context.Context, string) (wire.Credentials, error) {
			return wire.Credentials{AccessKeyID: "AKIDEXAMPLE", SecretAccessKey: "wJalrXUtnFEMI"}, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	text := l.job
	if text == "" {
		text = jobText
	}
	p := prepareText(t, dir, text)
	defer p.Close()
	if keep == nil {
		keep = func(*client.Report) error { return nil }
	}
	return c.Run(ctx, p, client.Observer{}, keep)
}

// newJob writes the files of the job.
func newJob(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	write(t, filepath.Join(dir, "app", "main.py"), "print()\n")
	return dir
}

func prepare(t *testing.T, dir string) *client.Package {
	t.Helper()
	return prepareText(t, dir, jobText)
}

func prepareText(t *testing.T, dir, text string) *client.Package {
	t.Helper()
	job, err := jobspec.Parse("job.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	p, err := client.Prepare(job, client.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}
