package launchtest

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// handedVar names the folder that [AsOrdinaryUser] hands over. Only tests look at it.
const handedVar = "CLOISTER_TEST_HANDED"

// nobody is the ordinary user that tests run as once more where they run as root.
const nobody = 65534

// Handed is the folder with everything that the tests of an ordinary user need: they have no
// build cache, and perhaps no way to the checkout. Empty elsewhere.
func Handed() string { return os.Getenv(handedVar) }

// AsOrdinaryUser runs every other test of this binary once more, as a user with no rights and a
// home of its own, and gives what the tests said. bin is what [Build] filled, or empty; with
// folders it is copied to the folder that is handed over, under bin and the names given. Without root there
// is no other user to become: the tests already run as an ordinary one.
func AsOrdinaryUser(t *testing.T, bin string, folders map[string]string) (said string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Log("these tests run as an ordinary user already")
		return ""
	}
	handed := handOver(t, bin, folders)
	cmd := exec.Command(filepath.Join(handed, "test"), "-test.v", "-test.timeout=8m", "-test.skip=^"+t.Name()+"$")
	cmd.Dir = handed
	cmd.Env = []string{
		handedVar + "=" + handed, "HOME=" + filepath.Join(handed, "home"), "TMPDIR=" + filepath.Join(handed, "tmp"),
		"PATH=/usr/local/bin:/usr/bin:/bin",
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("as user %d: %v\n%s", nobody, err, out)
	}
	return string(out)
}

func handOver(t *testing.T, bin string, folders map[string]string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "cloister-nobody-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // a folder of our own making
	for _, name := range []string{"home", "tmp"} {
		err = errors.Join(err, os.Mkdir(filepath.Join(dir, name), 0o755))
	}
	for name, from := range folders {
		err = errors.Join(err, os.CopyFS(filepath.Join(dir, name), os.DirFS(from)))
	}
	for _, name := range []string{"enclave", "rehearsal", "library"} {
		if bin != "" {
			err = errors.Join(err, os.CopyFS(filepath.Join(dir, "bin", name), os.DirFS(filepath.Join(bin, name))))
		}
	}
	exe, exeErr := os.Executable()
	if exeErr == nil {
		exeErr = copyFile(exe, filepath.Join(dir, "test"))
	}
	if err := errors.Join(err, exeErr, give(dir)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// give makes everything below dir the ordinary user's.
func give(dir string) error {
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return fs.WalkDir(root.FS(), ".", func(name string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return root.Lchown(name, nobody, nobody)
	})
}

func copyFile(from, to string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	_, err = io.Copy(out, in)
	return err
}
