package policies_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/policies"
	"github.com/cloister-run/cloister/policies/abi"
)

var sentinels = []error{
	policies.ErrInvalid, policies.ErrConfig, policies.ErrTrap, policies.ErrTimeout,
	policies.ErrMemory, policies.ErrAnswer, policies.ErrClosed,
}

// denied requires the zero decision, an error, and of all sentinels exactly one.
func denied(t *testing.T, decision abi.Decision, err, sentinel error) {
	t.Helper()
	if decision.Allow || decision.Code != "" || decision.Channels != nil || decision.Caps != nil || decision.Recipients != nil {
		t.Errorf("the decision is not the zero one: %+v", decision)
	}
	for _, other := range sentinels {
		if want := other == sentinel; errors.Is(err, other) != want {
			t.Errorf("error %v: is %q = %t", err, other, !want)
		}
	}
	if err == nil {
		t.Error("no error")
	}
}

const yes = `{"allow":true}`

// TestI2EveryFailureDenies: error, trap, time-out, out-of-memory, unknown answer are denials,
// whatever the policy wrote before.
func TestI2EveryFailureDenies(t *testing.T) {
	grow := func(pages int32) []byte { return code(i32(pages), memoryGrow) }
	minusOne := code(i32(-1), []byte{0x46}) // i32.eq
	exit := func(status int32) []byte { return code(i32(status), call(procExit)) }
	allowThen := func(then ...[]byte) guest {
		return guest{data: yes, main: code(say(len(yes)), code(then...))}
	}
	flood := guest{pages: 2, main: forever(say(65536))}
	wordy := says(yes + strings.Repeat(" ", 65536-len(yes)+1))
	wordy.pages = 2
	for _, row := range []struct {
		rule  string
		guest guest
		cause error
	}{
		{"trap", guest{main: unreachable}, policies.ErrTrap},
		{"trap after an allow", allowThen(unreachable), policies.ErrTrap},
		{"trap in the start function", guest{start: unreachable, main: say(0)}, policies.ErrTrap},
		{"division by zero", guest{main: code(i32(1), i32(0), []byte{0x6d}, drop)}, policies.ErrTrap},
		{"access out of bounds", guest{main: code(i32(-4), load32, drop)}, policies.ErrTrap},
		{"deep recursion", guest{main: call(main)}, policies.ErrTrap},
		{"panic of a host function", guest{main: code(i32(0), i32(0), i32(0x0fffffff), i32(0), call(pollOneoff), drop, unreachable)}, policies.ErrTrap},
		{"endless loop", guest{main: forever()}, policies.ErrTimeout},
		{"endless loop after an allow", allowThen(forever()), policies.ErrTimeout},
		{"endless start function", guest{start: forever(), main: say(0)}, policies.ErrTimeout},
		{"endless loop of host calls", guest{pages: 16, main: forever(i32(0), i32(1<<20), call(randomGet), drop)}, policies.ErrTimeout},
		{"memory page by page", guest{main: forever(grow(1), minusOne, ifNonZero(unreachable))}, policies.ErrMemory},
		{"memory page by page, then an allow and a status", allowThen(forever(grow(1), minusOne, ifNonZero(exit(1)))), policies.ErrMemory},
		{"memory far over the limit at once", guest{main: code(grow(65535), minusOne, ifNonZero(unreachable))}, policies.ErrTrap},
		{"memory over the limit that was given", guest{main: code(grow(64), minusOne, []byte{0x45}, ifNonZero(forever()), unreachable)}, policies.ErrMemory},
		{"status 1 after an allow", allowThen(exit(1)), policies.ErrAnswer},
		{"status 1 in the start function after an allow", guest{data: yes, start: code(say(len(yes)), exit(1)), main: say(0)}, policies.ErrAnswer},
		{"wazero's own status of a time-out", allowThen(exit(-0x10000001)), policies.ErrAnswer},
		{"wazero's own status of a cancellation", allowThen(exit(-1)), policies.ErrAnswer},
		{"silence", guest{}, policies.ErrAnswer},
		{"a byte over the limit", wordy, policies.ErrAnswer},
		{"a flood", flood, policies.ErrAnswer},
		{"no JSON", says("yes"), policies.ErrAnswer},
		{"JSON cut short", says(`{"allow":true`), policies.ErrAnswer},
		{"two answers", says(yes + yes), policies.ErrAnswer},
		{"an unknown field", says(`{"allow":true,"because":"x"}`), policies.ErrAnswer},
		{"allow in another case", says(`{"Allow":true}`), policies.ErrAnswer},
		{"allow twice", says(`{"allow":false,"allow":true}`), policies.ErrAnswer},
		{"allow as a number", says(`{"allow":1}`), policies.ErrAnswer},
		{"an undeclared code", says(`{"allow":false,"code":"other"}`), policies.ErrAnswer},
		{"a code with an allow", says(`{"allow":true,"code":"small"}`), policies.ErrAnswer},
		{"a channel that was not asked for", says(`{"allow":true,"channels":["outputs.b"]}`), policies.ErrAnswer},
		{"a cap without consent", says(`{"allow":true,"caps":{"outputs.a":1}}`), policies.ErrAnswer},
		{"a negative cap", says(`{"allow":true,"channels":["outputs.a"],"caps":{"outputs.a":-1}}`), policies.ErrAnswer},
	} {
		t.Run(row.rule, func(t *testing.T) {
			t.Parallel()
			limits := policies.Limits{MemoryBytes: 4 << 20, DecideTime: 10 * time.Second}
			if row.cause == policies.ErrTimeout {
				limits.DecideTime = 50 * time.Millisecond
			}
			engine := newEngine(t, limits)
			decision, err := loadGuest(t, engine, row.guest).Decide(t.Context(), request(abi.Admit, "null", "outputs.a"), abi.Files{})
			denied(t, decision, err, row.cause)
		})
	}
}

// TestAnswers: what a well-behaved policy says arrives, so that the denials above are not
// those of an engine that denies everything.
func TestAnswers(t *testing.T) {
	engine := newEngine(t, policies.Limits{})
	for _, row := range []struct {
		rule  string
		guest guest
		allow bool
		code  string
	}{
		{"allow", says(yes), true, ""},
		{"deny", says(`{"allow":false}`), false, ""},
		{"deny with a code", says(`{"allow":false,"code":"small"}`), false, "small"},
		{"allow and exit with 0", guest{data: yes, main: code(say(len(yes)), i32(0), call(procExit))}, true, ""},
		{"consent", says(`{"allow":true,"channels":["outputs.a"],"caps":{"outputs.a":0}}`), true, ""},
	} {
		t.Run(row.rule, func(t *testing.T) {
			decision, err := loadGuest(t, engine, row.guest).Decide(t.Context(), request(abi.Admit, "null", "outputs.a"), abi.Files{})
			if err != nil || decision.Allow != row.allow || decision.Code != row.code {
				t.Errorf("answered %+v, %v", decision, err)
			}
		})
	}
}

// TestFreshInstance: nothing of one decision is left for the next.
func TestFreshInstance(t *testing.T) {
	engine := newEngine(t, policies.Limits{})
	policy := loadGuest(t, engine, guest{data: yes, main: code(
		i32(512), load32, ifNonZero(unreachable), i32(512), i32(1), store32, say(len(yes)))})
	for range 3 {
		if decision, err := policy.Decide(t.Context(), request(abi.Admit, "null"), abi.Files{}); err != nil || !decision.Allow {
			t.Fatalf("answered %+v, %v", decision, err)
		}
	}
}

// TestContext: a decision ends with its caller's context, and the cause tells the two ways.
func TestContext(t *testing.T) {
	engine := newEngine(t, policies.Limits{})
	policy := loadGuest(t, engine, guest{main: forever()})
	req := request(abi.Admit, "null")

	over, cancel := context.WithCancel(t.Context())
	cancel()
	decision, err := policy.Decide(over, req, abi.Files{})
	denied(t, decision, err, nil)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled context gave %v", err)
	}

	during, cancel := context.WithCancel(t.Context())
	opening := loadGuest(t, engine, opensThenLoops())
	decision, err = opening.Decide(during, request(abi.Egress, "null"), abi.Files{Artifacts: announcing{fstest.MapFS{"a": {}}, cancel}})
	denied(t, decision, err, nil)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("a context cancelled on the way gave %v", err)
	}

	late, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	decision, err = policy.Decide(late, req, abi.Files{})
	denied(t, decision, err, policies.ErrTimeout)
}

// TestTimeToRead: what is to be read gives a policy more time, and no end of it.
func TestTimeToRead(t *testing.T) {
	policy := loadGuest(t, newEngine(t, policies.Limits{DecideTime: 50 * time.Millisecond}), guest{main: forever()})
	req := request(abi.Egress, "null")
	req.Artifacts = []abi.Artifact{{Channel: "outputs.a", Bytes: 10 << 20}}
	decision, err := policy.Decide(t.Context(), req, abi.Files{Artifacts: fstest.MapFS{}})
	denied(t, decision, err, policies.ErrTimeout)
	if err == nil || !strings.Contains(err.Error(), "after 1.05s") {
		t.Errorf("it had %v", err)
	}
}

// announcing is a file system that calls back when a policy opens its file "a".
type announcing struct {
	fstest.MapFS
	opened func()
}

func (a announcing) Open(name string) (fs.File, error) {
	if name == "a" {
		a.opened()
	}
	return a.MapFS.Open(name)
}

// opensThenLoops is a policy that opens "a" and never ends.
func opensThenLoops() guest {
	g := opening("a", 0, rightRead, 0)
	g.main = code(g.main, forever())
	return g
}

// TestCallersMistakes: what cannot be asked is an error without a sentinel, and denies.
func TestCallersMistakes(t *testing.T) {
	engine := newEngine(t, policies.Limits{RequestBytes: 4096})
	policy := loadGuest(t, engine, says(yes))
	long := request(abi.Admit, "null")
	long.JobDigest = strings.Repeat("x", 4096)
	for _, row := range []struct {
		rule  string
		req   abi.Request
		files fs.FS
	}{
		{"a request over the limit", long, nil},
		{"a configuration that is no JSON", request(abi.Admit, "{"), nil},
		{"artifacts at admit", request(abi.Admit, "null"), fstest.MapFS{}},
		{"artifacts at ingress", request(abi.Ingress, "null"), fstest.MapFS{}},
		{"no artifacts at egress", request(abi.Egress, "null"), nil},
	} {
		t.Run(row.rule, func(t *testing.T) {
			decision, err := policy.Decide(t.Context(), row.req, abi.Files{Artifacts: row.files})
			denied(t, decision, err, nil)
		})
	}
}

// tree makes a folder with a file, a folder, links and a pipe, and a secret outside of it.
func tree(t *testing.T) fs.FS {
	t.Helper()
	outside := t.TempDir()
	inside := filepath.Join(outside, "artifact")
	for _, err := range []error{
		os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o600),
		os.MkdirAll(filepath.Join(inside, "outputs.tree"), 0o700),
		os.WriteFile(filepath.Join(inside, "outputs.a"), []byte("content"), 0o600),
		os.WriteFile(filepath.Join(inside, "outputs.tree", "b"), []byte("content"), 0o600),
		os.Symlink("outputs.a", filepath.Join(inside, "link")),
		os.Symlink("outputs.tree", filepath.Join(inside, "folder-link")),
		os.Symlink("../secret", filepath.Join(inside, "out-link")),
		unix.Mkfifo(filepath.Join(inside, "pipe"), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.OpenRoot(inside)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = root.Close() })
	return root.FS()
}

// Flags of path_open (WASI snapshot-01, "oflags", "rights", "fdflags").
const (
	oCreat, oDirectory, oExcl, oTrunc = 1, 2, 4, 8
	rightRead, rightWrite             = 1 << 1, 1 << 6
	fdAppend                          = 1
)

// TestArtifactsAreAWalledTree: a policy reads regular files and folders of the tree, and
// neither writes, nor leaves it, nor follows a link, nor opens a special file.
func TestArtifactsAreAWalledTree(t *testing.T) {
	engine := newEngine(t, policies.Limits{DecideTime: 5 * time.Second})
	files := tree(t)
	read := func(path string) guest { return opening(path, 0, rightRead, 0) }
	for _, row := range []struct {
		rule  string
		guest guest
		allow bool
	}{
		{"a file", read("outputs.a"), true},
		{"a folder", opening("outputs.tree", oDirectory, rightRead, 0), true},
		{"a file in a folder", read("outputs.tree/b"), true},
		{"a file by a detour", read("outputs.tree/../outputs.a"), true},
		{"the parent", read(".."), false},
		{"a file beside the tree", read("../secret"), false},
		{"a file beside the tree by a detour", read("outputs.tree/../../secret"), false},
		{"an absolute path", read("/etc/passwd"), false},
		{"a link to a file", read("link"), false},
		{"a file through a linked folder", read("folder-link/b"), false},
		{"a link that leads out", read("out-link"), false},
		{"a pipe", read("pipe"), false},
		{"a file as a folder", opening("outputs.a", oDirectory, rightRead, 0), false},
		{"a file through a file", read("outputs.a/b"), false},
		{"a missing file", read("outputs.z"), false},
		{"a name with a zero byte", read("outputs.a\x00"), false},
		{"writing to a file", opening("outputs.a", 0, rightWrite, 0), false},
		{"appending to a file", opening("outputs.a", 0, rightWrite, fdAppend), false},
		{"truncating a file", opening("outputs.a", oTrunc, rightRead|rightWrite, 0), false},
		{"creating a file", opening("new", oCreat, rightRead|rightWrite, 0), false},
		{"creating a file of its own", opening("new", oCreat|oExcl, rightWrite, 0), false},
		{"removing a file", attempt("outputs.a", i32(3), i32(dataAt), i32(9), call(pathUnlink)), false},
		{"making a folder", attempt("new", i32(3), i32(dataAt), i32(3), call(pathMkdir)), false},
		{"making a descriptor of 31 bits", fdAttack(), false},
	} {
		t.Run(row.rule, func(t *testing.T) {
			decision, err := loadGuest(t, engine, row.guest).Decide(t.Context(), request(abi.Egress, "null"), abi.Files{Artifacts: files})
			if row.allow {
				if err != nil || !decision.Allow {
					t.Errorf("refused: %v", err)
				}
				return
			}
			denied(t, decision, err, policies.ErrAnswer)
			if err == nil || !strings.Contains(err.Error(), "exit status") {
				t.Errorf("it failed before the attempt: %v", err)
			}
		})
	}
	t.Run("nothing changed", func(t *testing.T) {
		content, err := fs.ReadFile(files, "outputs.a")
		if _, missing := fs.Stat(files, "new"); err != nil || string(content) != "content" || missing == nil {
			t.Errorf("%q, %v, %v", content, err, missing)
		}
	})
	t.Run("no tree before egress", func(t *testing.T) {
		decision, err := loadGuest(t, engine, read("outputs.a")).Decide(t.Context(), request(abi.Ingress, "null"), abi.Files{})
		denied(t, decision, err, policies.ErrAnswer)
	})
}

// fdAttack opens a file and gives it the highest descriptor there is: wazero's table would
// grow to 16 GiB.
func fdAttack() guest {
	return attempt("outputs.a", i32(3), i32(1), i32(dataAt), i32(9), i32(0), i64(rightRead), i64(0), i32(0), i32(scratch),
		call(pathOpen), ifNonZero(unreachable), i32(scratch), load32, i32(0x7fffffff), call(fdRenumber))
}

// TestOpenFiles: a policy holds only so many files open.
func TestOpenFiles(t *testing.T) {
	engine := newEngine(t, policies.Limits{OpenFiles: 8})
	open := func(times int) guest {
		one := opening("outputs.a", 0, rightRead, 0)
		hostCall := code(i32(3), i32(1), i32(dataAt), i32(9), i32(0), i64(rightRead), i64(0), i32(0), i32(scratch), call(pathOpen))
		var all []byte
		for range times - 1 {
			all = code(all, hostCall, ifNonZero(unreachable))
		}
		one.main = code(all, one.main)
		return one
	}
	files := tree(t)
	// The engine itself holds the root of the tree once it was used.
	if decision, err := loadGuest(t, engine, open(7)).Decide(t.Context(), request(abi.Egress, "null"), abi.Files{Artifacts: files}); err != nil || !decision.Allow {
		t.Errorf("7 of 8 files: %v", err)
	}
	decision, err := loadGuest(t, engine, open(9)).Decide(t.Context(), request(abi.Egress, "null"), abi.Files{Artifacts: files})
	if err == nil || decision.Allow {
		t.Error("9 of 8 files could be opened")
	}
}

// endless is a file that never ends.
type endless struct{ fs.FileInfo }

func (e endless) Stat() (fs.FileInfo, error) { return e.FileInfo, nil }
func (endless) Read(buf []byte) (int, error) { clear(buf); return len(buf), nil }
func (endless) Close() error                 { return nil }

// TestDeadlineHoldsInsideOfAHostCall: one fd_read into half a million buffers of 1 MiB would
// copy for a minute and more; the deadline ends it.
func TestDeadlineHoldsInsideOfAHostCall(t *testing.T) {
	engine := newEngine(t, policies.Limits{DecideTime: 50 * time.Millisecond})
	info, err := fs.Stat(fstest.MapFS{"a": &fstest.MapFile{Mode: 0o444}}, "a")
	if err != nil {
		t.Fatal(err)
	}
	const vectors, count = 1 << 20, 1 << 19
	read := attempt("a", i32(3), i32(1), i32(dataAt), i32(1), i32(0), i64(rightRead), i64(0), i32(0), i32(scratch), call(pathOpen),
		ifNonZero(unreachable),
		// for p = vectors; p < vectors+8*count; p += 8: *p = {0x600000, 1<<20}
		i32(512), i32(vectors), store32,
		[]byte{0x03, 0x40},
		i32(512), load32, i64(1<<52|0x600000), []byte{0x37, 3, 0},
		i32(512), i32(512), load32, i32(8), []byte{0x6a}, store32,
		i32(512), load32, i32(vectors+8*count), []byte{0x49, 0x0d, 0, 0x0b},
		i32(scratch), load32, i32(vectors), i32(count), i32(scratch), call(fdRead))
	read.pages = 0x700000 / 65536
	began := time.Now()
	decision, err := loadGuest(t, engine, read).Decide(t.Context(), request(abi.Egress, "null"), abi.Files{Artifacts: endlessTree{endless{info}}})
	denied(t, decision, err, policies.ErrTimeout)
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %s", took)
	}
}

// endlessTree holds one endless file.
type endlessTree struct{ file endless }

func (e endlessTree) Open(name string) (fs.File, error) {
	if name == "." {
		return fstest.MapFS{}.Open(".")
	}
	return e.file, nil
}

func (e endlessTree) Lstat(name string) (fs.FileInfo, error) {
	if name == "." {
		return fs.Stat(fstest.MapFS{}, ".")
	}
	return e.file.FileInfo, nil
}

func (endlessTree) ReadLink(string) (string, error) { return "", fs.ErrInvalid }
