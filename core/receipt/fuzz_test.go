package receipt_test

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cloister-run/cloister/core/receipt"
	"github.com/cloister-run/cloister/policies/abi"
)

var update = flag.Bool("update", false, "write the seeds of FuzzRead again")

// The seeds in testdata/receipts are named for what Read makes of them.
func TestSeeds(t *testing.T) {
	if *update {
		writeSeeds(t)
	}
	for name, ok := range map[string]bool{"good": true, "bad": false} {
		files, err := filepath.Glob("testdata/receipts/" + name + "-*.json")
		if err != nil || len(files) == 0 {
			t.Fatalf("no seeds: %v", err)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := receipt.Read(data); (err == nil) != ok {
				t.Errorf("%s: %v", file, err)
			}
		}
	}
}

func writeSeeds(t *testing.T) {
	r := run()
	good := statement(t, r)
	seeds := map[string][]byte{
		"good-succeeded":    good,
		"bad-unknown-field": bytes.Replace(good, []byte(`{`), []byte(`{"more":1,`), 1),
		"bad-twice":         bytes.Replace(good, []byte(`"predicate":{`), []byte(`"predicate":{"outcome":"denied",`), 1),
		"bad-trailing":      append(bytes.Clone(good), "{}"...),
		"bad-subject":       bytes.Replace(good, []byte(strings.Repeat("b", 64)), []byte(strings.Repeat("c", 64)), 1),
		"bad-no-egress":     bytes.ReplaceAll(good, []byte(`"point":"egress"`), []byte(`"point":"ingress"`)),
	}
	denied(r)
	r.Decisions = append(r.Decisions, receipt.Decision{Point: abi.Egress, Policy: index(1), Code: "small-group"})
	seeds["good-denied"] = statement(t, r)
	seeds["good-nothing"] = statement(t, &receipt.Run{Job: receipt.Job{Digest: jobDigest}, Outcome: receipt.Cancelled})
	for name, data := range seeds {
		if err := os.WriteFile("testdata/receipts/"+name+".json", data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// FuzzRead: an error comes without a Statement, and what is read can be written again and
// reads the same.
func FuzzRead(f *testing.F) {
	files, err := filepath.Glob("testdata/receipts/*.json")
	if err != nil || len(files) == 0 {
		f.Fatalf("no seeds: %v", err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := receipt.Read(data)
		if err != nil {
			if s != nil {
				t.Fatalf("%v came with %+v", err, s)
			}
			return
		}
		again, err := s.Predicate.Statement()
		if err != nil {
			if len(data) > receipt.MaxBytes/8 { // escapes make the spelling of encoding/json longer
				return
			}
			t.Fatalf("read, but not written again: %v", err)
		}
		twice, err := receipt.Read(again)
		if err != nil {
			t.Fatal(err)
		}
		third, err := twice.Predicate.Statement()
		if err != nil || !bytes.Equal(again, third) {
			t.Fatalf("%s became %s: %v", again, third, err)
		}
	})
}
