package border_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
	"testing"

	"filippo.io/age"
	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/core/border"
	"github.com/cloister-run/cloister/core/coretest"
	"github.com/cloister-run/cloister/core/tree"
	"github.com/cloister-run/cloister/policies/abi"
)

func identity(t *testing.T) *age.X25519Identity {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// opened is what an identity finds in an age file.
func opened(file string, id age.Identity) (string, error) {
	r, err := age.Decrypt(strings.NewReader(file), id)
	if err != nil {
		return "", err
	}
	content, err := io.ReadAll(r)
	return string(content), err
}

// TestI1_WhatIsSealedIsWhatWasJudged: policies judge the content and are told who will have it; what
// leaves is an age file that each recipient opens and nobody else, and its facts are the file's own.
func TestI1_WhatIsSealedIsWhatWasJudged(t *testing.T) {
	alice, bob, eve := identity(t), identity(t), identity(t)
	both := []string{alice.Recipient().String(), bob.Recipient().String()}
	redacts, _ := redactor("a", appends("1"))
	judged := 0
	watcher := at(abi.Egress, func(_ context.Context, r abi.Request, files abi.Files) (abi.Decision, error) {
		judged++
		for _, a := range r.Artifacts {
			switch {
			case a.Channel == result && (len(a.Recipients) != 2 || a.Bytes != 5 || a.Digest != coretest.Digest("text1")):
				t.Errorf("judged %+v", a)
			case a.Channel == model && (len(a.Recipients) != 1 || a.Kind != "tree"):
				t.Errorf("judged %+v", a)
			case a.Channel == abi.Stdout && a.Recipients != nil:
				t.Errorf("judged %+v", a)
			}
		}
		content, err := fs.ReadFile(files.Artifacts, string(result))
		if err != nil || string(content) != "text1" {
			t.Errorf("judges %q, %v", content, err)
		}
		return abi.Decision{Allow: true}, nil
	})
	s := newSealedScene(t, map[abi.Channel][]string{result: both, model: both[:1]}, owner("b", watcher), redacts)
	s.write("r", "text")
	s.write("m/a/b", "weights")
	s.write("log", "log")
	s.pass(result, model, abi.Stdout)
	c, err := s.egress(s.file(result, "r"), s.folder(model, "m"), s.file(abi.Stdout, "log"))
	if err != nil || judged != 1 {
		t.Fatalf("judged %d times, %v", judged, err)
	}
	for _, a := range c.Artifacts() {
		got, err := release(t, c, a.Channel)
		if err != nil || a.Kind != "file" || a.Digest != coretest.Digest(got) || a.Bytes != int64(len(got)) || a.Files != 1 {
			t.Errorf("released %d bytes, said to be %+v, %v", len(got), a, err)
		}
		if plain := a.Channel == abi.Stdout; plain != (a.Recipients == nil) || plain != (got == "log") {
			t.Errorf("%s: for %v: %q", a.Channel, a.Recipients, got)
		}
	}
	file, _ := release(t, c, result)
	for _, id := range []age.Identity{alice, bob} {
		if got, err := opened(file, id); err != nil || got != "text1" {
			t.Errorf("opened %q, %v", got, err)
		}
	}
	if got, err := opened(file, eve); err == nil {
		t.Errorf("a stranger opens %q", got)
	}
	file, _ = release(t, c, model)
	if got, err := opened(file, bob); err == nil {
		t.Errorf("a recipient of another output opens %q", got)
	}
	archive, err := opened(file, alice)
	if err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if _, err := tree.Unpack(t.Context(), strings.NewReader(archive), root, tree.Limits{Bytes: plenty, Entries: 10}); err != nil {
		t.Fatal(err)
	}
	if got, err := root.ReadFile("a/b"); err != nil || string(got) != "weights" {
		t.Errorf("unpacked %q, %v", got, err)
	}
}

// TestI2_WhatCannotBeSealedDoesNotLeave: neither plain nor at all, and nothing else of the job either.
func TestI2_WhatCannotBeSealedDoesNotLeave(t *testing.T) {
	for name, spoil := range map[string]func(s *scene, to []string){
		"no folder for it":         func(s *scene, _ []string) { os.Remove(s.sealed.Name()) },
		"a name that is taken":     func(s *scene, _ []string) { _ = s.sealed.WriteFile(string(result), nil, 0o600) },
		"a recipient that is none": func(_ *scene, to []string) { to[0] = "age1x" },
	} {
		t.Run(name, func(t *testing.T) {
			to := []string{identity(t).Recipient().String()}
			s := newSealedScene(t, map[abi.Channel][]string{result: to}, owner("a", allow()))
			spoil(s, to)
			s.write("r", "secret")
			s.write("log", "log")
			s.pass(result, abi.Stdout)
			c, err := s.egress(s.file(result, "r"), s.file(abi.Stdout, "log"))
			if _, isOutput := errors.AsType[*border.OutputError](err); c != nil || err == nil || isOutput {
				t.Errorf("%+v, %v", c, err)
			}
		})
	}
}

// TestI2_WhatDoesNotFitSealedDoesNotLeave: nothing of the job does, and the operator is told what is too large.
func TestI2_WhatDoesNotFitSealedDoesNotLeave(t *testing.T) {
	s := newSealedScene(t, map[abi.Channel][]string{result: {identity(t).Recipient().String()}}, owner("a", allow()))
	if err := unix.Mount("tmpfs", s.sealed.Name(), "tmpfs", 0, "size=64k"); err != nil {
		if os.Geteuid() == 0 {
			t.Fatal(err)
		}
		t.Skip("a file system of 64 KiB is root's to mount")
	}
	t.Cleanup(func() {
		if err := unix.Unmount(s.sealed.Name(), unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	small, err := os.OpenRoot(s.sealed.Name()) // what is mounted there now
	if err != nil {
		t.Fatal(err)
	}
	defer small.Close()
	s.sealed = small
	s.write("r", strings.Repeat("x", 128<<10))
	s.write("log", "log")
	s.pass(result, abi.Stdout)
	c, err := s.egress(s.file(result, "r"), s.file(abi.Stdout, "log"))
	refused, ok := errors.AsType[*border.OutputError](err)
	if c != nil || !ok || refused.Channel != result || !strings.Contains(err.Error(), "no space") {
		t.Errorf("%+v, %v", c, err)
	}
}

// A cap counts what is sealed, not the encryption around it.
func TestACapCountsWhatIsSealed(t *testing.T) {
	to := map[abi.Channel][]string{result: {identity(t).Recipient().String()}}
	for content, allowed := range map[string]bool{"1234": true, "12345": false} {
		s := newSealedScene(t, to, owner("a", consent(map[abi.Channel]int64{result: 4}, result)))
		s.write("r", content)
		s.pass(result)
		if c, err := s.egress(s.file(result, "r")); (err == nil) != allowed || !allowed && !errors.Is(err, border.ErrDenied) {
			t.Errorf("%d bytes: %v, %v", len(content), c, err)
		}
	}
}
