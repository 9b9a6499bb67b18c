package launch_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/cloister-run/cloister/core/receipt"
	"github.com/cloister-run/cloister/enclave/client"
	"github.com/cloister-run/cloister/enclave/launch"
	"github.com/cloister-run/cloister/jobspec"
)

// bin is what `make build` made; `make bench` runs it first.
const bin = "../../bin"

const noOpJob = `version: 1
name: no-op
application: {from: ./app, command: {entrypoint: main.py}}
policies:
  - {module: ./size-cap.wasm, config: {max_total_bytes: 100}}
  - {module: ./size-cap.wasm, config: {max_total_bytes: 200}}
limits: {memory: 256MiB, disk: 16MiB, run: 1m}
`

// enclave starts a local enclave for a benchmark.
func enclave(b *testing.B) *client.Client {
	b.Helper()
	return newClient(b, trust(startOf(b, launch.Simulation{Image: filepath.Join(bin, "enclave"), Home: newHome(b), KMS: noKMS})))
}

// pack writes a job with its files and prepares it.
func pack(b *testing.B, text string, fill func(dir string)) *client.Package {
	b.Helper()
	dir := b.TempDir()
	module, err := os.ReadFile(filepath.Join(bin, "library", "size-cap.wasm"))
	if err != nil {
		b.Fatal(err)
	}
	for name, content := range map[string][]byte{"app/main.py": nil, "size-cap.wasm": module} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(path, content, 0o600); err != nil {
			b.Fatal(err)
		}
	}
	fill(dir)
	job, err := jobspec.Parse(filepath.Join(dir, "job.yaml"), []byte(text))
	if err != nil {
		b.Fatal(err)
	}
	p, err := client.Prepare(job, client.Options{Dir: dir})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(p.Close)
	return p
}

func runJob(b *testing.B, c *client.Client, p *client.Package) {
	b.Helper()
	report, err := c.Run(b.Context(), p, client.Observer{}, func(*client.Report) error { return nil })
	if err != nil {
		b.Fatal(err)
	}
	if report.Result.Outcome != receipt.Succeeded {
		b.Fatalf("%+v", report.Result)
	}
}

// BenchmarkNoOpJob compares an empty Python job in a warm enclave, submission to record, with
// the interpreter started bare. Both alternate, so that noise hits both.
func BenchmarkNoOpJob(b *testing.B) {
	const interpreter = "/usr/bin/python3" // the real one, not a shim
	if _, err := os.Stat(interpreter); err != nil {
		b.Fatal(err)
	}
	c := enclave(b)
	p := pack(b, noOpJob, func(string) {})
	script := filepath.Join(b.TempDir(), "main.py")
	if err := os.WriteFile(script, nil, 0o600); err != nil {
		b.Fatal(err)
	}
	runJob(b, c, p) // warms the enclave
	var bare, job time.Duration
	for b.Loop() {
		start := time.Now()
		if err := exec.CommandContext(b.Context(), interpreter, "-E", "-s", "-B", "-X", "utf8", script).Run(); err != nil {
			b.Fatal(err)
		}
		bare += time.Since(start)
		start = time.Now()
		runJob(b, c, p)
		job += time.Since(start)
	}
	ms := func(d time.Duration) float64 { return d.Seconds() * 1000 / float64(b.N) }
	b.ReportMetric(ms(bare), "bare-ms")
	b.ReportMetric(ms(job), "job-ms")
	b.ReportMetric(ms(job-bare), "more-ms")
	b.ReportMetric(0, "ns/op")
}

const secondJob = `version: 1
name: second
application: {from: ./app, command: {entrypoint: second.py}}
policies: [{module: ./size-cap.wasm, config: {max_total_bytes: 100}}]
limits: {memory: 128MiB, disk: 8MiB, run: 10m}
`

// BenchmarkHundredJobs compares 100 jobs of one second of a processor each, all at once, with 100 bare
// interpreters that run the same, all at once. None may fail.
func BenchmarkHundredJobs(b *testing.B) {
	const (
		jobs   = 100
		second = "import time\nwhile time.process_time() < 1: pass\n"
	)
	c := enclave(b)
	p := pack(b, secondJob, func(dir string) {
		if err := os.WriteFile(filepath.Join(dir, "app", "second.py"), []byte(second), 0o600); err != nil {
			b.Fatal(err)
		}
	})
	script := filepath.Join(b.TempDir(), "second.py")
	if err := os.WriteFile(script, []byte(second), 0o600); err != nil {
		b.Fatal(err)
	}
	together := func(do func(context.Context) error) time.Duration {
		start := time.Now()
		all, ctx := errgroup.WithContext(b.Context())
		for range jobs {
			all.Go(func() error { return do(ctx) })
		}
		if err := all.Wait(); err != nil {
			b.Fatal(err)
		}
		return time.Since(start)
	}
	var bare, enclosed time.Duration
	for b.Loop() {
		bare += together(func(ctx context.Context) error {
			return exec.CommandContext(ctx, "/usr/bin/python3", "-E", "-s", "-B", "-X", "utf8", script).Run()
		})
		enclosed += together(func(ctx context.Context) error {
			report, err := c.Run(ctx, p, client.Observer{}, func(*client.Report) error { return nil })
			if err == nil && report.Result.Outcome != receipt.Succeeded {
				err = fmt.Errorf("%+v", report.Result)
			}
			return err
		})
	}
	b.ReportMetric(jobs*float64(b.N)/bare.Seconds(), "bare-jobs/s")
	b.ReportMetric(jobs*float64(b.N)/enclosed.Seconds(), "jobs/s")
	b.ReportMetric(bare.Seconds()/enclosed.Seconds(), "of-bare")
	b.ReportMetric(0, "ns/op")
}

const bulk = 1 << 30

// BenchmarkTransport compares one GiB over the enclave's transport with a raw copy over the
// same kind of socket, and an asset that is hashed at both ends with SHA-256 alone.
func BenchmarkTransport(b *testing.B) {
	file := filepath.Join("/dev/shm", fmt.Sprintf("cloister-bench-%d", os.Getpid()))
	if err := fill(file); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = os.Remove(file) })
	c := enclave(b)
	p := pack(b, fmt.Sprintf(bulkJob, file), func(string) {})
	var raw, transport, asset time.Duration
	for b.Loop() {
		raw += rawCopy(b, file)
		transport += httpCopy(b, file)
		start := time.Now()
		runJob(b, c, p)
		asset += time.Since(start)
	}
	rate := func(d time.Duration) float64 { return float64(bulk) * float64(b.N) / d.Seconds() / 1e9 }
	b.ReportMetric(rate(raw), "raw-GB/s")
	b.ReportMetric(rate(transport), "http-GB/s")
	b.ReportMetric(rate(transport)/rate(raw), "http/raw")
	b.ReportMetric(rate(asset), "job-GB/s")
	b.ReportMetric(0, "ns/op")
}

const bulkJob = `version: 1
name: bulk
application: {from: ./app, command: {entrypoint: main.py}}
inputs: {data: {from: %s}}
limits: {memory: 256MiB, disk: 16MiB, run: 1m}
`

func fill(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	block := make([]byte, 1<<20)
	for i := range block {
		block[i] = byte(i * 7)
	}
	for range bulk >> 20 {
		if _, err := f.Write(block); err != nil {
			return err
		}
	}
	return f.Close()
}

// rawCopy sends the file over a Unix socket with nothing around it.
func rawCopy(b *testing.B, file string) time.Duration {
	return across(b, file, func(l net.Listener) error {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{conn}, make([]byte, 1<<20))
		return err
	}, func(ctx context.Context, dial client.Dial, f *os.File) error {
		conn, err := dial(ctx)
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = io.CopyBuffer(struct{ io.Writer }{conn}, struct{ io.Reader }{f}, make([]byte, 1<<20))
		return err
	})
}

// httpCopy sends the file as the client and the API do, with no work at either end.
func httpCopy(b *testing.B, file string) time.Duration {
	return across(b, file, func(l net.Listener) error {
		server := &http.Server{ReadHeaderTimeout: time.Minute}
		server.Handler = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{r.Body}, make([]byte, 1<<20))
		})
		_ = server.Serve(l) // ends when across closes the listener
		return server.Close()
	}, func(ctx context.Context, dial client.Dial, f *os.File) error {
		transport := &http.Transport{
			DialContext:     func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
			WriteBufferSize: client.BufferSize,
		}
		defer transport.CloseIdleConnections()
		req, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://enclave/", struct{ io.Reader }{f})
		if err != nil {
			return err
		}
		res, err := transport.RoundTrip(req)
		if err != nil {
			return err
		}
		return res.Body.Close()
	})
}

func across(b *testing.B, file string, serve func(net.Listener) error, send func(context.Context, client.Dial, *os.File) error) time.Duration {
	b.Helper()
	socket := filepath.Join(b.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- serve(l) }()
	f, err := os.Open(file)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	start := time.Now()
	err = send(b.Context(), func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}, f)
	took := time.Since(start)
	_ = l.Close()
	<-done
	if err != nil {
		b.Fatal(err)
	}
	return took
}

// sealedNoOpJob is noOpJob with an input, so that the same job can have it plain or sealed.
const sealedNoOpJob = `version: 1
name: no-op
application: {from: ./app, command: {entrypoint: main.py}}
inputs: {data: {from: %s}}
policies:
  - {module: ./size-cap.wasm, config: {max_total_bytes: 100}}
  - {module: ./size-cap.wasm, config: {max_total_bytes: 200}}
limits: {memory: 256MiB, disk: 16MiB, run: 1m}
`

// BenchmarkSealedNoOpJob compares an empty job with a plain input with the same job whose input is sealed
// with a policy: header, policy, key from the local KMS, and opening. Both alternate.
func BenchmarkSealedNoOpJob(b *testing.B) {
	w := newWorld(b)
	e := startOf(b, launch.Simulation{Image: filepath.Join(bin, "enclave"), Home: w.home, KMS: w.kms})
	key := w.key(b, e.PCRs(), true)
	fill := func(dir string) {
		if err := os.WriteFile(filepath.Join(dir, "data"), []byte("data"), 0o600); err != nil {
			b.Fatal(err)
		}
		w.seal(b, key, filepath.Join(dir, "data"), filepath.Join(bin, "library", "size-cap.wasm"), `{"max_total_bytes": 100}`, filepath.Join(dir, "data.sealed"))
	}
	plain, sealed := pack(b, fmt.Sprintf(sealedNoOpJob, "data"), fill), pack(b, fmt.Sprintf(sealedNoOpJob, "data.sealed"), fill)
	c := newClient(b, w.trust(b, e))
	var without, with time.Duration
	runJob(b, c, plain) // warms the enclave
	runJob(b, c, sealed)
	for b.Loop() {
		start := time.Now()
		runJob(b, c, plain)
		without += time.Since(start)
		start = time.Now()
		runJob(b, c, sealed)
		with += time.Since(start)
	}
	ms := func(d time.Duration) float64 { return d.Seconds() * 1000 / float64(b.N) }
	b.ReportMetric(ms(without), "plain-ms")
	b.ReportMetric(ms(with), "sealed-ms")
	b.ReportMetric(ms(with-without), "more-ms")
	b.ReportMetric(0, "ns/op")
}
