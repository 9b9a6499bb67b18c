package receipt_test

import (
	"encoding/json"
	"errors"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	intoto "github.com/in-toto/attestation/go/v1"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/cloister-run/cloister/core/receipt"
	"github.com/cloister-run/cloister/policies/abi"
)

var (
	jobDigest    = "sha256:" + strings.Repeat("a", 64)
	resultDigest = "sha256:" + strings.Repeat("b", 64)
	result       = abi.Output("result")
	module       = "i-0123456789abcdef0-enc0123456789abcdef"
)

func index(i int) *int { return &i }

// run is the record of a job with two policies that went well. Every field is filled in.
func run() *receipt.Run {
	r := &receipt.Run{
		Job:       receipt.Job{ID: "0123", Name: "digits", Digest: jobDigest},
		Enclave:   receipt.Enclave{Realm: "local", ModuleID: module, Version: "v0.1.0", Sequence: 1},
		Executor:  receipt.Executor{Executor: abi.Executor{Name: "python", Version: "1", Digest: jobDigest}, Runtime: "CPython 3.11.2", Walls: []string{"memory: cgroup"}},
		Assets:    []abi.Asset{{Name: "application", Kind: "application", Form: "tree", Digest: jobDigest, Owner: "arn:a", Sealed: true, Verified: true, Bytes: 7}},
		Keys:      []receipt.Key{{Asset: "application", Key: "arn:a", RequestID: "r-1"}},
		Policies:  []abi.PolicyRef{{Owner: "arn:a", Asset: "application", Module: jobDigest, Config: jobDigest}, {Module: jobDigest, Config: jobDigest}},
		Consented: []receipt.Consent{{Channel: abi.Stdout}, {Channel: result, Cap: new(int64(5000))}},
		Outcome:   receipt.Succeeded,
		Released:  []abi.Artifact{{Channel: result, Kind: "file", Digest: resultDigest, Bytes: 4711, Files: 1}},
		Started:   receipt.Time(time.Unix(0, 0)),
		Finished:  receipt.Time(time.Unix(1, 999)),
	}
	for _, point := range []abi.Point{abi.Admit, abi.Ingress, abi.Egress} {
		for i := range r.Policies {
			if err := r.Decide(receipt.Decision{Point: point, Policy: &i, Allow: true}); err != nil {
				panic(err)
			}
		}
	}
	return r
}

func statement(t testing.TB, r *receipt.Run) []byte {
	t.Helper()
	data, err := r.Statement()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestStatementIsAnInTotoStatement: as in-toto's own types read it.
func TestStatementIsAnInTotoStatement(t *testing.T) {
	var s intoto.Statement
	if err := protojson.Unmarshal(statement(t, run()), &s); err != nil {
		t.Fatal(err)
	}
	if err := s.Validate(); err != nil {
		t.Error(err)
	}
	if s.GetType() != intoto.StatementTypeUri || s.GetPredicateType() != receipt.PredicateType {
		t.Errorf("type %q about %q", s.GetType(), s.GetPredicateType())
	}
	subjects := map[string]string{}
	for _, subject := range s.GetSubject() {
		subjects[subject.GetName()] = "sha256:" + subject.GetDigest()["sha256"]
	}
	if want := (map[string]string{"job": jobDigest, string(result): resultDigest}); !maps.Equal(subjects, want) {
		t.Errorf("subjects %v", subjects)
	}
}

func TestAStatementReadsBackAsItWas(t *testing.T) {
	want := run()
	s, err := receipt.Read(statement(t, want))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(&s.Predicate, want) {
		t.Errorf("got %+v, want %+v", s.Predicate, *want)
	}
}

// TestEmptyListsAreWritten: no reader has to tell null from nothing.
func TestEmptyListsAreWritten(t *testing.T) {
	data := statement(t, &receipt.Run{Job: receipt.Job{Digest: jobDigest}, Outcome: receipt.Cancelled})
	if strings.Contains(string(data), "null") {
		t.Errorf("%s", data)
	}
	if _, err := receipt.Read(data); err != nil {
		t.Error(err)
	}
}

// contradictions are records that can be neither made nor read.
var contradictions = map[string]func(*receipt.Run){
	"no digest of the job":              func(r *receipt.Run) { r.Job.Digest = "" },
	"a digest of the job in upper case": func(r *receipt.Run) { r.Job.Digest = "sha256:" + strings.Repeat("A", 64) },
	"no outcome":                        func(r *receipt.Run) { denied(r); r.Outcome = "" },
	"an unknown outcome":                func(r *receipt.Run) { denied(r); r.Outcome = "fine" },
	"released and denied":               func(r *receipt.Run) { r.Outcome = receipt.Denied },
	"released and cancelled":            func(r *receipt.Run) { r.Outcome = receipt.Cancelled },
	"released and timed out":            func(r *receipt.Run) { r.Outcome = receipt.TimedOut },
	"released and refused":              func(r *receipt.Run) { r.Outcome = receipt.Refused },
	"released by a broken executor":     func(r *receipt.Run) { r.Outcome = receipt.Broken },
	"an output of a run that failed":    func(r *receipt.Run) { r.Outcome = receipt.Failed },
	"released without consent":          func(r *receipt.Run) { r.Consented = r.Consented[:1] },
	"consented twice":                   func(r *receipt.Run) { r.Consented[0].Channel = result },
	"released over its cap":             func(r *receipt.Run) { r.Released[0].Bytes = 5001 },
	"a sealed log": func(r *receipt.Run) {
		r.Released = []abi.Artifact{{Channel: abi.Stdout, Kind: "file", Digest: resultDigest, Recipients: []string{"age1x"}}}
	},
	"a sealed folder": func(r *receipt.Run) {
		r.Released[0].Kind, r.Released[0].Recipients = "tree", []string{"age1x"}
	},
	"released twice":                     func(r *receipt.Run) { r.Released = append(r.Released, r.Released[0]) },
	"released without a digest":          func(r *receipt.Run) { r.Released[0].Digest = "" },
	"released in spite of a denial":      func(r *receipt.Run) { r.Decisions[5].Allow = false },
	"released without one egress":        func(r *receipt.Run) { r.Decisions = r.Decisions[:5] },
	"released without ingress":           func(r *receipt.Run) { r.Decisions = slices.Delete(r.Decisions, 2, 4) },
	"released without admission":         func(r *receipt.Run) { r.Decisions = r.Decisions[2:] },
	"released on one policy's two yeses": func(r *receipt.Run) { r.Decisions[5].Policy = index(0) },
	"a decision at no point":             func(r *receipt.Run) { denied(r); r.Decisions[0].Point = "later" },
	"a decision by a policy beyond":      func(r *receipt.Run) { r.Decisions[0].Policy = index(2) },
	"a decision by a policy before":      func(r *receipt.Run) { r.Decisions[0].Policy = index(-1) },
	"an allow by nobody":                 func(r *receipt.Run) { r.Decisions[0].Policy = nil },
	"a code with an allow":               func(r *receipt.Run) { r.Decisions[0].Code = "small-group" },
	"a code by nobody": func(r *receipt.Run) {
		denied(r)
		r.Decisions = append(r.Decisions, receipt.Decision{Point: abi.Egress, Code: "small-group"})
	},
	"a key for an asset that is not there": func(r *receipt.Run) {
		r.Keys = append(r.Keys, receipt.Key{Asset: "inputs.x", Key: "arn:a", RequestID: "r"})
	},
	"a key for an asset that is plain": func(r *receipt.Run) {
		plain(r)
		r.Keys = []receipt.Key{{Asset: "application", Key: "arn:a", RequestID: "r"}}
	},
	"a key without its ARN":           func(r *receipt.Run) { denied(r); claimed(r); r.Keys[0].Key = "" },
	"a key without its request":       func(r *receipt.Run) { r.Keys[0].RequestID = "" },
	"a key twice":                     func(r *receipt.Run) { r.Keys = append(r.Keys, r.Keys[0]) },
	"keys out of order":               func(r *receipt.Run) { twoAssets(r); slices.Reverse(r.Keys) },
	"a key before everybody admitted": func(r *receipt.Run) { denied(r); r.Decisions = r.Decisions[1:2] },
	"a key in spite of a denial at admit": func(r *receipt.Run) {
		denied(r)
		r.Decisions = append(r.Decisions, receipt.Decision{Point: abi.Admit, Policy: index(1)})
	},
	"an owner that is not the key":                       func(r *receipt.Run) { r.Keys[0].Key = "arn:b" },
	"verified and sealed without a key":                  func(r *receipt.Run) { denied(r); r.Keys = nil },
	"verified and sealed without an owner":               func(r *receipt.Run) { r.Assets[0].Owner, r.Policies[0].Owner, r.Keys = "", "", nil },
	"an owner of a plain asset":                          func(r *receipt.Run) { plain(r); r.Assets[0].Owner = "arn:a" },
	"an asset twice":                                     func(r *receipt.Run) { denied(r); r.Assets = append(r.Assets, r.Assets[0]) },
	"an asset without a name":                            func(r *receipt.Run) { plain(r); r.Assets[0].Name = "" },
	"a policy of an owner without an asset":              func(r *receipt.Run) { r.Policies[1].Owner = "arn:a" },
	"a policy of an asset that is not there":             func(r *receipt.Run) { r.Policies[1] = abi.PolicyRef{Owner: "arn:a", Asset: "inputs.x"} },
	"a policy of an asset that is plain":                 func(r *receipt.Run) { plain(r); r.Policies[1].Asset = "application" },
	"a policy of another owner":                          func(r *receipt.Run) { r.Policies[0].Owner = "arn:b" },
	"released from a sealed asset that was not verified": func(r *receipt.Run) { r.Assets[0].Verified = false },
	"released from a sealed asset without its policy":    func(r *receipt.Run) { r.Policies[0] = abi.PolicyRef{} },
	"released and no key was given":                      func(r *receipt.Run) { r.Outcome = receipt.KeyRefused },

	"too many decisions": func(r *receipt.Run) { r.Decisions = slices.Repeat(r.Decisions, 33) },
}

// twoAssets gives r a second sealed asset, whose policy is the second.
func twoAssets(r *receipt.Run) {
	second := r.Assets[0]
	second.Name, second.Owner = "inputs.model", "arn:b"
	r.Assets = append(r.Assets, second)
	r.Keys = append(r.Keys, receipt.Key{Asset: second.Name, Key: second.Owner, RequestID: "r-2"})
	r.Policies[1].Asset, r.Policies[1].Owner = second.Name, second.Owner
}

// plain makes everything the operator's own.
func plain(r *receipt.Run) {
	r.Assets[0].Sealed, r.Assets[0].Owner = false, ""
	r.Policies[0].Asset, r.Policies[0].Owner = "", ""
	r.Keys = nil
}

// claimed makes the sealed asset one of which nothing is known but what its header says.
func claimed(r *receipt.Run) { r.Assets[0].Verified = false }

// denied makes r the record of a run that was denied at egress.
func denied(r *receipt.Run) {
	r.Outcome, r.Released, r.Decisions = receipt.Denied, nil, r.Decisions[:4]
}

// TestAContradictionIsNoRecord: neither by Statement nor, from another writer, by Read.
func TestAContradictionIsNoRecord(t *testing.T) {
	for rule, spoil := range contradictions {
		t.Run(rule, func(t *testing.T) {
			r := run()
			spoil(r)
			if data, err := r.Statement(); err == nil {
				t.Errorf("made %s", data)
			}
			s := receipt.Statement{Type: receipt.StatementType, PredicateType: receipt.PredicateType, Predicate: *r}
			s.Subject = append(s.Subject, receipt.Subject{Name: "job", Digest: map[string]string{"sha256": strings.TrimPrefix(r.Job.Digest, "sha256:")}})
			for _, a := range r.Released {
				s.Subject = append(s.Subject, receipt.Subject{Name: string(a.Channel), Digest: map[string]string{"sha256": strings.TrimPrefix(a.Digest, "sha256:")}})
			}
			data, err := json.Marshal(s)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := receipt.Read(data); err == nil {
				t.Errorf("read %s", data)
			}
		})
	}
}

func TestWhatIsARecord(t *testing.T) {
	for rule, change := range map[string]func(*receipt.Run){
		"logs of a run that failed": func(r *receipt.Run) { r.Outcome, r.Released[0].Channel = receipt.Failed, abi.Stdout },
		"one denial with a code": func(r *receipt.Run) {
			denied(r)
			r.Decisions = append(r.Decisions, receipt.Decision{Point: abi.Egress, Policy: index(1), Code: "small-group"})
		},
		"several denials": func(r *receipt.Run) {
			denied(r)
			r.Decisions = append(r.Decisions, receipt.Decision{Point: abi.Egress})
		},
		"nothing was judged": func(r *receipt.Run) { plain(r); r.Policies, r.Decisions = nil, nil },
		"two owners":         twoAssets,
		"everything plain":   plain,
		"denied at admit": func(r *receipt.Run) {
			denied(r)
			claimed(r)
			r.Keys, r.Decisions = nil, []receipt.Decision{{Point: abi.Admit, Policy: index(0), Code: "small-group"}}
		},
		"no key was given": func(r *receipt.Run) {
			denied(r)
			claimed(r)
			r.Outcome, r.Keys, r.Decisions = receipt.KeyRefused, nil, r.Decisions[:2]
		},
		"one of two keys was given": func(r *receipt.Run) {
			twoAssets(r)
			denied(r)
			r.Outcome, r.Keys, r.Decisions = receipt.KeyRefused, r.Keys[1:], r.Decisions[:2]
			r.Assets[0].Verified, r.Assets[1].Verified = false, false
		},
		"nothing to release": func(r *receipt.Run) { r.Released, r.Decisions = nil, r.Decisions[:4] },
	} {
		r := run()
		change(r)
		if _, err := receipt.Read(statement(t, r)); err != nil {
			t.Errorf("%s: %v", rule, err)
		}
	}
}

// TestI1_ADeniedRunTellsNothingOfItsOutputs: neither size nor digest, in whatever place.
func TestI1_ADeniedRunTellsNothingOfItsOutputs(t *testing.T) {
	r := run()
	r.Outcome = receipt.Denied
	if _, err := r.Statement(); err == nil {
		t.Error("a denied run has a record of what it would have released")
	}
	denied(r)
	data := string(statement(t, r))
	for _, secret := range []string{strings.TrimPrefix(resultDigest, "sha256:"), "4711"} {
		if strings.Contains(data, secret) {
			t.Errorf("%s is in %s", secret, data)
		}
	}
}

func TestARecordThatIsFullTakesNoDecision(t *testing.T) {
	var r receipt.Run
	var err error
	n := 0
	for ; err == nil && n < 1000; n++ {
		err = r.Decide(receipt.Decision{Point: abi.Admit})
	}
	if !errors.Is(err, receipt.ErrFull) || len(r.Decisions) != n-1 || n-1 < 3*49 {
		t.Errorf("after %d: %v", n, err)
	}
}

func TestAStatementThatReadWouldRefuseIsNotMade(t *testing.T) {
	r := run()
	r.Job.Name = strings.Repeat("x", receipt.MaxBytes)
	if _, err := r.Statement(); err == nil {
		t.Error("made")
	}
}

// TestReadRefuses: what is not exactly a record.
func TestReadRefuses(t *testing.T) {
	good := string(statement(t, run()))
	edit := func(old, new string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("no %s in %s", old, good)
		}
		return strings.Replace(good, old, new, 1)
	}
	for rule, text := range map[string]string{
		"nothing":                            "",
		"null":                               "null",
		"a list":                             "[" + good + "]",
		"an unknown field":                   edit(`{`, `{"more":1,`),
		"an unknown field of the predicate":  edit(`"predicate":{`, `"predicate":{"more":1,`),
		"an unknown field of a decision":     edit(`{"point":`, `{"more":1,"point":`),
		"a field twice":                      edit(`"predicate":{`, `"predicate":{"outcome":"denied",`),
		"a statement's field twice":          edit(`{`, `{"predicate":{},`),
		"a field in another case":            edit(`"outcome":`, `"Outcome":`),
		"a field of another type":            edit(`"sequence":1`, `"sequence":"1"`),
		"a fraction":                         edit(`"sequence":1`, `"sequence":1.5`),
		"trailing data":                      good + "{}",
		"cut short":                          good[:len(good)-1],
		"over the limit":                     good + strings.Repeat(" ", receipt.MaxBytes),
		"invalid UTF-8":                      edit("digits", "digits\xff"),
		"another statement":                  edit(receipt.StatementType, "https://in-toto.io/Statement/v0.1"),
		"another predicate":                  edit(receipt.PredicateType, "https://slsa.dev/provenance/v1"),
		"a subject less":                     edit(`{"name":"job","digest":{"sha256":"`+strings.Repeat("a", 64)+`"}},`, ""),
		"a subject of another digest":        edit(strings.Repeat("b", 64), strings.Repeat("c", 64)),
		"a subject of another name":          edit(`"name":"job"`, `"name":"j0b"`),
		"a subject with a second digest":     edit(`"digest":{"sha256"`, `"digest":{"sha512":"x","sha256"`),
		"released where no subject is":       edit(`"released":[{"channel":"outputs.result"`, `"released":[{"channel":"logs.stdout"`),
		"a name for an executor given twice": edit(`"runtime":`, `"name":"node","runtime":`),
	} {
		t.Run(rule, func(t *testing.T) {
			if s, err := receipt.Read([]byte(text)); err == nil || s != nil {
				t.Errorf("read %+v, %v", s, err)
			}
		})
	}
}

func TestTimesAreWholeSecondsUTC(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 999_999_999, time.FixedZone("", 3600))
	if got := receipt.Time(at); got != "2026-01-02T02:04:05Z" {
		t.Errorf("got %s", got)
	}
}
