package policies_test

import (
	"slices"
	"testing"
	"time"

	"github.com/cloister-run/cloister/policies"
	"github.com/cloister-run/cloister/policies/abi"
)

// opaGuest assembles a module that looks like one of OPA's, so that a test shows the whole of a hostile one.
// The zero guest works and allows.
type opaGuest struct {
	// bodies replaces those of functions, without their end.
	bodies map[string][]byte
	// texts are what opa_json_dump gives for the values 1 (entrypoints), 2 (built-ins) and 3 (results).
	texts [4]string
	// minor is the minor version; 0 means 3.
	minor int32
	// memory is the imported memory's limits; empty means two pages.
	memory []byte
	// start is the body of the start function.
	start []byte
	// extra imports, after the functions of the host and the memory; without leaves exports out.
	extra   []entry
	without []string
}

// slot is the room of a text in a guest's memory.
const slot = 64

// The functions of the host that the guest imports, by their index.
const (
	opaAbort = iota
	opaBuiltin0
	opaImports
)

var opaTypes = [][]byte{
	{0x60, 0, 1, 0x7f},             // 0: nothing to i32
	{0x60, 1, 0x7f, 1, 0x7f},       // 1: i32 to i32
	{0x60, 2, 0x7f, 0x7f, 1, 0x7f}, // 2: (i32, i32) to i32
	{0x60, 2, 0x7f, 0x7f, 0},       // 3: (i32, i32) to nothing
	{0x60, 7, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 1, 0x7f}, // 4: opa_eval
	{0x60, 1, 0x7f, 0}, // 5: i32 to nothing
	{0x60, 0, 0},       // 6: nothing to nothing
}

var (
	localGet0 = []byte{0x20, 0}
	add       = []byte{0x6a}
	mul       = []byte{0x6c}
)

// opaFunctions are the exports, their types and what they do.
var opaFunctions = []struct {
	name string
	kind byte
	body []byte
}{
	{"entrypoints", 0, i32(1)},
	{"builtins", 0, i32(2)},
	{"eval", 1, i32(0)},
	{"opa_eval", 4, i32(0)},
	{"opa_eval_ctx_new", 0, i32(32)},
	{"opa_eval_ctx_set_input", 3, nil},
	{"opa_eval_ctx_set_data", 3, nil},
	{"opa_eval_ctx_set_entrypoint", 3, nil},
	{"opa_eval_ctx_get_result", 1, i32(3)},
	{"opa_malloc", 1, i32(65536)},
	{"opa_json_parse", 2, i32(32)},
	{"opa_value_parse", 2, i32(32)},
	{"opa_json_dump", 1, code(localGet0, i32(slot), mul, i32(dataAt), add)},
	{"opa_value_dump", 1, i32(dataAt)},
}

func (g opaGuest) bytes(t testing.TB) []byte {
	t.Helper()
	out := []byte("\x00asm\x01\x00\x00\x00")
	section := func(id byte, items ...[]byte) { out = appendSection(out, id, vec(items...)) }
	section(1, opaTypes...)
	memory := g.memory
	if memory == nil {
		memory = []byte{0, 2}
	}
	imports := [][]byte{
		code(text("env"), text("opa_abort"), []byte{0, 5}),
		code(text("env"), text("memory"), []byte{2}, memory),
		code(text("env"), text("opa_builtin0"), []byte{0, 2}),
	}
	for _, i := range g.extra {
		imports = append(imports, code(text(i.module), text(i.name), i.desc))
	}
	section(2, imports...)
	kinds, bodies := [][]byte{{6}}, [][]byte{body(g.start)}
	exports := [][]byte{code(text("memory"), []byte{2, 0})}
	for i, f := range opaFunctions {
		kinds = append(kinds, []byte{f.kind})
		instructions, replaced := g.bodies[f.name]
		if !replaced {
			instructions = f.body
		}
		bodies = append(bodies, body(instructions))
		if !slices.Contains(g.without, f.name) {
			exports = append(exports, code(text(f.name), []byte{0, opaImports + 1 + byte(i)}))
		}
	}
	for i, name := range []string{"opa_wasm_abi_version", "opa_wasm_abi_minor_version"} {
		if !slices.Contains(g.without, name) {
			exports = append(exports, code(text(name), []byte{3, byte(i)}))
		}
	}
	section(3, kinds...)
	minor := g.minor
	if minor == 0 {
		minor = 3
	}
	section(6, code([]byte{0x7f, 0}, i32(1), []byte{0x0b}), code([]byte{0x7f, 0}, i32(minor), []byte{0x0b}))
	section(7, exports...)
	if g.start != nil {
		out = appendSection(out, 8, []byte{opaImports})
	}
	section(10, bodies...)
	var segments [][]byte
	for i, usual := range []string{"", `{"x":0}`, `{}`, `[{"result":{"allow":true}}]`} {
		said := g.texts[i]
		if said == "" {
			said = usual
		}
		segments = append(segments, code([]byte{0}, i32(dataAt+int32(i)*slot), []byte{0x0b}, text(said)))
	}
	section(11, segments...)
	return appendSection(out, 0, code(text(abi.SectionName), []byte(guestManifest(t))))
}

// TestHostileOPAModules: what looks like OPA's module and is not fails, and nothing of its host with it.
func TestHostileOPAModules(t *testing.T) {
	run := func(name string, instructions ...[]byte) opaGuest {
		return opaGuest{bodies: map[string][]byte{name: code(instructions...)}}
	}
	limits := policies.Limits{DecideTime: 100 * time.Millisecond, MemoryBytes: 4 << 20}
	t.Run("a harmless one", func(t *testing.T) {
		decision, err := load(t, newEngine(t, limits), opaGuest{}.bytes(t)).Decide(t.Context(), request(abi.Admit, "null"), abi.Files{})
		if err != nil || !decision.Allow {
			t.Errorf("answered %+v, %v", decision, err)
		}
	})
	for _, row := range []struct {
		rule   string
		guest  opaGuest
		reason string
	}{
		{"ABI 1.1", opaGuest{minor: 1}, "built for OPA's WebAssembly ABI 1.1; 1.2 or a later 1.x is needed: build it again with OPA 0.31 or later"},
		{"no opa_eval", opaGuest{without: []string{"opa_eval"}}, "ABI before 1.2: build it again with OPA 0.31 or later"},
		{"no minor version", opaGuest{without: []string{"opa_wasm_abi_minor_version"}}, "no opa_wasm_abi_minor_version"},
		{"no opa_malloc", opaGuest{without: []string{"opa_malloc"}}, "no opa_malloc"},
		{"a foreign function", opaGuest{extra: []entry{{"env", "system", []byte{0, 6}}}}, `imports "env"."system"`},
		{"a function of WASI", opaGuest{extra: []entry{{"wasi_snapshot_preview1", "fd_write", []byte{0, 6}}}}, `imports "wasi_snapshot_preview1"."fd_write"`},
		{"a second memory", opaGuest{extra: []entry{{"env", "memory", []byte{2, 0, 1}}}}, `imports "env"."memory"`},
		{"a table", opaGuest{extra: []entry{{"env", "table", []byte{1, 0x70, 0, 1}}}}, `imports "env"."table"`},
		{"a function of the host of another type", opaGuest{extra: []entry{{"env", "opa_println", []byte{0, 6}}}}, "signature mismatch"},
		{"a memory over the limit", opaGuest{memory: code([]byte{0}, uleb(65))}, "memory minimum 4160 KiB over the limit of 4 MiB"},
		{"entrypoints without an end", run("entrypoints", forever(), []byte{0x00}), "deadline"},
		{"a start function without an end", opaGuest{start: forever()}, "deadline"},
		{"a start function that calls a built-in function", opaGuest{start: code(i32(0), i32(0), call(opaBuiltin0), drop)}, "outside of a decision"},
		{"a trap", run("builtins", unreachable), "unreachable"},
		{"a text outside of the memory", run("opa_json_dump", i32(-4)), "an address outside of the memory"},
		{"a text at its end", run("opa_json_dump", i32(131071)), "its entrypoints"},
		{"a text without an end", opaGuest{bodies: map[string][]byte{"entrypoints": code(
			// *(i32*)p = "xxxx" for the whole of the memory
			i32(dataAt), i32(0), []byte{0x36, 2, 0}, []byte{0x03, 0x40},
			i32(0), i32(0), load32, i32(4), add, store32,
			i32(0), load32, i32(0x78787878), store32,
			i32(0), load32, i32(131000), []byte{0x49, 0x0d, 0, 0x0b}, i32(1))}}, "a text without an end"},
		{"entrypoints that are no JSON", opaGuest{texts: [4]string{1: "x"}}, "its entrypoints"},
		{"entrypoints that are no numbers", opaGuest{texts: [4]string{1: `{"x":"y"}`}}, "its entrypoints"},
		{"no entrypoint", opaGuest{texts: [4]string{1: `{}`}}, "0 entrypoints"},
		{"two entrypoints", opaGuest{texts: [4]string{1: `{"x":0,"y\u001b":1}`}}, `2 entrypoints; the manifest's rego.entrypoint must name one of "x", "y\x1b"`},
		{"an unknown built-in function", opaGuest{texts: [4]string{2: `{"trace":0}`}}, `nobody offers: "trace"`},
	} {
		t.Run("load "+row.rule, func(t *testing.T) {
			began := time.Now()
			refused(t, limits, row.guest.bytes(t), row.reason)
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
	for _, row := range []struct {
		rule  string
		guest opaGuest
		cause error
	}{
		{"abort", run("eval", i32(dataAt), call(opaAbort), i32(0)), policies.ErrTrap},
		{"abort with an address outside", run("eval", i32(-1), call(opaAbort), i32(0)), policies.ErrTrap},
		{"a built-in function of an unknown number", run("eval", i32(7), i32(0), call(opaBuiltin0)), policies.ErrTrap},
		{"an address outside from malloc", run("opa_malloc", i32(-8)), policies.ErrTrap},
		{"an input that it cannot parse", run("opa_json_parse", i32(0)), policies.ErrTrap},
		{"evaluation without an end", run("eval", forever(), i32(0)), policies.ErrTimeout},
		{"parsing without an end", run("opa_json_parse", forever(), i32(0)), policies.ErrTimeout},
		{"recursion without an end", run("eval", localGet0, call(opaImports+3)), policies.ErrTrap},
		{"memory page by page", run("eval", forever(i32(1), memoryGrow, i32(-1), []byte{0x46}, ifNonZero(unreachable)), i32(0)), policies.ErrMemory},
		{"results that are no JSON", opaGuest{texts: [4]string{3: "x"}}, policies.ErrAnswer},
		{"results outside of the memory", run("opa_eval_ctx_get_result", i32(1<<20)), policies.ErrAnswer},
		{"two texts of results", opaGuest{texts: [4]string{3: `[{"result":{"allow":true}}][]`}}, policies.ErrAnswer},
		{"a result twice", opaGuest{texts: [4]string{3: `[{"result":1,"result":{"allow":true}}]`}}, policies.ErrAnswer},
		{"a result in another case", opaGuest{texts: [4]string{3: `[{"Result":{"allow":true}}]`}}, policies.ErrAnswer},
		{"a result with something beside it", opaGuest{texts: [4]string{3: `[{"result":{"allow":true},"x":1}]`}}, policies.ErrAnswer},
	} {
		t.Run("decide "+row.rule, func(t *testing.T) {
			limits := limits
			if row.cause != policies.ErrTimeout {
				limits.DecideTime = 10 * time.Second
			}
			decision, err := load(t, newEngine(t, limits), row.guest.bytes(t)).Decide(t.Context(), request(abi.Admit, "null"), abi.Files{})
			denied(t, decision, err, row.cause)
		})
	}
}
