package border_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/cloister-run/cloister/core/border"
	"github.com/cloister-run/cloister/core/tree"
	"github.com/cloister-run/cloister/policies/abi"
)

// TestEgressRefuses: threats 28 and 29b. What may not be an output is refused before any
// policy looks.
func TestEgressRefuses(t *testing.T) {
	check := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, row := range []struct {
		rule  string
		tree  bool
		cause error
		make  func(t *testing.T, s *scene)
	}{
		{"an output that is missing", false, fs.ErrNotExist, func(*testing.T, *scene) {}},
		{"a folder where a file is declared", false, tree.ErrRefused, func(_ *testing.T, s *scene) { s.write("x/a", "") }},
		{"a file where a folder is declared", true, tree.ErrRefused, func(_ *testing.T, s *scene) { s.write("x", "") }},
		{"a link", false, tree.ErrRefused, func(t *testing.T, s *scene) { check(t, os.Symlink("/etc/passwd", s.dir+"/x")) }},
		{"a link to another output", false, tree.ErrRefused, func(t *testing.T, s *scene) { s.write("y", ""); check(t, os.Symlink("y", s.dir+"/x")) }},
		{"a link in a folder", true, tree.ErrRefused, func(t *testing.T, s *scene) { s.write("x/a", ""); check(t, os.Symlink("a", s.dir+"/x/b")) }},
		{"a hard link", false, tree.ErrRefused, func(t *testing.T, s *scene) { s.write("y", ""); check(t, os.Link(s.dir+"/y", s.dir+"/x")) }},
		{"hard links in a folder", true, tree.ErrRefused, func(t *testing.T, s *scene) { s.write("x/a", ""); check(t, os.Link(s.dir+"/x/a", s.dir+"/x/b")) }},
		{"a pipe", false, tree.ErrRefused, func(t *testing.T, s *scene) { check(t, syscall.Mkfifo(s.dir+"/x", 0o600)) }},
		{"a pipe in a folder", true, tree.ErrRefused, func(t *testing.T, s *scene) { s.write("x/a", ""); check(t, syscall.Mkfifo(s.dir+"/x/b", 0o600)) }},
		{"a socket in a folder", true, tree.ErrRefused, func(t *testing.T, s *scene) { s.write("x/a", ""); socket(t, s.dir, "x/s") }},
		{"a device", false, tree.ErrRefused, func(t *testing.T, s *scene) {
			if err := syscall.Mknod(s.dir+"/x", syscall.S_IFCHR|0o600, 1<<8|3); err != nil {
				t.Skip("devices are root's to make; the rows with pipes and sockets take the same way")
			}
		}},
		{"a huge file with a hole", false, tree.ErrTooLarge, func(t *testing.T, s *scene) { s.write("x", ""); check(t, os.Truncate(s.dir+"/x", 1<<40)) }},
		{"files that are too large together", true, tree.ErrTooLarge, func(t *testing.T, s *scene) {
			for _, name := range []string{"x/a", "x/b"} {
				s.write(name, "")
				check(t, os.Truncate(s.dir+"/"+name, plenty/2+1))
			}
		}},
		{"too many entries", true, tree.ErrTooLarge, func(t *testing.T, s *scene) {
			if testing.Short() {
				t.Skip("makes 100 001 files")
			}
			check(t, os.Mkdir(s.dir+"/x", 0o700))
			for i := range 100_001 {
				fd, err := syscall.Creat(fmt.Sprintf("%s/x/%d", s.dir, i), 0o600)
				check(t, err)
				check(t, syscall.Close(fd))
			}
		}},
		{"a name with a newline", true, tree.ErrRefused, func(_ *testing.T, s *scene) { s.write("x/a\nb", "") }},
		{"a name with an escape", true, tree.ErrRefused, func(_ *testing.T, s *scene) { s.write("x/\x1b[2J", "") }},
		{"a name that reorders a line", true, tree.ErrRefused, func(_ *testing.T, s *scene) { s.write("x/a\u202eb", "") }},
		{"a name that is not UTF-8", true, tree.ErrRefused, func(_ *testing.T, s *scene) { s.write("x/a\xff", "") }},
		{"a very deep folder", true, tree.ErrRefused, func(_ *testing.T, s *scene) { s.write("x/"+strings.Repeat("d/", 65)+"f", "") }},
	} {
		t.Run(row.rule, func(t *testing.T) {
			a := allow()
			s := newScene(t, own("a", a))
			row.make(t, s)
			s.pass(result)
			candidate := s.file(result, "x")
			candidate.Tree = row.tree
			c, err := s.egress(candidate)
			refused, ok := errors.AsType[*border.OutputError](err)
			if c != nil || !ok || refused.Channel != result || !errors.Is(err, border.ErrOutput) || !errors.Is(err, row.cause) {
				t.Errorf("got %v", err)
			}
			if errors.Is(err, border.ErrDenied) || len(a.asked) != 2 || len(s.recorder.at(abi.Egress)) != 0 {
				t.Errorf("a policy was asked, or a decision recorded")
			}
		})
	}
}

func socket(t *testing.T, dir, name string) {
	t.Helper()
	t.Chdir(dir) // socket names are short
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	if err := syscall.Bind(fd, &syscall.SockaddrUnix{Name: name}); err != nil {
		t.Fatal(err)
	}
}

func TestEgressRefusesTwoCandidatesForAChannel(t *testing.T) {
	s := newScene(t)
	s.write("r", "x")
	s.write("q", "y")
	s.pass(result)
	if _, err := s.egress(s.file(result, "r"), s.file(result, "q")); !errors.Is(err, border.ErrOutput) {
		t.Errorf("got %v", err)
	}
}

// The names in all outputs of a job are held in the enclave's own memory, so that there are bounds for all together.
func TestOutputsShareTheirEntries(t *testing.T) {
	if testing.Short() {
		t.Skip("makes 100 000 files")
	}
	s := newScene(t)
	for _, dir := range []string{"x", "y"} {
		if err := os.Mkdir(s.dir+"/"+dir, 0o700); err != nil {
			t.Fatal(err)
		}
		for i := range 50_000 {
			fd, err := syscall.Creat(fmt.Sprintf("%s/%s/%d", s.dir, dir, i), 0o600)
			if err != nil {
				t.Fatal(err)
			}
			_ = syscall.Close(fd)
		}
	}
	s.pass(result, model)
	c, err := s.egress(s.folder(result, "x"), s.folder(model, "y"))
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	s.write("y/more", "")
	again := newScene(t)
	again.pass(result, model)
	if _, err := again.egress(s.folder(result, "x"), s.folder(model, "y")); !errors.Is(err, tree.ErrTooLarge) {
		t.Errorf("got %v", err)
	}
}

func TestEgressRefusesNamesThatLeaveTheFolder(t *testing.T) {
	for _, name := range []string{"../x", "/etc/passwd", "", ".", "a/../x", "a//x"} {
		s := newScene(t)
		s.pass(result)
		if _, err := s.egress(s.file(result, name)); !errors.Is(err, tree.ErrRefused) {
			t.Errorf("%q: got %v", name, err)
		}
	}
}

// TestI1_ARefusalCarriesNothing: the application chooses names and kinds of files, and no
// policy judged them. With an owner in the job all refusals are one.
func TestI1_ARefusalCarriesNothing(t *testing.T) {
	told := map[string]bool{}
	for _, make := range []func(s *scene) border.Candidate{
		func(s *scene) border.Candidate { return s.file(model, "secret") },
		func(s *scene) border.Candidate { s.write("secret/x", ""); return s.file(model, "secret") },
		func(s *scene) border.Candidate { s.write("d/secret\n", ""); return s.folder(result, "d") },
		func(s *scene) border.Candidate {
			s.write("big", strings.Repeat("x", plenty+1))
			return s.file(result, "big")
		},
	} {
		s := newScene(t, own("o", allow()), owner("a", allow()))
		s.pass(result, model)
		_, err := s.egress(make(s))
		refused, ok := errors.AsType[*border.OutputError](err)
		if !ok || !errors.Is(err, border.ErrOutput) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, tree.ErrRefused) {
			t.Errorf("got %v", err)
			continue
		}
		told[fmt.Sprintf("%v %+v", err, *refused)] = true
	}
	if len(told) != 1 {
		t.Errorf("refusals differ: %v", told)
	}
}

// What was frozen and then denied or refused is let go of.
func TestNothingStaysOpenWithoutAClearance(t *testing.T) {
	open := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Skip("no /proc: ", err)
		}
		return len(entries)
	}
	for _, last := range []string{"r", "missing"} {
		s := newScene(t, owner("a", deny(abi.Egress, "")))
		s.write("r", "x")
		s.pass(result, model)
		before := open()
		if _, err := s.egress(s.file(model, "r"), s.file(result, last)); err == nil {
			t.Fatal("cleared")
		}
		if after := open(); after != before {
			t.Errorf("%d descriptors before, %d after", before, after)
		}
	}
}
