package jobspec_test

import (
	"bytes"
	"errors"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/cloister-run/cloister/jobspec"
)

// mostTime is far above what any input within the bounds takes, on any machine.
const mostTime = 20 * time.Second

func seeds(f *testing.F, patterns ...string) [][]byte {
	var all [][]byte
	for _, pattern := range patterns {
		files := fixtures(f, pattern)
		for _, name := range slices.Sorted(maps.Keys(files)) {
			all = append(all, files[name])
		}
	}
	return all
}

// FuzzParse: no input makes the parser panic or run long; what parses has one canonical form,
// and the enclave takes it.
func FuzzParse(f *testing.F) {
	for _, data := range seeds(f, "testdata/valid/*.yaml", "testdata/invalid/*.yaml") {
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		start := time.Now()
		job, err := jobspec.Parse("job.yaml", data)
		if took := time.Since(start); took > mostTime {
			t.Fatalf("parsing took %v", took)
		}
		if err != nil {
			problems, ok := errors.AsType[*jobspec.Problems](err)
			if job != nil || !ok || len(*problems) == 0 || err.Error() == "" {
				t.Fatalf("%v, %v is no refusal", job, err)
			}
			return
		}
		c := canonical(t, job)
		back, err := jobspec.ParseCanonical(c.JSON())
		if err != nil {
			t.Fatalf("the enclave refuses what the client made: %v\n%s", err, c.JSON())
		}
		if again := canonical(t, job); again.Digest() != c.Digest() || back.Digest() != c.Digest() {
			t.Fatalf("the digest is not stable:\n%s\n%s", c.JSON(), back.JSON())
		}
	})
}

// FuzzParseCanonical: whatever the host sends, the enclave takes canonical bytes or nothing.
func FuzzParseCanonical(f *testing.F) {
	for _, data := range seeds(f, "testdata/valid/*.yaml") {
		job, err := jobspec.Parse("job.yaml", data)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(canonical(f, job).JSON())
	}
	for _, data := range seeds(f, "testdata/canonical/*.json") {
		f.Add(data)
		f.Add(bytes.TrimSpace(data))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		start := time.Now()
		c, err := jobspec.ParseCanonical(data)
		if took := time.Since(start); took > mostTime {
			t.Fatalf("parsing took %v", took)
		}
		if err != nil {
			if c != nil {
				t.Fatal("a job came with an error")
			}
			return
		}
		if !bytes.Equal(c.JSON(), data) {
			t.Fatalf("accepted %s\nwrites %s", data, c.JSON())
		}
		_, err = c.Expand(jobspec.Values{Inputs: paths(c.Inputs), Outputs: paths(c.Outputs)})
		if err != nil && len(data) < 1024 { // a longer job can exceed the bounds on expanded arguments
			t.Fatalf("a valid job does not expand: %v", err)
		}
	})
}

func paths(names []string) map[string]string {
	m := map[string]string{}
	for _, name := range names {
		m[name] = "/job/" + name
	}
	return m
}
