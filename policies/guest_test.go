package policies_test

import (
	"encoding/binary"
	"encoding/json"
	"slices"
	"testing"

	"github.com/cloister-run/cloister/policies"
	"github.com/cloister-run/cloister/policies/abi"
)

// guest assembles a small module, so that a test shows the whole of a hostile policy. The zero
// guest is a WASI command that does nothing.
type guest struct {
	// main is the body of _start, start that of the start function, without their end.
	main, start []byte
	// pages is the minimum of the memory; 0 means 1.
	pages uint32
	// table is the minimum of the table of functions.
	table uint32
	// data lies at dataAt.
	data string
	// extra imports beside those that every guest has.
	extra []entry
	// without leaves parts out: "_start", "memory", "manifest".
	without []string
	// manifest, if not empty, is the content of the custom section, in place of one with the
	// codes "small" and "large".
	manifest string
}

type entry struct {
	module, name string
	desc         []byte
}

// Where things are in a guest's memory.
const (
	scratch = 0    // results of host calls
	vector  = 16   // a pointer and a length
	dataAt  = 1024 // guest.data
)

// The functions that every guest imports, by their index, with their types below.
const (
	fdWrite = iota
	fdRead
	procExit
	pathOpen
	randomGet
	fdRenumber
	pollOneoff
	pathUnlink
	pathMkdir
	importCount
)

const start, main = importCount, importCount + 1

var guestTypes = [][]byte{
	{0x60, 0, 0}, // 0: nothing to nothing
	{0x60, 4, 0x7f, 0x7f, 0x7f, 0x7f, 1, 0x7f}, // 1: (i32 ×4) to i32
	{0x60, 1, 0x7f, 0},                         // 2: i32 to nothing
	{0x60, 9, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0x7e, 0x7e, 0x7f, 0x7f, 1, 0x7f}, // 3: path_open
	{0x60, 2, 0x7f, 0x7f, 1, 0x7f},                                           // 4: (i32, i32) to i32
	{0x60, 3, 0x7f, 0x7f, 0x7f, 1, 0x7f},                                     // 5: (i32 ×3) to i32
}

var guestImports = []struct {
	name string
	kind byte
}{
	{"fd_write", 1}, {"fd_read", 1}, {"proc_exit", 2}, {"path_open", 3}, {"random_get", 4},
	{"fd_renumber", 4}, {"poll_oneoff", 1}, {"path_unlink_file", 5}, {"path_create_directory", 5},
}

// Instructions (WebAssembly Core 2.0, 5.4 "Instructions").
var (
	unreachable = []byte{0x00}
	drop        = []byte{0x1a}
	memoryGrow  = []byte{0x40, 0}
	load32      = []byte{0x28, 2, 0}
	store32     = []byte{0x36, 2, 0}
)

func i32(v int32) []byte { return append([]byte{0x41}, sleb(int64(v))...) }
func i64(v int64) []byte { return append([]byte{0x42}, sleb(v)...) }
func call(f byte) []byte { return []byte{0x10, f} }

// code joins instructions.
func code(parts ...[]byte) []byte { return slices.Concat(parts...) }

// forever repeats a body.
func forever(body ...[]byte) []byte {
	return code([]byte{0x03, 0x40}, code(body...), []byte{0x0c, 0, 0x0b})
}

// ifNonZero runs a body if the top of the stack is not zero.
func ifNonZero(body ...[]byte) []byte {
	return code([]byte{0x04, 0x40}, code(body...), []byte{0x0b})
}

// say writes the n bytes at dataAt to standard output.
func say(n int) []byte {
	return code(i32(vector), i32(dataAt), store32, i32(vector+4), i32(int32(n)), store32,
		i32(1), i32(vector), i32(1), i32(scratch), call(fdWrite), drop)
}

// says is a guest that writes text and ends.
func says(text string) guest { return guest{main: say(len(text)), data: text} }

// attempt makes a guest that allows if a host call gives errno 0, and otherwise exits with it.
func attempt(data string, hostCall ...[]byte) guest {
	const yes = `{"allow":true}`
	report := code(i32(vector), i32(dataAt+int32(len(data))), store32, i32(vector+4), i32(int32(len(yes))), store32,
		i32(1), i32(vector), i32(1), i32(scratch), call(fdWrite), drop)
	return guest{
		data: data + yes,
		main: code(i32(8), code(hostCall...), store32,
			i32(8), load32, ifNonZero(i32(8), load32, call(procExit)), report),
	}
}

// opening attempts path_open in the first folder that the guest was given, which is fd 3.
func opening(path string, oflags int32, rights int64, fdflags int32) guest {
	return openingIn(3, path, oflags, rights, fdflags)
}

// openingIn attempts path_open in the folder with a descriptor.
func openingIn(fd int32, path string, oflags int32, rights int64, fdflags int32) guest {
	return attempt(path, i32(fd), i32(1), i32(dataAt), i32(int32(len(path))), i32(oflags),
		i64(rights), i64(0), i32(fdflags), i32(scratch), call(pathOpen))
}

func (g guest) bytes(t testing.TB) []byte {
	t.Helper()
	out := []byte("\x00asm\x01\x00\x00\x00")
	section := func(id byte, items ...[]byte) {
		out = appendSection(out, id, vec(items...))
	}
	section(1, guestTypes...)
	var imports [][]byte
	for _, i := range guestImports {
		imports = append(imports, code(text("wasi_snapshot_preview1"), text(i.name), []byte{0, i.kind}))
	}
	for _, i := range g.extra {
		imports = append(imports, code(text(i.module), text(i.name), i.desc))
	}
	section(2, imports...)
	section(3, []byte{0}, []byte{0}) // the start function and _start
	if g.table > 0 {
		section(4, code([]byte{0x70, 0}, uleb(g.table)))
	}
	section(5, code([]byte{0}, uleb(max(g.pages, 1))))
	var exports [][]byte
	if !slices.Contains(g.without, "memory") {
		exports = append(exports, code(text("memory"), []byte{2, 0}))
	}
	if !slices.Contains(g.without, "_start") {
		exports = append(exports, code(text("_start"), []byte{0, main + byte(len(g.extra))}))
	}
	section(7, exports...)
	if g.start != nil {
		out = appendSection(out, 8, []byte{start + byte(len(g.extra))})
	}
	section(10, body(g.start), body(g.main))
	section(11, code([]byte{0}, i32(dataAt), []byte{0x0b}, text(g.data)))
	if slices.Contains(g.without, "manifest") {
		return out
	}
	manifest := g.manifest
	if manifest == "" {
		manifest = guestManifest(t)
	}
	return appendSection(out, 0, code(text(abi.SectionName), []byte(manifest)))
}

func guestManifest(t testing.TB) string {
	t.Helper()
	m, err := json.Marshal(abi.Manifest{ABI: 1, Name: "guest", Codes: []abi.Code{
		{Code: "small", Hint: "too small"}, {Code: "large", Hint: "too large"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return string(m)
}

// body is a function body without locals.
func body(instructions []byte) []byte {
	content := code([]byte{0}, instructions, []byte{0x0b})
	return code(uleb(uint32(len(content))), content)
}

func vec(items ...[]byte) []byte { return code(uleb(uint32(len(items))), code(items...)) }
func text(s string) []byte       { return code(uleb(uint32(len(s))), []byte(s)) }

func appendSection(out []byte, id byte, content []byte) []byte {
	return code(out, []byte{id}, uleb(uint32(len(content))), content)
}

func uleb(v uint32) []byte { return binary.AppendUvarint(nil, uint64(v)) }

func sleb(v int64) []byte {
	var out []byte
	for {
		b := byte(v & 0x7f)
		v >>= 7
		if (v == 0 && b&0x40 == 0) || (v == -1 && b&0x40 != 0) {
			return append(out, b)
		}
		out = append(out, b|0x80)
	}
}

// loadGuest loads an assembled policy.
func loadGuest(t testing.TB, engine *policies.Engine, g guest) *policies.Policy {
	t.Helper()
	return load(t, engine, g.bytes(t))
}
