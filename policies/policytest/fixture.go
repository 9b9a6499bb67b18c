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
// kind "tree". The keys are point, config (JSON, "null" if left out), channels, assets (JSON, a
// list as in a request; one plain application if left out), executor (its digest), sharing (how
// many other jobs), expect and caps. Expect is one of
//
//	allow [CHANNEL…]   with exactly these consents
//	deny [CODE]
//	error              no decision: the policy fails, which counts as a denial
//
// and caps, JSON, are the caps that an admission must have, none if left out.
//
// The package owns the format. It runs nothing: a test asks a policy natively or through an
// engine and hands the answer to [Fixture.Check].
package policytest

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing/fstest"

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
	expect   []string
	caps     map[abi.Channel]int64
	files    fstest.MapFS
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
	f := Fixture{config: json.RawMessage("null"), executor: digest(nil), files: fstest.MapFS{}}
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
		if !fs.ValidPath(file.Name) || f.files[file.Name] != nil {
			problems = append(problems, fmt.Errorf("-- %s --: not a path, or there twice", file.Name))
			continue
		}
		f.files[file.Name] = &fstest.MapFile{Data: file.Data, Mode: 0o444}
	}
	if len(f.expect) == 0 {
		problems = append(problems, errors.New("expect: missing"))
	}
	if f.point == "" {
		problems = append(problems, errors.New("point: missing"))
	}
	if len(f.files) > 0 && f.point != abi.Egress {
		problems = append(problems, errors.New("artifacts at another point than egress"))
	}
	return f, errors.Join(problems...)
}

func (f *Fixture) set(key, value string) error {
	switch key {
	case "point":
		if f.point = abi.Point(value); f.point != abi.Admit && f.point != abi.Ingress && f.point != abi.Egress {
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
	case "caps":
		return json.Unmarshal([]byte(value), &f.caps)
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
		Job: json.RawMessage(`{"version":1,"name":"fixture"}`), JobDigest: digest(nil),
		Executor: abi.Executor{Name: "python", Version: "1", Digest: f.executor},
		Assets:   assets,
		Policies: []abi.PolicyRef{{Module: digest(nil), Config: digest(f.config)}},
		Config:   f.config, Channels: f.channels,
		Time: "2026-01-02T03:04:05Z", PCRs: map[string]string{}, Sharing: f.sharing,
		Artifacts: f.artifacts(),
	}
}

// Files holds the artifacts; nil before egress.
func (f Fixture) Files() fs.FS {
	if f.point != abi.Egress {
		return nil
	}
	return f.files
}

// artifacts describes the files as the border would. The digest of a tree is no real one.
func (f Fixture) artifacts() []abi.Artifact {
	found := map[abi.Channel]*abi.Artifact{}
	for _, name := range slices.Sorted(maps.Keys(f.files)) {
		channel, _, inside := strings.Cut(name, "/")
		content := f.files[name].Data
		a := found[abi.Channel(channel)]
		if a == nil {
			a = &abi.Artifact{Channel: abi.Channel(channel), Kind: "file", Digest: digest(content)}
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
func (f Fixture) Check(decision abi.Decision, err error, manifest abi.Manifest) error {
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
	if err != nil && decision.Allow {
		return errors.New("an error came with a decision that allows")
	}
	return nil
}

// answer spells an answer as a fixture does.
func (f Fixture) answer(decision abi.Decision, err error) string {
	if err != nil {
		return "error"
	}
	if !decision.Allow {
		return strings.TrimSpace("deny " + decision.Code)
	}
	words := []string{"allow"}
	for _, channel := range decision.Channels {
		words = append(words, string(channel))
	}
	return strings.Join(words, " ")
}
