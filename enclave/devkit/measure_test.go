package devkit_test

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/enclave/attest"
	"github.com/cloister-run/cloister/enclave/devkit"
)

// anImage makes an image folder.
func anImage(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "image")
	for name, mode := range map[string]os.FileMode{
		"cloisterd": 0o755, "walls": 0o755, "policy": 0o755, "profile.json": 0o644,
		"executors/python/python": 0o755, "executors/python/manifest.json": 0o644, "etc/passwd": 0o644, "etc/empty": 0o644,
	} {
		path := filepath.Join(dir, name)
		content := []byte("content of " + name)
		if filepath.Base(name) == "empty" {
			content = nil
		}
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, content, mode)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("passwd", filepath.Join(dir, "etc", "link")); err != nil {
		t.Fatal(err)
	}
	return dir
}

func measure(t *testing.T, dir string) attest.PCRSet {
	t.Helper()
	set, err := devkit.Measure(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(set) != 3 || set[0].IsZero() || set[1].IsZero() || set[2].IsZero() || set[0] == set[1] || set[1] == set[2] {
		t.Fatalf("%v", set)
	}
	return set
}

// TestMeasureEverything: whatever an enclave could notice of its image is in PCR0, and in PCR1 if it boots
// from it, else in PCR2.
func TestMeasureEverything(t *testing.T) {
	write := func(name, content string) func(string) error {
		return func(dir string) error { return os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644) }
	}
	rename := func(from, to string) func(string) error {
		return func(dir string) error { return os.Rename(filepath.Join(dir, from), filepath.Join(dir, to)) }
	}
	chmod := func(name string, mode os.FileMode) func(string) error {
		return func(dir string) error { return os.Chmod(filepath.Join(dir, name), mode) }
	}
	remove := func(name string) func(string) error {
		return func(dir string) error { return os.Remove(filepath.Join(dir, name)) }
	}
	link := func(target, name string) func(string) error {
		return func(dir string) error {
			path := filepath.Join(dir, name)
			_ = os.Remove(path)
			return os.Symlink(target, path)
		}
	}
	all := func(changes ...func(string) error) func(string) error {
		return func(dir string) error {
			for _, change := range changes {
				if err := change(dir); err != nil {
					return err
				}
			}
			return nil
		}
	}
	for name, row := range map[string]struct {
		change      func(string) error
		boots, rest bool
	}{
		"nothing":                     {func(string) error { return nil }, false, false},
		"times":                       {func(dir string) error { return os.Chtimes(filepath.Join(dir, "walls"), unixEpoch, unixEpoch) }, false, false},
		"bits that nobody executes":   {chmod("etc/passwd", 0o600), false, false},
		"the daemon":                  {write("cloisterd", "content of cloisterD"), true, false},
		"the walls":                   {write("walls", "x"), true, false},
		"the profile":                 {write("profile.json", "content of profile.jso"), true, false},
		"the daemon is no program":    {chmod("cloisterd", 0o644), true, false},
		"daemon and walls swapped":    {all(rename("cloisterd", "x"), rename("walls", "cloisterd"), rename("x", "walls")), true, false},
		"an executor":                 {write("executors/python/python", "content of executors/python/pythom"), false, true},
		"an executor is no program":   {chmod("executors/python/python", 0o644), false, true},
		"a file is a program":         {chmod("etc/passwd", 0o645), false, true},
		"a file is renamed":           {rename("etc/passwd", "etc/passwe"), false, true},
		"a file moves":                {rename("etc/passwd", "executors/passwd"), false, true},
		"a folder is renamed":         {rename("etc", "etd"), false, true},
		"a file more":                 {write("etc/more", ""), false, true},
		"a file more at the top":      {write("more", ""), false, true},
		"a file less":                 {remove("etc/empty"), false, true},
		"an empty folder more":        {func(dir string) error { return os.Mkdir(filepath.Join(dir, "etc", "d"), 0o755) }, false, true},
		"a folder in place of a file": {all(remove("etc/empty"), func(dir string) error { return os.Mkdir(filepath.Join(dir, "etc", "empty"), 0o755) }), false, true},
		"an empty file is not":        {write("etc/empty", "\x00"), false, true},
		"a link elsewhere":            {link("empty", "etc/link"), false, true},
		"a link in place of a file":   {link("passwd", "etc/empty"), false, true},
		"a byte moves to the next":    {all(write("etc/empty", "c"), write("etc/passwd", "ontent of etc/passwd")), false, true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := anImage(t)
			before := measure(t, dir)
			if err := row.change(dir); err != nil {
				t.Fatal(err)
			}
			after := measure(t, dir)
			if got := before[1] != after[1]; got != row.boots {
				t.Errorf("PCR1 changed: %t", got)
			}
			if got := before[2] != after[2]; got != row.rest {
				t.Errorf("PCR2 changed: %t", got)
			}
			if got := before[0] != after[0]; got != (row.boots || row.rest) {
				t.Errorf("PCR0 changed: %t", got)
			}
		})
	}
}

// TestMeasureEveryByte: of every file.
func TestMeasureEveryByte(t *testing.T) {
	dir := anImage(t)
	before := measure(t, dir)
	for _, name := range []string{"cloisterd", "etc/passwd"} {
		path := filepath.Join(dir, name)
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for i := range content {
			content[i] ^= 1
			if err := os.WriteFile(path, content, 0o644); err != nil {
				t.Fatal(err)
			}
			if measure(t, dir)[0] == before[0] {
				t.Errorf("%s: byte %d is not measured", name, i)
			}
			content[i] ^= 1
		}
		if err := os.WriteFile(path, content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if measure(t, dir)[0] != before[0] {
		t.Error("the same image measures differently")
	}
}

// TestContentsHaveEnds: a file that holds what is measured of the next one does not stand for it.
func TestContentsHaveEnds(t *testing.T) {
	part := func(s string) string { return string(binary.BigEndian.AppendUint64(nil, uint64(len(s)))) + s }
	next := part("file") + part("etc/passwd")
	two := anImage(t)
	one := anImage(t)
	for path, content := range map[string]string{filepath.Join(two, "etc", "empty"): "a", filepath.Join(two, "etc", "passwd"): "b",
		filepath.Join(one, "etc", "empty"): "a" + next + "b"} {
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{filepath.Join(one, "etc", "passwd"), filepath.Join(one, "etc", "link"), filepath.Join(two, "etc", "link")} {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	if measure(t, one)[2] == measure(t, two)[2] {
		t.Error("two images measure alike")
	}
	for _, name := range []string{"etc", "executors"} {
		if err := os.RemoveAll(filepath.Join(one, name)); err != nil {
			t.Fatal(err)
		}
	}
	measure(t, one) // an image of nothing but what boots has three different registers too
}

// TestWhatIsNoImage: is not measured.
func TestWhatIsNoImage(t *testing.T) {
	for name, spoil := range map[string]func(string) error{
		"no daemon":  func(dir string) error { return os.Remove(filepath.Join(dir, "cloisterd")) },
		"no walls":   func(dir string) error { return os.Remove(filepath.Join(dir, "walls")) },
		"no worker":  func(dir string) error { return os.Remove(filepath.Join(dir, "policy")) },
		"no profile": func(dir string) error { return os.Remove(filepath.Join(dir, "profile.json")) },
		"the daemon a link": func(dir string) error {
			return errors.Join(os.Remove(filepath.Join(dir, "cloisterd")), os.Symlink("walls", filepath.Join(dir, "cloisterd")))
		},
		"a socket or a FIFO": func(dir string) error { return unix.Mkfifo(filepath.Join(dir, "etc", "fifo"), 0o600) },
		"no folder":          os.RemoveAll,
	} {
		dir := anImage(t)
		if err := spoil(dir); err != nil {
			t.Fatal(err)
		}
		if set, err := devkit.Measure(dir); err == nil || set != nil {
			t.Errorf("%s: %v", name, set)
		}
	}
}

var unixEpoch = time.Unix(0, 0)
