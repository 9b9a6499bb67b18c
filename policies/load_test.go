package policies_test

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"

	"github.com/cloister-run/cloister/policies"
	"github.com/cloister-run/cloister/policies/abi"
)

// TestLoadRefuses: a module that is no policy is refused for a reason that helps.
func TestLoadRefuses(t *testing.T) {
	good := says(yes).bytes(t)
	codes := strings.Repeat(`{"code":"c","hint":"h"},`, 16)
	for _, row := range []struct {
		rule   string
		module []byte
		reason string
	}{
		{"nothing", nil, "not WebAssembly"},
		{"an ELF file", []byte("\x7fELF\x02\x01\x01\x00 and so on"), "not WebAssembly"},
		{"WebAssembly of another version", []byte("\x00asm\x0d\x00\x01\x00"), "not WebAssembly"},
		{"a module cut short", good[:len(good)-1], "malformed WebAssembly"},
		{"a module and more", append(bytes.Clone(good), 99), "malformed WebAssembly"},
		{"a foreign import", guest{extra: []entry{{"env", "foo", []byte{0, 0}}}}.bytes(t),
			"imports env.foo, which nobody offers; a policy may import wasi_snapshot_preview1 only"},
		{"an import beyond WASI", guest{extra: []entry{{"wasi_snapshot_preview1", "sock_open", []byte{0, 0}}}}.bytes(t),
			"imports wasi_snapshot_preview1.sock_open, which is no function of WASI preview 1"},
		{"an imported global", guest{extra: []entry{{"wasi_snapshot_preview1", "fd_write", []byte{3, 0x7f, 0}}}}.bytes(t),
			"which is no function"},
		{"no _start", guest{without: []string{"_start"}}.bytes(t), "no _start"},
		{"no memory", guest{without: []string{"memory"}}.bytes(t), "no memory"},
		{"no manifest", guest{without: []string{"manifest"}}.bytes(t), "no cloister.policy section; add it with `cloister policy pack`"},
		{"two manifests", appendSection(bytes.Clone(good), 0, append(text(abi.SectionName), "{}"...)), "2 cloister.policy sections"},
		{"a manifest that is no JSON", guest{manifest: "x"}.bytes(t), "not a JSON document"},
		{"a manifest for a newer ABI", guest{manifest: `{"abi":2,"name":"guest","new":1}`}.bytes(t), "written for version 2"},
		{"16 codes", guest{manifest: `{"abi":1,"name":"guest","codes":[` + strings.TrimSuffix(codes, ",") + `]}`}.bytes(t), "at most 15"},
		{"a schema that is none", guest{manifest: `{"abi":1,"name":"guest","config_schema":{"type":7}}`}.bytes(t), "not a JSON Schema"},
		{"a schema that refers to a file", guest{manifest: `{"abi":1,"name":"guest","config_schema":{"$ref":"file:///etc/passwd"}}`}.bytes(t), "$ref is not accepted"},
		{"a memory over the limit", guest{pages: 65536}.bytes(t), "memory minimum 4 GiB over the limit of 64 MiB"},
		{"a memory a page over the limit", guest{pages: 1025}.bytes(t), "memory minimum 65600 KiB over the limit of 64 MiB"},
		{"a huge table", guest{table: 100_000_000}.bytes(t), "at most 1000000 are accepted"},
		{"a table that can grow", guest{table: 1, main: code([]byte{0xd0, 0x70}, i32(1<<27), []byte{0xfc, 15, 0}, drop)}.bytes(t), "reference-types"},
		{"an unknown instruction", guest{main: []byte{0xff}}.bytes(t), "unknown instruction 0xff"},
		{"instructions that make no sense", guest{main: drop}.bytes(t), "invalid function"},
		{"a module over the limit", make([]byte, 16<<20+1), "over the limit of 16 MiB"},
	} {
		t.Run(row.rule, func(t *testing.T) {
			policy, err := newEngine(t, policies.Limits{}).Load(t.Context(), row.module)
			if policy != nil || !errors.Is(err, policies.ErrInvalid) || !strings.Contains(err.Error(), row.reason) {
				t.Errorf("got %v, %v; wanted %q", policy, err, row.reason)
			}
		})
	}
}

// TestLoadDoesNotBelieveCounts: a file of a few bytes that claims billions of items is refused
// before anything makes room for them.
func TestLoadDoesNotBelieveCounts(t *testing.T) {
	engine := newEngine(t, policies.Limits{})
	huge := []byte{0xff, 0xff, 0xff, 0xff, 0x0f}
	with := func(id byte, content ...[]byte) []byte {
		return appendSection([]byte("\x00asm\x01\x00\x00\x00"), id, code(content...))
	}
	for _, row := range []struct {
		rule   string
		module []byte
	}{
		{"types", with(1, huge)},
		{"parameters", with(1, []byte{1, 0x60}, huge)},
		{"imports", with(2, huge)},
		{"the name of an import", with(2, []byte{1}, huge)},
		{"functions", with(3, huge)},
		{"globals", with(6, huge)},
		{"exports", with(7, huge)},
		{"element segments", with(9, huge)},
		{"elements", with(9, []byte{1, 0, 0x41, 0, 0x0b}, huge)},
		{"function bodies", with(10, huge)},
		{"locals", with(10, []byte{1, 9, 1}, huge, []byte{0x7f, 0x0b})},
		{"data segments", with(11, huge)},
		{"data", with(11, []byte{1, 0, 0x41, 0, 0x0b}, huge)},
		{"the name of a custom section", with(0, huge)},
	} {
		t.Run(row.rule, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := engine.Load(t.Context(), row.module)
			runtime.ReadMemStats(&after)
			if !errors.Is(err, policies.ErrInvalid) || !strings.Contains(err.Error(), "malformed") {
				t.Errorf("got %v", err)
			}
			if used := after.TotalAlloc - before.TotalAlloc; used > 1<<20 {
				t.Errorf("%d bytes were allocated", used)
			}
		})
	}
}

// TestCustomSectionsAreNotParsed: wazero reads names and debug information, from counts in the
// module; it gets to see neither.
func TestCustomSectionsAreNotParsed(t *testing.T) {
	names := code(text("name"), []byte{1, 5, 0xff, 0xff, 0xff, 0xff, 0x0f})
	policy := load(t, newEngine(t, policies.Limits{}), appendSection(says(yes).bytes(t), 0, names))
	if decision, err := policy.Decide(t.Context(), request(abi.Admit, "null"), abi.Files{}); err != nil || !decision.Allow {
		t.Errorf("answered %+v, %v", decision, err)
	}
}

// TestLoadOnce: callers that load one module at the same time share one compilation.
func TestLoadOnce(t *testing.T) {
	engine := newEngine(t, policies.Limits{})
	module := says(yes).bytes(t)
	loaded := make([]*policies.Policy, 16)
	var group sync.WaitGroup
	for i := range loaded {
		group.Go(func() {
			policy, err := engine.Load(context.Background(), module)
			if err != nil {
				t.Error(err)
			}
			loaded[i] = policy
		})
	}
	group.Wait()
	for _, policy := range loaded {
		if policy != loaded[0] {
			t.Fatal("one module was compiled twice")
		}
	}
}

// TestForgottenPolicy: the engine keeps the policies used last, and one that it forgot still
// decides.
func TestForgottenPolicy(t *testing.T) {
	engine := newEngine(t, policies.Limits{Cached: 2})
	a, b, c := says(yes).bytes(t), says(yes+" ").bytes(t), says(yes+"  ").bytes(t)
	first := load(t, engine, a)
	load(t, engine, b)
	if load(t, engine, a) != first {
		t.Error("a policy within the bound was forgotten")
	}
	load(t, engine, c) // b is the one used longest ago
	if load(t, engine, a) != first {
		t.Error("the policy used last was forgotten")
	}
	load(t, engine, b)
	load(t, engine, c)
	if load(t, engine, a) == first {
		t.Error("more policies are kept than the bound says")
	}
	runtime.GC()
	if decision, err := first.Decide(t.Context(), request(abi.Admit, "null"), abi.Files{}); err != nil || !decision.Allow {
		t.Errorf("a forgotten policy answered %+v, %v", decision, err)
	}
}

// TestCompileTime: Load stops waiting for a compilation of half a second, and Close still
// finds everything.
func TestCompileTime(t *testing.T) {
	engine := newEngine(t, policies.Limits{CompileTime: 20 * time.Millisecond})
	slow := guest{main: bytes.Repeat(code(i32(0), ifNonZero()), 5000)}
	if _, err := engine.Load(t.Context(), slow.bytes(t)); !errors.Is(err, policies.ErrTimeout) || !errors.Is(err, policies.ErrInvalid) {
		t.Errorf("got %v", err)
	}
}

// TestLoadContext: a caller may leave; the compilation that it asked for is kept.
func TestLoadContext(t *testing.T) {
	engine := newEngine(t, policies.Limits{})
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := engine.Load(gone, says(yes).bytes(t)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// TestClosed: a closed engine decides nothing.
func TestClosed(t *testing.T) {
	engine := newEngine(t, policies.Limits{})
	policy := load(t, engine, says(yes).bytes(t))
	if err := engine.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	decision, err := policy.Decide(t.Context(), request(abi.Admit, "null"), abi.Files{})
	denied(t, decision, err, policies.ErrClosed)
	if _, err := engine.Load(t.Context(), says(yes).bytes(t)); !errors.Is(err, policies.ErrClosed) {
		t.Errorf("a closed engine loads: %v", err)
	}
}

// TestCloseWaits: closing waits for a decision under way, or for its context.
func TestCloseWaits(t *testing.T) {
	engine := newEngine(t, policies.Limits{DecideTime: 300 * time.Millisecond})
	policy := loadGuest(t, engine, opensThenLoops())
	begun, under := make(chan struct{}), make(chan error)
	go func() {
		files := announcing{fstest.MapFS{"a": {}}, sync.OnceFunc(func() { close(begun) })}
		_, err := policy.Decide(context.Background(), request(abi.Egress, "null"), abi.Files{Artifacts: files})
		under <- err
	}()
	<-begun
	hurried, cancel := context.WithCancel(t.Context())
	cancel()
	if err := engine.Close(hurried); !errors.Is(err, context.Canceled) {
		t.Errorf("closing did not wait: %v", err)
	}
	if err := <-under; !errors.Is(err, policies.ErrTimeout) {
		t.Errorf("the decision under way ended with %v", err)
	}
}

// TestLimits: every impossible limit is reported, all at once.
func TestLimits(t *testing.T) {
	_, err := policies.New(t.Context(), policies.Config{Limits: policies.Limits{
		ModuleBytes: -1, MemoryBytes: 1, CompileTime: -1, DecideTime: -1, RequestBytes: -1,
		DecisionBytes: abi.MaxDecisionBytes + 1, OpenFiles: -1, DirEntries: -1, Parallel: -1, Cached: -1,
	}})
	if err == nil || strings.Count(err.Error(), "policies: limits.") != 10 {
		t.Errorf("got %v", err)
	}
}

// TestPack: packing adds the manifest, replaces it, changes nothing else, and refuses what no
// engine would load.
func TestPack(t *testing.T) {
	bare := guest{data: yes, main: say(len(yes)), without: []string{"manifest"}}.bytes(t)
	first, err := policies.Pack(bare, abi.Manifest{ABI: 1, Name: "first"})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(first, bare) {
		t.Error("packing changed the module")
	}
	second, err := policies.Pack(first, abi.Manifest{ABI: 1, Name: "second"})
	if err != nil {
		t.Fatal(err)
	}
	if m, err := policies.ReadManifest(second); err != nil || m.Name != "second" {
		t.Errorf("packed twice: %+v, %v", m, err)
	}
	if again, err := policies.Pack(second, abi.Manifest{ABI: 1, Name: "second"}); err != nil || !bytes.Equal(again, second) {
		t.Errorf("packing is not deterministic: %v", err)
	}
	engine := newEngine(t, policies.Limits{})
	if decision, err := load(t, engine, second).Decide(t.Context(), request(abi.Admit, "null"), abi.Files{}); err != nil || !decision.Allow {
		t.Errorf("a packed policy answered %+v, %v", decision, err)
	}
	for rule, m := range map[string]abi.Manifest{
		"no name":         {ABI: 1},
		"a newer version": {ABI: 2, Name: "x"},
		"no schema":       {ABI: 1, Name: "x", ConfigSchema: []byte(`{"type":7}`)},
	} {
		if _, err := policies.Pack(bare, m); !errors.Is(err, policies.ErrInvalid) {
			t.Errorf("%s: got %v", rule, err)
		}
	}
	if _, err := policies.Pack(guest{without: []string{"_start"}}.bytes(t), abi.Manifest{ABI: 1, Name: "x"}); !errors.Is(err, policies.ErrInvalid) {
		t.Errorf("no command: got %v", err)
	}
}

// TestPackFile: packing from files, in place.
func TestPackFile(t *testing.T) {
	dir := t.TempDir()
	module, manifest := filepath.Join(dir, "p.wasm"), filepath.Join(dir, "manifest.json")
	if err := errors.Join(os.WriteFile(module, guest{without: []string{"manifest"}}.bytes(t), 0o600),
		os.WriteFile(manifest, []byte(`{"abi": 1, "name": "packed"}`), 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := policies.PackFile(module, manifest, module); err != nil {
		t.Fatal(err)
	}
	packed, err := os.ReadFile(module)
	if err != nil {
		t.Fatal(err)
	}
	if m, err := policies.ReadManifest(packed); err != nil || m.Name != "packed" {
		t.Errorf("got %+v, %v", m, err)
	}
	if err := policies.PackFile(manifest, manifest, filepath.Join(dir, "out")); !errors.Is(err, policies.ErrInvalid) {
		t.Errorf("a manifest as module: got %v", err)
	}
}

// TestWASIIsWhatWazeroOffers: what a policy may import is exactly what it would be given.
func TestWASIIsWhatWazeroOffers(t *testing.T) {
	r := wazero.NewRuntime(t.Context())
	defer r.Close(t.Context())
	offered, err := wasi_snapshot_preview1.NewBuilder(r).Compile(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if want := slices.Sorted(maps.Keys(offered.ExportedFunctions())); !slices.Equal(policies.WASIFunctions(), want) {
		t.Errorf("accepted:\n%v\noffered:\n%v", policies.WASIFunctions(), want)
	}
}
