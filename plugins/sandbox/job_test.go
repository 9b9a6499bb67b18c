package sandbox_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/plugins/sandbox"
)

// worker is what an executor is: it listens on a socket in a folder, waits to be told that its
// assets are there, and reads them.
func worker([]string) int {
	l, err := net.Listen("unix", "/run/plugin/socket")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if entries, err := os.ReadDir("/job"); err != nil || len(entries) != 0 {
		fmt.Fprintln(os.Stderr, "before the start:", entries, err)
		return 1
	}
	fmt.Println("listening")
	c, err := l.Accept()
	if err != nil {
		return 1
	}
	line, _ := bufio.NewReader(c).ReadString('\n')
	raw, err := os.ReadFile("/job/inputs/" + line[:len(line)-1])
	fmt.Fprintf(c, "%s %v", raw, err)
	if err := os.WriteFile("/work/result", raw, 0o600); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := os.WriteFile("/job/inputs/other", nil, 0o600); err == nil {
		return 1
	}
	c.Close()
	return 0
}

// TestMounts_AJobsFolders: assets arrive by rename after the start, and are read-only; a socket
// of the sandbox is reached from outside; what it writes belongs to the owner.
func TestMounts_AJobsFolders(t *testing.T) {
	everybody(t, func(t *testing.T) {
		base := folder(t, 0o755)
		assets, staged := filepath.Join(base, "assets"), filepath.Join(base, "staged")
		for _, dir := range []string{assets, staged} {
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(staged, "model"), []byte("weights"), 0o644); err != nil {
			t.Fatal(err)
		}
		work, sockets := folder(t, 0o700), folder(t, 0o700)
		tmpfs := os.Geteuid() == 0
		if tmpfs { // an ordinary user's is mounted by the nested enclave's test
			if err := unix.Mount("tmpfs", work, "tmpfs", 0, fmt.Sprintf("size=1m,mode=0700,uid=%d,gid=%d", someone, someone)); err != nil {
				t.Fatal(err)
			}
			defer unix.Unmount(work, unix.MNT_DETACH)
		}
		s := spec(t, "worker")
		s.Mounts = append(s.Mounts,
			sandbox.Mount{Source: assets, Target: "/job"},
			sandbox.Mount{Source: work, Target: "/work", Writable: true},
			sandbox.Mount{Source: sockets, Target: "/run/plugin", Writable: true})
		r, w := held(t)
		s.Stdout = w
		p := start(t, s)
		w.Close()
		if said := line(t, r); said != "listening" {
			t.Fatal(said)
		}
		if err := os.Rename(staged, filepath.Join(assets, "inputs")); err != nil {
			t.Fatal(err)
		}
		c, err := net.Dial("unix", filepath.Join(sockets, "socket"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(deadline)); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(c, "model")
		if said, err := io.ReadAll(c); err != nil || string(said) != "weights <nil>" {
			t.Errorf("%q, %v", said, err)
		}
		if status, err := p.Wait(); status != 0 || err != nil {
			t.Errorf("ended with %d, %v", status, err)
		}
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(work, "result"), &st); err != nil || tmpfs && st.Uid != someone {
			t.Errorf("the result is of %d, %v", st.Uid, err)
		}
	})
}

// TestMounts_WhatIsMountedBelowIsHardened: a mount that lies inside of a given folder comes
// along, read-only like the folder.
func TestMounts_WhatIsMountedBelowIsHardened(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount something first; an ordinary user's /usr may hold mounts as well")
	}
	dir := folder(t, 0o755)
	for _, name := range []string{"with space", "locked"} {
		below := filepath.Join(dir, name)
		if err := os.Mkdir(below, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("tmpfs", below, "tmpfs", unix.MS_NOEXEC|unix.MS_NOATIME, "mode=0777"); err != nil {
			t.Fatal(err)
		}
		defer unix.Unmount(below, unix.MNT_DETACH)
	}
	s := spec(t, "below")
	s.Mounts = append(s.Mounts, sandbox.Mount{Source: dir, Target: "/job"},
		sandbox.Mount{Source: dir, Target: "/work", Writable: true})
	tryAll(t, s, below)
}

func flags(path string, want int64) func() error {
	return func() error {
		var st unix.Statfs_t
		err := unix.Statfs(path, &st)
		const all = unix.ST_RDONLY | unix.ST_NOSUID | unix.ST_NODEV | unix.ST_NOEXEC | unix.ST_NOATIME
		if got := int64(st.Flags) & all; err == nil && got != want {
			err = fmt.Errorf("flags %#x", got)
		}
		return err
	}
}

const kept = unix.ST_NOSUID | unix.ST_NODEV | unix.ST_NOEXEC | unix.ST_NOATIME

var below = []attempt{
	refused("writing below a read-only folder", write("/job/with space/file"), unix.EROFS),
	works("writing below a writable folder", write("/work/with space/file")),
	works("the flags of the first", flags("/job/with space", kept|unix.ST_RDONLY)),
	works("the flags of the second", flags("/job/locked", kept|unix.ST_RDONLY)),
	works("the flags of a writable one", flags("/work/locked", kept)),
}
