package policies_test

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"

	"github.com/cloister-run/cloister/policies"
	"github.com/cloister-run/cloister/policies/abi"
	"github.com/cloister-run/cloister/policies/sdk"
)

// full is a Sink without room.
type full struct{}

func (full) Mkdir(string) error                    { return syscall.ENOSPC }
func (full) Create(string) (io.WriteCloser, error) { return full{}, nil }
func (full) Write([]byte) (int, error)             { return 0, syscall.ENOSPC }
func (full) Close() error                          { return nil }

// redacting is what a policy finds at redact: artifacts as descriptor 3, room for replacements as 4.
func redacting(sink abi.Sink) abi.Files {
	return abi.Files{Artifacts: fstest.MapFS{"outputs.a": {Data: []byte("content")}}, Redacted: sink}
}

// TestReplacementsAreWrittenOnce: a policy makes files and folders under its place for
// replacements, and does nothing else there.
func TestReplacementsAreWrittenOnce(t *testing.T) {
	engine := newEngine(t, policies.Limits{})
	make := func(fd int32, path string) guest { return openingIn(fd, path, oCreat|oTrunc, rightWrite, 0) }
	mkdir := func(path string) guest {
		return attempt(path, i32(4), i32(dataAt), i32(int32(len(path))), call(pathMkdir))
	}
	for _, row := range []struct {
		rule  string
		guest guest
		allow bool
	}{
		{"a new file", make(4, "outputs.b"), true},
		{"a new file of its own", openingIn(4, "outputs.b", oCreat|oExcl, rightRead|rightWrite, 0), true},
		{"a new folder", mkdir("outputs.b"), true},
		{"its own root", openingIn(4, ".", oDirectory, rightRead, 0), true},
		{"a file among the artifacts", make(3, "outputs.b"), false},
		{"a file in a folder that is not there", make(4, "outputs.b/x"), false},
		{"a folder in a folder that is not there", mkdir("outputs.b/x"), false},
		{"the root as a file", make(4, "."), false},
		{"the root as a folder", mkdir("."), false},
		{"the parent", make(4, "../x"), false},
		{"an absolute path", make(4, "/x"), false},
		{"a file without making it", openingIn(4, "outputs.b", 0, rightWrite, 0), false},
		{"a file to read", openingIn(4, "outputs.b", oCreat, rightRead, 0), false},
		{"a path of 1025 bytes", make(4, strings.Repeat("a/", 512)+"b"), false},
		{"removing a file", attempt("outputs.a", i32(4), i32(dataAt), i32(9), call(pathUnlink)), false},
	} {
		t.Run(row.rule, func(t *testing.T) {
			dir := t.TempDir()
			decision, err := loadGuest(t, engine, row.guest).Decide(t.Context(), request(abi.Redact, "null"), redacting(sdk.Folder(dir)))
			made, _ := os.ReadDir(dir)
			if row.allow {
				if err != nil || !decision.Allow || (len(made) != 1) != (row.rule == "its own root") {
					t.Errorf("refused: %v; made %v", err, made)
				}
				return
			}
			denied(t, decision, err, policies.ErrAnswer)
			if err == nil || !strings.Contains(err.Error(), "exit status") || len(made) != 0 {
				t.Errorf("it failed before the attempt, or made %v: %v", made, err)
			}
		})
	}
	t.Run("a file twice", func(t *testing.T) {
		one := make(4, "outputs.b")
		hostCall := code(i32(4), i32(1), i32(dataAt), i32(9), i32(oCreat), i64(rightWrite), i64(0), i32(0), i32(scratch), call(pathOpen))
		one.main = code(hostCall, ifNonZero(unreachable), one.main)
		decision, err := loadGuest(t, engine, one).Decide(t.Context(), request(abi.Redact, "null"), redacting(sdk.Folder(t.TempDir())))
		denied(t, decision, err, policies.ErrAnswer)
	})
	t.Run("nothing is read, sought or cut", func(t *testing.T) {
		g := make(4, "outputs.b")
		read := code(i32(5), i32(vector), i32(1), i32(scratch), call(fdRead))
		g.main = code(i32(4), i32(1), i32(dataAt), i32(9), i32(oCreat), i64(rightRead|rightWrite), i64(0), i32(0), i32(scratch), call(pathOpen),
			ifNonZero(unreachable), i32(vector), i32(64), store32, i32(vector+4), i32(8), store32, read, call(procExit))
		decision, err := loadGuest(t, engine, g).Decide(t.Context(), request(abi.Redact, "null"), redacting(sdk.Folder(t.TempDir())))
		denied(t, decision, err, policies.ErrAnswer)
	})
}

// TestI2_NoRoomToRedactDenies, and says so to whoever may know.
func TestI2_NoRoomToRedactDenies(t *testing.T) {
	engine := newEngine(t, policies.Limits{})
	folder := attempt("outputs.b", i32(4), i32(dataAt), i32(9), call(pathMkdir))
	decision, err := loadGuest(t, engine, folder).Decide(t.Context(), request(abi.Redact, "null"), redacting(full{}))
	denied(t, decision, err, policies.ErrAnswer)
	if err == nil || !strings.Contains(err.Error(), "out of room") {
		t.Errorf("told %v", err)
	}
}

// TestFilesBelongToTheirPoint: what does not is the caller's mistake.
func TestFilesBelongToTheirPoint(t *testing.T) {
	engine := newEngine(t, policies.Limits{})
	policy := loadGuest(t, engine, says(yes))
	some := fstest.MapFS{}
	for point, wrong := range map[abi.Point][]abi.Files{
		abi.Admit:   {{Own: some}, {Artifacts: some}, {Redacted: full{}}},
		abi.Ingress: {{Own: some}, {Artifacts: some}, {Redacted: full{}}},
		abi.Redact:  {{}, {Artifacts: some}, {Redacted: full{}}},
		abi.Egress:  {{}, {Own: some}, {Artifacts: some, Redacted: full{}}},
	} {
		for _, files := range wrong {
			decision, err := policy.Decide(t.Context(), request(point, "null"), files)
			if err == nil || decision.Allow || errors.Is(err, policies.ErrAnswer) {
				t.Errorf("%s with %+v: %v", point, files, err)
			}
		}
	}
}

// TestOwnAssetsAreReadOnly, as artifacts are: the same walls, under another name.
func TestOwnAssetsAreReadOnly(t *testing.T) {
	engine := newEngine(t, policies.Limits{})
	files := abi.Files{Artifacts: fstest.MapFS{}, Own: tree(t)}
	for rule, row := range map[string]struct {
		guest guest
		allow bool
	}{
		"a file":          {openingIn(4, "outputs.a", 0, rightRead, 0), true},
		"a link":          {openingIn(4, "link", 0, rightRead, 0), false},
		"the parent":      {openingIn(4, "../secret", 0, rightRead, 0), false},
		"writing":         {openingIn(4, "outputs.a", 0, rightWrite, 0), false},
		"another's asset": {openingIn(3, "outputs.a", 0, rightRead, 0), false},
	} {
		decision, err := loadGuest(t, engine, row.guest).Decide(t.Context(), request(abi.Egress, "null"), files)
		if (err == nil && decision.Allow) != row.allow {
			t.Errorf("%s: %+v, %v", rule, decision, err)
		}
	}
	if _, err := fs.Stat(files.Own, "outputs.a"); err != nil {
		t.Error(err)
	}
}

// anything is a Sink that takes everything.
type anything struct{}

func (anything) Mkdir(string) error                    { return nil }
func (anything) Create(string) (io.WriteCloser, error) { return anything{}, nil }
func (anything) Write(p []byte) (int, error)           { return len(p), nil }
func (anything) Close() error                          { return nil }

// TestWhatAPolicyWritesIsBounded, whatever the sink takes: a path, and the files that are open.
func TestWhatAPolicyWritesIsBounded(t *testing.T) {
	engine := newEngine(t, policies.Limits{OpenFiles: 8})
	create := func(path string, times int) guest {
		one := openingIn(4, path, oCreat, rightWrite, 0)
		hostCall := code(i32(4), i32(1), i32(dataAt), i32(int32(len(path))), i32(oCreat), i64(rightWrite), i64(0), i32(0), i32(scratch), call(pathOpen))
		var all []byte
		for range times - 1 {
			all = code(all, hostCall, ifNonZero(unreachable))
		}
		one.main = code(all, one.main)
		return one
	}
	for rule, row := range map[string]struct {
		guest guest
		allow bool
	}{
		"a path of 1024 bytes": {create(strings.Repeat("a/", 511)+"bb", 1), true},
		"a path of 1025 bytes": {create(strings.Repeat("a/", 512)+"b", 1), false},
		"eight files":          {create("outputs.a", 8), true},
		"nine files":           {create("outputs.a", 9), false},
	} {
		decision, err := loadGuest(t, engine, row.guest).Decide(t.Context(), request(abi.Redact, "null"), redacting(anything{}))
		if (err == nil && decision.Allow) != row.allow {
			t.Errorf("%s: %+v, %v", rule, decision, err)
		}
	}
}
