package library_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/cloister-run/cloister/policies"
	"github.com/cloister-run/cloister/policies/abi"
)

// inspected is the size of the output that is inspected. Linear memory is bounded whatever it is.
const inspected = 1 << 30

// BenchmarkInspect judges an output of 1 GiB, rows of about 40 bytes, as a worker does.
func BenchmarkInspect(b *testing.B) {
	dir := b.TempDir()
	if shm, err := os.MkdirTemp("/dev/shm", "cloister-bench"); err == nil {
		b.Cleanup(func() { _ = os.RemoveAll(shm) })
		dir = shm
	}
	fill(b, filepath.Join(dir, "outputs.a"))
	root, err := os.OpenRoot(dir)
	if err != nil {
		b.Fatal(err)
	}
	defer root.Close()
	engine, err := policies.New(b.Context(), policies.Config{Uninterruptible: true})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = engine.Close(context.Background()) }()
	for _, row := range []struct{ name, config string }{
		{"csv-columns", `{"columns": ["id", "digit", "score", "at"], "group_by": "digit", "min_group": 5}`},
		{"csv-columns", `{"columns": ["id", "digit", "score", "at"], "patterns": {"id": "[0-9]{1,9}", "score": "0\\.[0-9]{6}"}}`},
		{"redact", `{"patterns": [{"pattern": "[a-z]+@[a-z.]+"}, {"pattern": "[0-9]{7,}"}]}`},
	} {
		b.Run(row.name, func(b *testing.B) {
			policy := load(b, engine, filepath.Join(row.name, row.name+".wasm"), filepath.Join(row.name, "manifest.json"))
			r := abi.Request{
				ABI: abi.Version, Point: abi.Egress, Job: json.RawMessage("{}"), Config: json.RawMessage(row.config), Channels: []abi.Channel{"outputs.a"},
				Assets: []abi.Asset{}, PCRs: map[string]string{}, Artifacts: []abi.Artifact{{Channel: "outputs.a", Kind: "file", Bytes: inspected, Files: 1}},
			}
			b.SetBytes(inspected)
			for b.Loop() {
				if d, err := policy.Decide(b.Context(), r, abi.Files{Artifacts: root.FS()}); err != nil || !d.Allow {
					b.Fatal(d, err)
				}
			}
		})
	}
}

func fill(b *testing.B, path string) {
	b.Helper()
	file, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	defer file.Close()
	var rows []byte
	random := rand.New(rand.NewPCG(1, 2))
	for i := range 100_000 {
		rows = fmt.Appendf(rows, "%d,%d,%.6f,2026-01-%02dT03:04:05Z\n", random.IntN(1_000_000), i%10, random.Float64(), 1+i%28)
	}
	out := bufio.NewWriterSize(file, 1<<20)
	n, _ := out.WriteString("id,digit,score,at\n")
	for n+len(rows) <= inspected {
		more, _ := out.Write(rows)
		n += more
	}
	if err := out.Flush(); err != nil {
		b.Fatal(err)
	}
}
