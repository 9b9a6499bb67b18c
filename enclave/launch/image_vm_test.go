package launch_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hf/nsm/request"
	"github.com/hf/nsm/response"
	"golang.org/x/sync/errgroup"

	"github.com/cloister-run/cloister/core/receipt"
	"github.com/cloister-run/cloister/enclave/attest"
	"github.com/cloister-run/cloister/enclave/client"
	"github.com/cloister-run/cloister/enclave/devkit"
	"github.com/cloister-run/cloister/enclave/image/eif"
	"github.com/cloister-run/cloister/enclave/launch"
	"github.com/cloister-run/cloister/enclave/proxy"
)

// withoutEntropy is a module that gives none.
type withoutEntropy struct{ attest.Handler }

func (w withoutEntropy) Answer(ctx context.Context, r request.Request) response.Response {
	if _, ok := r.(*request.GetRandom); ok {
		return response.Response{Error: response.ECInternalError}
	}
	return w.Handler.Answer(ctx, r)
}

// TestI2_MachineWithoutEntropy: where the module gives none, nothing is signed, and the enclave does not come up.
func TestI2_MachineWithoutEntropy(t *testing.T) {
	dir := cache(t)
	ca := newHome(t).CA()
	_, err := launch.QEMU(t.Context(), launch.VMConfig{
		Image: filepath.Join(dir, "cloister.eif"), QEMU: filepath.Join(dir, "qemu/run"),
		NSM: func(pcrs attest.PCRSet) attest.Handler { return withoutEntropy{devkit.NewNSM(ca, pcrs, time.Now)} },
	})
	if !errors.Is(err, launch.ErrStart) || !strings.Contains(err.Error(), "cloisterd: error: boot: machine: entropy: ") {
		t.Errorf("%v", err)
	}
}

// bootImage boots the image that `make vm` built, in a machine that ends with the test.
func bootImage(t *testing.T) (*launch.VM, client.Config) {
	t.Helper()
	dir := cache(t)
	ca := newHome(t).CA()
	v, err := launch.QEMU(t.Context(), launch.VMConfig{
		Image: filepath.Join(dir, "cloister.eif"), QEMU: filepath.Join(dir, "qemu/run"), Door: proxy.Config{},
		NSM: func(pcrs attest.PCRSet) attest.Handler { return devkit.NewNSM(ca, pcrs, time.Now) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v.Stop(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Log(v.Console())
		}
	})
	return v, client.Config{Dial: v.Dial, Root: ca.Root(), Realm: attest.RealmLocal, PCRs: v.PCRs()}
}

// TestMachineOfTheImage boots one machine for all that is seen of it from the outside.
func TestMachineOfTheImage(t *testing.T) {
	v, cfg := bootImage(t)
	t.Run("a job with more plain input than a small file system holds", func(t *testing.T) {
		const size = 48 << 20
		j := newJob(t, strings.Repeat("x", size), "import os, sys\nopen(sys.argv[2], 'w').write(str(os.path.getsize(sys.argv[1])))\n")
		report, err := j.run(t.Context(), t, cfg, client.Observer{})
		if err != nil || report.Result.Outcome != receipt.Succeeded || j.out() != strconv.Itoa(size) {
			t.Errorf("%+v, %v, %q", report, err, j.out())
		}
	})
	t.Run("a parent that floods the API", func(t *testing.T) { flood(t, v, cfg) })
	t.Run("I1 no application is heard on the console", func(t *testing.T) { hear(t, v, cfg) })
}

// flood has a hundred connections speak garbage, stall, or close at once; the enclave answers who asks properly.
func flood(t *testing.T, v *launch.VM, cfg client.Config) {
	garbage := make([]byte, 1<<20)
	_, _ = rand.Read(garbage)
	var all errgroup.Group
	for i := range 99 {
		conn, err := v.Dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		switch i % 3 {
		case 0:
			all.Go(func() error { return conn.Close() })
		case 1:
			all.Go(func() error { _, _ = conn.Write(garbage); return nil }) // it is hung up on
		case 2: // it says nothing
		}
	}
	if err := all.Wait(); err != nil {
		t.Error(err)
	}
	if _, err := newClient(t, cfg).Attest(t.Context()); err != nil {
		t.Error(err)
	}
}

// hear runs the hostile application of .ci/vm, whose children crash and run out of memory under a name that must not be heard.
func hear(t *testing.T, v *launch.VM, cfg client.Config) {
	app, err := os.ReadFile("../../.ci/vm/app/main.py")
	if err != nil {
		t.Fatal(err)
	}
	const name = "SECRET-4711"
	if !bytes.Contains(app, []byte(name)) {
		t.Fatal("the application says no secret")
	}
	j := newJob(t, "", string(app))
	j.text = "version: 1\nname: hostile\napplication: {from: app, command: {entrypoint: main.py, args: [\"${outputs.out}\"], outputs: {out: out}}}\n" +
		"outputs: {out: {save_to: out}}\nlimits: {cpus: 1, memory: 256MiB, disk: 16MiB, processes: 32, run: 5m}\n"
	report, err := j.run(t.Context(), t, cfg, client.Observer{})
	if err != nil || report.Result.Outcome != receipt.Succeeded {
		t.Fatalf("%+v, %v", report, err)
	}
	if !strings.Contains(j.out(), "shut restart the machine") || strings.Count(j.out(), "OPEN") != 1 {
		t.Errorf("%s", j.out())
	}
	if said := v.Console(); strings.Contains(said, name) || strings.Contains(said, "python") {
		t.Errorf("the console says %s", said)
	}
}

// TestMachineOfADamagedImage: an image that anybody changed after it was measured boots as nothing.
func TestMachineOfADamagedImage(t *testing.T) {
	dir := cache(t)
	image := filepath.Join(t.TempDir(), "damaged.eif")
	from, err := os.Open(filepath.Join(dir, "cloister.eif"))
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	to, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	size, err := io.Copy(to, from)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := to.WriteAt([]byte("x"), size/2); err != nil {
		t.Fatal(err)
	}
	if err := to.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = launch.QEMU(t.Context(), launch.VMConfig{
		Image: image, QEMU: filepath.Join(dir, "qemu/run"),
		NSM: func(attest.PCRSet) attest.Handler { t.Error("it was measured"); return nil },
	})
	if !errors.Is(err, launch.ErrStart) || !strings.Contains(err.Error(), "it is damaged") {
		t.Errorf("%v", err)
	}
}

// TestI5_MachineOfMovedBoundaries: an image whose command line begins a word later, which has become the end of the kernel,
// has the registers of the genuine one. The kernel boots; the enclave does not come up.
func TestI5_MachineOfMovedBoundaries(t *testing.T) {
	dir := cache(t)
	moved := filepath.Join(t.TempDir(), "moved.eif")
	moveBoundary(t, filepath.Join(dir, "cloister.eif"), moved)
	ca := newHome(t).CA()
	v, err := launch.QEMU(t.Context(), launch.VMConfig{
		Image: moved, QEMU: filepath.Join(dir, "qemu/run"),
		NSM: func(pcrs attest.PCRSet) attest.Handler { return devkit.NewNSM(ca, pcrs, time.Now) },
	})
	if err == nil {
		t.Fatal("it comes up", v.Stop())
	}
	if !errors.Is(err, launch.ErrStart) || !strings.Contains(err.Error(), "the kernel was not started with the command line of the image") {
		t.Error(err)
	}
}

// moveBoundary writes an image with the first word of its command line at the end of the kernel.
func moveBoundary(t *testing.T, from, to string) {
	t.Helper()
	f, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	img, err := eif.Read(f, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	genuine, err := img.Measure(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	line, err := io.ReadAll(img.Data(img.Sections[slices.IndexFunc(img.Sections, func(s eif.Section) bool { return s.Kind == eif.CommandLine })]))
	if err != nil {
		t.Fatal(err)
	}
	word := line[:bytes.IndexByte(line, ' ')+1]
	var parts []eif.Part
	for _, s := range img.Sections {
		data := io.Reader(img.Data(s))
		switch s.Kind {
		case eif.Kernel:
			data = io.MultiReader(data, bytes.NewReader(word))
		case eif.CommandLine:
			data = bytes.NewReader(line[len(word):])
		}
		parts = append(parts, eif.Part{Kind: s.Kind, Write: func(w io.Writer) error { _, err := io.Copy(w, data); return err }})
	}
	out, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	moved, err := eif.Write(t.Context(), out, eif.Spec{Memory: img.Memory, CPUs: img.CPUs}, parts)
	if err != nil || moved != genuine {
		t.Fatalf("%v; it measures as %v instead of %v", err, moved, genuine)
	}
}
