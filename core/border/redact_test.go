package border_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/cloister-run/cloister/core/border"
	"github.com/cloister-run/cloister/policies/abi"
)

type redaction = func(ctx context.Context, r abi.Request, files abi.Files) (abi.Decision, error)

// redactor is an owner's policy that redacts outputs by f and allows everything.
func redactor(name string, f redaction) (border.Party, *fake) {
	j := at(abi.Redact, f)
	p := owner(name, j)
	p.Manifest.Redacts = []abi.Channel{abi.AnyOutput}
	return p, j
}

func put(files abi.Files, name, content string) error {
	w, err := files.Redacted.Create(name)
	if err != nil {
		return err
	}
	_, err = io.WriteString(w, content)
	return errors.Join(err, w.Close())
}

// appends redacts the result to what it was with suffix behind it.
func appends(suffix string) redaction {
	return func(_ context.Context, r abi.Request, files abi.Files) (abi.Decision, error) {
		old, err := fs.ReadFile(files.Artifacts, string(result))
		if err == nil {
			err = put(files, string(result), string(old)+suffix)
		}
		return abi.Decision{Allow: true, Redacted: []abi.Channel{result}}, err
	}
}

// TestI1_WhatIsRedactedIsJudgedAgain: each finds what the one before left, and everybody judges
// exactly what leaves, those who redact included.
func TestI1_WhatIsRedactedIsJudgedAgain(t *testing.T) {
	first, a := redactor("a", appends("1"))
	second, b := redactor("b", appends("2"))
	watcher := at(abi.Egress, func(_ context.Context, r abi.Request, files abi.Files) (abi.Decision, error) {
		content, err := fs.ReadFile(files.Artifacts, string(result))
		if err == nil && (string(content) != "text12" || r.Artifacts[0].Bytes != 6 || files.Redacted != nil) {
			err = fmt.Errorf("judges %q, %+v", content, r.Artifacts)
		}
		return abi.Decision{Allow: true}, err
	})
	// The order of the job is not the order of asking.
	s := newScene(t, own("o", watcher), second, owner("c", watcher), first)
	s.write("r", "text")
	s.pass(result)
	c, err := s.egress(s.file(result, "r"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := release(t, c, result); err != nil || got != "text12" {
		t.Errorf("released %q, %v", got, err)
	}
	for _, asked := range [][]abi.Request{a.asked, b.asked} {
		if len(asked) != 4 || asked[2].Point != abi.Redact || asked[3].Point != abi.Egress {
			t.Errorf("asked %d times", len(asked))
		}
	}
	if left, err := os.ReadDir(s.scratch + "/redacted-0"); err != nil || len(left) != 0 {
		t.Errorf("the room of a replacement that was replaced: %v, %v", left, err)
	}
	if len(s.recorder.at(abi.Redact)) != 0 || len(s.recorder.at(abi.Egress)) != 4 {
		t.Errorf("recorded %+v", s.recorder.decisions)
	}
}

// TestI1_TheFinalWordIsOnTheFinalBytes: a policy that allowed what came before a redaction, and
// denies what came of it, denies.
func TestI1_TheFinalWordIsOnTheFinalBytes(t *testing.T) {
	changes, _ := redactor("a", appends("!"))
	denies := at(abi.Egress, func(_ context.Context, _ abi.Request, files abi.Files) (abi.Decision, error) {
		content, err := fs.ReadFile(files.Artifacts, string(result))
		return abi.Decision{Allow: string(content) == "text"}, err
	})
	s := newScene(t, changes, owner("b", denies))
	s.write("r", "text")
	s.pass(result)
	if c, err := s.egress(s.file(result, "r")); c != nil || !errors.Is(err, border.ErrDenied) {
		t.Errorf("got %v, %v", c, err)
	}
}

// TestI2_HostileRedactionsDeny: whatever is no whole replacement of a declared artifact denies the
// job, and tells the operator nothing.
func TestI2_HostileRedactionsDeny(t *testing.T) {
	says := func(channels ...abi.Channel) abi.Decision { return abi.Decision{Allow: true, Redacted: channels} }
	rows := map[string]redaction{
		"a denial": func(context.Context, abi.Request, abi.Files) (abi.Decision, error) {
			return abi.Decision{Code: "small-group"}, nil
		},
		"an error beside an allow": func(_ context.Context, _ abi.Request, files abi.Files) (abi.Decision, error) {
			return says(result), errors.Join(put(files, string(result), "x"), errors.New("trap"))
		},
		"a panic": func(context.Context, abi.Request, abi.Files) (abi.Decision, error) { panic("x") },
		"nothing written": func(context.Context, abi.Request, abi.Files) (abi.Decision, error) {
			return says(result), nil
		},
		"a channel that it does not declare": func(_ context.Context, _ abi.Request, files abi.Files) (abi.Decision, error) {
			return says(abi.Stdout), nil
		},
		"a channel without an artifact": func(context.Context, abi.Request, abi.Files) (abi.Decision, error) {
			return says("outputs.other"), nil
		},
		"a channel twice": func(_ context.Context, _ abi.Request, files abi.Files) (abi.Decision, error) {
			return says(result, result), put(files, string(result), "x")
		},
		"a folder for a file": func(_ context.Context, _ abi.Request, files abi.Files) (abi.Decision, error) {
			return says(result), errors.Join(files.Redacted.Mkdir(string(result)), put(files, string(result)+"/x", "x"))
		},
		"a file for a folder": func(_ context.Context, _ abi.Request, files abi.Files) (abi.Decision, error) {
			return says(model), put(files, string(model), "x")
		},
		"a name that no output may have": func(_ context.Context, _ abi.Request, files abi.Files) (abi.Decision, error) {
			return says(model), errors.Join(files.Redacted.Mkdir(string(model)), put(files, string(model)+"/a\nb", "x"))
		},
		"consent": func(context.Context, abi.Request, abi.Files) (abi.Decision, error) {
			return abi.Decision{Allow: true, Channels: []abi.Channel{result}}, nil
		},
		"larger than any output": func(_ context.Context, _ abi.Request, files abi.Files) (abi.Decision, error) {
			w, err := files.Redacted.Create(string(result))
			for chunk := make([]byte, 1<<20); err == nil; {
				_, err = w.Write(chunk)
			}
			if !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("out of room: %v", err)
			}
			return says(result), nil // it says so all the same
		},
	}
	for rule, f := range rows {
		t.Run(rule, func(t *testing.T) {
			party, _ := redactor("a", f)
			b := allow()
			s := newScene(t, party, owner("b", b))
			s.write("r", "text")
			s.write("m/x", "layer")
			s.write("o", "log")
			s.pass(result, model, abi.Stdout)
			c, err := s.Egress(t.Context(), request(), s.leaving(s.file(result, "r"), s.folder(model, "m"), s.file(abi.Stdout, "o")))
			d, ok := errors.AsType[*border.Denial](err)
			if rule == "larger than any output" { // what was written is cut off, not what it says it is
				if err != nil {
					t.Fatal(err)
				}
				if a := c.Artifacts(); a[2].Channel != result || a[2].Bytes > plenty {
					t.Errorf("cleared %+v", a)
				}
				return
			}
			if c != nil || !ok || d.Point != abi.Egress || d.Detail != "" || (d.Code != "") != (rule == "a denial") {
				t.Errorf("got %v, %+v", c, err)
			}
			if len(b.asked) != 2 {
				t.Error("somebody was asked about egress")
			}
			if found := s.recorder.at(abi.Egress); len(found) != 1 || found[0].Allow {
				t.Errorf("recorded %+v", s.recorder.decisions)
			}
		})
	}
}

// TestI2_NoReplacementOutsideOfItsPlace: names that lead elsewhere, channels that the policy does
// not declare, and links that somebody put there.
func TestI2_NoReplacementOutsideOfItsPlace(t *testing.T) {
	party, _ := redactor("a", func(_ context.Context, _ abi.Request, files abi.Files) (abi.Decision, error) {
		if err := put(files, string(result), "x"); err != nil {
			return abi.Decision{}, err
		}
		for _, name := range []string{
			"", ".", "..", "../r", "/etc/passwd", "outputs.result/..", string(result), string(result) + "/x", "outputs.other",
			string(abi.Stdout), string(abi.Exit), "x", string(model) + "/deep/x", string(model) + "/../" + string(result), "a\x00b",
		} {
			if err := put(files, name, "x"); err == nil {
				t.Errorf("wrote %q", name)
			}
			if err := files.Redacted.Mkdir(name); err == nil && name != "" {
				t.Errorf("made %q", name)
			}
		}
		return abi.Decision{Allow: true}, nil
	})
	s := newScene(t, party)
	s.write("r", "text")
	s.write("m/x", "layer")
	s.write("o", "log")
	s.pass(result, model, abi.Stdout)
	c, err := s.Egress(t.Context(), request(), s.leaving(s.file(result, "r"), s.folder(model, "m"), s.file(abi.Stdout, "o")))
	if err != nil {
		t.Fatal(err)
	}
	// What was written and not named is not there any more, and replaced nothing.
	if got, err := release(t, c, result); err != nil || got != "text" {
		t.Errorf("released %q, %v", got, err)
	}
	if left, err := filepath.Glob(s.scratch + "/*/*"); err != nil || len(left) != 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

// TestI2_AWriterThatOutlivesItsDecisionWritesNothing.
func TestI2_AWriterThatOutlivesItsDecisionWritesNothing(t *testing.T) {
	var late io.Writer
	var sink abi.Sink
	party, _ := redactor("a", func(_ context.Context, _ abi.Request, files abi.Files) (abi.Decision, error) {
		w, err := files.Redacted.Create(string(result))
		if err == nil {
			_, err = io.WriteString(w, "short")
		}
		late, sink = w, files.Redacted
		return abi.Decision{Allow: true, Redacted: []abi.Channel{result}}, err
	})
	s := newScene(t, party)
	s.write("r", "text")
	s.pass(result)
	c, err := s.egress(s.file(result, "r"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(late, "secret"); err == nil {
		t.Error("it wrote")
	}
	if err := sink.Mkdir(string(model)); err == nil {
		t.Error("it made a folder")
	}
	if got, err := release(t, c, result); err != nil || got != "short" {
		t.Errorf("released %q, %v", got, err)
	}
}

// TestRedactedFolders: a folder stays a folder, of any depth.
func TestRedactedFolders(t *testing.T) {
	party, _ := redactor("a", func(_ context.Context, _ abi.Request, files abi.Files) (abi.Decision, error) {
		return abi.Decision{Allow: true, Redacted: []abi.Channel{model}}, errors.Join(
			files.Redacted.Mkdir(string(model)), files.Redacted.Mkdir(string(model)+"/w"),
			put(files, string(model)+"/w/layer", "rounded"))
	})
	s := newScene(t, party)
	s.write("m/w/layer", "weights")
	s.write("m/secret", "secret")
	s.pass(model)
	c, err := s.egress(s.folder(model, "m"))
	if err != nil {
		t.Fatal(err)
	}
	if a := c.Artifacts(); len(a) != 1 || a[0].Kind != "tree" || a[0].Files != 1 || a[0].Bytes != 7 {
		t.Errorf("cleared %+v", a)
	}
	if got, err := release(t, c, model); err != nil || !strings.Contains(got, "rounded") || strings.Contains(got, "secret") {
		t.Errorf("released %q, %v", got, err)
	}
}

// TestI7_TwoRefusalsToRedactAreNotTold: as everywhere else.
func TestI7_TwoRefusalsToRedactAreNotTold(t *testing.T) {
	no := func(context.Context, abi.Request, abi.Files) (abi.Decision, error) {
		return abi.Decision{Code: "small-group"}, nil
	}
	a, first := redactor("a", no)
	b, second := redactor("b", no)
	mine := own("o", allow())
	mine.Manifest.Redacts = []abi.Channel{result}
	s := newScene(t, mine, b, a)
	s.write("r", "text")
	s.pass(result)
	_, err := s.egress(s.file(result, "r"))
	if d, ok := errors.AsType[*border.Denial](err); !ok || !same(*d, border.Denial{Point: abi.Egress}) {
		t.Errorf("told %+v", err)
	}
	if len(first.asked) != 3 || len(second.asked) != 3 || len(mine.Judge.(*fake).asked) != 2 {
		t.Error("one knows of the other, or the operator's own of both")
	}
}

// TestACapHoldsWhatIsLeft: not what was there before.
func TestACapHoldsWhatIsLeft(t *testing.T) {
	for content, allowed := range map[string]bool{"": true, "four": false} {
		party, j := redactor("a", func(_ context.Context, _ abi.Request, files abi.Files) (abi.Decision, error) {
			return abi.Decision{Allow: true, Redacted: []abi.Channel{result}}, put(files, string(result), content)
		})
		s := newScene(t, party, owner("b", consent(map[abi.Channel]int64{result: 3}, result)))
		s.write("r", "large")
		s.pass(result)
		if _, err := s.egress(s.file(result, "r")); (err == nil) != allowed || len(j.asked) != 3+len(s.recorder.at(abi.Egress))/2 {
			t.Errorf("%q: %v", content, err)
		}
	}
}

// TestI7_APolicyFindsItsOwnersAssetsAlone: an owner's theirs, the operator's the operator's, at
// redact and egress.
func TestI7_APolicyFindsItsOwnersAssetsAlone(t *testing.T) {
	found := map[string][]string{}
	look := func(_ context.Context, r abi.Request, files abi.Files) (abi.Decision, error) {
		if r.Point == abi.Admit || r.Point == abi.Ingress {
			if files.Own != nil || files.Artifacts != nil {
				t.Errorf("files at %s", r.Point)
			}
			return yes(r), nil
		}
		var names []string
		err := fs.WalkDir(files.Own, ".", func(name string, e fs.DirEntry, err error) error {
			if err == nil && !e.IsDir() {
				names = append(names, name)
			}
			return err
		})
		owner := r.Policies[r.Self].Owner
		if _, again := found[owner]; again && !slices.Equal(found[owner], names) {
			t.Errorf("%s finds %v at %s", owner, names, r.Point)
		}
		found[owner] = names
		return abi.Decision{Allow: true}, err
	}
	a, b, mine := owner("a", &fake{answer: look}), owner("b", &fake{answer: look}), own("o", &fake{answer: look})
	for _, p := range []*border.Party{&a, &b, &mine} {
		p.Manifest.Redacts = []abi.Channel{result}
	}
	s := newScene(t, a, b, mine)
	s.write("r", "text")
	s.write("model/weights", "of a")
	s.write("scans.csv", "of b")
	s.write("notes", "of the operator")
	dir, err := s.root.OpenRoot("model")
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	s.assets = []border.Asset{
		{Name: "inputs.model", Owner: "arn:a", Dir: dir},
		{Name: "inputs.scans", Owner: "arn:b", Dir: s.root, File: "scans.csv"},
		{Name: "inputs.notes", Dir: s.root, File: "notes"},
	}
	s.pass(result)
	if _, err := s.egress(s.file(result, "r")); err != nil {
		t.Fatal(err)
	}
	want := map[string][]string{"arn:a": {"inputs.model/weights"}, "arn:b": {"inputs.scans"}, "": {"inputs.notes"}}
	if fmt.Sprint(found) != fmt.Sprint(want) {
		t.Errorf("found %v, want %v", found, want)
	}
}

// The names of a replacement are bounded, like those of an output.
func TestI2_AReplacementHasOnlySoManyNames(t *testing.T) {
	s := newScene(t)
	into, err := border.SinkFor(s.leaving(), abi.Manifest{Redacts: []abi.Channel{model}}, []abi.Artifact{{Channel: model, Kind: "tree"}}, 3)
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{into.Mkdir(string(model)), into.Mkdir(string(model) + "/d"), put(abi.Files{Redacted: into}, string(model)+"/d/x", "x")} {
		if err != nil {
			t.Error(err)
		}
	}
	if err := into.Mkdir(string(model) + "/e"); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("a fourth folder: %v", err)
	}
	if _, err := into.Create(string(model) + "/y"); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("a fourth name: %v", err)
	}
}
