package border_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/cloister-run/cloister/core/border"
	"github.com/cloister-run/cloister/core/tree"
	"github.com/cloister-run/cloister/policies/abi"
)

// release returns what a Clearance writes for a channel.
func release(t *testing.T, c *border.Clearance, ch abi.Channel) (string, error) {
	t.Helper()
	var out bytes.Buffer
	err := c.Release(t.Context(), ch, &out)
	return out.String(), err
}

// TestI1_EveryPolicyJudgesTheBytesThatLeave: each reads exactly what Release writes later, and
// its allow is in the record by then.
func TestI1_EveryPolicyJudgesTheBytesThatLeave(t *testing.T) {
	read := map[string]string{}
	reads := func(name string) *fake {
		return at(abi.Egress, func(_ context.Context, r abi.Request, files abi.Files) (abi.Decision, error) {
			content, err := fs.ReadFile(files.Artifacts, string(result))
			inside, err2 := fs.ReadFile(files.Artifacts, string(model)+"/w/layer")
			read[name] = string(content) + "|" + string(inside)
			return abi.Decision{Allow: true}, errors.Join(err, err2)
		})
	}
	a, o := reads("a"), reads("o")
	s := newScene(t, owner("a", a), own("o", o))
	s.write("r.csv", "id,digit\n")
	s.write("m/w/layer", "weights")
	s.pass(result, model)
	c, err := s.egress(s.folder(model, "m"), s.file(result, "r.csv"))
	if err != nil {
		t.Fatal(err)
	}
	if read["a"] != "id,digit\n|weights" || read["o"] != read["a"] {
		t.Errorf("policies read %q", read)
	}
	if found := s.recorder.at(abi.Egress); len(found) != 2 || !found[0].Allow || !found[1].Allow {
		t.Errorf("recorded %+v", found)
	}
	if got, err := release(t, c, result); got != "id,digit\n" || err != nil {
		t.Errorf("released %q, %v", got, err)
	}
	stream, err := release(t, c, model)
	if err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	sum, err := tree.Unpack(t.Context(), strings.NewReader(stream), root, tree.Limits{Bytes: plenty, Entries: 10})
	if err != nil {
		t.Fatal(err)
	}
	artifacts := c.Artifacts()
	if len(artifacts) != 2 || artifacts[0].Digest != sum.Digest || artifacts[0].Bytes != 7 || artifacts[0].Files != 1 || artifacts[0].Kind != "tree" {
		t.Errorf("cleared %+v, released %+v", artifacts, sum)
	}
	// SHA-256 of "id,digit\n", from sha256sum.
	if want := (abi.Artifact{Channel: result, Kind: "file", Digest: "sha256:" + resultSum, Bytes: 9, Files: 1}); !reflect.DeepEqual(artifacts[1], want) {
		t.Errorf("cleared %+v, want %+v", artifacts[1], want)
	}
	for _, f := range []*fake{a, o} {
		if r := f.asked[2]; !reflect.DeepEqual(r.Artifacts, artifacts) || !slices.Equal(r.Channels, s.Consented()) {
			t.Errorf("judged %+v", r)
		}
	}
}

// A judge that writes into its request changes nothing of what is cleared.
func TestI1_AJudgeCannotChangeWhatIsCleared(t *testing.T) {
	s := newScene(t, owner("a", at(abi.Egress, func(_ context.Context, r abi.Request, _ abi.Files) (abi.Decision, error) {
		r.Artifacts[0].Channel, r.Policies[0].Owner = model, ""
		return abi.Decision{Allow: true}, nil
	})))
	c, err := s.walk(t.Context())
	if err != nil || c.Artifacts()[0].Channel != result || s.Policies()[0].Owner == "" {
		t.Errorf("cleared %+v, %v", c.Artifacts(), err)
	}
}

// TestI1_NoByteLeavesThatWasNotJudged: a file that changes after egress is cut off before the
// first chunk that is another.
func TestI1_NoByteLeavesThatWasNotJudged(t *testing.T) {
	const chunk = 1 << 20
	judged := strings.Repeat("a", chunk) + strings.Repeat("b", chunk) + "c"
	for _, row := range []struct {
		rule, content string
		leaves        int // bytes of what was judged that may leave
	}{
		{"the first byte", "X" + judged[1:], 0},
		{"a byte of the second chunk", judged[:chunk+1] + "X" + judged[chunk+2:], chunk},
		{"the last byte", judged[:2*chunk] + "X", 2 * chunk},
		{"cut off", judged[:2*chunk], 2 * chunk},
		{"longer", judged + "X", 2 * chunk},
		{"emptied", "", 0},
		{"gone", "-", 0},
		{"a link to a secret", "->", 0},
	} {
		for _, asTree := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, tree %v", row.rule, asTree), func(t *testing.T) {
				s := newScene(t, owner("a", allow()))
				s.write("d/r", judged)
				s.pass(result)
				candidate := s.file(result, "d/r")
				if asTree {
					candidate = s.folder(result, "d")
				}
				c, err := s.egress(candidate)
				if err != nil {
					t.Fatal(err)
				}
				file := filepath.Join(s.dir, "d/r")
				switch row.content {
				case "-":
					err = os.Remove(file)
				case "->":
					err = errors.Join(os.Remove(file), os.WriteFile(s.dir+"/d/other", []byte(strings.Repeat("X", len(judged))), 0o600), os.Symlink("other", file))
				default:
					err = os.WriteFile(file, []byte(row.content), 0o600)
				}
				if err != nil {
					t.Fatal(err)
				}
				got, err := release(t, c, result)
				if err == nil {
					t.Fatal("released as if nothing had happened")
				}
				if asTree {
					got = strings.Join(strings.FieldsFunc(got, func(r rune) bool { return !strings.ContainsRune("abcX", r) }), "")
					got = strings.TrimPrefix(got, "a") // of "ustar"
				}
				if strings.Contains(got, "X") || (!asTree && got != judged[:row.leaves]) {
					t.Errorf("%d bytes left, want %d of what was judged", len(got), row.leaves)
				}
			})
		}
	}
}

// What is put into a folder after egress is neither released nor an error.
func TestI1_AFileThatComesLaterStays(t *testing.T) {
	s := newScene(t)
	s.write("d/r", "x")
	s.pass(result)
	c, err := s.egress(s.folder(result, "d"))
	if err != nil {
		t.Fatal(err)
	}
	s.write("d/secret", "x")
	stream, err := release(t, c, result)
	if err != nil {
		t.Fatal(err)
	}
	archive := tar.NewReader(strings.NewReader(stream))
	if h, err := archive.Next(); err != nil || h.Name != "r" {
		t.Errorf("got %v, %v", h, err)
	}
	if h, err := archive.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("got %v, %v", h, err)
	}
}

// TestI1_WithoutConsentNothingIsLookedAt: a channel that was not consented to is neither
// frozen (a link there would be an error) nor shown nor released.
func TestI1_WithoutConsentNothingIsLookedAt(t *testing.T) {
	sees := at(abi.Egress, func(_ context.Context, r abi.Request, files abi.Files) (abi.Decision, error) {
		entries, err := fs.ReadDir(files.Artifacts, ".")
		if len(entries) != 1 || len(r.Artifacts) != 1 || slices.Contains(r.Channels, model) {
			return abi.Decision{}, errors.New("sees more")
		}
		if _, err := files.Artifacts.Open(string(model)); !errors.Is(err, fs.ErrNotExist) {
			return abi.Decision{}, errors.New("opens more")
		}
		return abi.Decision{Allow: true}, err
	})
	s := newScene(t, owner("a", consent(nil, result)), own("b", sees))
	s.write("r", "x")
	if err := os.Symlink("/etc/passwd", s.dir+"/m"); err != nil {
		t.Fatal(err)
	}
	s.pass(result, model)
	c, err := s.egress(s.file(model, "m"), s.file(result, "r"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := release(t, c, model); got != "" || !errors.Is(err, border.ErrNotCleared) {
		t.Errorf("released %q, %v", got, err)
	}
}

func TestI1_AfterCloseNothingIsReleased(t *testing.T) {
	c, err := newScene(t).walk(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := release(t, c, result); got != "" || !errors.Is(err, border.ErrNotCleared) || len(c.Artifacts()) != 0 {
		t.Errorf("released %q, %v", got, err)
	}
	if err := new(border.Clearance).Release(t.Context(), result, io.Discard); !errors.Is(err, border.ErrNotCleared) {
		t.Errorf("the zero Clearance: %v", err)
	}
}

// Two releases of one channel do not disturb each other (the race detector looks on).
func TestReleaseIsSafeForConcurrentUse(t *testing.T) {
	s := newScene(t)
	s.write("d/r", strings.Repeat("x", 3<<20))
	s.pass(result)
	c, err := s.egress(s.folder(result, "d"))
	if err != nil {
		t.Fatal(err)
	}
	errs := make(chan error, 4)
	for range cap(errs) {
		go func() { errs <- c.Release(context.Background(), result, io.Discard) }()
	}
	for range cap(errs) {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

func TestReleaseEndsWithItsContext(t *testing.T) {
	s := newScene(t)
	s.write("r", strings.Repeat("x", 3<<20))
	s.pass(result)
	c, err := s.egress(s.file(result, "r"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	written := 0
	err = c.Release(ctx, result, writer(func(p []byte) (int, error) { cancel(); written += len(p); return len(p), nil }))
	if !errors.Is(err, context.Canceled) || written != 1<<20 {
		t.Errorf("%d bytes left after the end: %v", written, err)
	}
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

// Where there is nothing to judge nobody is asked: a verdict on nothing would be one more
// thing that a run tells.
func TestNothingToJudgeAsksNobody(t *testing.T) {
	a := deny(abi.Egress, "small-group")
	s := newScene(t, owner("a", a))
	s.pass(result)
	c, err := s.egress()
	if err != nil || len(c.Artifacts()) != 0 || len(a.asked) != 2 || len(s.recorder.at(abi.Egress)) != 0 {
		t.Errorf("got %v, asked %d times", err, len(a.asked))
	}
}

// TestACapIsADecision: what is over a consented cap is denied and recorded, and nobody is asked.
func TestACapIsADecision(t *testing.T) {
	capped := func(n int64) *fake { return consent(map[abi.Channel]int64{result: n}, result) }
	for _, row := range []struct {
		rule    string
		most    int64
		tree    bool
		allowed bool
	}{
		{"a file at its cap", 4, false, true},
		{"a file over its cap", 3, false, false},
		{"a file where nothing may leave", 0, false, false},
		// The folder holds "name" with 4 bytes: 8 in all.
		{"a folder at its cap, names included", 8, true, true},
		{"a folder over its cap by its names", 7, true, false},
		{"a folder over its cap by its content", 3, true, false},
	} {
		t.Run(row.rule, func(t *testing.T) {
			a := capped(row.most)
			s := newScene(t, owner("a", a), owner("b", allow()))
			s.write("d/name", "four")
			s.pass(result)
			candidate := s.file(result, "d/name")
			if row.tree {
				candidate = s.folder(result, "d")
			}
			c, err := s.egress(candidate)
			if row.allowed {
				if err != nil {
					t.Error(err)
				}
				return
			}
			d, ok := errors.AsType[*border.Denial](err)
			if c != nil || !ok || !same(*d, border.Denial{Point: abi.Egress}) {
				t.Errorf("got %v", err)
			}
			if found := s.recorder.at(abi.Egress); len(found) != 1 || found[0].Allow || found[0].Policy != nil {
				t.Errorf("recorded %+v", found)
			}
			if len(a.asked) != 2 {
				t.Error("a policy was asked about it")
			}
		})
	}
}

// TestViewIsAFileSystem: what policies see passes the standard library's own suite.
func TestViewIsAFileSystem(t *testing.T) {
	s := newScene(t, owner("a", at(abi.Egress, func(_ context.Context, _ abi.Request, files abi.Files) (abi.Decision, error) {
		if err := fstest.TestFS(files.Artifacts, string(result), string(model)+"/w/layer", string(model)+"/empty", string(abi.Stdout)); err != nil {
			return abi.Decision{}, err
		}
		for _, name := range []string{"r.csv", string(result) + "/r.csv", "outputs.other", string(model) + "/../r.csv", "/etc/passwd", ""} {
			if _, err := files.Artifacts.Open(name); err == nil {
				t.Errorf("opened %q", name)
			}
			if _, err := fs.Lstat(files.Artifacts, name); err == nil {
				t.Errorf("described %q", name)
			}
			if _, err := fs.ReadDir(files.Artifacts, name); err == nil {
				t.Errorf("listed %q", name)
			}
		}
		if _, err := fs.ReadLink(files.Artifacts, string(result)); err == nil {
			t.Error("an artifact is a link")
		}
		entries, err := fs.ReadDir(files.Artifacts, ".")
		if err != nil || len(entries) != 3 || entries[0].Name() != string(abi.Stdout) || entries[1].IsDir() == false {
			t.Errorf("listed %v, %v", entries, err)
		}
		file, err := files.Artifacts.Open(string(result))
		if err != nil {
			return abi.Decision{}, err
		}
		defer file.Close()
		if _, ok := file.(io.ReaderAt); !ok {
			t.Error("an artifact cannot be read at an offset")
		}
		return abi.Decision{Allow: true}, nil
	})))
	s.write("r.csv", "id,digit\n")
	s.write("other.csv", "a neighbour")
	s.write("m/w/layer", "weights")
	s.write("out", "log\n")
	if err := os.Mkdir(s.dir+"/m/empty", 0o700); err != nil {
		t.Fatal(err)
	}
	s.pass(result, model, abi.Stdout)
	if _, err := s.egress(s.file(result, "r.csv"), s.folder(model, "m"), s.file(abi.Stdout, "out")); err != nil {
		t.Fatal(err)
	}
}

// resultSum is `printf 'id,digit\n' | sha256sum`.
const resultSum = "30fcbaadc80a8aedd040d9e57e8d4f8b563542c9ded85e1c9c6c34e45149499a"
