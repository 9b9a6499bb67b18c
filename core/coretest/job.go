package coretest

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/cloister-run/cloister/core"
	"github.com/cloister-run/cloister/core/tree"
	"github.com/cloister-run/cloister/jobspec"
)

// Job is a job to submit and what goes with it.
type Job struct {
	ID string
	// Spec is changed before the job is submitted.
	Spec jobspec.Canonical
	// Modules are the policies' modules, by policy.
	Modules []string
	// Assets are files by asset and name; an input of one file is a file, everything else a folder.
	Assets map[string]map[string]string
	// Claims replaces the honest sizes of assets.
	Claims map[string]int64
	// Sealed are the bundles of the assets that come sealed; see [Enclave.Seal].
	Sealed map[string][]byte
}

// Simple is a job with one output "result", one input "data", both logs and the exit status,
// and the given policies.
func Simple(id string, modules ...string) Job {
	return Job{
		ID: id, Modules: modules,
		Spec: jobspec.Canonical{
			Version: jobspec.Version, Name: "test",
			Command: jobspec.Command{
				Executor: "python", Entrypoint: "main.py", Args: []string{"${inputs.data}", "${outputs.result}"},
				Outputs: map[string]string{"result": "result.txt"},
			},
			Inputs: []string{"data"}, Outputs: []string{"result"},
			Logs: jobspec.CanonicalLogs{Stdout: true, Stderr: true}, Exit: true,
			Limits: jobspec.DefaultLimits(), Keep: jobspec.DefaultKeep,
		},
		Assets: map[string]map[string]string{
			"application": {"main.py": "print()"},
			"inputs.data": {"data.csv": "1,2,3\n"},
		},
	}
}

// Digest is a module's.
func Digest(module string) string {
	sum := sha256.Sum256([]byte(module))
	return tree.Hex(sum[:])
}

// Submission is the job as it is submitted.
func (j Job) Submission(t testing.TB) core.Submission {
	t.Helper()
	spec := j.Spec
	spec.Policies = nil
	for _, m := range j.Modules {
		spec.Policies = append(spec.Policies, jobspec.CanonicalPolicy{Module: Digest(m)})
	}
	s := core.Submission{ID: j.ID, Job: spec.JSON()}
	for _, name := range slices.Sorted(maps.Keys(j.Assets)) {
		claim := core.Claim{Name: name, Form: "tree", Entries: entries(j.Assets[name])}
		if strings.HasPrefix(name, "inputs.") && len(j.Assets[name]) == 1 {
			claim.Form = "file"
		}
		for _, content := range j.Assets[name] {
			claim.Bytes += int64(len(content))
		}
		if lie, ok := j.Claims[name]; ok {
			claim.Bytes = lie
		}
		if bundle, sealed := j.Sealed[name]; sealed {
			claim.Front = open(t, bundle).FrontDigest()
		}
		s.Assets = append(s.Assets, claim)
	}
	return s
}

// entries counts the files and the folders above them.
func entries(files map[string]string) int {
	seen := map[string]bool{}
	for name := range files {
		for at := name; at != "."; at = path.Dir(at) {
			seen[at] = true
		}
	}
	return len(seen)
}

// Tar is a folder as a stream.
func Tar(t testing.TB, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		h := &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(files[name])), Format: tar.FormatPAX}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, files[name]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Stream is a body that is there at once.
func Stream(content []byte) io.ReadCloser { return io.NopCloser(bytes.NewReader(content)) }

// Buffer takes what is released.
type Buffer struct{ bytes.Buffer }

// Close does nothing.
func (*Buffer) Close() error { return nil }

// Begin submits a job and sends its modules.
func (e *Enclave) Begin(t testing.TB, j Job) *core.Job {
	t.Helper()
	job, err := e.Submit(j.Submission(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range j.Modules {
		err := job.PutModule(t.Context(), Digest(m), []byte(m))
		if err != nil && !errors.Is(err, core.ErrConflict) && !errors.Is(err, core.ErrOver) {
			t.Fatal(err)
		}
	}
	for _, name := range job.Fronts() {
		err := job.PutFront(t.Context(), name, Front(t, j.Sealed[name]))
		if err != nil && !errors.Is(err, core.ErrConflict) && !errors.Is(err, core.ErrOver) {
			t.Fatal(err)
		}
	}
	return job
}

// Send waits for the admission and sends credentials and assets. It says whether all arrived.
func (e *Enclave) Send(t testing.TB, job *core.Job, j Job) bool {
	t.Helper()
	if _, over, err := job.Admission(t.Context()); over || err != nil {
		return false
	}
	if len(j.Sealed) > 0 && job.PutCredentials(t.Context(), []byte(Credentials)) != nil {
		return false
	}
	for _, name := range slices.Sorted(maps.Keys(j.Assets)) {
		content := j.Sealed[name]
		if content == nil {
			content = Tar(t, j.Assets[name])
		}
		if job.PutAsset(t.Context(), name, Stream(content)) != nil {
			return false
		}
	}
	return true
}

// Run runs a job until it is done.
func (e *Enclave) Run(t testing.TB, j Job) (*core.Job, core.Result) {
	t.Helper()
	return e.Finish(t, e.Begin(t, j), j)
}

// Finish sends what a job still lacks and waits until it is done.
func (e *Enclave) Finish(t testing.TB, job *core.Job, j Job) (*core.Job, core.Result) {
	t.Helper()
	for _, m := range j.Modules { // of a job that waited for room
		if err := job.PutModule(t.Context(), Digest(m), []byte(m)); err != nil && !errors.Is(err, core.ErrConflict) && !errors.Is(err, core.ErrOver) {
			t.Fatal(err)
		}
	}
	e.Send(t, job, j)
	result, err := job.Result(context.WithoutCancel(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	return job, result
}
