package envelope_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/cloister-run/cloister/core/tree"
	"github.com/cloister-run/cloister/enclave/envelope"
)

var benchBytes = flag.Int64("bench-bytes", 1<<30, "size of the file that BenchmarkSealAndOpen seals")

// BenchmarkSealAndOpen seals a file on a RAM disk and opens and unpacks it, as the product does,
// beside age, which encrypts and decrypts the same file. "seal-of-age" and "open-of-age" are
// ratios of throughput, 1 where both are as fast; "seal-MiB" and "open-MiB" are the most memory
// that the process had meanwhile. Only the fastest of each counts, and the largest peak: others
// use the machine too.
func BenchmarkSealAndOpen(b *testing.B) {
	dir := memory(b, 4**benchBytes)
	file := filepath.Join(dir, "content")
	if err := fill(file, *benchBytes); err != nil {
		b.Fatal(err)
	}
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		b.Fatal(err)
	}
	best, most := map[string]time.Duration{}, map[string]float64{}
	for b.Loop() {
		for _, step := range []struct {
			name string
			run  func() error
		}{
			{"age-seal", func() error { return ageSeal(file, dir+"/age", identity) }},
			{"seal", func() error { return sealFile(b.Context(), file, dir+"/sealed") }},
			{"age-open", func() error { return ageOpen(dir+"/age", dir+"/plain", identity) }},
			{"open", func() error { return openFile(b.Context(), dir+"/sealed", dir+"/out") }},
		} {
			forgetPeak(b)
			start := time.Now()
			err := step.run()
			if took := time.Since(start); best[step.name] == 0 || took < best[step.name] {
				best[step.name] = took
			}
			most[step.name] = max(most[step.name], peak(b))
			for _, name := range []string{"plain", "out"} {
				err = errors.Join(err, os.RemoveAll(filepath.Join(dir, name)))
			}
			if err != nil {
				b.Fatal(step.name, err)
			}
		}
	}
	for name, took := range best {
		b.ReportMetric(float64(*benchBytes)/1e6/took.Seconds(), name+"-MB/s")
		b.ReportMetric(most[name], name+"-MiB")
	}
	b.ReportMetric(best["age-seal"].Seconds()/best["seal"].Seconds(), "seal-of-age")
	b.ReportMetric(best["age-open"].Seconds()/best["open"].Seconds(), "open-of-age")
}

// forgetPeak gives memory back and makes the kernel forget the most that the process ever had
// (proc_pid_clear_refs(5), value 5).
func forgetPeak(b *testing.B) {
	debug.FreeOSMemory()
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil {
		b.Fatal(err)
	}
}

// peak is the most memory that the process had since forgetPeak, in MiB.
func peak(b *testing.B) float64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Fatal(err)
	}
	var kib float64
	_, after, _ := strings.Cut(string(status), "VmHWM:")
	if _, err := fmt.Sscan(after, &kib); err != nil {
		b.Fatal("no VmHWM: ", err)
	}
	return kib / 1024
}

// memory is a folder on a RAM disk, if there is one with room for so many bytes.
func memory(b testing.TB, room int64) string {
	var fs syscall.Statfs_t
	if err := syscall.Statfs("/dev/shm", &fs); err != nil || int64(fs.Bavail)*fs.Bsize < room {
		return b.TempDir()
	}
	dir, err := os.MkdirTemp("/dev/shm", "envelope-")
	if err != nil {
		return b.TempDir()
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func fill(name string, size int64) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	_, err = io.CopyN(f, rand.Reader, size)
	return errors.Join(err, f.Close())
}

// between copies with a buffer that favours neither side.
func between(from, to string, wrap func(r io.Reader, w io.Writer) error) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(out, 1<<20)
	return errors.Join(wrap(bufio.NewReaderSize(in, 1<<20), w), w.Flush(), out.Close())
}

func ageSeal(from, to string, identity *age.X25519Identity) error {
	return between(from, to, func(r io.Reader, w io.Writer) error {
		encrypted, err := age.Encrypt(w, identity.Recipient())
		if err != nil {
			return err
		}
		_, err = io.Copy(encrypted, r)
		return errors.Join(err, encrypted.Close())
	})
}

func ageOpen(from, to string, identity *age.X25519Identity) error {
	return between(from, to, func(r io.Reader, w io.Writer) error {
		decrypted, err := age.Decrypt(r, identity)
		if err != nil {
			return err
		}
		_, err = io.Copy(w, decrypted)
		return err
	})
}

func sealFile(ctx context.Context, from, to string) error {
	source, err := tree.Open(from, tree.Limits{Bytes: 1 << 40, Entries: 10})
	if err != nil {
		return err
	}
	defer source.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = envelope.Seal(ctx, out, dataset(), source, []byte("module"), &kms{fixed: 7, made: map[string]made{}})
	return errors.Join(err, out.Close())
}

func openFile(ctx context.Context, from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	if err := os.Mkdir(to, 0o700); err != nil {
		return err
	}
	root, err := os.OpenRoot(to)
	if err != nil {
		return err
	}
	defer root.Close()
	b, err := envelope.Read(in)
	if err != nil {
		return err
	}
	p, err := b.Open(ctx, bytes.Repeat([]byte{7}, envelope.KeySize))
	if err != nil {
		return err
	}
	defer p.Close()
	x, err := tree.Extract(ctx, p, root, b.Header.Asset.Limits())
	if err == nil && (x.Bytes != b.Header.Asset.Bytes || p.Digest() == "") {
		err = fmt.Errorf("extracted %+v; the digest is %q", x, p.Digest())
	}
	return err
}
