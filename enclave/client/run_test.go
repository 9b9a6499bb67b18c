package client_test

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/core/receipt"
	"github.com/cloister-run/cloister/core/tree"
	"github.com/cloister-run/cloister/enclave/client"
	"github.com/cloister-run/cloister/enclave/wire"
	"github.com/cloister-run/cloister/policies/abi"
)

func TestRunLandsWhatTheRecordSays(t *testing.T) {
	dir := newJob(t)
	var l liar
	kept := 0
	report, err := l.meet(t.Context(), t, dir, func(r *client.Report) error {
		kept++
		if names := below(t, dir); len(names) != 2 {
			t.Errorf("%v is there before the record was kept", names)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Landed) != 2 || kept != 1 || !l.deleted {
		t.Errorf("landed %v, kept %d times, deleted: %v", report.Landed, kept, l.deleted)
	}
	if got, _ := os.ReadFile(filepath.Join(dir, "out/deep/file")); string(got) != fileContent {
		t.Errorf("the file holds %q", got)
	}
	// What lands must have the digest of the record, so an executable stays one.
	source, err := tree.Open(filepath.Join(dir, "out/tree"), tree.Limits{Bytes: 100, Entries: 10})
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	_, want := honestTree(t)
	if got, err := source.Digest(t.Context()); err != nil || got != want {
		t.Errorf("the tree is %v, %v; want %v", got, err, want)
	}
}

// TestLateAnswer: the end of a job may overtake the answer to its last upload.
func TestLateAnswer(t *testing.T) {
	for range 20 {
		l := liar{late: true}
		report, err := l.meet(t.Context(), t, newJob(t), nil)
		if err != nil || len(report.Landed) != 2 {
			t.Fatalf("%+v, %v", report, err)
		}
	}
}

// TestLateRefusal: the end of a job may overtake the answer that says what was wrong with an upload.
func TestLateRefusal(t *testing.T) {
	told := make(chan struct{})
	l := liar{outcome: receipt.Cancelled, record: func(r *receipt.Run) { r.Released = nil }, handle: func(w http.ResponseWriter, r *http.Request) bool {
		switch {
		case strings.HasSuffix(r.URL.Path, "/phases"):
			_, _ = io.WriteString(w, `{"number": 1, "phase": "done", "result": {"outcome": "cancelled"}}`+"\n")
			close(told)
			return true
		case strings.HasSuffix(r.URL.Path, "/assets/application"):
			<-told
			select { // the answer is on its way for a while, unless nobody waits for it
			case <-r.Context().Done():
			case <-time.After(100 * time.Millisecond):
			}
			w.Header().Set("Content-Type", wire.ErrorMedia)
			w.WriteHeader(http.StatusUnprocessableEntity)
			_, _ = io.WriteString(w, `{"code": "invalid", "message": "application: cut"}`)
			return true
		}
		return false
	}}
	_, err := l.meet(t.Context(), t, newJob(t), nil)
	if e, ok := errors.AsType[*wire.Error](err); !ok || e.Code != wire.Invalid {
		t.Errorf("%v, want what the enclave said of the upload", err)
	}
}

// TestAConnectionThatBreaksOffIsMadeAgain, and goes on behind what was told.
func TestAConnectionThatBreaksOffIsMadeAgain(t *testing.T) {
	var after []string
	breaks := 2
	l := liar{handle: func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, "/phases") {
			return false
		}
		after = append(after, r.URL.Query().Get(wire.AfterQuery))
		if breaks--; breaks < 0 {
			return false
		}
		if len(after) == 1 { // and the second time it says nothing
			_, _ = io.WriteString(w, `{"number": 1, "phase": "receiving"}`+"\n")
		}
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}}
	report, err := l.meet(t.Context(), t, newJob(t), nil)
	if err != nil || len(report.Landed) != 2 {
		t.Fatalf("%+v, %v", report, err)
	}
	if !slices.Equal(after, []string{"0", "1", "1"}) {
		t.Errorf("it asked after %q", after)
	}
}

// TestProgressOutOfOrder: a phase that is left out, or told twice, is not believed.
func TestProgressOutOfOrder(t *testing.T) {
	for _, number := range []string{"0", "2"} {
		l := liar{handle: func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasSuffix(r.URL.Path, "/phases") {
				return false
			}
			_, _ = io.WriteString(w, `{"number": `+number+`, "phase": "done", "result": {"outcome": "succeeded"}}`+"\n")
			return true
		}}
		if report, err := l.meet(t.Context(), t, newJob(t), nil); !errors.Is(err, client.ErrUnavailable) {
			t.Errorf("%s: %+v, %v", number, report, err)
		}
	}
}

// TestLiar: whatever an enclave says, nothing lands that its record does not vouch for, and
// nothing is left of what did not land.
func TestLiar(t *testing.T) {
	header := tar.Header{Name: "x", Typeflag: tar.TypeReg, Mode: 0o644}
	named := func(name string) []byte { h := header; h.Name = name; return tarOf(t, h, "abc") }
	link := tarOf(t, tar.Header{Name: "run.sh", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}, "")
	answers := func(path string, do func(http.ResponseWriter, *http.Request)) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasSuffix(r.URL.Path, path) || r.Method == http.MethodDelete || r.URL.RawQuery == "honest" {
				return false
			}
			do(w, r)
			return true
		}
	}
	endless := func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 1<<20)); err != nil {
				return
			}
		}
	}
	cut := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "11")
		_, _ = w.Write([]byte("the"))
		panic(http.ErrAbortHandler)
	}
	for name, row := range map[string]struct {
		liar liar
		want error
	}{
		"file of another content":            {liar{file: []byte("the RESULT\n")}, client.ErrMismatch},
		"file that is shorter":               {liar{file: []byte("the")}, client.ErrMismatch},
		"file that is longer":                {liar{file: []byte(fileContent + "x")}, client.ErrMismatch},
		"file without end":                   {liar{handle: answers("/outputs.file", endless)}, client.ErrMismatch},
		"tree without end":                   {liar{handle: answers("/outputs.tree", endless)}, client.ErrMismatch},
		"tree of another name":               {liar{tree: named("other")}, client.ErrMismatch},
		"tree that climbs":                   {liar{tree: named("../climbed")}, client.ErrMismatch},
		"tree that is absolute":              {liar{tree: named("/tmp/absolute")}, client.ErrMismatch},
		"tree that is a link":                {liar{tree: link}, client.ErrMismatch},
		"tree that is no archive":            {liar{tree: []byte(strings.Repeat("no tar", 200))}, client.ErrMismatch},
		"tree that is larger":                {liar{tree: tarOf(t, header, "abcd")}, client.ErrMismatch},
		"connection cut in a file":           {liar{handle: answers("/outputs.file", cut)}, client.ErrUnavailable},
		"connection cut in a tree":           {liar{handle: answers("/outputs.tree", cut)}, client.ErrUnavailable},
		"connection cut before the receipt":  {liar{handle: answers("/receipt", cut)}, client.ErrUnavailable},
		"connection cut while it runs":       {liar{handle: answers("/phases", cut)}, client.ErrUnavailable},
		"record of another run":              {liar{record: func(r *receipt.Run) { r.Job.ID = "another" }}, client.ErrMismatch},
		"record of another job":              {liar{record: func(r *receipt.Run) { r.Job.Digest = "sha256:" + strings.Repeat("0", 64) }}, client.ErrMismatch},
		"record of another outcome":          {liar{record: func(r *receipt.Run) { r.Outcome = receipt.Failed; r.Released = []abi.Artifact{} }}, client.ErrMismatch},
		"record of other policies":           {liar{record: otherPolicies}, client.ErrMismatch},
		"record of another application":      {liar{record: func(r *receipt.Run) { r.Assets[0].Digest = "sha256:" + strings.Repeat("0", 64) }}, client.ErrMismatch},
		"record without the application":     {liar{record: func(r *receipt.Run) { r.Assets = []abi.Asset{} }}, client.ErrMismatch},
		"record of an unverified asset":      {liar{record: func(r *receipt.Run) { r.Assets[0].Verified = false }}, client.ErrMismatch},
		"artifact that was not asked for":    {liar{record: unasked}, client.ErrMismatch},
		"artifact that is sealed":            {liar{record: func(r *receipt.Run) { r.Released[0].Recipients = []string{"age1x"} }}, client.ErrMismatch},
		"artifact sealed to another":         {liar{job: sealedJob, record: func(r *receipt.Run) { r.Released[0].Recipients = []string{"age1x"} }}, client.ErrMismatch},
		"artifact that is not sealed":        {liar{job: sealedJob}, client.ErrMismatch},
		"artifact of another kind":           {liar{record: func(r *receipt.Run) { r.Released[0].Kind = "tree" }}, client.ErrMismatch},
		"no receipt of a job that succeeded": {liar{handle: answers("/receipt", order)}, client.ErrMismatch},
		"receipt without end":                {liar{handle: answers("/receipt", endless)}, nil},
		"receipt that is none":               {liar{handle: answers("/receipt", garbage)}, nil},
		"answer without end":                 {liar{handle: answers("/jobs", endless)}, client.ErrUnavailable},
		"answer that is no JSON":             {liar{handle: answers("/jobs", garbage)}, client.ErrUnavailable},
		"progress without end of line":       {liar{handle: answers("/phases", endless)}, client.ErrUnavailable},
		"progress that is no JSON":           {liar{handle: answers("/phases", garbage)}, client.ErrUnavailable},
		"redirect":                           {liar{handle: answers("/jobs", redirect)}, client.ErrUnavailable},
		"redirect of a release":              {liar{handle: answers("/outputs.file", redirect)}, client.ErrUnavailable},
		"error without words":                {liar{handle: answers("/jobs", teapot)}, client.ErrUnavailable},
		"module that the job does not have":  {liar{handle: answers("/jobs", wantsModule)}, client.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			dir := newJob(t)
			report, err := row.liar.meet(t.Context(), t, dir, nil)
			if err == nil || row.want != nil && !errors.Is(err, row.want) {
				t.Errorf("error %v, want %v", err, row.want)
			}
			if report != nil && len(report.Landed) > 0 {
				t.Errorf("landed %v", report.Landed)
			}
			if names := below(t, dir); len(names) != 2 {
				t.Errorf("left behind: %v", names)
			}
			if row.liar.modules > 0 {
				t.Error("it was sent a module that it made up")
			}
		})
	}
}

func otherPolicies(r *receipt.Run) {
	r.Policies = []abi.PolicyRef{{Module: "sha256:" + strings.Repeat("0", 64)}}
	r.Released = []abi.Artifact{}
}

func unasked(r *receipt.Run) {
	r.Released[0].Channel = "logs.stderr"
	r.Consented = append(r.Consented, receipt.Consent{Channel: "logs.stderr"})
}

func order(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", wire.ErrorMedia)
	w.WriteHeader(http.StatusConflict)
	_, _ = w.Write([]byte(`{"code":"order","message":"there is none"}`))
}

func garbage(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("garbage\n")) }
func teapot(w http.ResponseWriter, _ *http.Request)  { w.WriteHeader(http.StatusTeapot) }

// redirect sends the caller to where everything is as it should be.
func redirect(w http.ResponseWriter, r *http.Request) {
	http.Redirect(w, r, "http://elsewhere.invalid"+r.URL.Path+"?honest", http.StatusTemporaryRedirect)
}

func wantsModule(w http.ResponseWriter, _ *http.Request) {
	_, _ = w.Write([]byte(`{"token":"t","modules":["sha256:00"]}`))
}

// TestLanding: one name that cannot be given takes back those that were.
func TestLanding(t *testing.T) {
	dir := newJob(t)
	write(t, filepath.Join(dir, "out/deep/file"), "old")
	var l liar
	_, err := l.meet(t.Context(), t, dir, func(*client.Report) error {
		write(t, filepath.Join(dir, "out/tree/full"), "mine") // meanwhile somebody puts a folder there
		return nil
	})
	if !errors.Is(err, client.ErrLanding) {
		t.Errorf("error %v, want %v", err, client.ErrLanding)
	}
	if got, _ := os.ReadFile(filepath.Join(dir, "out/deep/file")); string(got) != "old" {
		t.Errorf("the file that was there holds %q", got)
	}
	if names := below(t, dir); len(names) != 7 {
		t.Errorf("left behind: %v", names)
	}
}

// TestLandingSparesAFolder: a destination that became a folder is not replaced.
func TestLandingSparesAFolder(t *testing.T) {
	dir := newJob(t)
	var l liar
	_, err := l.meet(t.Context(), t, dir, func(*client.Report) error {
		write(t, filepath.Join(dir, "out/deep/file/mine"), "mine")
		return nil
	})
	if !errors.Is(err, client.ErrLanding) {
		t.Errorf("error %v, want %v", err, client.ErrLanding)
	}
	if got, _ := os.ReadFile(filepath.Join(dir, "out/deep/file/mine")); string(got) != "mine" {
		t.Errorf("what was in the folder is %q", got)
	}
}

// TestNoRecordNoCrossing: where the record cannot be kept, nothing is even fetched.
func TestNoRecordNoCrossing(t *testing.T) {
	dir := newJob(t)
	var fetched atomic.Bool
	l := liar{handle: func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/channels/") {
			fetched.Store(true)
		}
		return false
	}}
	broken := errors.New("no room for the record")
	_, err := l.meet(t.Context(), t, dir, func(*client.Report) error { return broken })
	if !errors.Is(err, broken) || fetched.Load() || len(below(t, dir)) != 2 {
		t.Errorf("error %v, fetched: %v, there is %v", err, fetched.Load(), below(t, dir))
	}
}

// TestInterruptedWhileReceiving: a context that ends while an output arrives lands nothing,
// and its cause is the error.
func TestInterruptedWhileReceiving(t *testing.T) {
	dir := newJob(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	stopped := errors.New("stopped")
	l := liar{handle: func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, "outputs.tree") {
			return false
		}
		w.(http.Flusher).Flush()
		if names := below(t, filepath.Join(dir, "out/deep")); nameless(t, dir) && len(names) > 0 {
			t.Errorf("a file that a killed client would leave: %v", names)
		}
		cancel(stopped)
		<-r.Context().Done()
		return true
	}}
	if _, err := l.meet(ctx, t, dir, nil); !errors.Is(err, stopped) {
		t.Errorf("error %v, want %v", err, stopped)
	}
	if names := below(t, dir); len(names) != 2 || !l.deleted {
		t.Errorf("left behind: %v; deleted: %v", names, l.deleted)
	}
}

// nameless reports whether the file system has files without a name.
func nameless(t *testing.T, dir string) bool {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		t.Logf("the file system has no nameless files: %v", err)
		return false
	}
	return unix.Close(fd) == nil
}

// TestUmask: what lands is as private as the operator's own files.
func TestUmask(t *testing.T) {
	dir := newJob(t)
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	var l liar
	if _, err := l.meet(t.Context(), t, dir, nil); err != nil {
		t.Fatal(err)
	}
	for _, name := range below(t, filepath.Join(dir, "out")) {
		if info, err := os.Lstat(filepath.Join(dir, "out", name)); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
}

// below names everything below dir.
func below(t *testing.T, dir string) (names []string) {
	t.Helper()
	err := fs.WalkDir(os.DirFS(dir), ".", func(name string, _ fs.DirEntry, err error) error {
		if name != "." {
			names = append(names, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}
