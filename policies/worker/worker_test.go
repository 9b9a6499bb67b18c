package worker_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"go.uber.org/goleak"

	"github.com/cloister-run/cloister/policies"
	"github.com/cloister-run/cloister/policies/abi"
	"github.com/cloister-run/cloister/policies/sdk"
	"github.com/cloister-run/cloister/policies/worker"
	"github.com/cloister-run/cloister/policies/worker/wire"
)

// built holds the walls, the worker and the policies of these tests.
var built string

func TestMain(m *testing.M) {
	status, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(status)
}

func run(m *testing.M) (int, error) {
	var err error
	if built, err = os.MkdirTemp("", "cloister-worker-test"); err != nil {
		return 1, err
	}
	defer os.RemoveAll(built)
	if err := os.Chmod(built, 0o755); err != nil {
		return 1, err
	}
	if err := os.Mkdir(filepath.Join(built, "empty"), 0o555); err != nil {
		return 1, err
	}
	for name, from := range map[string]string{"walls": "cmd/cloister-walls", "policy": "cmd/cloister-policy"} {
		if out, err := build(name, "../../"+from); err != nil {
			return 1, fmt.Errorf("%w\n%s", err, out)
		}
	}
	if out, err := build("probe.wasm", "./testdata/probe", "GOOS=wasip1", "GOARCH=wasm"); err != nil {
		return 1, fmt.Errorf("%w\n%s", err, out)
	}
	if status := m.Run(); status != 0 {
		return status, nil
	}
	if err := goleak.Find(); err != nil {
		return 1, err
	}
	return 0, nil
}

func build(name, from string, env ...string) ([]byte, error) {
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w -buildid=", "-o", filepath.Join(built, name), from)
	cmd.Env = append(append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS="), env...)
	return cmd.CombinedOutput()
}

func newPool(t *testing.T, cfg worker.Config) *worker.Pool {
	t.Helper()
	return newPoolOf(t, filepath.Join(built, "policy"), cfg)
}

func walled(executable string) func(context.Context, *os.File) (worker.Process, error) {
	walls := worker.Walls{Executable: executable, Init: filepath.Join(built, "walls"), Root: filepath.Join(built, "empty"), FirstOwner: -1}
	if os.Geteuid() == 0 {
		walls.FirstOwner = 1_879_000_000
	}
	return worker.Walled(walls)
}

func newPoolOf(t *testing.T, executable string, cfg worker.Config) *worker.Pool {
	t.Helper()
	cfg.Start = walled(executable)
	if cfg.Workers == 0 {
		cfg.Workers = 16
	}
	if cfg.Limits.CompileTime == 0 {
		cfg.Limits.CompileTime = 5 * time.Minute // slow under the race detector
	}
	pool := worker.New(cfg)
	t.Cleanup(func() {
		if err := pool.Close(); err != nil {
			t.Error(err)
		}
	})
	return pool
}

// sizeCap is a small policy.
func sizeCap(t *testing.T) []byte {
	t.Helper()
	module, err := os.ReadFile("../library/size-cap/size-cap.wasm")
	if err != nil {
		t.Fatal(err)
	}
	return packed(t, module, "../library/size-cap/manifest.json")
}

func packed(t *testing.T, module []byte, manifestFile string) []byte {
	t.Helper()
	text, err := os.ReadFile(manifestFile)
	if err != nil {
		t.Fatal(err)
	}
	m, err := abi.DecodeManifest(text)
	if err != nil {
		t.Fatal(err)
	}
	return pack(t, module, m)
}

func pack(t *testing.T, module []byte, m abi.Manifest) []byte {
	t.Helper()
	binary, err := policies.Pack(module, m)
	if err != nil {
		t.Fatal(err)
	}
	return binary
}

// probe is the policy of testdata/probe.
func probe(t *testing.T) []byte {
	t.Helper()
	module, err := os.ReadFile(filepath.Join(built, "probe.wasm"))
	if err != nil {
		t.Fatal(err)
	}
	return pack(t, module, abi.Manifest{
		ABI: 1, Name: "probe", Codes: []abi.Code{{Code: "no", Hint: "no"}}, Redacts: []abi.Channel{abi.AnyOutput},
		ConfigSchema: json.RawMessage(`{"type":"string"}`),
	})
}

func load(t *testing.T, pool *worker.Pool, module []byte) *worker.Policy {
	t.Helper()
	policy, err := pool.Load(t.Context(), module)
	if err != nil {
		t.Fatal(err)
	}
	return policy
}

func request(point abi.Point, config string) abi.Request {
	return abi.Request{
		ABI: abi.Version, Point: point, Job: json.RawMessage(`{"version":1}`), Config: json.RawMessage(config),
		Channels: []abi.Channel{}, Policies: []abi.PolicyRef{{}}, PCRs: map[string]string{},
	}
}

// judged is a request about artifacts, and the files.
func judged(t *testing.T, point abi.Point, config string) (abi.Request, abi.Files) {
	t.Helper()
	dir := t.TempDir()
	for _, err := range []error{
		os.MkdirAll(filepath.Join(dir, "artifacts/outputs.tree/deep"), 0o755), os.Mkdir(filepath.Join(dir, "own"), 0o755),
		os.WriteFile(filepath.Join(dir, "artifacts/outputs.file"), []byte("text"), 0o400),
		os.WriteFile(filepath.Join(dir, "artifacts/outputs.tree/a"), []byte("1"), 0o400),
		os.WriteFile(filepath.Join(dir, "artifacts/outputs.tree/deep/b"), []byte("2"), 0o400),
		os.WriteFile(filepath.Join(dir, "own/inputs.own"), []byte("mine"), 0o400),
		os.WriteFile(filepath.Join(dir, "secret"), []byte("secret"), 0o444),
		os.Symlink("../secret", filepath.Join(dir, "artifacts/link")),
		syscall.Mkfifo(filepath.Join(dir, "artifacts/pipe"), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	var roots []*os.Root
	for _, name := range []string{"artifacts", "own"} {
		root, err := os.OpenRoot(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { root.Close() })
		roots = append(roots, root)
	}
	r := request(point, config)
	r.Artifacts = []abi.Artifact{{Channel: "outputs.file", Kind: "file"}, {Channel: "outputs.tree", Kind: "tree"}}
	return r, abi.Files{Artifacts: roots[0].FS(), Own: roots[1].FS()}
}

// TestADecisionInAWorker: what package policies does, from the outside.
func TestADecisionInAWorker(t *testing.T) {
	pool := newPool(t, worker.Config{})
	small := load(t, pool, sizeCap(t))
	if err := small.CheckConfig(t.Context(), json.RawMessage(`{"max_total_bytes": 10}`)); err != nil || small.Manifest().Name != "size-cap" {
		t.Errorf("%v, %+v", err, small.Manifest())
	}
	if err := small.CheckConfig(t.Context(), json.RawMessage(`{"max": 10}`)); !errors.Is(err, worker.ErrConfig) || !strings.Contains(err.Error(), "max_total_bytes") {
		t.Error(err)
	}
	r := request(abi.Admit, `{"max_total_bytes": 10}`)
	r.Channels = []abi.Channel{"outputs.a"}
	for range 3 {
		d, err := small.Decide(t.Context(), r, abi.Files{})
		if err != nil || !d.Allow || d.Caps["outputs.a"] != 10 {
			t.Errorf("%+v, %v", d, err)
		}
	}
	p := load(t, pool, probe(t))
	d, err := p.Decide(t.Context(), request(abi.Ingress, `"no"`), abi.Files{})
	if err != nil || d.Allow || d.Code != "no" {
		t.Errorf("%+v, %v", d, err)
	}
	read, files := judged(t, abi.Egress, `"read"`)
	if d, err := p.Decide(t.Context(), read, files); err != nil || !d.Allow {
		t.Errorf("%+v, %v", d, err)
	}
	redact, files := judged(t, abi.Redact, `"redact"`)
	into := t.TempDir()
	files.Redacted = sdk.Folder(into)
	d, err = p.Decide(t.Context(), redact, files)
	if err != nil || len(d.Redacted) != 2 {
		t.Errorf("%+v, %v", d, err)
	}
	if got, err := os.ReadFile(filepath.Join(into, "outputs.file")); err != nil || string(got) != "TEXT" {
		t.Errorf("wrote %q, %v", got, err)
	}
	if got, err := os.ReadFile(filepath.Join(into, "outputs.tree/deep/b")); err != nil || string(got) != "2" {
		t.Errorf("wrote %q, %v", got, err)
	}
}

// TestI2_AWorkerThatFailsDenies: whatever goes wrong in there, the answer is the zero decision and an error.
func TestI2_AWorkerThatFailsDenies(t *testing.T) {
	pool := newPool(t, worker.Config{Limits: wire.Limits{DecideTime: time.Second}})
	p := load(t, pool, probe(t))
	for rule, config := range map[string]string{
		"an error": `"fail"`, "an undeclared code": `"other"`, "a configuration that it does not take": `7`, "no end": `"forever"`,
	} {
		d, err := p.Decide(t.Context(), request(abi.Ingress, config), abi.Files{})
		if d.Allow || d.Code != "" || !errors.Is(err, worker.ErrNoAnswer) && (rule != "no end" || !errors.Is(err, worker.ErrGone)) {
			t.Errorf("%s: %+v, %v", rule, d, err)
		}
	}
	for rule, module := range map[string][]byte{"no module": []byte("text"), "nothing": nil} {
		if _, err := pool.Load(t.Context(), module); !errors.Is(err, worker.ErrRefused) {
			t.Errorf("%s: %v", rule, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if d, err := p.Decide(ctx, request(abi.Ingress, `"forever"`), abi.Files{}); d.Allow || !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %+v, %v", d, err)
	}
	if d, err := p.Decide(t.Context(), request(abi.Ingress, `"no"`), abi.Files{}); err != nil || d.Code != "no" {
		t.Errorf("afterwards it answers %+v, %v", d, err)
	}
}

// A decision that nobody waits for any more does not go on.
func TestACancelledDecisionEnds(t *testing.T) {
	pool := newPool(t, worker.Config{Limits: wire.Limits{DecideTime: time.Hour}})
	p := load(t, pool, probe(t))
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		if _, err := p.Decide(ctx, request(abi.Ingress, `"forever"`), abi.Files{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		cancel()
	}
	if d, err := p.Decide(t.Context(), request(abi.Ingress, `"no"`), abi.Files{}); err != nil || d.Code != "no" {
		t.Errorf("%+v, %v", d, err)
	}
}

// hostile is a pool whose workers are testdata/hostile.
func hostile(t *testing.T, limits wire.Limits) *worker.Pool {
	t.Helper()
	name := filepath.Join(built, "hostile")
	if _, err := os.Stat(name); err != nil {
		if out, err := build("hostile", "./testdata/hostile"); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	return newPoolOf(t, name, worker.Config{Limits: limits})
}

// TestI2_AWorkerThatWasTakenOverDenies: and no other policy notices.
func TestI2_AWorkerThatWasTakenOverDenies(t *testing.T) {
	pool := hostile(t, wire.Limits{CompileTime: time.Second, DecideTime: time.Second})
	for _, part := range []string{"die", "stall", "garbage", "huge", "manifest"} {
		t.Run(part, func(t *testing.T) {
			if _, err := pool.Load(t.Context(), []byte(part)); !errors.Is(err, worker.ErrGone) {
				t.Error(err)
			}
		})
	}
	neighbour := load(t, pool, []byte("honest"))
	for _, part := range []string{"config", "decide-die", "decide-stall", "decide-garbage", "decide-huge", "decide-descriptor", "decide-both", "decide-flood"} {
		t.Run(part, func(t *testing.T) {
			p := load(t, pool, []byte(part))
			if part == "config" {
				if err := p.CheckConfig(t.Context(), nil); !errors.Is(err, worker.ErrGone) {
					t.Error(err)
				}
			} else {
				r, files := judged(t, abi.Egress, "null")
				d, err := p.Decide(t.Context(), r, files)
				if d.Allow || !errors.Is(err, worker.ErrGone) && !errors.Is(err, worker.ErrNoAnswer) {
					t.Errorf("%+v, %v", d, err)
				}
			}
			if part == "decide-both" {
				return // it keeps to the protocol
			}
			if err := p.CheckConfig(t.Context(), nil); (err == nil) == (part == "config") {
				t.Errorf("another one after it: %v", err)
			}
			if d, err := neighbour.Decide(t.Context(), request(abi.Admit, "null"), abi.Files{}); err != nil || !d.Allow {
				t.Errorf("its neighbour: %+v, %v", d, err)
			}
		})
	}
}

// TestI6_AWorkerCallsForNothingElse: no name leads out of what its policy may see, and what it is given
// cannot be written to.
func TestI6_AWorkerCallsForNothingElse(t *testing.T) {
	pool := hostile(t, wire.Limits{})
	for _, call := range []string{
		`{"op":"open","tree":"artifacts","name":"../secret"}`, `{"op":"open","tree":"artifacts","name":"/etc/passwd"}`,
		`{"op":"open","tree":"artifacts","name":"link"}`, `{"op":"open","tree":"artifacts","name":"pipe"}`,
		`{"op":"open","tree":"artifacts","name":"outputs.tree/../../secret"}`, `{"op":"open","tree":"","name":"secret"}`,
		`{"op":"open","tree":"other","name":"."}`, `{"op":"lstat","tree":"own","name":"../secret"}`, `{"op":"readdir","tree":"own","name":"..","most":9}`,
		`{"op":"readdir","tree":"artifacts","name":".","most":0}`, `{"op":"readdir","tree":"artifacts","name":".","most":70000}`,
		`{"op":"create","name":"outputs.file"}`, `{"op":"mkdir","name":"x"}`, `{"op":"write","file":1}`, `{"op":"close","file":0}`, `{"op":"exec"}`, `{}`,
		`{"op":"open","tree":"artifacts","name":"` + strings.Repeat("a", 5000) + `"}`,
	} {
		r, files := judged(t, abi.Egress, "null")
		if d, err := load(t, pool, []byte("call "+call)).Decide(t.Context(), r, files); err != nil || !d.Allow {
			t.Errorf("%.100s: %v", call, err)
		}
	}
	r, files := judged(t, abi.Egress, "null")
	if d, err := load(t, pool, []byte("write-descriptor")).Decide(t.Context(), r, files); err != nil || !d.Allow {
		t.Error(err)
	}
}

// A worker holds only so many files of ours open.
func TestI6_AWorkerHoldsFewFilesOpen(t *testing.T) {
	pool := hostile(t, wire.Limits{})
	r, files := judged(t, abi.Redact, "null")
	files.Redacted = sdk.Folder(t.TempDir())
	if d, err := load(t, pool, []byte("create-many")).Decide(t.Context(), r, files); err != nil || !d.Allow {
		t.Errorf("%+v, %v", d, err)
	}
}

// TestI6_AConfinedWorkerIsEndedByWhatItTries.
func TestI6_AConfinedWorkerIsEndedByWhatItTries(t *testing.T) {
	pool := hostile(t, wire.Limits{})
	if _, err := pool.Load(t.Context(), []byte("nothing")); err != nil {
		t.Fatal(err)
	}
	for _, try := range []string{"socket", "vsock", "pair", "connect", "open", "create", "stat", "proc", "exec", "fork",
		"kill", "ptrace", "mount", "memfd", "shm", "prctl", "unshare", "chmod", "truncate", "reopen"} {
		if _, err := pool.Load(t.Context(), []byte(try)); !errors.Is(err, worker.ErrGone) {
			t.Errorf("%s: %v", try, err)
		}
	}
}

// TestWorkersAreSharedAndForgotten: one for each digest; those that nobody uses any more end.
func TestWorkersAreSharedAndForgotten(t *testing.T) {
	pool := newPool(t, worker.Config{Cached: 1})
	first := load(t, pool, sizeCap(t))
	if load(t, pool, sizeCap(t)) != first {
		t.Error("two workers for one policy")
	}
	load(t, pool, probe(t))
	if d, err := first.Decide(t.Context(), request(abi.Ingress, `{"max_total_bytes": 10}`), abi.Files{}); err != nil || !d.Allow {
		t.Errorf("one in use was ended: %+v, %v", d, err)
	}
	if load(t, pool, sizeCap(t)) == first {
		t.Error("more are kept than may be")
	}
	if err := pool.Close(); err != nil {
		t.Error(err)
	}
	if d, err := first.Decide(t.Context(), request(abi.Ingress, "null"), abi.Files{}); d.Allow || err == nil {
		t.Errorf("%+v, %v", d, err)
	}
	if _, err := pool.Load(t.Context(), sizeCap(t)); !errors.Is(err, worker.ErrClosed) {
		t.Error(err)
	}
}

// BenchmarkDecide is one decision of a small policy, in its worker.
func BenchmarkDecide(b *testing.B) {
	pool := worker.New(worker.Config{Workers: 16, Start: walled(filepath.Join(built, "policy"))})
	defer pool.Close()
	module, err := os.ReadFile("../../bin/library/size-cap.wasm")
	if err != nil {
		b.Skip("make build comes first")
	}
	policy, err := pool.Load(b.Context(), module)
	if err != nil {
		b.Fatal(err)
	}
	r := request(abi.Admit, `{"max_total_bytes": 10}`)
	for b.Loop() {
		if d, err := policy.Decide(b.Context(), r, abi.Files{}); err != nil || !d.Allow {
			b.Fatal(err)
		}
	}
}

// A policy that never ends holds up itself, and no other: every policy has processes of its own.
func TestAHostilePolicyHoldsUpNoOther(t *testing.T) {
	pool := newPool(t, worker.Config{Parallel: 2, Limits: wire.Limits{DecideTime: time.Hour}})
	hostile, other := load(t, pool, probe(t)), load(t, pool, sizeCap(t))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 5)
	for range cap(ended) {
		go func() {
			_, err := hostile.Decide(ctx, request(abi.Ingress, `"forever"`), abi.Files{})
			ended <- err
		}()
	}
	for range 20 {
		if d, err := other.Decide(t.Context(), request(abi.Ingress, `{"max_total_bytes": 10}`), abi.Files{}); err != nil || !d.Allow {
			t.Fatalf("%+v, %v", d, err)
		}
	}
	if len(ended) > 0 {
		t.Errorf("the hostile policy ended: %v", <-ended)
	}
	cancel()
	for range cap(ended) {
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
}

// TestTimeToRead: a worker is not killed while its policy may still be reading.
func TestTimeToRead(t *testing.T) {
	policy := load(t, newPool(t, worker.Config{Limits: wire.Limits{DecideTime: time.Millisecond}}), probe(t))
	r := request(abi.Egress, `"forever"`)
	r.Artifacts = []abi.Artifact{{Channel: "outputs.a", Kind: "file", Bytes: 20 << 20}}
	start := time.Now()
	d, err := policy.Decide(t.Context(), r, abi.Files{Artifacts: fstest.MapFS{}})
	if took := time.Since(start); d.Allow || err == nil || took < 2*time.Second {
		t.Errorf("%+v after %s: %v", d, took, err)
	}
}
