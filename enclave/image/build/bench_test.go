package build_test

import (
	"crypto/rand"
	"crypto/sha512"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/enclave/image/build/buildtest"
)

// BenchmarkImage builds an image of a root file system of 1 GiB in memory, uncompressed, and reports its time
// beside that of SHA-384 over the same files, of the same run.
func BenchmarkImage(b *testing.B) {
	const files, size = 64, 16 << 20
	dir := memory(b)
	recipe := buildtest.Inputs(b, dir)
	content := make([]byte, size)
	for i := range files {
		if _, err := rand.Read(content); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("root/usr/lib/%d", i)), content, 0o644); err != nil {
			b.Fatal(err)
		}
	}
	hash := func() {
		sum := sha512.New384()
		for i := range files {
			f, err := os.Open(filepath.Join(dir, fmt.Sprintf("root/usr/lib/%d", i)))
			if err != nil {
				b.Fatal(err)
			}
			if _, err := io.CopyBuffer(sum, struct{ io.Reader }{f}, make([]byte, 1<<20)); err != nil {
				b.Fatal(err)
			}
			_ = f.Close()
		}
	}
	var builds, hashes time.Duration
	b.SetBytes(files * size)
	for b.Loop() {
		p, err := open(b, recipe)
		if err != nil {
			b.Fatal(err)
		}
		out, err := os.Create(filepath.Join(dir, "x.eif"))
		if err != nil {
			b.Fatal(err)
		}
		start := time.Now()
		if _, err := p.Write(b.Context(), out, nil); err != nil {
			b.Fatal(err)
		}
		builds += time.Since(start)
		_ = out.Close()
		start = time.Now()
		hash()
		hashes += time.Since(start)
	}
	var use unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &use); err != nil {
		b.Fatal(err)
	}
	n := float64(b.N)
	b.ReportMetric(builds.Seconds()*1000/n, "image-ms")
	b.ReportMetric(hashes.Seconds()*1000/n, "sha384-ms")
	b.ReportMetric(builds.Seconds()/hashes.Seconds(), "of-sha384")
	b.ReportMetric(float64(use.Maxrss)/1024, "MiB")
}

// memory is a folder in memory if this machine has one.
func memory(b *testing.B) string {
	b.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "cloister-bench-")
	if err != nil {
		return b.TempDir()
	}
	b.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}
