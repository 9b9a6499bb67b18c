package module_test

import (
	"bytes"
	"testing"

	"github.com/cloister-run/cloister/policies/module"
)

// TestWithOwnMemory: an imported memory becomes the module's own, and nothing else changes.
func TestWithOwnMemory(t *testing.T) {
	const (
		types    = "\x01\x04\x01\x60\x00\x00"
		function = "\x03env\x01f\x00\x00"
		memory   = "\x03env\x06memory\x02\x01\x02\x03" // 2 to 3 pages
		custom   = "\x00\x02\x01x"
		exported = "\x07\x05\x01\x01m\x02\x00"
		own      = "\x05\x04\x01\x01\x02\x03"
	)
	for _, row := range []struct{ rule, before, after string }{
		{"after a function", types + "\x02\x18\x02" + function + memory + custom + exported, types + "\x02\x09\x01" + function + custom + own + exported},
		{"before a function", types + "\x02\x18\x02" + memory + function + exported, types + "\x02\x09\x01" + function + own + exported},
		{"alone", "\x02\x10\x01" + memory + custom, "\x02\x01\x00" + custom + own},
		{"with a list of memories that has none", "\x02\x10\x01" + memory + "\x05\x01\x00" + exported, "\x02\x01\x00" + own + exported},
		{"none imported", types + "\x02\x09\x01" + function + own + exported, types + "\x02\x09\x01" + function + own + exported},
		{"one imported, one of its own", "\x02\x10\x01" + memory + own, "\x02\x10\x01" + memory + own},
	} {
		t.Run(row.rule, func(t *testing.T) {
			shape, err := module.Scan([]byte(header + row.before))
			if err != nil {
				t.Fatal(err)
			}
			changed := shape.WithOwnMemory()
			got := changed.WithCustom("y", nil)
			want := header + row.after + "\x00\x02\x01y"
			if !bytes.Equal(got, []byte(want)) {
				t.Errorf("got  %q\nwant %q", got, want)
			}
			again, err := module.Scan(got)
			if err != nil {
				t.Fatal(err)
			}
			if again.MemoryPages != changed.MemoryPages || again.Memories != changed.Memories || len(again.Imports) != len(changed.Imports) {
				t.Errorf("the shape says %d memories of %d pages and %d imports, the module %d of %d and %d", changed.Memories,
					changed.MemoryPages, len(changed.Imports), again.Memories, again.MemoryPages, len(again.Imports))
			}
			if first := shape.WithCustom("y", nil); len(first) != len(header+row.before)+4 {
				t.Error("the shape itself was changed")
			}
		})
	}
}
