package core_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/cloister-run/cloister/core"
	"github.com/cloister-run/cloister/core/border"
	"github.com/cloister-run/cloister/core/coretest"
	"github.com/cloister-run/cloister/core/receipt"
	"github.com/cloister-run/cloister/plugins/executor"
	"github.com/cloister-run/cloister/policies/abi"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	secret = "the model's weights"
	result = abi.Channel("outputs.result")
)

// everything is every channel that a simple job asks for.
var everything = []abi.Channel{result, abi.Stdout, abi.Stderr, abi.Exit}

// writes is an application that writes secret to its output and logs, and ends with status.
func writes(status int) coretest.Session {
	return coretest.Session{Run: func(_ context.Context, s *coretest.Running, task executor.Task) (executor.Result, error) {
		err := errors.Join(s.Write("result.txt", secret), s.Log(task.Stdout, "out "+secret), s.Log(task.Stderr, "err "+secret))
		return executor.Result{Status: status}, err
	}}
}

// next makes every launch give s.
func next(e *coretest.Enclave, s coretest.Session) {
	e.Executors.Next = func(context.Context, executor.Place) (coretest.Session, error) { return s, nil }
}

// allowing is an enclave with a policy "allow" that allows everything, and "knowing" that does so in
// environments too.
func allowing(t testing.TB, s coretest.Session, change ...func(*core.Config)) *coretest.Enclave {
	t.Helper()
	e := coretest.New(t, change...)
	next(e, s)
	e.Policies.Known["allow"] = &coretest.Policy{}
	e.Policies.Known["knowing"] = &coretest.Policy{Environments: true}
	return e
}

// record fetches the receipt and reads what it states.
func record(t testing.TB, j *core.Job) receipt.Run {
	t.Helper()
	raw, err := statement(j)
	if err != nil {
		t.Fatal(err)
	}
	s, err := receipt.Read(raw)
	if err != nil {
		t.Fatal(err)
	}
	return s.Predicate
}

// statement fetches the receipt and gives what it states.
func statement(j *core.Job) ([]byte, error) {
	raw, err := j.Receipt()
	if err != nil {
		return nil, err
	}
	stated, _, err := receipt.Decode(raw)
	return stated, err
}

// released is what every channel gives.
func released(t testing.TB, j *core.Job) map[abi.Channel]string {
	t.Helper()
	got := map[abi.Channel]string{}
	for _, ch := range everything {
		var b coretest.Buffer
		err := j.Release(t.Context(), ch, &b)
		if err != nil && b.Len() > 0 {
			t.Errorf("%s: %d bytes came with %v", ch, b.Len(), err)
		}
		if err == nil {
			got[ch] = b.String()
		}
	}
	return got
}

// nothing fails the test if anything of secret leaves by any call.
func nothing(t testing.TB, j *core.Job) {
	t.Helper()
	if got := released(t, j); len(got) > 0 {
		t.Errorf("released before the record: %v", got)
	}
	raw, err := statement(j)
	if err == nil && strings.Contains(string(raw), secret) {
		t.Errorf("the record holds the secret: %s", raw)
	}
	for _, ch := range everything {
		var b coretest.Buffer
		err := j.Release(t.Context(), ch, &b)
		if b.Len() > 0 || (!errors.Is(err, border.ErrNotCleared) && !errors.Is(err, core.ErrOrder) && !errors.Is(err, core.ErrOver)) {
			t.Errorf("%s: %d bytes, %v", ch, b.Len(), err)
		}
	}
	r, err := j.Result(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if told, _ := json.Marshal(r); strings.Contains(string(told), secret) {
		t.Errorf("the result holds the secret: %s", told)
	}
}

// gone fails the test if a folder of the job is left.
func gone(t testing.TB, e *coretest.Enclave, id string) {
	t.Helper()
	if _, err := os.Lstat(filepath.Join(e.Dir, id)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder of job %s is left: %v", id, err)
	}
}

// files lists the files below a folder.
func files(t testing.TB, dir string) (found []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			found = append(found, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(found)
	return found
}

// is fails the test unless err wraps want.
func is(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("error %v, want %v", err, want)
	}
}
