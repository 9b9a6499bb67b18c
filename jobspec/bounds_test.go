package jobspec_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cloister-run/cloister/jobspec"
)

const smallest = "version: 1\nname: a\napplication: {from: ., command: {entrypoint: main.py}}\n"

func problems(t *testing.T, data string) jobspec.Problems {
	t.Helper()
	_, err := jobspec.Parse("job.yaml", []byte(data))
	found, ok := errors.AsType[*jobspec.Problems](err)
	if !ok {
		t.Fatalf("Parse = %v; want problems", err)
	}
	return *found
}

func TestBoundsOfTheFile(t *testing.T) {
	fill := func(n int) string { return "#" + strings.Repeat(" ", n-len(smallest)-2) + "\n" + smallest }
	if _, err := jobspec.Parse("job.yaml", []byte(fill(jobspec.MaxFile))); err != nil {
		t.Errorf("the longest file: %v", err)
	}
	for name, row := range map[string]struct{ data, message string }{
		"too long a file":   {fill(jobspec.MaxFile + 1), "the file is 262145 bytes long"},
		"too long a config": {smallest + "policies: [{use: library/x, config: " + strings.Repeat("x", 64<<10) + "}]\n", "at most 65536 are allowed"},
		"too long a number": {smallest + "policies: [{use: library/x, config: " + strings.Repeat("9", 65) + "}]\n", "the number is 65 digits long"},
		"too long a path":   {smallest + "exit: " + strings.Repeat("x", 4097) + "\n", "is 4097 bytes long; at most 4096"},
		"too many values":   {smallest + "policies: [{use: library/x, config: [" + strings.Repeat("1,", 10_000) + "]}]\n", "more than 10000 values"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, p := range problems(t, row.data) {
				if strings.Contains(p.Message, row.message) {
					return
				}
			}
			t.Errorf("no problem says %q: %v", row.message, problems(t, row.data))
		})
	}
}

// Each part stays within its own bound; together they are more than the enclave takes.
func TestBoundOfTheCanonicalJob(t *testing.T) {
	config := `"` + strings.Repeat(`\"`, 16_000) + `"` // twice as long in JSON as in memory
	data := smallest + "policies:\n  - {use: library/x, config: &c [" + config + ", " + config + "]}\n" +
		strings.Repeat("  - {use: library/x, config: *c}\n", 15)
	args := "version: 1\nname: a\napplication:\n  from: .\n  command:\n    entrypoint: main.py\n    args: [&a \"" +
		strings.Repeat(`\n`, 4000) + "\"" + strings.Repeat(", *a", 40) + "]\n"
	data = args + strings.TrimPrefix(data, smallest)
	found := problems(t, data)
	if len(found) != 1 || !strings.Contains(found[0].Message, "in its canonical form; at most 1048576") {
		t.Errorf("%v", found)
	}
}

func TestProblemsAreBoundedAndSorted(t *testing.T) {
	var b strings.Builder
	b.WriteString(smallest)
	for i := range 4000 {
		fmt.Fprintf(&b, "unknown%d: x\n", i)
	}
	found := problems(t, b.String())
	if len(found) != 101 || found[100].Message != "3900 more problems are not shown" {
		t.Errorf("%d problems, the last: %s", len(found), found[len(found)-1])
	}
	for i := 1; i < len(found); i++ {
		if found[i].Line < found[i-1].Line {
			t.Errorf("line %d comes after line %d", found[i].Line, found[i-1].Line)
		}
	}
}

func TestProblemsArePrintedAndMarshalled(t *testing.T) {
	_, err := jobspec.Parse("job.yaml", []byte(smallest+"limits:\n  memroy: 1GiB\n"))
	const text = "job.yaml:5: limits.memroy: unknown field\n    hint: did you mean \"memory\"?"
	if err == nil || err.Error() != text {
		t.Errorf("%v\nwant\n%s", err, text)
	}
	out, jsonErr := json.Marshal(err)
	const want = `[{"file":"job.yaml","path":"limits.memroy","line":5,"column":3,"message":"unknown field","hint":"did you mean \"memory\"?"}]`
	if jsonErr != nil || string(out) != want {
		t.Errorf("%s, %v\nwant\n%s", out, jsonErr, want)
	}
}

func TestHintsNameTheCure(t *testing.T) {
	for data, hint := range map[string]string{
		smallest + "inptus: {}\n":                                                `did you mean "inputs"?`,
		smallest + "entrypoint: x\n":                                             "it belongs under application.command",
		smallest + "limits: {keep_going: 1}\n":                                   "known here: cpus, memory, disk, processes, queue, run",
		smallest + "logs: {exit: ./x}\n":                                         "it belongs at the top of the file, not indented",
		smallest + "limits: {memory: 2G}\n":                                      "write it as 512MiB, 2GiB, 1GB or a whole number of bytes",
		smallest + "limits: {cpus: 999}\n":                                       "from 1 to 256 are allowed",
		smallest + "limits: {memory: 1}\n":                                       "from 1MiB to 1TiB are allowed",
		smallest + "limits: {run: 10}\n":                                         "write it as 90s, 10m or 1h30m",
		strings.Replace(smallest, "main.py", "./main.py", 1):                     `write "main.py"`,
		strings.Replace(smallest, "name: a", "name: 12", 1):                      `write it in quotes: "12"`,
		strings.Replace(smallest, "main.py", `main.py, args: ["${input.x}"]`, 1): `did you mean "inputs"?`,
	} {
		found := problems(t, data)
		if len(found) != 1 || found[0].Hint != hint {
			t.Errorf("%s: want the hint %q\n%v", data, hint, found)
		}
	}
}

// With an absolute name the parser knows where relative paths lead, and still opens nothing.
func TestDestinationsAreComparedAcrossAbsoluteAndRelative(t *testing.T) {
	data := []byte(smallest + "logs: {stdout: ./out/log, stderr: /jobs/out/log}\n")
	if _, err := jobspec.Parse("/jobs/job.yaml", data); err == nil {
		t.Error("one destination by two names is accepted")
	}
	if _, err := jobspec.Parse("/other/job.yaml", data); err != nil {
		t.Error(err)
	}
}

// The most expensive patterns and values that the bounds let through: 0.4 s where it was
// measured, twenty times that under the race detector.
func TestMatchingTakesBoundedTime(t *testing.T) {
	c := canonical(t, parse(t, smallest))
	value := strings.Repeat("a", 1023) + "!"
	for i := range 32 {
		name := "n" + strconv.Itoa(i)
		c.Command.Parameters[name] = jobspec.Parameter{Pattern: "(a*){480}"}
		c.Parameters[name] = value
	}
	data := c.JSON()
	start := time.Now()
	_, err := jobspec.ParseCanonical(data)
	if took := time.Since(start); err == nil || took > time.Minute {
		t.Errorf("%v after %v", err, took)
	}
	found, ok := errors.AsType[*jobspec.Problems](err)
	if !ok || len(*found) != 32 || !strings.Contains((*found)[0].Message, "does not match") {
		t.Errorf("the patterns were refused before they were matched: %v", err)
	}
	t.Logf("32 patterns took %v", time.Since(start))
}

func TestPackageImportsOnlyYAMLAndAge(t *testing.T) {
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	for _, entry := range entries {
		if name := entry.Name(); strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go") {
			file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
			if err != nil {
				t.Fatal(err)
			}
			checked++
			for _, spec := range file.Imports {
				imported := strings.Trim(spec.Path.Value, `"`)
				if first, _, _ := strings.Cut(imported, "/"); strings.Contains(first, ".") && imported != "gopkg.in/yaml.v3" && imported != "filippo.io/age" {
					t.Errorf("%s imports %s", name, imported)
				}
			}
		}
	}
	if checked == 0 {
		t.Error("no files")
	}
}
