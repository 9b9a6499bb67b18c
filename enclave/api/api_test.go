package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/cloister-run/cloister/core"
	"github.com/cloister-run/cloister/core/coretest"
	"github.com/cloister-run/cloister/core/receipt"
	"github.com/cloister-run/cloister/enclave/api"
	"github.com/cloister-run/cloister/enclave/wire"
	"github.com/cloister-run/cloister/plugins/executor"
	"github.com/cloister-run/cloister/policies/abi"
)

func TestMain(m *testing.M) {
	// net/http lingers for half a second where it closes a connection with something unread.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}

const answer = "the answer"

// server is an enclave behind its API, on a Unix socket.
type server struct {
	*coretest.Enclave
	t      *testing.T
	socket string
	client *http.Client
	log    *lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func serve(t *testing.T, quiet time.Duration) *server {
	t.Helper()
	s := &server{Enclave: coretest.New(t), t: t, log: &lockedBuffer{}}
	s.Policies.Known["allow"] = &coretest.Policy{}
	s.application(func(_ context.Context, r *coretest.Running, task executor.Task) (executor.Result, error) {
		return executor.Result{}, errors.Join(r.Write("result.txt", answer), r.Log(task.Stdout, ""), r.Log(task.Stderr, ""))
	})
	dir, err := os.MkdirTemp("", "api") // a short name: a socket's is limited
	if err != nil {
		t.Fatal(err)
	}
	s.socket = filepath.Join(dir, "s")
	l, err := net.Listen("unix", s.socket)
	if err != nil {
		t.Fatal(err)
	}
	a := api.New(api.Config{
		Runner: s.Runner, Enclave: wire.Enclave{Version: "0", Realm: "test", Executors: []abi.Executor{coretest.Info()}},
		NSM: s.NSM, Quiet: quiet, Log: slog.New(slog.NewTextHandler(s.log, nil)),
	})
	served := make(chan error, 1)
	go func() { served <- a.Serve(l) }()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", s.socket)
	}}
	s.client = &http.Client{Transport: transport, Timeout: time.Minute}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		if err := errors.Join(a.Close(), <-served, os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s *server) application(run func(context.Context, *coretest.Running, executor.Task) (executor.Result, error)) {
	s.Executors.Next = func(context.Context, executor.Place) (coretest.Session, error) {
		return coretest.Session{Run: run}, nil
	}
}

// reply is an answer, read whole.
type reply struct {
	status  int
	header  http.Header
	trailer http.Header
	body    string
}

// code is that of an error's body.
func (r reply) code() wire.Code {
	var e wire.Error
	if r.header.Get("Content-Type") != wire.ErrorMedia || json.Unmarshal([]byte(r.body), &e) != nil || e.Message == "" {
		return "no error: " + wire.Code(r.body)
	}
	return e.Code
}

func (s *server) call(method, path, token string, body io.Reader) reply {
	s.t.Helper()
	r, err := s.try(method, path, token, body)
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

func (s *server) try(method, path, token string, body io.Reader) (reply, error) {
	req, err := http.NewRequestWithContext(s.t.Context(), method, "http://enclave"+path, body)
	if err != nil {
		return reply{}, err
	}
	if token != "" {
		req.Header.Set(wire.TokenHeader, token)
	}
	res, err := s.client.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	return reply{res.StatusCode, res.Header, res.Trailer, string(raw)}, err
}

// at is a path of job id.
func at(path, id, rest string) string { return strings.Replace(path, "{id}", id, 1) + rest }

// submit submits a job and gives its token.
func (s *server) submit(j coretest.Job) wire.Submitted {
	s.t.Helper()
	r := s.call(http.MethodPost, wire.JobsPath, "", bytes.NewReader(submission(s.t, j)))
	var got wire.Submitted
	if r.status != http.StatusCreated || json.Unmarshal([]byte(r.body), &got) != nil {
		s.t.Fatalf("%+v", r)
	}
	return got
}

func submission(t testing.TB, j coretest.Job) []byte {
	t.Helper()
	sub := j.Submission(t)
	raw, err := json.Marshal(wire.Submit{ID: sub.ID, Job: string(sub.Job), Assets: sub.Assets})
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// module sends the module "allow".
func (s *server) module(id, token string) reply {
	s.t.Helper()
	return s.call(http.MethodPut, at(wire.ModulePath, id, coretest.Digest("allow")), token, strings.NewReader("allow"))
}

// done takes a simple job to its end, and gives its token.
func (s *server) done(id string) string {
	s.t.Helper()
	j := coretest.Simple(id, "allow")
	token := s.submit(j).Token
	if r := s.module(id, token); r.status != http.StatusNoContent {
		s.t.Fatalf("%+v", r)
	}
	if r := s.call(http.MethodGet, at(wire.AdmitPath, id, ""), token, nil); r.status != http.StatusOK {
		s.t.Fatalf("%+v", r)
	}
	for name, files := range j.Assets {
		r := s.call(http.MethodPut, at(wire.AssetPath, id, name), token, bytes.NewReader(coretest.Tar(s.t, files)))
		if r.status != http.StatusNoContent {
			s.t.Fatalf("%+v", r)
		}
	}
	s.call(http.MethodGet, at(wire.PhasesPath, id, ""), token, nil)
	return token
}

func TestAJobFromSubmitToRelease(t *testing.T) {
	s := serve(t, 0)
	var e wire.Enclave
	r := s.call(http.MethodGet, wire.EnclavePath, "", nil)
	if err := json.Unmarshal([]byte(r.body), &e); err != nil || e.Realm != "test" || e.Memory.Size != coretest.Memory || len(e.Executors) != 1 {
		t.Errorf("%+v: %v", r, err)
	}
	j := coretest.Simple("job", "allow")
	got := s.submit(j)
	if len(got.Modules) != 1 || got.Modules[0] != coretest.Digest("allow") {
		t.Errorf("%+v", got)
	}
	if again := s.submit(j); again.Token != got.Token {
		t.Error("the same submission gave another token")
	}
	s.module("job", got.Token)
	var a wire.Admission
	r = s.call(http.MethodGet, at(wire.AdmitPath, "job", ""), got.Token, nil)
	if err := json.Unmarshal([]byte(r.body), &a); err != nil || len(a.Consented) != 4 || a.Need.Total() != a.Memory.Reserved {
		t.Errorf("%+v: %v", r, err)
	}
	for name, files := range j.Assets {
		s.call(http.MethodPut, at(wire.AssetPath, "job", name), got.Token, bytes.NewReader(coretest.Tar(t, files)))
	}
	r = s.call(http.MethodGet, at(wire.PhasesPath, "job", ""), got.Token, nil)
	lines := strings.Split(strings.TrimSpace(r.body), "\n")
	var last wire.Progress
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); err != nil || len(lines) != 6 || r.header.Get("Content-Type") != wire.PhasesType {
		t.Fatalf("%+v: %v", r, err)
	}
	if last.Phase != core.Done || last.Result == nil || last.Result.Outcome != receipt.Succeeded {
		t.Errorf("%+v", last)
	}
	r = s.call(http.MethodGet, at(wire.StatusPath, "job", ""), got.Token, nil)
	var status wire.Progress
	if err := json.Unmarshal([]byte(r.body), &status); err != nil || status.Seconds <= 0 || r.header.Get("Content-Type") != wire.JSONType {
		t.Errorf("%+v, %v", r, err)
	}
	if status.Seconds = 0; status.Number != len(lines) || status.Phase != last.Phase || *status.Result != *last.Result {
		t.Errorf("the status is %+v, and the last phase %+v", status, last)
	}
	r = s.call(http.MethodGet, at(wire.PhasesPath, "job", "")+"?after=4", got.Token, nil)
	if want := strings.Join(lines[4:], "\n"); strings.TrimSpace(r.body) != want {
		t.Errorf("after the fourth phase: %s, want %s", r.body, want)
	}
	for _, after := range []string{"7", "-1", "x", "99999999999999999999"} {
		if r := s.call(http.MethodGet, at(wire.PhasesPath, "job", "")+"?after="+after, got.Token, nil); r.code() != wire.Invalid {
			t.Errorf("after=%s: %+v", after, r)
		}
	}
	release := at(wire.ReleasePath, "job", "outputs.result")
	if r := s.call(http.MethodGet, release, got.Token, nil); r.code() != wire.Order {
		t.Errorf("before the record: %+v", r)
	}
	r = s.call(http.MethodGet, at(wire.ReceiptPath, "job", ""), got.Token, nil)
	if v := coretest.Verify(t, []byte(r.body)); v.Document.ModuleID != s.NSM.ModuleID() || r.header.Get("Content-Type") != wire.JSONType {
		t.Errorf("%+v", r)
	}
	for range 2 {
		r = s.call(http.MethodGet, release, got.Token, nil)
		if r.body != answer || r.header.Get("Content-Type") != wire.BulkType || r.trailer.Get(wire.EndTrailer) != wire.EndWhole {
			t.Errorf("%+v", r)
		}
	}
	if r := s.call(http.MethodGet, at(wire.ReleasePath, "job", "logs.stdout"), got.Token, nil); r.status != 200 || r.body != "" ||
		r.trailer.Get(wire.EndTrailer) != wire.EndWhole {
		t.Errorf("an empty log: %+v", r)
	}
	if r := s.call(http.MethodDelete, at(wire.JobPath, "job", ""), got.Token, nil); r.status != http.StatusNoContent {
		t.Errorf("%+v", r)
	}
	s.Empty(t)
	if r := s.call(http.MethodGet, release, got.Token, nil); r.code() != wire.NotFound {
		t.Errorf("%+v", r)
	}
	if log := s.log.String(); strings.Contains(log, got.Token) || strings.Contains(log, answer) {
		t.Errorf("the log holds a token or an artifact: %s", log)
	}
}

func TestEveryError(t *testing.T) {
	s := serve(t, 0)
	s.Policies.Known["deny"] = &coretest.Policy{}
	done, other := s.done("done"), s.done("other")
	open := s.submit(coretest.Simple("open", "allow")).Token
	changed := coretest.Simple("open")
	greedy := coretest.Simple("greedy")
	greedy.Claims = map[string]int64{"application": coretest.Memory}
	doc := func(j coretest.Job) string { return string(submission(t, j)) }
	big := strings.Repeat(" ", wire.MaxControl+1)
	for _, test := range []struct {
		rule, method, path, token, body string
		status                          int
		code                            wire.Code
	}{
		{"unknown path", "GET", "/v1/nothing", "", "", 404, wire.NotFound},
		{"no path", "GET", "/", "", "", 404, wire.NotFound},
		{"wrong method", "POST", wire.EnclavePath, "", "", 405, wire.Method},
		{"a HEAD is no GET", "HEAD", at(wire.ReleasePath, "done", "outputs.result"), done, "", 405, ""},
		{"wrong method on a job", "PATCH", at(wire.JobPath, "done", ""), done, "", 405, wire.Method},
		{"a method of its own making", "FETCH", at(wire.ReceiptPath, "done", ""), done, "", 405, wire.Method},
		{"no token", "GET", at(wire.ReceiptPath, "done", ""), "", "", 404, wire.NotFound},
		{"a foreign token", "GET", at(wire.ReceiptPath, "done", ""), other, "", 404, wire.NotFound},
		{"a foreign token for a release", "GET", at(wire.ReleasePath, "done", "outputs.result"), other, "", 404, wire.NotFound},
		{"a foreign token for the status", "GET", at(wire.StatusPath, "done", ""), other, "", 404, wire.NotFound},
		{"a foreign token to delete", "DELETE", at(wire.JobPath, "done", ""), other, "", 404, wire.NotFound},
		{"a foreign token to upload", "PUT", at(wire.AssetPath, "open", "application"), done, "x", 404, wire.NotFound},
		{"no job", "GET", at(wire.PhasesPath, "none", ""), done, "", 404, wire.NotFound},
		{"no JSON", "POST", wire.JobsPath, "", "{", 422, wire.Invalid},
		{"an unknown field", "POST", wire.JobsPath, "", `{"id":"a","job":"","assets":[],"x":1}`, 422, wire.Invalid},
		{"no job in it", "POST", wire.JobsPath, "", `{"id":"a","job":"","assets":[]}`, 422, wire.Invalid},
		{"too large", "POST", wire.JobsPath, "", big, 422, wire.Invalid},
		{"another job under its id", "POST", wire.JobsPath, "", doc(changed), 409, wire.Conflict},
		{"more memory than there is", "POST", wire.JobsPath, "", doc(greedy), 507, wire.TooLarge},
		{"a module that is not its digest", "PUT", at(wire.ModulePath, "open", coretest.Digest("allow")), open, "x", 422, wire.Invalid},
		{"a module that is not the job's", "PUT", at(wire.ModulePath, "open", coretest.Digest("x")), open, "x", 422, wire.Invalid},
		{"a module that is too large", "PUT", at(wire.ModulePath, "open", coretest.Digest("allow")), open, strings.Repeat("x", wire.MaxModule+1), 422, wire.Invalid},
		{"an asset before admission", "PUT", at(wire.AssetPath, "open", "application"), open, "x", 409, wire.Order},
		{"the receipt before the end", "GET", at(wire.ReceiptPath, "open", ""), open, "", 409, wire.Order},
		{"a release before the end", "GET", at(wire.ReleasePath, "open", "exit"), open, "", 409, wire.Order},
		{"an asset after the end", "PUT", at(wire.AssetPath, "done", "application"), done, "x", 409, wire.Over},
	} {
		t.Run(test.rule, func(t *testing.T) {
			var body io.Reader
			if test.body != "" {
				body = strings.NewReader(test.body)
			}
			r := s.call(test.method, test.path, test.token, body)
			if r.status != test.status || test.code != "" && r.code() != test.code {
				t.Errorf("%d %s: %s", r.status, r.code(), r.body)
			}
			if test.status == 405 && r.header.Get("Allow") == "" {
				t.Error("no Allow")
			}
		})
	}
	s.call(http.MethodGet, at(wire.ReceiptPath, "done", ""), done, nil)
	if r := s.call(http.MethodGet, at(wire.ReleasePath, "done", "outputs.other"), done, nil); r.code() != wire.Nothing {
		t.Errorf("%+v", r)
	}
	if r := s.module("open", open); r.status != http.StatusNoContent {
		t.Errorf("a refused call ended the job: %+v", r)
	}
	if r := s.module("open", open); r.code() != wire.Conflict {
		t.Errorf("the same module again: %+v", r)
	}
	s.Disk.Break(nil, errors.New("/work/outputs/"+answer))
	if r := s.call(http.MethodDelete, at(wire.JobPath, "done", ""), done, nil); r.status != 500 || r.code() != wire.Internal || strings.Contains(r.body, answer) {
		t.Errorf("%+v", r)
	}
	s.Disk.Heal()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if r := s.call(http.MethodPost, wire.JobsPath, "", strings.NewReader(doc(coretest.Simple("late")))); r.status != 503 || r.code() != wire.Stopping {
		t.Errorf("%+v", r)
	}
}

func TestTheEnclavesOwnFailuresTellNothing(t *testing.T) {
	s := serve(t, 0)
	token := s.running("job")
	assets := filepath.Join(s.Dir, "job", "assets")
	if err := errors.Join(os.RemoveAll(assets), os.WriteFile(assets, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	body := bytes.NewReader(coretest.Tar(t, map[string]string{"a": "b"}))
	r := s.call(http.MethodPut, at(wire.AssetPath, "job", "application"), token, body)
	if r.status != 500 || r.code() != wire.Internal || !strings.Contains(r.body, `"the enclave failed"`) {
		t.Errorf("%+v", r)
	}
	if r := s.outcome("job", token); strings.Contains(r.Detail, s.Dir) {
		t.Errorf("%+v", r)
	}
}

func TestADeniedAdmissionIsOver(t *testing.T) {
	s := serve(t, 0)
	token := s.submit(coretest.Simple("job", "bad")).Token
	r := s.call(http.MethodPut, at(wire.ModulePath, "job", coretest.Digest("bad")), token, strings.NewReader("bad"))
	if r.code() != wire.Invalid {
		t.Errorf("%+v", r)
	}
	if r := s.call(http.MethodGet, at(wire.AdmitPath, "job", ""), token, nil); r.code() != wire.Over {
		t.Errorf("%+v", r)
	}
}
