package jobspec_test

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/cloister-run/cloister/jobspec"
)

// minInvalid keeps the invalid fixtures from melting away unseen.
const minInvalid = 40

// fixtures reads every file that matches; matching none is a failure.
func fixtures(t testing.TB, pattern string) map[string][]byte {
	t.Helper()
	names, err := filepath.Glob(pattern)
	if err != nil || len(names) == 0 {
		t.Fatalf("%s matches nothing (%v)", pattern, err)
	}
	files := map[string][]byte{}
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		files[name] = data
	}
	return files
}

// expectation is one "# expect:" line of an invalid fixture.
type expectation struct {
	line          int
	path, message string
}

var expectRE = regexp.MustCompile(`^# expect: line ([0-9]+): (?:([^ ]+): )?(.+)$`)

// header reads the comments that an invalid fixture begins with.
func header(t *testing.T, data []byte) (expected []expectation, schemaCatches bool) {
	t.Helper()
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSuffix(line, "\n")
		if !strings.HasPrefix(line, "#") {
			break
		}
		if line == "# schema: catches" {
			schemaCatches = true
			continue
		}
		found := expectRE.FindStringSubmatch(line)
		if found == nil {
			t.Fatalf("header line %q is neither an expectation nor a flag", line)
		}
		n, err := strconv.Atoi(found[1])
		if err != nil {
			t.Fatal(err)
		}
		expected = append(expected, expectation{n, found[2], found[3]})
	}
	if len(expected) == 0 {
		t.Fatal("the fixture does not begin with # expect:")
	}
	return expected, schemaCatches
}

func TestValidFixturesParse(t *testing.T) {
	for name, data := range fixtures(t, "testdata/valid/*.yaml") {
		t.Run(filepath.Base(name), func(t *testing.T) {
			if _, err := jobspec.Parse("job.yaml", data); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// Every problem is expected and every expectation is met: a fixture also shows that one
// mistake does not drag others behind it.
func TestInvalidFixturesAreRefusedForTheirReason(t *testing.T) {
	files := fixtures(t, "testdata/invalid/*.yaml")
	if len(files) < minInvalid {
		t.Errorf("%d invalid fixtures; at least %d are wanted", len(files), minInvalid)
	}
	for name, data := range files {
		t.Run(filepath.Base(name), func(t *testing.T) {
			expected, _ := header(t, data)
			job, err := jobspec.Parse("job.yaml", data)
			problems, ok := errors.AsType[*jobspec.Problems](err)
			if job != nil || !ok {
				t.Fatalf("Parse = %v, %v; want no job and problems", job, err)
			}
			left := *problems
			for _, want := range expected {
				i := find(left, want)
				if i < 0 {
					t.Errorf("line %d: %s: %s: not among\n%v", want.line, want.path, want.message, err)
					continue
				}
				left = append(left[:i:i], left[i+1:]...)
			}
			for _, p := range left {
				t.Errorf("not expected: %s", p)
			}
		})
	}
}

func find(problems jobspec.Problems, want expectation) int {
	for i, p := range problems {
		if p.Line == want.line && p.Path == want.path && strings.Contains(p.Message, want.message) {
			return i
		}
	}
	return -1
}
