package border_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cloister-run/cloister/core/border"
	"github.com/cloister-run/cloister/core/receipt"
	"github.com/cloister-run/cloister/policies/abi"
)

var points = []abi.Point{abi.Admit, abi.Ingress, abi.Egress}

// TestI2_WhateverIsNoAllowDenies: error, panic, unknown answer and recorder failure, at every
// point, whoever asks.
func TestI2_WhateverIsNoAllowDenies(t *testing.T) {
	type policy func(abi.Point) border.Judge
	rows := map[string]policy{
		"a denial":                 func(p abi.Point) border.Judge { return deny(p, "") },
		"a denial with a code":     func(p abi.Point) border.Judge { return deny(p, "small-group") },
		"an undeclared code":       func(p abi.Point) border.Judge { return deny(p, "other") },
		"an error beside an allow": func(p abi.Point) border.Judge { return fails(p, errors.New("trap")) },
		"a time-out of its own":    func(p abi.Point) border.Judge { return fails(p, context.DeadlineExceeded) },
		"an allow with a code":     func(p abi.Point) border.Judge { return says(p, abi.Decision{Allow: true, Code: "small-group"}) },
		"an allow without consent": func(abi.Point) border.Judge { return says(abi.Admit, abi.Decision{Allow: true}) },
		"a channel not asked for":  func(abi.Point) border.Judge { return consent(nil, result, model) },
		"a negative cap":           func(abi.Point) border.Judge { return consent(map[abi.Channel]int64{result: -1}, result) },
		"a cap without consent":    func(abi.Point) border.Judge { return consent(map[abi.Channel]int64{model: 9}, result) },
		"recipients for an output": func(abi.Point) border.Judge {
			return says(abi.Admit, abi.Decision{Allow: true, Channels: []abi.Channel{result}, Recipients: []string{"age1x"}})
		},
		"no recipient accepted": func(abi.Point) border.Judge {
			return says(abi.Admit, abi.Decision{Allow: true, Channels: []abi.Channel{result}, Recipients: []string{}})
		},
		"an output over its cap": func(abi.Point) border.Judge { return consent(map[abi.Channel]int64{result: 9}, result) },
		"no judge at all":        func(abi.Point) border.Judge { return nil },
		"consent after admission": func(p abi.Point) border.Judge {
			return says(max(p, abi.Egress), abi.Decision{Allow: true, Channels: []abi.Channel{result}})
		},
		"a panic": func(p abi.Point) border.Judge {
			return at(p, func(context.Context, abi.Request, abi.Files) (abi.Decision, error) { panic("row 7: secret") })
		},
	}
	for rule, make := range rows {
		for _, point := range points {
			for _, party := range []border.Party{owner("a", make(point)), own("a", make(point))} {
				t.Run(fmt.Sprintf("%s, %s at %s", party.Ref.Owner, rule, point), func(t *testing.T) {
					s := newScene(t, owner("b", allow()), party, own("c", allow()))
					c, err := s.walk(t.Context())
					if c != nil || !errors.Is(err, border.ErrDenied) {
						t.Fatalf("got %v, %v, want a denial", c, err)
					}
					last := s.recorder.decisions[len(s.recorder.decisions)-1]
					if last.Allow {
						t.Errorf("no denial was recorded: %+v", s.recorder.decisions)
					}
				})
			}
		}
	}
}

func TestI2_WithoutARecordThereIsNoAllow(t *testing.T) {
	for failFrom := 1; failFrom <= 6; failFrom++ {
		s := newScene(t, owner("a", allow()), own("b", allow()))
		s.recorder.failFrom = failFrom
		c, err := s.walk(t.Context())
		if c != nil || !errors.Is(err, border.ErrDenied) || !errors.Is(err, errFull) {
			t.Errorf("decision %d could not be recorded, got %v, %v", failFrom, c, err)
		}
	}
	s := newScene(t, owner("a", deny(abi.Egress, "small-group")), owner("b", deny(abi.Egress, "")))
	s.recorder.failFrom = 5
	if c, err := s.walk(t.Context()); c != nil || !errors.Is(err, border.ErrDenied) || !errors.Is(err, errFull) {
		t.Errorf("two denials could not be recorded, got %v, %v", c, err)
	}
}

// A denial that could not be recorded does not tell what it was.
func TestI2_ADenialWithoutARecordTellsNothing(t *testing.T) {
	s := newScene(t, owner("a", deny(abi.Admit, "small-group")))
	s.recorder.failFrom = 1
	_, err := s.walk(t.Context())
	if d, ok := errors.AsType[*border.Denial](err); !ok || d.Code != "" || d.Hint != "" || d.Policy != nil {
		t.Errorf("got %+v", d)
	}
}

// TestI2_AJobThatEndsGetsNoVerdict: not even a denial that came in before.
func TestI2_AJobThatEndsGetsNoVerdict(t *testing.T) {
	for _, point := range points {
		for rule, answer := range map[string]func(abi.Request) (abi.Decision, error){
			"allow": func(r abi.Request) (abi.Decision, error) { return yes(r), nil },
			"deny":  func(abi.Request) (abi.Decision, error) { return abi.Decision{Code: "small-group"}, nil },
			"error": func(abi.Request) (abi.Decision, error) { return abi.Decision{}, context.Canceled },
		} {
			t.Run(fmt.Sprintf("%s at %s", rule, point), func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				last := allow()
				ending := at(point, func(_ context.Context, r abi.Request, _ abi.Files) (abi.Decision, error) {
					cancel()
					return answer(r)
				})
				s := newScene(t, owner("a", ending), owner("b", last))
				c, err := s.walk(ctx)
				if c != nil || !errors.Is(err, context.Canceled) || errors.Is(err, border.ErrDenied) {
					t.Errorf("got %v, %v", c, err)
				}
				if found := s.recorder.at(point); len(found) != 0 {
					t.Errorf("recorded %+v", found)
				}
				if n := len(last.asked); n != slices.Index(points, point) {
					t.Errorf("another policy was asked after the end: %d times", n)
				}
			})
		}
	}
}

// A job without policies that ended releases nothing either.
func TestI2_AJobThatEndedReleasesNothing(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := newScene(t).Admit(ended, request(result)); !errors.Is(err, context.Canceled) {
		t.Errorf("admit: %v", err)
	}
	for rule, candidates := range map[string]int{"nothing": 0, "a file": 1} {
		s := newScene(t)
		s.write("r", "x")
		s.pass(result)
		c, err := s.Egress(ended, request(), s.leaving([]border.Candidate{s.file(result, "r")}[:candidates]...))
		if c != nil || !errors.Is(err, context.Canceled) || errors.Is(err, border.ErrOutput) {
			t.Errorf("%s: got %v, %v", rule, c, err)
		}
	}
}

// TestI2_PointsComeInTheirOrder: each once, and only after the one before was passed.
func TestI2_PointsComeInTheirOrder(t *testing.T) {
	s := newScene(t, owner("a", allow()))
	s.write("r", "x")
	step := map[string]func() error{
		"admit":   func() error { return s.Admit(t.Context(), request(result)) },
		"ingress": func() error { return s.Ingress(t.Context(), request()) },
		"egress":  func() error { _, err := s.egress(s.file(result, "r")); return err },
	}
	for _, row := range []struct {
		call string
		ok   bool
	}{
		{"ingress", false}, {"egress", false},
		{"admit", true}, {"admit", false}, {"egress", false},
		{"ingress", true}, {"ingress", false}, {"admit", false},
		{"egress", true}, {"egress", false}, {"ingress", false}, {"admit", false},
	} {
		if err := step[row.call](); (err == nil) != row.ok || (!row.ok && !errors.Is(err, border.ErrOrder)) {
			t.Fatalf("%s: got %v, want ok: %v", row.call, err, row.ok)
		}
	}
}

func TestI2_AfterADenialNothingIsAskedAgain(t *testing.T) {
	for i, point := range points {
		s := newScene(t, owner("a", deny(point, "")))
		if _, err := s.walk(t.Context()); !errors.Is(err, border.ErrDenied) {
			t.Fatal(err)
		}
		asked := len(s.recorder.decisions)
		for _, err := range []error{
			s.Admit(t.Context(), request(result)), s.Ingress(t.Context(), request()),
			func() error { _, err := s.egress(s.file(result, "r")); return err }(),
		} {
			if !errors.Is(err, border.ErrOrder) {
				t.Errorf("after %s: got %v", point, err)
			}
		}
		if len(s.recorder.decisions) != asked || asked != i+1 {
			t.Errorf("recorded %+v", s.recorder.decisions)
		}
	}
}

// TestI7_AtMostOneCode: the operator is told a code, and whose, only if exactly one policy denied.
func TestI7_AtMostOneCode(t *testing.T) {
	index := func(i int) *int { return &i }
	for _, point := range points {
		for _, row := range []struct {
			rule    string
			parties []border.Party
			want    border.Denial
		}{
			{"one denies with a code", []border.Party{owner("a", allow()), owner("b", deny(point, "small-group"))},
				border.Denial{Code: "small-group", Hint: "ask for larger groups", Policy: index(1)}},
			{"one denies without a code", []border.Party{owner("a", deny(point, "")), owner("b", allow())},
				border.Denial{Policy: index(0)}},
			{"one denies with an undeclared code", []border.Party{owner("a", deny(point, "row-7")), owner("b", allow())},
				border.Denial{Policy: index(0)}},
			{"two deny with one code", []border.Party{owner("a", deny(point, "small-group")), owner("b", deny(point, "small-group"))}, border.Denial{}},
			{"two deny with two codes", []border.Party{owner("a", deny(point, "small-group")), owner("b", deny(point, "wrong-columns"))}, border.Denial{}},
			{"one denies and one fails", []border.Party{owner("a", deny(point, "small-group")), owner("b", fails(point, errors.New("trap")))}, border.Denial{}},
			{"an owner denies and the operator would", []border.Party{own("o", deny(point, "wrong-columns")), owner("a", deny(point, "small-group"))},
				border.Denial{Code: "small-group", Hint: "ask for larger groups", Policy: index(0)}},
			{"an owner's policy fails", []border.Party{owner("a", fails(point, errors.New("row 7: secret")))}, border.Denial{Policy: index(0)}},
			{"the operator's own fails", []border.Party{owner("a", allow()), own("o", fails(point, errors.New("tr\x1b[2Jap")))},
				border.Denial{Policy: index(1), Detail: "tr?[2Jap"}},
			{"two of the operator's own fail", []border.Party{own("o", fails(point, errors.New("x"))), own("p", fails(point, errors.New("y")))}, border.Denial{}},
		} {
			t.Run(fmt.Sprintf("%s at %s", row.rule, point), func(t *testing.T) {
				s := newScene(t, row.parties...)
				_, err := s.walk(t.Context())
				row.want.Point = point
				d, ok := errors.AsType[*border.Denial](err)
				if !ok || !same(*d, row.want) {
					t.Fatalf("told %+v, want %+v", d, row.want)
				}
				holdRecord(t, s.recorder.at(point), row.want)
			})
		}
	}
}

func same(a, b border.Denial) bool {
	if (a.Policy == nil) != (b.Policy == nil) || (a.Policy != nil && *a.Policy != *b.Policy) {
		return false
	}
	a.Policy, b.Policy = nil, nil
	return a == b
}

// holdRecord makes sure that a record tells of a denial no more than the denial itself.
func holdRecord(t *testing.T, decisions []receipt.Decision, told border.Denial) {
	t.Helper()
	var denied []receipt.Decision
	for _, d := range decisions {
		if !d.Allow {
			denied = append(denied, d)
		}
	}
	if len(denied) != 1 || denied[0].Code != told.Code || (denied[0].Policy == nil) != (told.Policy == nil) {
		t.Errorf("recorded %+v for %+v", denied, told)
	}
	if told.Policy == nil && len(decisions) != 1 {
		t.Errorf("the record of several denials tells who allowed: %+v", decisions)
	}
}

func TestI7_AnOwnersPanicTellsNothing(t *testing.T) {
	panics := at(abi.Egress, func(context.Context, abi.Request, abi.Files) (abi.Decision, error) { panic("row 7: secret") })
	for _, party := range []border.Party{owner("a", panics), own("o", panics)} {
		_, err := newScene(t, party).walk(t.Context())
		d, ok := errors.AsType[*border.Denial](err)
		if !ok || strings.Contains(fmt.Sprintf("%+v %v", d, err), "secret") || (d.Detail != "") != (party.Ref.Owner == "") {
			t.Errorf("told %+v, %v", d, err)
		}
	}
}

func TestI7_CodesBeyondFifteenAreNotTold(t *testing.T) {
	party := owner("a", deny(abi.Admit, "code-15"))
	party.Manifest.Codes = nil
	for i := range 16 {
		party.Manifest.Codes = append(party.Manifest.Codes, abi.Code{Code: fmt.Sprintf("code-%d", i), Hint: "h"})
	}
	_, err := newScene(t, party).walk(t.Context())
	if d, ok := errors.AsType[*border.Denial](err); !ok || d.Code != "" || d.Hint != "" {
		t.Errorf("told %+v", d)
	}
}

// TestI7_TheOperatorsOwnAreAskedAfterAllOwnersAllowed: else they would see what an owner denied.
func TestI7_TheOperatorsOwnAreAskedAfterAllOwnersAllowed(t *testing.T) {
	for i, point := range points {
		mine := allow()
		s := newScene(t, own("o", mine), owner("a", allow()), owner("b", deny(point, "small-group")))
		if _, err := s.walk(t.Context()); !errors.Is(err, border.ErrDenied) {
			t.Fatal(err)
		}
		if len(mine.asked) != i {
			t.Errorf("denied at %s: the operator's own was asked %d times, want %d", point, len(mine.asked), i)
		}
	}
}

// Every owner is asked even if one denied: else time and record would tell the order.
func TestI7_EveryOwnerIsAsked(t *testing.T) {
	last := allow()
	s := newScene(t, owner("a", deny(abi.Admit, "")), owner("b", last))
	if _, err := s.walk(t.Context()); !errors.Is(err, border.ErrDenied) || len(last.asked) != 1 {
		t.Errorf("asked %d times: %v", len(last.asked), err)
	}
}

func TestADetailFitsALine(t *testing.T) {
	s := newScene(t, own("o", fails(abi.Admit, errors.New("a\nb"+strings.Repeat("é", 1000)))))
	_, err := s.walk(t.Context())
	d, ok := errors.AsType[*border.Denial](err)
	if !ok || len(d.Detail) > 310 || !strings.HasPrefix(d.Detail, "a?bé") || !strings.HasSuffix(d.Detail, "…") || strings.ContainsRune(d.Detail, '\uFFFD') {
		t.Errorf("told %+v", d)
	}
}

func TestEachPolicyIsAskedAsItself(t *testing.T) {
	a, o := allow(), allow()
	s := newScene(t, own("o", o), owner("a", a))
	if _, err := s.walk(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i, f := range []*fake{a, o} {
		for j, r := range f.asked {
			if r.ABI != abi.Version || r.Point != points[j] || r.Self != i || !slices.Equal(r.Policies, s.Policies()) {
				t.Errorf("policy %d was asked %+v", i, r)
			}
			if r.Policies[r.Self].Module != []string{"a", "o"}[i] || (len(r.Config) > 0) != (i == 1) {
				t.Errorf("policy %d was asked as another: %+v", i, r)
			}
		}
	}
}
