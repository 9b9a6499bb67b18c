package space_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/cloister-run/cloister/core/space"
)

// inside is set in the environment of a test binary that runs in namespaces of its own.
const inside = "CLOISTER_SPACE_TEST"

// TestMain runs the tests in a user and a mount namespace, as root there: once as the user who
// runs them, and where that is root, as an ordinary user too. Nothing outside sees their mounts.
func TestMain(m *testing.M) {
	if os.Getenv(inside) != "" {
		os.Exit(m.Run())
	}
	users := []int{os.Getuid()}
	if os.Getuid() == 0 {
		users = append(users, 65534)
	}
	for _, uid := range users {
		if err := again(uid); err != nil {
			fmt.Fprintf(os.Stderr, "as user %d: %v\n", uid, err)
			os.Exit(1)
		}
	}
}

func again(uid int) error {
	dir, err := os.MkdirTemp("", "space")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	self, err := os.Open("/proc/self/exe") // a path that an ordinary user may not reach does not matter
	if err != nil {
		return err
	}
	defer self.Close()
	gid := uid
	if uid == os.Getuid() {
		gid = os.Getgid()
	}
	if err := errors.Join(os.Chmod(dir, 0o755), os.Chown(dir, uid, gid)); err != nil {
		return err
	}
	// What `go test` has a test write for itself is not this user's to write.
	args := slices.DeleteFunc(slices.Clone(os.Args[1:]), func(arg string) bool {
		return strings.HasPrefix(arg, "-test.testlogfile=") || strings.HasPrefix(arg, "-test.coverprofile=") ||
			strings.HasPrefix(arg, "-test.gocoverdir=")
	})
	cmd := exec.Command("/proc/self/fd/3", args...)
	cmd.ExtraFiles = []*os.File{self}
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), inside+"=1", "TMPDIR="+dir)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	// With Unshareflags the mounts are private: syscall sees to it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	if uid != 0 {
		// An ordinary user is root in a namespace of their own, where root is they and nobody else is.
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: gid, Size: 1}}
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: 0, Gid: 0, NoSetGroups: true}
	}
	return cmd.Run()
}

// alone says that this process can be no other user than the one it is.
func alone(t *testing.T) bool {
	t.Helper()
	raw, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(raw))[2] == "1"
}

func maker(t *testing.T) (*space.Maker, string) {
	t.Helper()
	dir := t.TempDir()
	return space.NewMaker(dir, !alone(t)), dir
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func mounts(t *testing.T) string {
	t.Helper()
	raw, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	return string(raw)
}

func TestAJobsFolders(t *testing.T) {
	m, dir := maker(t)
	s, err := m.Make("job", 1<<20, 0)
	must(t, err)
	for _, folder := range []struct {
		path string
		mode fs.FileMode
		own  bool // by the job's user
	}{
		{s.Staging, 0o755, false},
		{s.Assets, 0o755, false},
		{s.Own, 0o755, false},
		{s.Work, 0o700, true},
		{s.Redacted, 0o700, false},
		{s.Socket, 0o700, true},
		{filepath.Join(s.Work, space.Outputs), 0o700, true},
		{filepath.Join(s.Work, space.Logs), 0o700, true},
		{filepath.Join(s.Work, space.Temp), 0o700, true},
	} {
		info, err := os.Stat(folder.path)
		must(t, err)
		owner := 0
		if folder.own && s.Owner >= 0 {
			owner = s.Owner
		}
		if info.Mode().Perm() != folder.mode || int(info.Sys().(*syscall.Stat_t).Uid) != owner {
			t.Errorf("%s: %v of user %d, want %v of %d", folder.path, info.Mode(), info.Sys().(*syscall.Stat_t).Uid, folder.mode, owner)
		}
	}
	if (s.Owner == -1) != alone(t) {
		t.Errorf("owner %d", s.Owner)
	}
	must(t, s.Wipe())
	must(t, s.Wipe())
	if left, _ := os.ReadDir(dir); len(left) != 0 || strings.Contains(mounts(t), dir) {
		t.Errorf("left %v", left)
	}
}

func TestTheDiskLimitHolds(t *testing.T) {
	m, _ := maker(t)
	s, err := m.Make("job", 1<<20, 0)
	must(t, err)
	defer s.Wipe()
	err = os.WriteFile(filepath.Join(s.Work, space.Outputs, "big"), make([]byte, 1<<20+1), 0o600)
	if !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("a file of a byte too much: %v", err)
	}
	must(t, os.Remove(filepath.Join(s.Work, space.Outputs, "big")))
	must(t, os.WriteFile(filepath.Join(s.Work, space.Temp, "fits"), make([]byte, 1<<20), 0o600))
	must(t, os.Remove(filepath.Join(s.Work, space.Temp, "fits")))
	for i := range 1 << 10 {
		if err = os.WriteFile(filepath.Join(s.Work, space.Temp, fmt.Sprint(i)), nil, 0o600); err != nil {
			break
		}
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("as many empty files as one likes: %v", err)
	}
}

// TestI6_TheSocketFolderIsBounded: the application may write there as its executor may, and
// must take neither memory nor files that other jobs need.
func TestI6_TheSocketFolderIsBounded(t *testing.T) {
	t.Parallel()
	m, _ := maker(t)
	s, err := m.Make("job", 1<<20, 0)
	must(t, err)
	err = os.WriteFile(filepath.Join(s.Socket, "big"), make([]byte, 1<<20), 0o600)
	if !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("1 MiB beside the socket: %v, want ENOSPC", err)
	}
	err = nil
	for i := 0; err == nil && i < 1000; i++ {
		err = os.WriteFile(filepath.Join(s.Socket, fmt.Sprint(i)), nil, 0o600)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("1000 files beside the socket: %v, want ENOSPC", err)
	}
	must(t, os.WriteFile(filepath.Join(s.Own, "exit"), []byte("0"), 0o600))
	must(t, s.Wipe())
}

func TestWorkGrantsNoRights(t *testing.T) {
	m, _ := maker(t)
	s, err := m.Make("job", 1<<20, 0)
	must(t, err)
	defer s.Wipe()
	for line := range strings.Lines(mounts(t)) {
		if strings.Contains(line, filepath.Dir(s.Work)) && (!strings.Contains(line, "nosuid") || !strings.Contains(line, "nodev")) {
			t.Error(line)
		}
	}
}

func TestI9_WipeLeavesNothing(t *testing.T) {
	m, dir := maker(t)
	s, err := m.Make("job", 16<<20, 0)
	must(t, err)
	deep := filepath.Join(s.Work, strings.Repeat("d/", 1000))
	must(t, os.MkdirAll(deep, 0o700))
	must(t, os.WriteFile(filepath.Join(deep, "f"), []byte("x"), 0o000))
	must(t, os.Symlink(dir, filepath.Join(s.Work, "link")))
	must(t, os.Chmod(filepath.Join(s.Work, "d"), 0o000))
	must(t, os.MkdirAll(filepath.Join(s.Staging, "inputs/model"), 0o755))
	must(t, os.WriteFile(filepath.Join(s.Staging, "inputs/model/weights"), []byte("x"), 0o444))
	must(t, os.WriteFile(filepath.Join(s.Own, "exit"), []byte("0"), 0o600))
	must(t, syscall.Mkfifo(filepath.Join(s.Socket, "plugin.sock"), 0o600))
	open, err := os.Open(s.Work) // somebody forgot to close
	must(t, err)
	defer open.Close()
	must(t, s.Wipe())
	if left, _ := os.ReadDir(dir); len(left) != 0 || strings.Contains(mounts(t), dir) {
		t.Errorf("left %v", left)
	}
}

func TestI9_DropAssetsLeavesNoAsset(t *testing.T) {
	m, _ := maker(t)
	s, err := m.Make("job", 1<<20, 0)
	must(t, err)
	defer s.Wipe()
	must(t, os.MkdirAll(filepath.Join(s.Staging, "application"), 0o755))
	must(t, s.Publish())
	must(t, os.MkdirAll(filepath.Join(s.Staging, "inputs/late"), 0o755))
	must(t, s.DropAssets())
	for _, dir := range []string{s.Staging, s.Assets} {
		if left, err := os.ReadDir(dir); len(left) != 0 || err != nil {
			t.Errorf("%s holds %v, %v", dir, left, err)
		}
	}
	must(t, s.DropAssets())
}

func TestPublishRenames(t *testing.T) {
	m, _ := maker(t)
	s, err := m.Make("job", 1<<20, 0)
	must(t, err)
	defer s.Wipe()
	for _, name := range []string{"application", "inputs/a", "inputs/b"} {
		must(t, os.MkdirAll(filepath.Join(s.Staging, name), 0o755))
		must(t, os.WriteFile(filepath.Join(s.Staging, name, "f"), []byte(name), 0o444))
	}
	inode := func(path string) uint64 {
		info, err := os.Lstat(path)
		must(t, err)
		return info.Sys().(*syscall.Stat_t).Ino
	}
	before := inode(filepath.Join(s.Staging, "inputs/b/f"))
	must(t, s.Publish())
	if inode(filepath.Join(s.Assets, "inputs/b/f")) != before {
		t.Error("the content was copied")
	}
	if left, _ := os.ReadDir(s.Staging); len(left) != 0 {
		t.Errorf("staging holds %v", left)
	}
}

func TestIDsThatAreNoName(t *testing.T) {
	m, dir := maker(t)
	for _, id := range []string{"", ".", "..", "a/b", "../a", "/", "/a", "a/"} {
		if s, err := m.Make(id, 1<<20, 0); err == nil || s != nil {
			t.Errorf("%q: %v", id, s)
		}
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}

func TestAnIDIsTakenUntilItsSpaceIsWiped(t *testing.T) {
	m, _ := maker(t)
	s, err := m.Make("job", 1<<20, 0)
	must(t, err)
	if _, err := m.Make("job", 1<<20, 0); !errors.Is(err, fs.ErrExist) {
		t.Errorf("%v", err)
	}
	must(t, os.WriteFile(filepath.Join(s.Own, "f"), nil, 0o600)) // the first is untouched
	must(t, s.Wipe())
	s, err = m.Make("job", 1<<20, 0)
	must(t, err)
	must(t, s.Wipe())
}

func TestTwoSpacesShareNoUser(t *testing.T) {
	if alone(t) {
		t.Skip("an ordinary user has one user for all jobs")
	}
	m, _ := maker(t)
	first, err := m.Make("first", 1<<20, 0)
	must(t, err)
	seen := map[int]bool{first.Owner: true}
	for i := range 100 {
		s, err := m.Make(fmt.Sprint(i), 1<<20, 0)
		must(t, err)
		if seen[s.Owner] || s.Owner < 1<<30 {
			t.Fatalf("user %d", s.Owner)
		}
		seen[s.Owner] = true
		defer s.Wipe()
	}
	must(t, first.Wipe())
}

func TestMakeIsSafeForConcurrentUse(t *testing.T) {
	m, dir := maker(t)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			s, err := m.Make(fmt.Sprint(i), 1<<20, 0)
			if err == nil {
				err = s.Wipe()
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}

func TestFoldersOfOutputs(t *testing.T) {
	m, _ := maker(t)
	s, err := m.Make("job", 1<<20, 0)
	must(t, err)
	defer s.Wipe()
	must(t, s.MakeWork("outputs/a/b"))
	must(t, s.MakeWork("outputs/a"))
	must(t, s.MakeWork("outputs"))
	for _, name := range []string{"outputs/a", "outputs/a/b"} {
		info, err := os.Stat(filepath.Join(s.Work, name))
		must(t, err)
		if s.Owner >= 0 && int(info.Sys().(*syscall.Stat_t).Uid) != s.Owner {
			t.Errorf("%s is not the application's", name)
		}
	}
	for _, name := range []string{"../x", "/x"} {
		if err := s.MakeWork(name); err == nil {
			t.Errorf("%s was made", name)
		}
	}
	must(t, os.Symlink("/tmp", filepath.Join(s.Work, "out")))
	if err := s.MakeWork("out/x"); err == nil {
		t.Error("a link was followed out")
	}
}

// TestI9_OnlyWhatMayLeaveIsKept: however an application left it. The folder may be nested deeper than a process has
// descriptors, and there may be no room for another file.
func TestI9_OnlyWhatMayLeaveIsKept(t *testing.T) {
	m, _ := maker(t)
	s, err := m.Make("job", 48<<20, 0)
	must(t, err)
	defer s.Wipe()
	write := func(name string) string {
		name = filepath.Join(s.Work, name)
		must(t, os.MkdirAll(filepath.Dir(name), 0o700))
		must(t, os.WriteFile(name, []byte(name), 0o600))
		return name
	}
	keep := []string{write("outputs/a/model"), filepath.Join(s.Work, "outputs/tree"), filepath.Join(s.Work, "outputs/tree/part"), filepath.Join(s.Redacted, "redacted-0/outputs.b")}
	want := []string{keep[0], write("outputs/tree/part/x"), write("outputs/tree/y")}
	must(t, os.MkdirAll(keep[3], 0o700))
	write("tmp/unpacked-model")
	write("logs/stdout")
	write("outputs/a/notes")
	write("outputs/b/original")
	must(t, os.Symlink("/", filepath.Join(s.Work, "outputs/link")))
	must(t, syscall.Mkfifo(filepath.Join(s.Work, "outputs/a/pipe"), 0o600))
	must(t, os.WriteFile(filepath.Join(s.Socket, "beside"), []byte("x"), 0o600))
	var limit syscall.Rlimit
	must(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit))
	must(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 256, Max: limit.Max}))
	defer syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
	top := filepath.Join(s.Work, "tmp/deep")
	must(t, os.Mkdir(top, 0o700))
	at, err := os.OpenRoot(top)
	must(t, err)
	for range 1000 {
		must(t, at.Mkdir("d", 0o700))
		below, err := at.OpenRoot("d")
		must(t, err)
		must(t, at.Chmod("d", 0))
		must(t, at.Close())
		at = below
	}
	must(t, at.Close())
	for i := 0; err == nil; i++ {
		err = os.WriteFile(filepath.Join(s.Work, "tmp", fmt.Sprint(i)), nil, 0o400)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}

	must(t, s.Keep(keep))
	var left []string
	for _, dir := range []string{filepath.Dir(s.Work), s.Socket} {
		must(t, filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				left = append(left, name)
			}
			return err
		}))
	}
	if !slices.Equal(left, want) {
		t.Errorf("left %q, want %q", left, want)
	}
	if _, err := os.Stat(keep[3]); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"tmp", "outputs/b"} {
		if _, err := os.Stat(filepath.Join(s.Work, name)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, place := range []string{s.Work, s.Own, "outputs/a", filepath.Join(s.Work, "..", "x"), s.Assets} {
		if err := s.Keep([]string{place}); err == nil {
			t.Errorf("%s is kept", place)
		}
	}
}
