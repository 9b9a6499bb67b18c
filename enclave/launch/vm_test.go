package launch_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/enclave/attest"
	"github.com/cloister-run/cloister/enclave/attest/devca"
	"github.com/cloister-run/cloister/enclave/devkit"
	"github.com/cloister-run/cloister/enclave/image"
	"github.com/cloister-run/cloister/enclave/image/eif"
	"github.com/cloister-run/cloister/enclave/image/kernel"
	"github.com/cloister-run/cloister/enclave/image/ramdisk"
	"github.com/cloister-run/cloister/enclave/launch"
	"github.com/cloister-run/cloister/enclave/launch/vhost/vsock"
	"github.com/cloister-run/cloister/enclave/proxy"
)

// cache is the folder with QEMU and a kernel that deploy/debian fills. Tests that boot a machine need it.
func cache(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("CLOISTER_VM")
	if dir == "" {
		t.Skip("CLOISTER_VM names no folder with qemu/run and kernel/: see `make test-vm`")
	}
	for _, name := range []string{"qemu/run", "kernel/vmlinuz", "kernel/modules"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const quiet = "console=ttyS0 quiet loglevel=4 reboot=t panic=-1 tsc_early_khz=2500000"

// guestImage is an image whose first process is testdata/guest.
func guestImage(t *testing.T, dir, commandLine string) string {
	t.Helper()
	guest := filepath.Join(t.TempDir(), "guest")
	build := exec.Command("go", "build", "-o", guest, "./testdata/guest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH=amd64")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	first := []ramdisk.Entry{
		folder("dev"), {Name: "dev/console", Node: &ramdisk.Node{Kind: ramdisk.Device, Mode: 0o600, Major: 5, Minor: 1}},
		content("init", 0o755, read(t, guest)), folder("cloister"), folder("cloister/modules"),
	}
	modules, err := kernel.Modules(t.Context(), os.DirFS(filepath.Join(dir, "kernel/modules")), []string{"virtio_mmio", "vmw_vsock_virtio_transport", "nsm"})
	if err != nil {
		t.Fatal(err)
	}
	for i, m := range modules {
		first = append(first, content(fmt.Sprintf("cloister/modules/%02d-%s.ko", i, m.Name), 0o644, m.Data))
	}
	path := filepath.Join(t.TempDir(), "guest.eif")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	_, err = eif.Write(t.Context(), f, eif.Spec{Memory: 256 << 20, CPUs: 2}, []eif.Part{
		eif.Bytes(eif.Kernel, read(t, filepath.Join(dir, "kernel/vmlinuz"))), eif.Bytes(eif.CommandLine, []byte(commandLine)),
		packed(t, first...), packed(t, content("second", 0o644, []byte("second ramdisk"))),
	})
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func folder(name string) ramdisk.Entry {
	return ramdisk.Entry{Name: name, Node: &ramdisk.Node{Kind: ramdisk.Folder, Mode: 0o755}}
}

func content(name string, mode uint32, data []byte) ramdisk.Entry {
	return ramdisk.Entry{Name: name, Node: &ramdisk.Node{Kind: ramdisk.File, Mode: mode, Size: int64(len(data)), Open: func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(data)), nil
	}}}
}

// packed is a ramdisk.
func packed(t *testing.T, entries ...ramdisk.Entry) eif.Part {
	t.Helper()
	var archive bytes.Buffer
	if err := ramdisk.Write(t.Context(), &archive, entries); err != nil {
		t.Fatal(err)
	}
	return eif.Bytes(eif.Ramdisk, archive.Bytes())
}

// bootGuest boots the guest, in a machine that ends with the test.
func bootGuest(t *testing.T, cfg launch.VMConfig) (*launch.VM, *devca.CA) {
	t.Helper()
	dir := cache(t)
	ca := newHome(t).CA()
	cfg.QEMU = filepath.Join(dir, "qemu/run")
	if cfg.Image == "" {
		cfg.Image = guestImage(t, dir, quiet)
	}
	cfg.NSM = func(pcrs attest.PCRSet) attest.Handler { return devkit.NewNSM(ca, pcrs, time.Now) }
	begun := time.Now()
	v, err := launch.QEMU(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("up after %v", time.Since(begun))
	t.Cleanup(func() {
		if err := v.Stop(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Log(v.Console())
		}
	})
	return v, ca
}

// ask opens a connection to the guest and sends a command.
func ask(t *testing.T, v *launch.VM, format string, args ...any) net.Conn {
	t.Helper()
	conn, err := v.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintf(conn, format+"\n", args...); err != nil {
		t.Fatal(err)
	}
	return conn
}

func answer(t *testing.T, v *launch.VM, format string, args ...any) []byte {
	t.Helper()
	data, err := io.ReadAll(ask(t, v, format, args...))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// A machine boots what was measured, with its command line and nothing more, and its module vouches for that.
func TestMachine(t *testing.T) {
	v, ca := bootGuest(t, launch.VMConfig{})
	if got := string(answer(t, v, "file /proc/cmdline")); got != quiet+"\n" {
		t.Errorf("the kernel was told %q", got)
	}
	nonce := make([]byte, 32)
	_, _ = rand.Read(nonce)
	document := answer(t, v, "attest %s", hex.EncodeToString(nonce))
	verified, err := attest.Verify(document, attest.Options{Root: ca.Root(), PCRs: v.PCRs(), Realm: attest.RealmLocal, Nonce: nonce, At: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	if verified == nil || v.PCRs()[0].IsZero() {
		t.Error("nothing was measured")
	}
	open := ask(t, v, "echo")
	_ = ask(t, v, "exit")
	<-v.Ended()
	if _, err := io.ReadAll(open); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("a stream of a machine that is gone: %v", err)
	}
	if _, err := v.Dial(t.Context()); !errors.Is(err, vsock.ErrEnded) {
		t.Errorf("a machine that is gone: %v", err)
	}
}

// In debug mode a genuine document says nothing of the image, and a client that expects it refuses.
func TestI5_MachineInDebugMode(t *testing.T) {
	v, ca := bootGuest(t, launch.VMConfig{Debug: true})
	document := answer(t, v, "attest 00")
	_, err := attest.Verify(document, attest.Options{Root: ca.Root(), Realm: attest.RealmLocal, PCRs: v.PCRs(), At: time.Now()})
	if violation := (*attest.Violation)(nil); !errors.As(err, &violation) || !strings.Contains(err.Error(), "debug") {
		t.Errorf("it is taken for the image: %v", err)
	}
	if v.PCRs()[0].IsZero() {
		t.Error("the image was not measured")
	}
}

// Bytes go both ways over several connections at once, many times what any buffer holds.
func TestMachineUnderLoad(t *testing.T) {
	v, _ := bootGuest(t, launch.VMConfig{})
	const streams, size = 8, 8 << 20
	begun := time.Now()
	all, ctx := errgroup.WithContext(t.Context())
	for range streams {
		all.Go(func() error { return echo(ctx, v, size) })
	}
	if err := all.Wait(); err != nil {
		t.Fatal(err)
	}
	took := time.Since(begun)
	t.Logf("%d times %d MiB there and back in %v: %.1f MB/s each way", streams, size>>20, took, streams*size/took.Seconds()/1e6)
}

func echo(ctx context.Context, v *launch.VM, size int) error {
	conn, err := v.Dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		return err
	}
	data := make([]byte, size)
	_, _ = rand.Read(data)
	sent := make(chan error, 1)
	go func() {
		_, err := io.Copy(conn, io.MultiReader(strings.NewReader("echo\n"), bytes.NewReader(data)))
		if err == nil {
			err = conn.(interface{ CloseWrite() error }).CloseWrite()
		}
		sent <- err
	}()
	sum := sha256.New()
	n, err := io.Copy(sum, conn)
	switch {
	case err != nil:
		return fmt.Errorf("after %d bytes: %w", n, err)
	case n != int64(size) || [32]byte(sum.Sum(nil)) != sha256.Sum256(data):
		return fmt.Errorf("%d bytes came back, of %d", n, size)
	}
	return <-sent
}

// The guest reaches the door, at either number of its parent, and nothing else.
func TestMachineReachesTheDoorAlone(t *testing.T) {
	v, _ := bootGuest(t, launch.VMConfig{Door: proxy.Config{Allow: []string{"kms:80"}, Dial: func(context.Context, string, string) (net.Conn, error) {
		near, far := net.Pipe()
		go func() { _, _ = io.WriteString(far, "the KMS"); _ = far.Close() }()
		return near, nil
	}}})
	for _, cid := range []int{2, image.ParentCID} {
		conn := ask(t, v, "dial %d %d\nCONNECT kms:80 HTTP/1.1\r\nHost: kms:80\r\n\r", cid, image.DoorPort)
		if got, err := io.ReadAll(conn); err != nil || !strings.HasPrefix(string(got), "<nil>\nHTTP/1.1 200 OK") || !strings.HasSuffix(string(got), "the KMS") {
			t.Errorf("%d: %q, %v", cid, got, err)
		}
		if got := string(answer(t, v, "dial %d %d", cid, image.DoorPort+100)); got != "connection reset by peer\n" {
			t.Errorf("%d: %q", cid, got)
		}
	}
}
