package sandbox_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/plugins/sandbox"
)

func TestStart_AProblemOfTheSpecIsNoMissingWall(t *testing.T) {
	everybody(t, func(t *testing.T) {
		plain := filepath.Join(folder(t, 0o755), "plain")
		if err := os.WriteFile(plain, []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
		for _, row := range []struct {
			rule string
			edit func(*sandbox.Spec)
			want string
		}{
			{"no init", func(s *sandbox.Spec) { s.Init = "" }, "Init:"},
			{"an init that is not there", func(s *sandbox.Spec) { s.Init = "/nowhere" }, "Init:"},
			{"an init that is a folder", func(s *sandbox.Spec) { s.Init = "/usr" }, "Init:"},
			{"an init that is no program", func(s *sandbox.Spec) { s.Init = plain }, "Init:"},
			{"no root", func(s *sandbox.Spec) { s.Root = "" }, "Root:"},
			{"a root that is not there", func(s *sandbox.Spec) { s.Root = "/nowhere" }, "root:"},
			{"a relative program", func(s *sandbox.Spec) { s.Path = "true" }, "Path:"},
			{"a program that is not there", func(s *sandbox.Spec) { s.Path = "/nowhere" }, "executing /nowhere"},
			{"a relative folder", func(s *sandbox.Spec) { s.Dir = "tmp" }, "Dir:"},
			{"a folder that is not there", func(s *sandbox.Spec) { s.Dir = "/nowhere" }, "working directory"},
			{"a nil file", func(s *sandbox.Spec) { s.Files = append(s.Files, nil) }, "Files[1]"},
			{"a negative limit", func(s *sandbox.Spec) { s.Limits.Memory = -1 }, "Limits:"},
			{"a negative owner", func(s *sandbox.Spec) { s.Owner = -2 }, "Owner:"},
			{"the machine's root", func(s *sandbox.Spec) { s.Owner = 0 }, "Owner:"},
			{"a relative target", func(s *sandbox.Spec) { s.Mounts = []sandbox.Mount{{Source: "/usr", Target: "usr"}} }, "Mounts[0]"},
			{"a target above", func(s *sandbox.Spec) { s.Mounts = []sandbox.Mount{{Source: "/usr", Target: "/a/../b"}} }, "Mounts[0]"},
			{"two kinds of mount", func(s *sandbox.Spec) { s.Mounts = []sandbox.Mount{{Source: "/usr", Target: "/a", Tmpfs: 1}} }, "Mounts[0]"},
			{"a source that is not there", func(s *sandbox.Spec) {
				s.Mounts = []sandbox.Mount{{Source: "/nowhere", Target: "/a"}}
			}, "/nowhere"},
			{"a target in a read-only folder", func(s *sandbox.Spec) {
				s.Mounts = append(s.Mounts, sandbox.Mount{Source: "/usr", Target: "/usr/not-there"})
			}, "/usr/not-there would lie in a read-only folder"},
			{"a target in the old root", func(s *sandbox.Spec) {
				s.Mounts = append(s.Mounts, sandbox.Mount{Source: "/usr", Target: "/.outer/tmp"})
			}, "/.outer"},
		} {
			t.Run(row.rule, func(t *testing.T) {
				s := spec(t, "sleeper")
				row.edit(&s)
				p, err := sandbox.Start(t.Context(), s)
				if err == nil {
					_ = p.Kill()
					_, _ = p.Wait()
				}
				if _, ok := errors.AsType[*sandbox.UnavailableError](err); err == nil || ok || !strings.Contains(err.Error(), row.want) {
					t.Errorf("got %v, want %q", err, row.want)
				}
			})
		}
	})
}

// without tries to start a sandbox in a user namespace that may have no others below.
func without(args []string) int {
	if err := os.WriteFile("/proc/sys/user/max_user_namespaces", []byte("0"), 0); err != nil {
		fmt.Println(err)
		return 1
	}
	_, err := sandbox.Start(context.Background(), sandbox.Spec{
		Init: args[0], Root: "/usr", Path: "/bin/true", Owner: -1,
	})
	u, ok := errors.AsType[*sandbox.UnavailableError](err)
	if !ok {
		fmt.Println("got", err)
		return 1
	}
	fmt.Print(u.Wall, "|", u.Cure)
	return 0
}

func TestStart_AMachineWithoutUserNamespaces(t *testing.T) {
	everybody(t, func(t *testing.T) {
		c := exec.CommandContext(t.Context(), selfPath, wallsPath)
		c.Env = []string{probeVar + "=without", noDelay}
		c.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  unix.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
		}
		if os.Getuid() == 0 { // of which the namespace's root would be the machine's
			c.SysProcAttr.UidMappings[0].HostID = someone
			c.SysProcAttr.GidMappings[0].HostID = someone
			c.SysProcAttr.Credential = &syscall.Credential{NoSetGroups: true}
		}
		out, err := c.CombinedOutput()
		wall, cure, _ := strings.Cut(string(out), "|")
		if err != nil || wall != "user namespace" || !strings.Contains(cure, "kernel.unprivileged_userns_clone=1") {
			t.Errorf("%v: %s", err, out)
		}
	})
}

func TestStart_EndsWithItsContext(t *testing.T) {
	everybody(t, func(t *testing.T) {
		why := errors.New("no longer wanted")
		for _, after := range []time.Duration{-1, 0, time.Millisecond, 4 * time.Millisecond} {
			ctx, cancel := context.WithCancelCause(t.Context())
			if after < 0 {
				cancel(why)
			} else {
				defer time.AfterFunc(after, func() { cancel(why) }).Stop()
			}
			p, err := sandbox.Start(ctx, spec(t, "sleeper"))
			if err == nil { // it was faster
				if err := p.Kill(); err != nil {
					t.Error(err)
				}
				_, _ = p.Wait()
			} else if !errors.Is(err, why) {
				t.Errorf("after %v: %v", after, err)
			}
			cancel(nil)
		}
	})
}

func TestStart_TheContextDoesNotBoundTheProgram(t *testing.T) {
	everybody(t, func(t *testing.T) {
		r, w := held(t)
		s := spec(t, "daemon", "stay")
		s.Files = append(s.Files, w)
		ctx, cancel := context.WithCancel(t.Context())
		p, err := sandbox.Start(ctx, s)
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		w.Close()
		line(t, r)
		if gone(t, r) {
			t.Error("the program ended with the context of its start")
		}
		if err := p.Kill(); err != nil {
			t.Error(err)
		}
		_, _ = p.Wait()
	})
}

func TestStart_ManyAtOnce(t *testing.T) {
	everybody(t, func(t *testing.T) {
		s := spec(t, "")
		s.Path, s.Args = "/usr/bin/true", nil
		results := make(chan error)
		for range 24 {
			go func() {
				p, err := sandbox.Start(t.Context(), s)
				if err == nil {
					_, err = p.Wait()
				}
				results <- err
			}()
		}
		for range 24 {
			if err := <-results; err != nil {
				t.Error(err)
			}
		}
	})
}

// TestWhatBelongsToARunningSystemIsNotOfTheRoot: an image's root file system brings such folders, which would be read-only.
func TestWhatBelongsToARunningSystemIsNotOfTheRoot(t *testing.T) {
	s := spec(t, "unused")
	for _, name := range []string{"run", "sys", "srv"} {
		if err := os.MkdirAll(filepath.Join(s.Root, name, "of-the-image"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s.Mounts = append(s.Mounts, sandbox.Mount{Source: folder(t, 0o755), Target: "/run/plugin"})
	s.Path, s.Args = "/bin/sh", []string{"-c", "test -d /run/plugin && test -d /srv/of-the-image && test ! -e /run/of-the-image && test ! -e /sys"}
	p, err := sandbox.Start(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if status, err := p.Wait(); status != 0 || err != nil {
		t.Errorf("%d, %v", status, err)
	}
}

func BenchmarkStart(b *testing.B) {
	root := b.TempDir()
	if err := os.Chmod(root, 0o755); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		p, err := sandbox.Start(b.Context(), sandbox.Spec{
			Init: wallsPath, Root: root, Mounts: system(), Path: "/usr/bin/true", Owner: owner(),
		})
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if _, err := p.Wait(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
