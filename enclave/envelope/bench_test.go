package envelope_test

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/cloister-run/cloister/core/tree"
	"github.com/cloister-run/cloister/enclave/envelope"
)

const benchBytes = 1 << 30

// BenchmarkSealAndOpen seals, opens and unpacks a file of 1 GiB on a RAM disk beside age, which
// encrypts and decrypts the same file: "seal-of-age" and "open-of-age" are ratios of
// throughput, 1 where both are as fast. "unsummed" leaves out the digest that package tree takes
// of the content, which sealing does not need. Only the fastest of each counts: others use the machine too.
func BenchmarkSealAndOpen(b *testing.B) {
	dir := memory(b)
	file := filepath.Join(dir, "content")
	if err := fill(file, benchBytes); err != nil {
		b.Fatal(err)
	}
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		b.Fatal(err)
	}
	best := map[string]time.Duration{}
	for b.Loop() {
		for _, step := range []struct {
			name string
			run  func() error
		}{
			{"age-seal", func() error { return ageSeal(file, dir+"/age", identity) }},
			{"seal", func() error { return sealFile(b.Context(), file, dir+"/sealed", true) }},
			{"age-open", func() error { return ageOpen(dir+"/age", dir+"/plain", identity) }},
			{"open", func() error { return openFile(b.Context(), dir+"/sealed", dir+"/out", true) }},
			{"seal-unsummed", func() error { return sealFile(b.Context(), file, dir+"/sealed2", false) }},
			{"open-unsummed", func() error { return openFile(b.Context(), dir+"/sealed2", dir+"/out2", false) }},
		} {
			start := time.Now()
			err := step.run()
			if took := time.Since(start); best[step.name] == 0 || took < best[step.name] {
				best[step.name] = took
			}
			for _, name := range []string{"plain", "out", "out2"} {
				err = errors.Join(err, os.RemoveAll(filepath.Join(dir, name)))
			}
			if err != nil {
				b.Fatal(step.name, err)
			}
		}
	}
	for name, took := range best {
		b.ReportMetric(benchBytes/1e6/took.Seconds(), name+"-MB/s")
	}
	b.ReportMetric(best["age-seal"].Seconds()/best["seal"].Seconds(), "seal-of-age")
	b.ReportMetric(best["age-open"].Seconds()/best["open"].Seconds(), "open-of-age")
	b.ReportMetric(best["age-seal"].Seconds()/best["seal-unsummed"].Seconds(), "seal-unsummed-of-age")
	b.ReportMetric(best["age-open"].Seconds()/best["open-unsummed"].Seconds(), "open-unsummed-of-age")
}

// memory is a folder on a RAM disk, where there is one.
func memory(b testing.TB) string {
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

func sealFile(ctx context.Context, from, to string, summed bool) error {
	source, err := tree.Open(from, tree.Limits{Bytes: 1 << 40, Entries: 10})
	if err != nil {
		return err
	}
	defer source.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	var content envelope.Source = source
	if !summed {
		content = unsummed{source, from}
	}
	_, err = envelope.Seal(ctx, out, dataset(), content, []byte("module"), &kms{fixed: 7, made: map[string]made{}})
	return errors.Join(err, out.Close())
}

func openFile(ctx context.Context, from, to string, summed bool) error {
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
	if !summed {
		return extract(p, filepath.Join(to, "content"))
	}
	_, err = tree.Unpack(ctx, p, root, b.Header.Asset.Limits())
	return err
}

// unsummed packs what a tree packs without hashing it: what Seal itself costs.
type unsummed struct {
	*tree.Source
	name string
}

func (u unsummed) Pack(_ context.Context, w io.Writer) (tree.Summary, error) {
	f, err := os.Open(u.name)
	if err != nil {
		return tree.Summary{}, err
	}
	defer f.Close()
	size, _ := u.Size()
	archive := tar.NewWriter(w)
	if err := archive.WriteHeader(&tar.Header{Name: filepath.Base(u.name), Mode: 0o644, Size: size}); err != nil {
		return tree.Summary{}, err
	}
	_, err = io.CopyBuffer(onlyWriter{archive}, f, make([]byte, 1<<20))
	return tree.Summary{}, errors.Join(err, archive.Close())
}

type onlyWriter struct{ io.Writer }

// extract writes the one file of a payload without hashing it.
func extract(r io.Reader, to string) error {
	archive := tar.NewReader(r)
	if _, err := archive.Next(); err != nil {
		return err
	}
	f, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.CopyBuffer(onlyWriter{f}, archive, make([]byte, 1<<20))
	_, rest := io.Copy(io.Discard, r)
	return errors.Join(err, rest, f.Close())
}
