package jobspec_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/cloister-run/cloister/jobspec"
)

const (
	everything = "testdata/valid/everything.yaml"
	golden     = "testdata/canonical/everything.json"
)

// module is a digest to stand for a policy's module.
func module(c string) string { return "sha256:" + strings.Repeat(c, 64) }

func parse(t testing.TB, data string) *jobspec.Job {
	t.Helper()
	job, err := jobspec.Parse("job.yaml", []byte(data))
	if err != nil {
		t.Fatal(err)
	}
	return job
}

func canonical(t testing.TB, job *jobspec.Job) *jobspec.Canonical {
	t.Helper()
	if job.Application.Sealed() && job.Application.Command.Entrypoint == "" {
		if err := job.Adopt(fitting(job)); err != nil {
			t.Fatalf("a command that fits is refused: %v", err)
		}
	}
	modules := make([]string, len(job.Policies))
	for i := range modules {
		modules[i] = module("abcdef"[i%6 : i%6+1])
	}
	c, err := job.Canonical(modules)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// fitting is a command that declares just what the job supplies.
func fitting(job *jobspec.Job) jobspec.Command {
	c := jobspec.Command{Entrypoint: "main.py", Outputs: map[string]string{}, Parameters: map[string]jobspec.Parameter{}}
	for name, output := range job.Outputs {
		c.Outputs[name] = name
		if strings.HasSuffix(output.SaveTo, "/") {
			c.Outputs[name] += "/"
		}
	}
	for name := range job.Parameters {
		c.Parameters[name] = jobspec.Parameter{Pattern: "(?s).*"}
	}
	return c
}

func read(t testing.TB, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// The stored form keeps digests of old receipts meaningful: a change of it is a change of
// the format and needs a new version.
func TestCanonicalFormStaysWhatItIs(t *testing.T) {
	c := canonical(t, parse(t, read(t, everything)))
	if *update {
		if err := os.WriteFile(golden, append(c.JSON(), '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want := strings.TrimSuffix(read(t, golden), "\n")
	if got := string(c.JSON()); got != want {
		t.Errorf("JSON\n%s\nwant\n%s", got, want)
	}
	var message []byte
	for _, field := range []string{"cloister job v1", want} {
		message = binary.BigEndian.AppendUint64(message, uint64(len(field)))
		message = append(message, field...)
	}
	sum := sha256.Sum256(message)
	if want := "sha256:" + hex.EncodeToString(sum[:]); c.Digest() != want {
		t.Errorf("digest %s, want %s", c.Digest(), want)
	}
}

const spelt = `
version: 1
name: digits
application:
  from: ./app
  command: {entrypoint: infer.py, outputs: {a: a.csv, b: b/}, env: {X: "1", Y: "2"}, parameters: {n: {default: "1", pattern: "[0-9]"}}}
inputs: {m: {from: ./m}, d: {from: ./d}}
outputs: {a: {save_to: ./a.csv}, b: {save_to: ./b}}
logs: {stdout: ./log}
policies: [{module: ./p.wasm, config: {x: 1.50, y: [true, null], z: 10}}]
`

// One job in other words: order, quotes, comments, units, aliases, defaults, paths of the disk.
const respelt = `# the same job
"limits": {run: 60m, processes: 256, disk: 1024MiB, memory: 1073741824, cpus: 1}
parameters: {n: '1'}
policies:
  - config: {z: 10, "y": &y [True, ~], x: 1.5}
    use: library/p
logs: {stdout: /elsewhere/log}
outputs:
  b: {save_to: ../b/}
  a: &a {save_to: "/results/a.csv"}
inputs: {d: {from: /data/d}, m: {from: ../m}}
application:
  command:
    parameters: {n: {pattern: '[0-9]', default: "1"}}
    env: {Y: "2", X: "1"}
    args: []
    outputs: {b: b/, a: a.csv}
    executor: python
    entrypoint: infer.py
  from: /somewhere/app
name: 'digits'
version: 1
`

func TestDigestDoesNotDependOnSpelling(t *testing.T) {
	a, b := canonical(t, parse(t, spelt)), canonical(t, parse(t, respelt))
	if a.Digest() != b.Digest() {
		t.Errorf("two digests for one job:\n%s\n%s", a.JSON(), b.JSON())
	}
}

func TestDigestCoversEveryField(t *testing.T) {
	text := func(s string) *string { return &s }
	base := canonical(t, parse(t, spelt)).Digest()
	seen := map[string]string{base: "the job itself"}
	for name, change := range map[string]func(*jobspec.Canonical){
		"version":        func(c *jobspec.Canonical) { c.Version++ },
		"name":           func(c *jobspec.Canonical) { c.Name = "other" },
		"executor":       func(c *jobspec.Canonical) { c.Command.Executor = "other" },
		"entrypoint":     func(c *jobspec.Canonical) { c.Command.Entrypoint = "other" },
		"args":           func(c *jobspec.Canonical) { c.Command.Args = []string{"a", "b"} },
		"args split":     func(c *jobspec.Canonical) { c.Command.Args = []string{"a,b"} },
		"args order":     func(c *jobspec.Canonical) { c.Command.Args = []string{"b", "a"} },
		"env":            func(c *jobspec.Canonical) { c.Command.Env["X"] = "3" },
		"place":          func(c *jobspec.Canonical) { c.Command.Outputs["a"] = "c.csv" },
		"file or folder": func(c *jobspec.Canonical) { c.Command.Outputs["a"] = "a.csv/" },
		"pattern": func(c *jobspec.Canonical) {
			c.Command.Parameters["n"] = jobspec.Parameter{Default: text("1"), Pattern: "."}
		},
		"default": func(c *jobspec.Canonical) { c.Command.Parameters["n"] = jobspec.Parameter{Pattern: "[0-9]"} },
		"empty default": func(c *jobspec.Canonical) {
			c.Command.Parameters["n"] = jobspec.Parameter{Default: text(""), Pattern: "[0-9]"}
		},
		"inputs":            func(c *jobspec.Canonical) { c.Inputs = []string{"m"} },
		"parameters":        func(c *jobspec.Canonical) { c.Parameters["n"] = "2" },
		"outputs":           func(c *jobspec.Canonical) { c.Outputs = []string{"a"} },
		"recipients":        func(c *jobspec.Canonical) { c.SealTo["a"] = []string{"age1x"} },
		"stdout":            func(c *jobspec.Canonical) { c.Logs.Stdout = false },
		"stderr":            func(c *jobspec.Canonical) { c.Logs.Stderr = true },
		"exit":              func(c *jobspec.Canonical) { c.Exit = true },
		"policies":          func(c *jobspec.Canonical) { c.Policies = nil },
		"policy's module":   func(c *jobspec.Canonical) { c.Policies[0].Module = module("f") },
		"policy's config":   func(c *jobspec.Canonical) { c.Policies[0].Config = json.RawMessage("{}") },
		"cpus":              func(c *jobspec.Canonical) { c.Limits.CPUs++ },
		"memory":            func(c *jobspec.Canonical) { c.Limits.Memory++ },
		"disk":              func(c *jobspec.Canonical) { c.Limits.Disk++ },
		"processes":         func(c *jobspec.Canonical) { c.Limits.Processes++ },
		"run":               func(c *jobspec.Canonical) { c.Limits.Run++ },
		"queue":             func(c *jobspec.Canonical) { c.Limits.Queue++ },
		"environments":      func(c *jobspec.Canonical) { c.Command.Environments = []string{module("e")} },
		"environment":       func(c *jobspec.Canonical) { c.Environment = true },
		"keep":              func(c *jobspec.Canonical) { c.Keep++ },
		"memory for disk":   func(c *jobspec.Canonical) { c.Limits.Memory, c.Limits.Disk = c.Limits.Disk+7, c.Limits.Memory },
		"disk for memory":   func(c *jobspec.Canonical) { c.Limits.Memory, c.Limits.Disk = c.Limits.Disk, c.Limits.Memory+7 },
		"channel for input": func(c *jobspec.Canonical) { c.Inputs, c.Outputs = c.Outputs, c.Inputs },
	} {
		c := canonical(t, parse(t, spelt))
		change(c)
		if twin, ok := seen[c.Digest()]; ok {
			t.Errorf("a change of %s has the digest of %s", name, twin)
		}
		seen[c.Digest()] = name
	}
}

func TestAbsentAndEmptyAreOne(t *testing.T) {
	c := canonical(t, parse(t, read(t, "testdata/valid/minimal.yaml")))
	bare := *c
	bare.Command.Args, bare.Command.Env, bare.Command.Outputs, bare.Command.Parameters = nil, nil, nil, nil
	bare.Inputs, bare.Parameters, bare.Outputs, bare.Policies = nil, nil, nil, nil
	if !bytes.Equal(bare.JSON(), c.JSON()) || bytes.Contains(c.JSON(), []byte("null")) {
		t.Errorf("absent %s\nempty %s", bare.JSON(), c.JSON())
	}
}

func TestCanonicalFillsDefaultsOfAJobMadeByHand(t *testing.T) {
	one := "1"
	job := &jobspec.Job{Name: "a", Application: jobspec.Application{From: ".", Command: jobspec.Command{
		Entrypoint: "main.py", Parameters: map[string]jobspec.Parameter{"n": {Default: &one, Pattern: "."}}}}}
	c := canonical(t, job)
	if c.Command.Executor != "python" || c.Parameters["n"] != "1" ||
		c.Limits != (jobspec.Limits{CPUs: 1, Memory: 1 << 30, Disk: 1 << 30, Processes: 256, Run: time.Hour}) {
		t.Errorf("%s", c.JSON())
	}
	c.Command.Parameters["n"] = jobspec.Parameter{}
	if job.Application.Command.Parameters["n"].Pattern != "." {
		t.Error("the canonical job shares memory with the job")
	}
}

func TestCanonicalRefusesWhatIsNoJob(t *testing.T) {
	job := parse(t, spelt)
	if _, err := job.Canonical(nil); err == nil {
		t.Error("a policy without a digest is accepted")
	}
	if _, err := job.Canonical([]string{"sha256:00"}); err == nil {
		t.Error("a short digest is accepted")
	}
	job.Application.Command.Entrypoint = "../x"
	if _, ok := errors.AsType[*jobspec.Problems](second(job.Canonical([]string{module("a")}))); !ok {
		t.Error("a job made by hand escapes the rules")
	}
}

func second[T any](_ T, err error) error { return err }

func TestParseCanonicalReadsWhatJSONWrote(t *testing.T) {
	for name, data := range fixtures(t, "testdata/valid/*.yaml") {
		c := canonical(t, parse(t, string(data)))
		back, err := jobspec.ParseCanonical(c.JSON())
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if back.Digest() != c.Digest() || !bytes.Equal(back.JSON(), c.JSON()) {
			t.Errorf("%s: another job came back", name)
		}
	}
}

func TestParseCanonicalRefusesOtherSpellings(t *testing.T) {
	good := string(canonical(t, parse(t, spelt)).JSON())
	edit := func(old, replacement string) string {
		t.Helper()
		if strings.Count(good, old) < 1 {
			t.Fatalf("%s does not hold %s", good, old)
		}
		return strings.Replace(good, old, replacement, 1)
	}
	for name, bad := range map[string]string{
		"empty":                  "",
		"null":                   "null",
		"a list":                 "[]",
		"truncated":              good[:len(good)-1],
		"trailing line end":      good + "\n",
		"trailing value":         good + "{}",
		"leading space":          " " + good,
		"space inside":           edit(`,"name"`, `, "name"`),
		"unknown field":          edit(`"name"`, `"nick":"x","name"`),
		"duplicate field":        edit(`"name"`, `"name":"x","name"`),
		"field in capitals":      edit(`"name"`, `"Name"`),
		"missing field":          edit(`"exit":false,`, ""),
		"null for a list":        edit(`"args":[]`, `"args":null`),
		"unsorted inputs":        edit(`["d","m"]`, `["m","d"]`),
		"input twice":            edit(`["d","m"]`, `["d","d","m"]`),
		"unsorted map":           edit(`"X":"1","Y":"2"`, `"Y":"2","X":"1"`),
		"duplicate in a map":     edit(`"X":"1"`, `"X":"1","X":"1"`),
		"duplicate in config":    edit(`"z":10`, `"z":10,"z":10`),
		"escape not needed":      edit(`"digits"`, `"d\u0069gits"`),
		"number in other words":  edit(`"x":1.5`, `"x":1.50`),
		"exponent":               edit(`"z":10`, `"z":1e1`),
		"wrong type":             edit(`"exit":false`, `"exit":0`),
		"fraction":               edit(`"cpus":1`, `"cpus":1.0`),
		"parameter left out":     edit(`"parameters":{"n":"1"}`, `"parameters":{}`),
		"lone surrogate":         edit(`[true,null]`, `["\ud800"]`),
		"not UTF-8":              edit(`[true,null]`, "[\"\xff\"]"),
		"sealed to no output":    edit(`"seal_to":{}`, `"seal_to":{"c":["age1s0yds39rnmv5s7z75yak6pym6zzf72jr63pyt0m9wq7jc97cqadsw9xnpv"]}`),
		"sealed to nobody":       edit(`"seal_to":{}`, `"seal_to":{"a":[]}`),
		"sealed to no recipient": edit(`"seal_to":{}`, `"seal_to":{"a":["age1x"]}`),
		"unsorted recipients":    edit(`"seal_to":{}`, `"seal_to":{"a":["age1zfuwet82s9375u8w36yfs2c6mnv8n4h78x0ca0sh0p4fga9wlvnsu2weu9","age1s0yds39rnmv5s7z75yak6pym6zzf72jr63pyt0m9wq7jc97cqadsw9xnpv"]}`),
		"nested deep":            edit(`[true,null]`, strings.Repeat("[", 9999)+strings.Repeat("]", 9999)),
		"too long":               edit(`[true,null]`, `["`+strings.Repeat("x", jobspec.MaxCanonical)+`"]`),
	} {
		t.Run(name, func(t *testing.T) {
			if c, err := jobspec.ParseCanonical([]byte(bad)); err == nil || c != nil {
				t.Errorf("accepted: %v", err)
			}
		})
	}
	if _, err := jobspec.ParseCanonical([]byte(edit(`,"name"`, `, "name"`))); !errors.Is(err, jobspec.ErrNotCanonical) {
		t.Errorf("%v is not ErrNotCanonical", err)
	}
	// These are refused while reading, and not only because they are written otherwise.
	for _, bad := range []string{
		edit(`"name"`, `"nick":"x","name"`), edit(`"name"`, `"name":"x","name"`), edit(`"z":10`, `"z":10,"z":10`),
		edit(`[true,null]`, `["`+strings.Repeat("x", jobspec.MaxCanonical)+`"]`), edit(`[true,null]`, "[\"\xff\"]"),
	} {
		_, err := jobspec.ParseCanonical([]byte(bad))
		if _, late := errors.AsType[*jobspec.Problems](err); late || errors.Is(err, jobspec.ErrNotCanonical) {
			t.Errorf("refused too late: %v", err)
		}
	}
	for _, good := range []string{good, edit(`"seal_to":{}`, `"seal_to":{"a":["age1s0yds39rnmv5s7z75yak6pym6zzf72jr63pyt0m9wq7jc97cqadsw9xnpv","age1zfuwet82s9375u8w36yfs2c6mnv8n4h78x0ca0sh0p4fga9wlvnsu2weu9"]}`)} {
		if _, err := jobspec.ParseCanonical([]byte(good)); err != nil {
			t.Errorf("a job that the edits began with: %v", err)
		}
	}
}
