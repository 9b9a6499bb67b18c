package client_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/core/tree"
	"github.com/cloister-run/cloister/enclave/client"
	"github.com/cloister-run/cloister/enclave/launch/launchtest"
	"github.com/cloister-run/cloister/jobspec"
)

// TestAsOrdinaryUser runs every test once more, as a user with no rights.
func TestAsOrdinaryUser(t *testing.T) { launchtest.AsOrdinaryUser(t, "", nil) }

// TestPrepareReportsEverythingAtOnce: one look tells everything that is wrong, by line.
func TestPrepareReportsEverythingAtOnce(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "file"), "")
	write(t, filepath.Join(dir, "full/x"), "")
	write(t, filepath.Join(dir, "folder/x"), "")
	if err := os.Mkdir(filepath.Join(dir, "empty"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("empty", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	job, err := jobspec.Parse("job.yaml", []byte(`version: 1
name: wrong
application:
  from: file
  command:
    entrypoint: main.py
    outputs: {a: a, b: b/, c: c/}
inputs:
  gone: {from: gone}
outputs:
  a: {save_to: full}
  b: {save_to: other/../full2/../file/below}
  c: {save_to: link}
policies:
  - use: library/gone
  - module: folder
`))
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.Prepare(job, client.Options{Dir: dir, Library: dir})
	problems, ok := errors.AsType[*jobspec.Problems](err)
	if !ok {
		t.Fatalf("%T %v", err, err)
	}
	var got []string
	for _, p := range *problems {
		got = append(got, fmt.Sprintf("%d %s", p.Line, p.Path))
		if p.Hint == "" {
			t.Errorf("%s has no hint", p)
		}
	}
	want := "4 application.from, 9 inputs.gone.from, 11 outputs.a.save_to, 12 outputs.b.save_to, " +
		"13 outputs.c.save_to, 15 policies[0].use, 16 policies[1].module"
	if strings.Join(got, ", ") != want {
		t.Errorf("got  %s\nwant %s", strings.Join(got, ", "), want)
	}
}

// TestAnEnvironmentIsLookedAtBeforeItIsSent: one that the application cannot run in is no gigabyte of upload.
func TestAnEnvironmentIsLookedAtBeforeItIsSent(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "app/main.py"), "")
	write(t, filepath.Join(dir, "file"), "")
	write(t, filepath.Join(dir, "bare/x"), "")
	write(t, filepath.Join(dir, "ruby/environment.json"), `{"version": 1, "executor": "ruby", "runtime": "Ruby 3.3", "platform": "any", "packages": []}`)
	write(t, filepath.Join(dir, "good/environment.json"), `{"version": 1, "executor": "python", "runtime": "CPython 3.11", "platform": "any", "packages": []}`)
	source, err := tree.Open(filepath.Join(dir, "good"), tree.Limits{Bytes: 1 << 20, Entries: 10})
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	sum, err := source.Digest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	other := "sha256:" + strings.Repeat("e", 64)
	for _, test := range []struct{ from, accepted, want string }{
		{"nowhere", "", `"nowhere" does not exist`},
		{"file", "", `"file" is a file`},
		{"bare", "", "environment.json: "},
		{"ruby", "", `"ruby" is for the executor ruby, and the application needs python`},
		{"good", other, `"good" is ` + sum.Digest + ", and the application runs in others alone"},
		{"good", other + ", " + sum.Digest, ""},
		{"good", "", ""},
	} {
		text := "version: 1\nname: x\nenvironment: " + test.from +
			"\napplication: {from: app, command: {entrypoint: main.py, environments: [" + test.accepted + "]}}\n"
		job, err := jobspec.Parse(filepath.Join(dir, "job.yaml"), []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		p, err := client.Prepare(job, client.Options{Dir: dir})
		if err == nil {
			p.Close()
		}
		problems, isProblem := errors.AsType[*jobspec.Problems](err)
		switch {
		case test.want == "" && err != nil:
			t.Errorf("%s: %v", test.from, err)
		case test.want != "" && (!isProblem || (*problems)[0].Path != "environment" || !strings.Contains((*problems)[0].Message, test.want) || (*problems)[0].Hint == ""):
			t.Errorf("%s: %v, want %q", test.from, err, test.want)
		}
	}
}

// TestPrepareLeavesNothing: looking at destinations makes no file and no folder.
func TestPrepareLeavesNothing(t *testing.T) {
	dir := newJob(t)
	prepare(t, dir).Close()
	if names := below(t, dir); len(names) != 2 {
		t.Errorf("left behind: %v", names)
	}
}

func TestCheckReceipt(t *testing.T) {
	dir := newJob(t)
	p := prepare(t, dir)
	defer p.Close()
	for place, ok := range map[string]bool{
		"receipt.json": true, "new/deep/receipt.json": true, "out/receipt.json": true,
		"out": false, "out/deep": false, "out/deep/file": false, "out/tree/receipt.json": false,
		"app": false, "app/main.py/receipt": false,
	} {
		message, hint := p.CheckReceipt(filepath.Join(dir, place))
		if (message == "") != ok || (message == "") != (hint == "") {
			t.Errorf("%s: %q, hint %q", place, message, hint)
		}
	}
}

func TestWriteAtomically(t *testing.T) {
	for name, writeTo := range map[string]func(string, []byte) error{"nameless": client.WriteAtomically, "named": client.LandNamed} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for _, content := range []string{"first", "second"} {
				if err := writeTo(filepath.Join(dir, "f"), []byte(content)); err != nil {
					t.Fatal(err)
				}
				if got, _ := os.ReadFile(filepath.Join(dir, "f")); string(got) != content {
					t.Errorf("the file holds %q, want %q", got, content)
				}
			}
			if names := below(t, dir); len(names) != 1 {
				t.Errorf("left behind: %v", names)
			}
			if err := writeTo(filepath.Join(dir, strings.Repeat("n", 255)), nil); err != nil {
				t.Errorf("a name as long as names can be: %v", err)
			}
		})
	}
	t.Run("folders", func(t *testing.T) {
		dir := t.TempDir()
		if err := client.WriteAtomically(filepath.Join(dir, "a/b/f"), []byte("x")); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, "c/f/mine"), "mine")
		err := client.WriteAtomically(filepath.Join(dir, "c/f"), nil)
		if !errors.Is(err, client.ErrLanding) || len(below(t, dir)) != 6 {
			t.Errorf("error %v; there is %v", err, below(t, dir))
		}
	})
}

// fullDisk makes the test binary run TestFullDisk where it may mount a small disk.
const fullDisk = "CLOISTER_TEST_FULL_DISK"

// TestFullDisk: where there is no room for one artifact, none lands, and all room is given back.
func TestFullDisk(t *testing.T) {
	if os.Getenv(fullDisk) == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestFullDisk$", "-test.v")
		cmd.Env = append(os.Environ(), fullDisk+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
		}
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: TestFullDisk") {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	dir := newJob(t)
	for _, name := range []string{"out", "out/deep"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	small := filepath.Join(dir, "out")
	if err := unix.Mount("tmpfs", small, "tmpfs", 0, "size=4096,nr_inodes=8"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(small, unix.MNT_DETACH)
	write(t, filepath.Join(small, "mine"), "mine") // one block is all that there is
	var l liar
	if _, err := l.meet(t.Context(), t, dir, nil); !errors.Is(err, client.ErrLanding) || !errors.Is(err, unix.ENOSPC) {
		t.Errorf("error %v, want %v and %v", err, client.ErrLanding, unix.ENOSPC)
	}
	if names := below(t, small); len(names) != 1 {
		t.Errorf("left behind: %v", names)
	}
	if err := client.WriteAtomically(filepath.Join(small, "record"), []byte("x")); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("error %v, want %v", err, unix.ENOSPC)
	}
}
