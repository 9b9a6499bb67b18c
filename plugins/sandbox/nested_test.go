package sandbox_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/plugins/sandbox"
)

// enclave is what the program of a nested enclave tries: it looks around, makes a file system
// for a job, and starts a sandbox on it.
var enclave = []attempt{
	works("is the first process", func() error {
		if os.Getpid() != 1 || os.Getuid() != 0 || os.Getgid() != 0 {
			return fmt.Errorf("is %d of %d:%d", os.Getpid(), os.Getuid(), os.Getgid())
		}
		return nil
	}),
	works("its descriptors", read("/proc/self/fd/3")),
	works("has capabilities and no filter", func() error {
		raw, err := os.ReadFile("/proc/self/status")
		if strings.Contains(string(raw), "CapEff:\t0000000000000000\n") || !strings.Contains(string(raw), "Seccomp:\t0\n") {
			err = errors.New(string(raw))
		}
		return err
	}),
	refused("/etc/shadow", read("/etc/shadow"), unix.ENOENT),
	refused("writing to the root", write("/file"), unix.EROFS),
	works("the root holds what is listed", func() error {
		entries, err := os.ReadDir("/")
		for _, e := range entries {
			if !strings.Contains(" bin dev lib lib64 proc run sbin sys tmp usr ", " "+e.Name()+" ") {
				err = errors.Join(err, errors.New(e.Name()))
			}
		}
		return err
	}),
	works("/dev/nsm, which is listed", read("/dev/nsm")),
	works("a socket that is listed", func() error {
		c, err := net.Dial("unix", "/run/control.sock")
		if err == nil {
			c.Close()
		}
		return err
	}),
	works("a file system for a job", func() error {
		if err := os.MkdirAll("/run/jobs/1/work", 0o755); err != nil {
			return err
		}
		if err := unix.Mount("tmpfs", "/run/jobs/1/work", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "size=1m"); err != nil {
			return err
		}
		return os.Chown("/run/jobs/1/work", jobOwner(), jobOwner())
	}),
	works("a sandbox on it", job),
}

// jobOwner is the user that owns a job's folders, as the enclave sees it.
func jobOwner() int {
	raw, _ := os.ReadFile("/proc/self/uid_map")
	if strings.Fields(string(raw))[1] == "0" {
		return someone
	}
	return 0
}

// job starts a sandbox in a nested enclave and checks what its probe says.
func job() error {
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	user := jobOwner()
	if user == 0 {
		user = -1
	}
	assets, root := "/run/jobs/1/assets", "/run/jobs/1/root"
	if err := errors.Join(os.Mkdir(assets, 0o755), os.Mkdir(root, 0o755)); err != nil {
		return err
	}
	p, err := sandbox.Start(context.Background(), sandbox.Spec{
		Init: "/sbin/cloister-walls", Root: root, Path: "/proc/self/fd/3",
		Mounts: append(system(),
			sandbox.Mount{Source: assets, Target: "/job"},
			sandbox.Mount{Source: "/run/jobs/1/work", Target: "/work", Writable: true}),
		Env: []string{probeVar + "=inmate", noDelay}, Owner: user, Stdout: w, Stderr: os.Stderr, Files: []*os.File{self},
	})
	if err != nil {
		return err
	}
	w.Close()
	var results map[string]result
	if err := json.NewDecoder(r).Decode(&results); err != nil {
		return err
	}
	if status, err := p.Wait(); status != 0 || err != nil {
		return fmt.Errorf("ended with %d, %w", status, err)
	}
	for rule, r := range results {
		if r.Error != "" {
			return fmt.Errorf("%s: %s", rule, r.Error)
		}
	}
	if raw, err := os.ReadFile("/run/jobs/1/work/result"); err != nil || string(raw) != "x" {
		return fmt.Errorf("the result is %q, %w", raw, err)
	}
	if user != -1 && p.Walls()[1] != "memory: cgroup" {
		return fmt.Errorf("the walls are %v", p.Walls())
	}
	return nil
}

var inmate = []attempt{
	works("writing the result", write("/work/result")),
	works("the size of the file system", func() error {
		if err := os.WriteFile("/work/large", make([]byte, 2<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
			return fmt.Errorf("writing 2 MiB to 1 MiB: %w", err)
		}
		return os.Remove("/work/large")
	}),
	works("is its own user", func() error {
		if os.Getuid() != sandbox.InsideUID || os.Getpid() == 1 {
			return fmt.Errorf("is %d of %d", os.Getpid(), os.Getuid())
		}
		return nil
	}),
	works("sees no NSM", func() error {
		if _, err := os.Stat("/dev/nsm"); !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("/dev/nsm: %w", err)
		}
		return nil
	}),
	works("sees nothing of the enclave", func() error {
		for _, path := range []string{"/run", "/sbin", "/sys"} {
			if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("%s: %w", path, err)
			}
		}
		return nil
	}),
}

func TestNested_AnEnclaveStartsSandboxes(t *testing.T) {
	everybody(t, func(t *testing.T) {
		dir := folder(t, 0o755)
		l, err := net.Listen("unix", filepath.Join(dir, "control.sock"))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		s := spec(t, "enclave")
		s.Nested, s.Root, s.Owner = true, "", 0
		s.Mounts = append(s.Mounts,
			sandbox.Mount{Source: wallsPath, Target: "/sbin/cloister-walls"},
			sandbox.Mount{Source: "/dev/null", Target: "/dev/nsm"},
			sandbox.Mount{Target: "/run", Tmpfs: 8 << 20},
			sandbox.Mount{Source: filepath.Join(dir, "control.sock"), Target: "/run/control.sock"},
		)
		if os.Geteuid() == 0 {
			s.Mounts = append(s.Mounts, sandbox.Mount{Source: "/sys/fs/cgroup", Target: "/sys/fs/cgroup", Writable: true})
		}
		tryAll(t, s, enclave)
	})
}
