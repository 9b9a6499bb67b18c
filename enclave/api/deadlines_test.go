package api_test

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cloister-run/cloister/core"
	"github.com/cloister-run/cloister/core/coretest"
	"github.com/cloister-run/cloister/core/receipt"
	"github.com/cloister-run/cloister/enclave/wire"
	"github.com/cloister-run/cloister/plugins/executor"
)

// raw opens a connection, writes to it, and gives what comes back until the enclave hangs up.
func (s *server) raw(request string) (net.Conn, *bufio.Reader) {
	s.t.Helper()
	c, err := net.Dial("unix", s.socket)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		s.t.Fatal(err)
	}
	if _, err := io.WriteString(c, request); err != nil {
		s.t.Fatal(err)
	}
	return c, bufio.NewReader(c)
}

// head is the head of a request about a job, without a body.
func head(method, path, token, more string) string {
	return fmt.Sprintf("%s %s HTTP/1.1\r\nHost: enclave\r\n%s: %s\r\n%s\r\n", method, path, wire.TokenHeader, token, more)
}

const quiet = 100 * time.Millisecond

// Whoever sends nothing, wherever in a call that is, is hung up on. Reading ends with EOF or a
// reset when the enclave closes; a minute later the deadline of raw fails the test.
func TestASilentCallerIsCutOff(t *testing.T) {
	s := serve(t, quiet)
	token := s.submit(coretest.Simple("job", "allow")).Token
	length := "Content-Length: 1000\r\n"
	for _, test := range []struct{ rule, request string }{
		{"before a call", ""},
		{"within the head", "GET /v1/encl"},
		{"before the body of a submission", head("POST", wire.JobsPath, "", length)},
		{"within a submission", head("POST", wire.JobsPath, "", length) + `{"id":`},
		{"within a module", head("PUT", at(wire.ModulePath, "job", coretest.Digest("allow")), token, length) + "x"},
		{"within a chunk", head("POST", wire.JobsPath, "", "Transfer-Encoding: chunked\r\n") + "ff\r\nx"},
		{"before a body that nobody reads", head("PUT", at(wire.AssetPath, "none", "application"), token, length)},
		{"before the body of a GET", head("GET", wire.EnclavePath, "", length)},
		{"before the body of a GET that waits", head("GET", at(wire.PhasesPath, "job", ""), token, length)},
		{"before the body of an unknown path", head("GET", "/nothing", "", length)},
		{"after a call", head("GET", wire.EnclavePath, "", "")},
	} {
		t.Run(test.rule, func(t *testing.T) {
			_, in := s.raw(test.request)
			if _, err := io.Copy(io.Discard, in); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("the enclave still waits")
			}
		})
	}
	if r := s.module("job", token); r.status != http.StatusNoContent {
		t.Errorf("the job is gone: %+v", r)
	}
}

func TestASlowCallerIsNotCutOff(t *testing.T) {
	s := serve(t, quiet)
	r, w := io.Pipe()
	go func() {
		for _, b := range submission(t, coretest.Simple("job"))[:40] {
			time.Sleep(quiet / 20)
			_, _ = w.Write([]byte{b})
		}
		_, _ = w.Write(submission(t, coretest.Simple("job"))[40:])
		_ = w.Close()
	}()
	if got := s.call(http.MethodPost, wire.JobsPath, "", r); got.status != http.StatusCreated {
		t.Errorf("%+v", got)
	}
}

// A call may wait for long where it is the enclave that takes its time.
func TestAWaitIsNotCutOff(t *testing.T) {
	s := serve(t, quiet)
	s.Policies.Loading = func(ctx context.Context, _ string) error {
		select {
		case <-time.After(4 * quiet):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	token := s.submit(coretest.Simple("job", "allow")).Token
	admitted := make(chan reply, 1)
	go func() {
		r, err := s.try(http.MethodGet, at(wire.AdmitPath, "job", ""), token, nil)
		if err != nil {
			t.Error(err)
		}
		admitted <- r
	}()
	if r := s.module("job", token); r.status != http.StatusNoContent {
		t.Errorf("%+v", r)
	}
	if r := <-admitted; r.status != http.StatusOK {
		t.Errorf("%+v", r)
	}
}

// Deadlines of one call do not reach into the next one on its connection.
func TestAConnectionIsUsedAgain(t *testing.T) {
	s := serve(t, 4*quiet)
	dials := 0
	var mu sync.Mutex
	s.client.Transport.(*http.Transport).DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		mu.Lock()
		dials++
		mu.Unlock()
		return new(net.Dialer).DialContext(ctx, "unix", s.socket)
	}
	for i := range 8 {
		s.submit(coretest.Simple(fmt.Sprintf("job-%d", i)))
		time.Sleep(quiet)
		if r := s.call(http.MethodGet, wire.EnclavePath, "", nil); r.status != http.StatusOK {
			t.Errorf("%+v", r)
		}
		time.Sleep(quiet)
	}
	if dials != 1 {
		t.Errorf("%d connections", dials)
	}
}

func (s *server) running(id string) string {
	s.t.Helper()
	token := s.submit(coretest.Simple(id, "allow")).Token
	s.module(id, token)
	s.call(http.MethodGet, at(wire.AdmitPath, id, ""), token, nil)
	return token
}

func (s *server) outcome(id, token string) core.Result {
	s.t.Helper()
	j, err := s.Job(id, token)
	if err != nil {
		s.t.Fatal(err)
	}
	r, err := j.Result(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

func TestAnUploadThatBreaksOffEndsTheJob(t *testing.T) {
	for rule, cut := range map[string]bool{"cut": true, "silent": false} {
		t.Run(rule, func(t *testing.T) {
			s := serve(t, quiet)
			token := s.running("job")
			c, in := s.raw(head("PUT", at(wire.AssetPath, "job", "application"), token, "Content-Length: 9999\r\n") + "main.py")
			if cut {
				c.Close()
			}
			if r := s.outcome("job", token); r.Outcome != receipt.Cancelled || !strings.Contains(r.Detail, "broke off") {
				t.Errorf("%+v", r)
			}
			_, _ = io.Copy(io.Discard, in)
			s.Empty(t)
		})
	}
}

// A stalled upload keeps nobody from deleting its job, however long the enclave would wait for more.
func TestDeleteEndsAnUpload(t *testing.T) {
	s := serve(t, time.Hour)
	token := s.running("job")
	_, in := s.raw(head("PUT", at(wire.AssetPath, "job", "application"), token, "Content-Length: 9999\r\n") + "main.py")
	s.begun("job", token)
	if r := s.call(http.MethodDelete, at(wire.JobPath, "job", ""), token, nil); r.status != http.StatusNoContent {
		t.Errorf("%+v", r)
	}
	s.Empty(t)
	if line, err := in.ReadString('\n'); err != nil || !strings.Contains(line, "409") {
		t.Errorf("%q, %v", line, err)
	}
}

// Whoever sends as fast as they can is told why it was for nothing.
func TestAnUploadThatIsCutOffIsToldWhy(t *testing.T) {
	s := serve(t, time.Hour)
	fail := make(chan struct{})
	s.Executors.Next = func(context.Context, executor.Place) (coretest.Session, error) {
		<-fail
		return coretest.Session{}, executor.ErrGone
	}
	j := coretest.Simple("job", "allow")
	j.Claims = map[string]int64{"application": 1 << 30}
	token := s.submit(j).Token
	s.module("job", token)
	s.call(http.MethodGet, at(wire.AdmitPath, "job", ""), token, nil)
	var sent int64
	r, w := io.Pipe()
	go func() {
		archive := tar.NewWriter(w)
		_ = archive.WriteHeader(&tar.Header{Name: "main.py", Typeflag: tar.TypeReg, Size: 1 << 30})
		for part := make([]byte, 64<<10); ; sent += int64(len(part)) {
			if _, err := archive.Write(part); err != nil {
				return
			}
			if sent == 8<<20 {
				close(fail)
			}
		}
	}()
	got, err := s.try(http.MethodPut, at(wire.AssetPath, "job", "application"), token, r)
	_ = r.Close()
	if err != nil || got.code() != wire.Over {
		t.Errorf("%+v, %v", got, err)
	}
	if r := s.outcome("job", token); r.Fault != core.FaultExecutor {
		t.Errorf("%+v", r)
	}
}

// begun waits until an upload of the application has begun: a second one is a conflict then.
func (s *server) begun(id, token string) {
	s.t.Helper()
	j, err := s.Job(id, token)
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := j.Phases(s.t.Context(), 1); err != nil { // receiving
		s.t.Fatal(err)
	}
	for len(s.Executors.Launched()) == 0 { // it is launched by the first asset that begins
		time.Sleep(time.Millisecond)
	}
}

// large takes a job with a large output to its end, and fetches its record.
func (s *server) large(id string) string {
	s.t.Helper()
	s.application(func(_ context.Context, r *coretest.Running, task executor.Task) (executor.Result, error) {
		return executor.Result{}, errors.Join(r.Write("result.txt", strings.Repeat("x", 16<<20)), r.Log(task.Stdout, ""), r.Log(task.Stderr, ""))
	})
	token := s.done(id)
	s.call(http.MethodGet, at(wire.ReceiptPath, id, ""), token, nil)
	return token
}

func TestACallerThatTakesNothingIsCutOff(t *testing.T) {
	s := serve(t, quiet)
	token := s.large("job")
	_, in := s.raw(head("GET", at(wire.ReleasePath, "job", "outputs.result"), token, ""))
	line, err := in.ReadString('\n')
	if err != nil || !strings.Contains(line, "200") {
		t.Fatalf("%q, %v", line, err)
	}
	time.Sleep(5 * quiet)
	rest, err := io.ReadAll(in) // of what was on its way
	if len(rest) >= 16<<20 || strings.Contains(string(rest), wire.EndWhole) {
		t.Errorf("%d bytes came, %v", len(rest), err)
	}
}

// Answers that nobody reads are no way to keep a connection either: once no more fit into the
// socket, the enclave hangs up.
func TestACallerThatReadsNoAnswersIsCutOff(t *testing.T) {
	s := serve(t, quiet)
	c, _ := s.raw("")
	request := strings.Repeat(head("GET", wire.EnclavePath, "", ""), 100)
	for {
		if _, err := io.WriteString(c, request); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal("the enclave still waits")
		} else if err != nil {
			return
		}
	}
}

func TestDeleteEndsARelease(t *testing.T) {
	s := serve(t, time.Hour)
	token := s.large("job")
	_, in := s.raw(head("GET", at(wire.ReleasePath, "job", "outputs.result"), token, ""))
	if _, err := in.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	if r := s.call(http.MethodDelete, at(wire.JobPath, "job", ""), token, nil); r.status != http.StatusNoContent {
		t.Errorf("%+v", r)
	}
	s.Empty(t)
	rest, _ := io.ReadAll(in)
	if len(rest) >= 16<<20 || strings.Contains(string(rest), wire.EndWhole) {
		t.Errorf("%d bytes came", len(rest))
	}
}

// An answer that has begun and cannot be finished is broken off: it never looks whole.
func TestI1_AReleaseThatFailsIsBrokenOff(t *testing.T) {
	s := serve(t, 0)
	token := s.large("job")
	f, err := os.OpenFile(filepath.Join(s.Dir, "job", "disk", "work", "outputs", "result.txt"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("y"), 8<<20); err != nil { // what was not judged
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := s.try(http.MethodGet, at(wire.ReleasePath, "job", "outputs.result"), token, nil)
	if err == nil || len(r.body) > 8<<20 || strings.Contains(r.body, "y") || r.trailer.Get(wire.EndTrailer) != "" {
		t.Errorf("%d bytes, trailer %v, %v", len(r.body), r.trailer, err)
	}
}

func TestACallerThatHangsUpDuringAReleaseMayComeAgain(t *testing.T) {
	s := serve(t, 0)
	token := s.large("job")
	c, in := s.raw(head("GET", at(wire.ReleasePath, "job", "outputs.result"), token, ""))
	if _, err := in.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	c.Close()
	r := s.call(http.MethodGet, at(wire.ReleasePath, "job", "outputs.result"), token, nil)
	if len(r.body) != 16<<20 || r.trailer.Get(wire.EndTrailer) != wire.EndWhole {
		t.Errorf("%d bytes, trailer %v", len(r.body), r.trailer)
	}
}

func TestWhoeverFollowsADeletedJobIsToldItsEnd(t *testing.T) {
	s := serve(t, 0)
	token := s.running("job")
	_, in := s.raw(head("GET", at(wire.PhasesPath, "job", ""), token, "Connection: close\r\n"))
	for range 3 {
		if _, err := in.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	j, err := s.Job("job", token)
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Delete(); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(in)
	if err != nil || !strings.Contains(string(rest), `"done"`) {
		t.Errorf("%s", rest)
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	s := serve(t, time.Minute)
	for range 256 {
		s.raw("G")
	}
	c, in := s.raw(head("GET", wire.EnclavePath, "", ""))
	if err := c.SetReadDeadline(time.Now().Add(2 * quiet)); err != nil {
		t.Fatal(err)
	}
	if _, err := in.ReadByte(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the 257th connection is served: %v", err)
	}
}

func TestHeadersAreBounded(t *testing.T) {
	s := serve(t, 0)
	_, in := s.raw(head("GET", wire.EnclavePath, "", "X: "+strings.Repeat("x", 64<<10)+"\r\n"))
	if line, err := in.ReadString('\n'); err != nil || !strings.Contains(line, "431") {
		t.Errorf("%q, %v", line, err)
	}
}
