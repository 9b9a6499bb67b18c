package wasi_test

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/cloister-run/cloister/plugins/executor"
	"github.com/cloister-run/cloister/plugins/wasi"
)

const header = "\x00asm\x01\x00\x00\x00"

// Modules by hand (WebAssembly core specification, 5.5).
const (
	// traps exports _start, which is one unreachable.
	traps = header + "\x01\x04\x01\x60\x00\x00" + "\x03\x02\x01\x00" + "\x07\x0a\x01\x06_start\x00\x00" + "\x0a\x05\x01\x03\x00\x00\x0b"
	// needy imports a function that WASI does not have.
	needy = header + "\x01\x04\x01\x60\x00\x00" + "\x02\x0a\x01\x03env\x02up\x00\x00"
)

func TestModules(t *testing.T) {
	dir := t.TempDir()
	for _, test := range []struct {
		rule, content string
		status        int // -1: it is no entrypoint
		says          string
	}{
		{"an empty file", "", -1, ""},
		{"text", "(module)", -1, ""},
		{"a later version", "\x00asm\x02\x00\x00\x00", -1, ""},
		{"cut short", traps[:20], 126, "wasi: "},
		{"nothing to start", header, 126, "exports no _start"},
		{"what nobody offers", needy, 126, "env"},
		{"a trap", traps, 134, "unreachable"},
	} {
		t.Run(test.rule, func(t *testing.T) {
			if err := os.WriteFile(dir+"/main.wasm", []byte(test.content), 0o644); err != nil {
				t.Fatal(err)
			}
			_ = os.Remove(dir + "/stderr")
			r, err := new(wasi.Executor).Run(t.Context(), executor.Task{
				Application: dir, Entrypoint: "main.wasm", Dir: dir, Stderr: dir + "/stderr",
			})
			if test.status < 0 {
				if !errors.Is(err, executor.ErrEntrypoint) {
					t.Errorf("%+v, %v", r, err)
				}
				return
			}
			said, _ := os.ReadFile(dir + "/stderr")
			if err != nil || r.Status != test.status || !strings.Contains(string(said), test.says) {
				t.Errorf("%+v, %v, %q", r, err, said)
			}
		})
	}
}
