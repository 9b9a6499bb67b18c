// Package policytest reads fixtures: questions to a policy, and the answers that they must get.
//
// A fixture is a txtar archive. Its comment is lines of "# …", which say what rule it checks,
// and lines of "key: value":
//
//	# a group of one row identifies a person
//	point: egress
//	config: {"columns": ["id", "digit"], "group_by": "digit", "min_group": 2}
//	channels: outputs.predictions logs.stdout
//	expect: deny small-group
//	-- outputs.predictions --
//	id,digit
//	1,7
//
// A file called like a channel is an artifact of kind "file"; files under CHANNEL/ make one of
// kind "tree". Files under self/ are the assets of the policy's owner, those under redacted/ what
// it must write in the place of artifacts. The keys are point, config (JSON, "null" if left out), channels, assets (JSON, a
// list as in a request; one plain application if left out), executor (its digest), sharing (how
// many other jobs), seal_to (JSON: the recipients of outputs by name, as in a job), expect, caps and
// recipients. Expect is one of
//
//	allow [CHANNEL…]   with exactly these consents; at redact, with exactly these redacted
//	deny [CODE]
//	error              no decision: the policy fails, which counts as a denial
//
// and caps and recipients, JSON, are what an admission must have, none if left out.
//
// The package owns the format. It runs nothing: a test asks a policy natively or through an
// engine by way of [Fixture.Ask] and hands the answer to [Fixture.Check].
package policytest

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing/fstest"

	"github.com/rogpeppe/go-internal/diff"
	"golang.org/x/tools/txtar"

	"github.com/cloister-run/cloister/policies/abi"
)

// maxFixture bounds a fixture's file.
const maxFixture = 4 << 20

// Fixture is one question and the answer that it must get.
type Fixture struct {
	// Name is the file's name without its extension.
	Name     string
	point    abi.Point
	config   json.RawMessage
	channels []abi.Channel
	assets   []abi.Asset
	executor string
	sharing  int
	sealTo   map[string][]string
	expect   []string
	caps     map[abi.Channel]int64
	accepts  []string
	// What the policy finds, and what it must write.
	artifacts, own, redacted fstest.MapFS
}

// Load reads every fixture (*.txtar) of a folder, sorted by name. A folder without one is an
// error, for a test over nothing passes. Every problem of every fixture is reported.
func Load(dir string) ([]Fixture, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.txtar"))
	if err != nil {
		return nil, fmt.Errorf("policytest: %w", err)
	}
	if len(paths) == 0 {
		return nil, fmt.Errorf("policytest: %s: no fixture (*.txtar)", dir)
	}
	var fixtures []Fixture
	var problems []error
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err == nil && len(data) > maxFixture {
			err = fmt.Errorf("over %d bytes", maxFixture)
		}
		var fixture Fixture
		if err == nil {
			fixture, err = Parse(data)
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("policytest: %s: %w", path, err))
			continue
		}
		fixture.Name = strings.TrimSuffix(filepath.Base(path), ".txtar")
		fixtures = append(fixtures, fixture)
	}
	return fixtures, errors.Join(problems...)
}

// Parse reads one fixture.
func Parse(data []byte) (Fixture, error) {
	archive := txtar.Parse(data)
	f := Fixture{config: json.RawMessage("null"), sealTo: map[string][]string{}, executor: digest(nil), artifacts: fstest.MapFS{}, own: fstest.MapFS{}, redacted: fstest.MapFS{}}
	var problems []error
	for n, line := range strings.Split(string(archive.Comment), "\n") {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, value, _ := strings.Cut(line, ":")
		if err := f.set(key, strings.TrimSpace(value)); err != nil {
			problems = append(problems, fmt.Errorf("line %d: %w", n+1, err))
		}
	}
	for _, file := range archive.Files {
		into, name := f.place(file.Name)
		if !fs.ValidPath(name) || into[name] != nil {
			problems = append(problems, fmt.Errorf("-- %s --: not a path, or there twice", file.Name))
			continue
		}
		into[name] = &fstest.MapFile{Data: file.Data, Mode: 0o444}
	}
	if len(f.expect) == 0 {
		problems = append(problems, errors.New("expect: missing"))
	}
	if f.point == "" {
		problems = append(problems, errors.New("point: missing"))
	}
	if len(f.artifacts)+len(f.own) > 0 && !f.point.HasFiles() {
		problems = append(problems, errors.New("files at another point than redact and egress"))
	}
	if len(f.redacted) > 0 && f.point != abi.Redact {
		problems = append(problems, errors.New("replacements at another point than redact"))
	}
	return f, errors.Join(problems...)
}

// place says what a file of the archive is, and its name there.
func (f *Fixture) place(name string) (fstest.MapFS, string) {
	if own, ok := strings.CutPrefix(name, "self/"); ok {
		return f.own, own
	}
	if redacted, ok := strings.CutPrefix(name, "redacted/"); ok {
		return f.redacted, redacted
	}
	return f.artifacts, name
}

func (f *Fixture) set(key, value string) error {
	switch key {
	case "point":
		if f.point = abi.Point(value); !slices.Contains([]abi.Point{abi.Admit, abi.Ingress, abi.Redact, abi.Egress}, f.point) {
			return fmt.Errorf("point: %q is none", value)
		}
	case "config":
		if f.config = json.RawMessage(value); !json.Valid(f.config) {
			return errors.New("config: not JSON")
		}
	case "channels":
		for name := range strings.FieldsSeq(value) {
			f.channels = append(f.channels, abi.Channel(name))
		}
	case "assets":
		f.assets = []abi.Asset{}
		return abi.DecodeExact([]byte(value), maxFixture, &f.assets)
	case "executor":
		f.executor = value
	case "sharing":
		var err error
		if f.sharing, err = strconv.Atoi(value); err != nil || f.sharing < 0 {
			return fmt.Errorf("sharing: %q is no number of jobs", value)
		}
	case "seal_to":
		return abi.DecodeExact([]byte(value), maxFixture, &f.sealTo)
	case "caps":
		return json.Unmarshal([]byte(value), &f.caps)
	case "recipients":
		return json.Unmarshal([]byte(value), &f.accepts)
	case "expect":
		f.expect = strings.Fields(value)
		if len(f.expect) == 0 || !slices.Contains([]string{"allow", "deny", "error"}, f.expect[0]) ||
			(f.expect[0] != "allow" && len(f.expect) > 2) || (f.expect[0] == "error" && len(f.expect) > 1) {
			return fmt.Errorf("expect: %q is none of allow, deny, error", value)
		}
	default:
		return fmt.Errorf("unknown key %q", key)
	}
	return nil
}

// Allows reports whether the fixture expects to be allowed.
func (f Fixture) Allows() bool { return f.expect[0] == "allow" }

// Request is the question.
func (f Fixture) Request() abi.Request {
	assets := f.assets
	if assets == nil {
		assets = []abi.Asset{{Name: "application", Kind: "application", Verified: f.point != abi.Admit}}
	}
	return abi.Request{
		ABI: abi.Version, Point: f.point,
		Job: f.job(), JobDigest: digest(nil),
		Executor: abi.Executor{Name: "python", Version: "1", Digest: f.executor},
		Assets:   assets,
		Policies: []abi.PolicyRef{{Module: digest(nil), Config: digest(f.config)}},
		Config:   f.config, Channels: append([]abi.Channel{}, f.channels...), // a list, as the border has it, never null
		Time: "2026-01-02T03:04:05Z", PCRs: map[string]string{}, Sharing: f.sharing,
		Artifacts: f.described(),
	}
}

// job is as much of a canonical job as fixtures say.
func (f Fixture) job() json.RawMessage {
	job, err := json.Marshal(map[string]any{"version": 1, "name": "fixture", "seal_to": f.sealTo})
	if err != nil {
		panic("policytest: a map of texts: " + err.Error()) // it has no other values
	}
	return job
}

// Answer is what a policy answered to a fixture.
type Answer struct {
	Decision abi.Decision
	Err      error
	written  *written
}

// Ask puts the question to a policy.
func (f Fixture) Ask(decide func(abi.Request, abi.Files) (abi.Decision, error)) Answer {
	a := Answer{written: &written{}}
	files := abi.Files{}
	if f.point.HasFiles() {
		files.Artifacts, files.Own = f.artifacts, f.own
	}
	if f.point == abi.Redact {
		files.Redacted = a.written
	}
	a.Decision, a.Err = decide(f.Request(), files)
	return a
}

// Redaction is a digest over what the policy wrote in the place of the channels that it named, names and
// content; empty if it named none.
func (a Answer) Redaction() string {
	if a.Err != nil || len(a.Decision.Redacted) == 0 {
		return ""
	}
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(a.written.files)) {
		if channel, _, _ := strings.Cut(name, "/"); slices.Contains(a.Decision.Redacted, abi.Channel(channel)) {
			content := a.written.files[name].Bytes()
			_, _ = fmt.Fprintf(h, "%q %d\n", name, len(content)) // a hash takes everything
			h.Write(content)
		}
	}
	return fmt.Sprintf("sha256:%x", h.Sum(nil))
}

// CheckAll asks every fixture of a folder, and reports each that fails. The policy's manifest is in a file.
func CheckAll(dir, manifestFile string, decide func(abi.Request, abi.Files) (abi.Decision, error)) error {
	text, err := os.ReadFile(manifestFile)
	if err != nil {
		return err
	}
	manifest, err := abi.DecodeManifest(text)
	if err != nil {
		return err
	}
	fixtures, err := Load(dir)
	if err != nil {
		return err
	}
	var problems []error
	for _, f := range fixtures {
		if err := f.Check(f.Ask(decide), manifest); err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", f.Name, err))
		}
	}
	return errors.Join(problems...)
}

// described are the artifacts as the border would describe them. The digest of a tree is no real one.
func (f Fixture) described() []abi.Artifact {
	found := map[abi.Channel]*abi.Artifact{}
	for _, name := range slices.Sorted(maps.Keys(f.artifacts)) {
		channel, _, inside := strings.Cut(name, "/")
		content := f.artifacts[name].Data
		a := found[abi.Channel(channel)]
		if a == nil {
			a = &abi.Artifact{Channel: abi.Channel(channel), Kind: "file", Digest: digest(content)}
			if output, ok := a.Channel.OutputName(); ok {
				a.Recipients = f.sealTo[output]
			}
			found[a.Channel] = a
		}
		if inside {
			a.Kind = "tree"
		}
		a.Bytes += int64(len(content))
		a.Files++
	}
	var artifacts []abi.Artifact
	for _, channel := range slices.Sorted(maps.Keys(found)) {
		artifacts = append(artifacts, *found[channel])
	}
	return artifacts
}

func digest(data []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(data)) }

// Check compares an answer with the expected one. A decision is held against the manifest
// first: one that the border would not believe is an error here too.
func (f Fixture) Check(a Answer, manifest abi.Manifest) error {
	decision, err := a.Decision, a.Err
	if err == nil {
		err = decision.Check(f.Request(), manifest)
	}
	got := f.answer(decision, err)
	want := strings.Join(f.expect, " ")
	if got != want {
		return errors.Join(fmt.Errorf("answered %q, expected %q", got, want), err)
	}
	if err == nil && !maps.Equal(decision.Caps, f.caps) {
		return fmt.Errorf("caps %v, expected %v", decision.Caps, f.caps)
	}
	if err == nil && (!slices.Equal(decision.Recipients, f.accepts) || (decision.Recipients == nil) != (f.accepts == nil)) {
		return fmt.Errorf("recipients %v, expected %v", decision.Recipients, f.accepts)
	}
	if err != nil && decision.Allow {
		return errors.New("an error came with a decision that allows")
	}
	return f.compare(a)
}

// compare holds what was written for the redacted channels against what must be there.
func (f Fixture) compare(a Answer) error {
	var problems []error
	names := map[string]bool{}
	for name := range f.redacted {
		names[name] = true
	}
	for name := range a.written.files {
		channel, _, _ := strings.Cut(name, "/")
		if slices.Contains(a.Decision.Redacted, abi.Channel(channel)) {
			names[name] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		want, got := f.redacted[name], a.written.files[name]
		switch {
		case want == nil:
			problems = append(problems, fmt.Errorf("redacted/%s: written, and not expected", name))
		case got == nil:
			problems = append(problems, fmt.Errorf("redacted/%s: expected, and not written", name))
		case !bytes.Equal(want.Data, got.Bytes()):
			problems = append(problems, fmt.Errorf("redacted/%s: not as expected:\n%s", name,
				diff.Diff("expected", want.Data, "written", got.Bytes())))
		}
	}
	return errors.Join(problems...)
}

// written keeps what a policy writes.
type written struct {
	folders map[string]bool
	files   map[string]*bytes.Buffer
}

var _ abi.Sink = (*written)(nil)

// Mkdir makes a folder.
func (w *written) Mkdir(name string) error {
	if err := w.check(name); err != nil {
		return err
	}
	if w.folders == nil {
		w.folders = map[string]bool{}
	}
	w.folders[name] = true
	return nil
}

// Create makes a file.
func (w *written) Create(name string) (io.WriteCloser, error) {
	if err := w.check(name); err != nil {
		return nil, err
	}
	if w.files == nil {
		w.files = map[string]*bytes.Buffer{}
	}
	w.files[name] = &bytes.Buffer{}
	return page{w.files[name]}, nil
}

func (w *written) check(name string) error {
	switch parent := path.Dir(name); {
	case !fs.ValidPath(name):
		return fs.ErrInvalid
	case w.folders[name] || w.files[name] != nil:
		return fs.ErrExist
	case parent != "." && !w.folders[parent]:
		return fs.ErrNotExist
	}
	return nil
}

// page is one file of what a policy writes.
type page struct{ *bytes.Buffer }

// Close does nothing.
func (page) Close() error { return nil }

// answer spells an answer as a fixture does.
func (f Fixture) answer(decision abi.Decision, err error) string {
	if err != nil {
		return "error"
	}
	if !decision.Allow {
		return strings.TrimSpace("deny " + decision.Code)
	}
	words := []string{"allow"}
	for _, channel := range slices.Concat(decision.Channels, decision.Redacted) {
		words = append(words, string(channel))
	}
	return strings.Join(words, " ")
}
