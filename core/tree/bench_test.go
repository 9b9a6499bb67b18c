package tree_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"testing"
	"time"

	"github.com/cloister-run/cloister/core/tree"
)

const benchBytes = 256 << 20

// BenchmarkPack and BenchmarkUnpack report their throughput beside that of SHA-256 over the
// same bytes in the same run: "of-sha256" is 1 where hashing is all that costs.
func BenchmarkPack(b *testing.B) {
	dir := benchFolder(b)
	limits := tree.Limits{Bytes: benchBytes, Entries: 100}
	s, err := tree.Open(dir, limits)
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Digest(b.Context()); err != nil {
		b.Fatal(err)
	}
	against(b, func() {}, func() error { _, err := s.Pack(b.Context(), io.Discard); return err })
}

func BenchmarkUnpack(b *testing.B) {
	limits := tree.Limits{Bytes: benchBytes, Entries: 100}
	s, err := tree.Open(benchFolder(b), limits)
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	var packed bytes.Buffer
	if _, err := s.Pack(b.Context(), &packed); err != nil {
		b.Fatal(err)
	}
	dir, err := os.OpenRoot(memory(b))
	if err != nil {
		b.Fatal(err)
	}
	defer dir.Close()
	empty := func() {
		if err := errors.Join(dir.RemoveAll("x"), dir.Mkdir("x", 0o700)); err != nil {
			b.Fatal(err)
		}
	}
	against(b, empty, func() error {
		root, err := dir.OpenRoot("x")
		if err != nil {
			return err
		}
		defer root.Close()
		_, err = tree.Unpack(b.Context(), bytes.NewReader(packed.Bytes()), root, limits)
		return err
	})
}

// memory is a folder in memory, where an enclave has all its files.
func memory(b *testing.B) string {
	dir, err := os.MkdirTemp("/dev/shm", "tree")
	if err != nil {
		b.Skip("no /dev/shm: ", err)
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// benchFolder holds 16 files.
func benchFolder(b *testing.B) string {
	dir := memory(b)
	for i := range 16 {
		if err := os.WriteFile(fmt.Sprintf("%s/%d", dir, i), bytes.Repeat([]byte{byte(i)}, benchBytes/16), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	return dir
}

// against times work and, after each round of it, SHA-256 over as many bytes. What prepare does
// is not timed.
func against(b *testing.B, prepare func(), work func() error) {
	chunk := make([]byte, 1<<20)
	b.SetBytes(benchBytes)
	var hashing, working time.Duration
	for b.Loop() {
		b.StopTimer()
		prepare()
		b.StartTimer()
		start := time.Now()
		if err := work(); err != nil {
			b.Fatal(err)
		}
		working += time.Since(start)
		b.StopTimer()
		start = time.Now()
		h := sha256.New()
		for range benchBytes / len(chunk) {
			h.Write(chunk)
		}
		hashing += time.Since(start)
		b.StartTimer()
	}
	b.ReportMetric(hashing.Seconds()/working.Seconds(), "of-sha256")
}
