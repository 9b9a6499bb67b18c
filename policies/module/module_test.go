package module_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cloister-run/cloister/policies/module"
)

const header = "\x00asm\x01\x00\x00\x00"

func sizeCap(t testing.TB) []byte {
	t.Helper()
	data, err := os.ReadFile("../library/size-cap/size-cap.wasm")
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestScan: a real module's shape.
func TestScan(t *testing.T) {
	shape, err := module.Scan(sizeCap(t))
	if err != nil {
		t.Fatal(err)
	}
	if len(shape.Imports) != 3 || shape.Imports[0].Module != "wasi_snapshot_preview1" || shape.Imports[0].Kind != module.Func {
		t.Errorf("imports %v", shape.Imports)
	}
	if !shape.Has("_start", module.Func) || !shape.Has("memory", module.Memory) || shape.Has("_start", module.Memory) {
		t.Errorf("exports %v", shape.Exports)
	}
	if shape.Memories != 1 || shape.MemoryPages == 0 {
		t.Errorf("%d memories of %d pages", shape.Memories, shape.MemoryPages)
	}
	if len(shape.Custom("cloister.policy")) != 1 || len(shape.Custom("name")) != 0 {
		t.Error("custom sections")
	}
}

// TestScanRefuses: each rule of the walk.
func TestScanRefuses(t *testing.T) {
	for _, row := range []struct{ rule, content, reason string }{
		{"an unknown section", "\x0d\x00", "unknown section 13"},
		{"a section cut short", "\x01\x05\x00", "type section: ends early"},
		{"a section's size cut short", "\x01\x80", "type section: ends early"},
		{"a size over 5 bytes", "\x01\x80\x80\x80\x80\x80\x00", "number over 5 bytes"},
		{"a size over 32 bits", "\x01\xff\xff\xff\xff\x7f", "number over 32 bits"},
		{"sections out of order", "\x03\x01\x00\x01\x01\x00", "type section: repeated or out of order"},
		{"a section twice", "\x01\x01\x00\x01\x01\x00", "type section: repeated or out of order"},
		{"a data count after the code", "\x0a\x01\x00\x0c\x01\x00", "data count section: repeated or out of order"},
		{"bytes after a section's end", "\x01\x02\x00\x00", "1 bytes after its end"},
		{"a group of recursive types", "\x01\x04\x01\x4e\x01\x60", "not a function type"},
		{"too many parameters", "\x01\x04\x01\x60\xe9\x07", "at most 1000 are accepted"},
		{"a table of something else", "\x04\x04\x01\x6f\x00\x00", "not a table of functions"},
		{"two tables", "\x04\x07\x02\x70\x00\x00\x70\x00\x00", "at most 1 are accepted"},
		{"a table that is too large", "\x04\x06\x01\x70\x00\xc1\x84\x3d", "at most 1000000 are accepted"},
		{"two memories", "\x05\x05\x02\x00\x01\x00\x01", "at most 1 are accepted"},
		{"a shared memory", "\x05\x04\x01\x03\x01\x01", "limits of kind 0x3"},
		{"a 64-bit memory", "\x05\x03\x01\x04\x01", "limits of kind 0x4"},
		{"a memory whose minimum is over its maximum", "\x05\x04\x01\x01\x02\x01", "over the maximum of 1"},
		{"an import of unknown kind", "\x02\x05\x01\x00\x00\x04\x00", "unknown kind 0x4"},
		{"a name that is no UTF-8", "\x02\x06\x01\x01\xff\x00\x00\x00", "not UTF-8"},
		{"a constant of two instructions", "\x06\x07\x01\x7f\x00\x41\x00\x41\x00", "more than one instruction"},
		{"a constant that calls", "\x06\x05\x01\x7f\x00\x10\x00", "instruction 0x10"},
		{"an unknown element segment", "\x09\x02\x01\x08", "unknown kind of segment"},
		{"an unknown data segment", "\x0b\x02\x01\x03", "unknown kind of segment"},
		{"too many locals", "\x0a\x08\x01\x06\x01\xd1\x86\x03\x7f\x0b", "more than 50000 locals"},
		{"too many locals in two groups", "\x0a\x0b\x01\x09\x02\xa8\xc3\x01\x7f\xa9\xc3\x01\x7e\x0b", "more than 50000 locals"},
		{"a body over its bound", "\x0a\x05\x01\xa1\xc2\x1e\x00", "at most 500000 are accepted"},
	} {
		t.Run(row.rule, func(t *testing.T) {
			_, err := module.Scan([]byte(header + row.content))
			if err == nil || !strings.Contains(err.Error(), row.reason) {
				t.Errorf("got %v, wanted %q", err, row.reason)
			}
		})
	}
	for _, text := range []string{"", "\x00asm", "\x7fELF", "\x00asm\x02\x00\x00\x00"} {
		if _, err := module.Scan([]byte(text)); !errors.Is(err, module.ErrNotWebAssembly) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// TestScanSums: what each function may have, all together may not.
func TestScanSums(t *testing.T) {
	functions := 41 // of 50,000 locals each: over 2,000,000
	body := "\x06\x01\xd0\x86\x03\x7f\x0b"
	content := string(rune(functions)) + strings.Repeat(body, functions)
	size := []byte{byte(len(content)&0x7f) | 0x80, byte(len(content) >> 7)}
	_, err := module.Scan([]byte(header + "\x0a" + string(size) + content))
	if err == nil || !strings.Contains(err.Error(), "more than 2000000 locals in the module") {
		t.Errorf("got %v", err)
	}
}

// function is a module of n functions with one body and a number of locals.
func function(n, locals int, instructions ...byte) []byte {
	one := append([]byte{1}, uleb(locals)...)
	one = append(append(append(one, 0x7f), instructions...), 0x0b)
	content := uleb(n)
	for range n {
		content = append(append(content, uleb(len(one))...), one...)
	}
	return append(append([]byte(header+"\x0a"), uleb(len(content))...), content...)
}

func uleb(v int) []byte { return binary.AppendUvarint(nil, uint64(v)) }

// TestScanBoundsCompilation: what would take a compiler long is refused, a little less is not.
func TestScanBoundsCompilation(t *testing.T) {
	loop, block, branch := []byte{0x03, 0x40, 0x0b}, []byte{0x02, 0x40, 0x0b}, []byte{0x0c, 0}
	for _, row := range []struct {
		rule   string
		module []byte
		reason string
	}{
		{"500 loops", function(1, 0, bytes.Repeat(loop, 500)...), ""},
		{"501 loops", function(1, 0, bytes.Repeat(loop, 501)...), "501 loops"},
		{"10,000 blocks", function(1, 0, bytes.Repeat(block, 10_000)...), ""},
		{"10,001 blocks", function(1, 0, bytes.Repeat(block, 10_001)...), "10001 branches"},
		{"10,001 branches", function(1, 0, bytes.Repeat(branch, 10_001)...), "10001 branches"},
		{"1,000 blocks with 1,000 locals", function(1, 1000, bytes.Repeat(block, 1000)...), ""},
		{"1,000 blocks with 1,001 locals", function(1, 1001, bytes.Repeat(block, 1000)...), "too many together"},
		{"4 functions of 10,000 blocks", function(4, 0, bytes.Repeat(block, 10_000)...), ""},
		{"5 functions of 10,000 blocks", function(5, 0, bytes.Repeat(block, 10_000)...), "squared, in the module"},
		{"constants that look like loops", function(1, 0, bytes.Repeat([]byte{0x41, 0x03, 0x1a}, 1000)...), ""},
		{"a table of branches", function(1, 0, 0x0e, 2, 0, 0, 0), ""},
		{"a table of more branches than bytes", function(1, 0, 0x0e, 0xff, 0xff, 0xff, 0xff, 0x0f), "branches of a table"},
		{"a constant that is cut short", function(1, 0, 0x43, 0), "ends early"},
		{"an unknown instruction", function(1, 0, 0xff), "unknown instruction 0xff"},
		{"an unknown instruction on memory", function(1, 0, 0xfc, 18), "unknown instruction 0xfc 18"},
		{"an instruction on threads", function(1, 0, 0xfe, 0), "unknown instruction 0xfe"},
	} {
		t.Run(row.rule, func(t *testing.T) {
			_, err := module.Scan(row.module)
			if (row.reason == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), row.reason) {
				t.Errorf("got %v, wanted %q", err, row.reason)
			}
		})
	}
}

// TestCustom: custom sections come and go, and the rest stays as it was.
func TestCustom(t *testing.T) {
	original := sizeCap(t)
	shape, err := module.Scan(original)
	if err != nil {
		t.Fatal(err)
	}
	bare := shape.Bare()
	if !bytes.HasPrefix(original, bare) || len(bare) == len(original) {
		t.Error("the bare module is not the module without its last section")
	}
	long := bytes.Repeat([]byte("x"), 100_000)
	again, err := module.Scan(shape.WithCustom("cloister.policy", long))
	if err != nil {
		t.Fatal(err)
	}
	if found := again.Custom("cloister.policy"); len(found) != 1 || !bytes.Equal(found[0], long) {
		t.Error("the section was not replaced")
	}
	if !bytes.Equal(again.Bare(), bare) {
		t.Error("the rest changed")
	}
}

// FuzzScan: the walk ends without a panic, and what it accepts can be taken apart and put
// together again.
func FuzzScan(f *testing.F) {
	paths, err := filepath.Glob("testdata/*.wasm")
	if err != nil || len(paths) == 0 {
		f.Fatalf("no seeds: %v", err)
	}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add(sizeCap(f))
	f.Fuzz(func(t *testing.T, data []byte) {
		shape, err := module.Scan(data)
		if err != nil {
			return
		}
		again, err := module.Scan(shape.WithCustom("x", data))
		if err != nil {
			t.Fatal(err)
		}
		if found := again.Custom("x"); len(found) != 1 || !bytes.Equal(found[0], data) {
			t.Fatal("a custom section came back changed")
		}
		if !bytes.Equal(again.Bare(), shape.Bare()) {
			t.Fatal("the rest changed")
		}
	})
}
