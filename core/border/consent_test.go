package border_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/cloister-run/cloister/core/border"
	"github.com/cloister-run/cloister/policies/abi"
)

func TestConsentIsWhatAllGrantUnderTheSmallestCap(t *testing.T) {
	caps := func(n int64) map[abi.Channel]int64 { return map[abi.Channel]int64{result: n} }
	s := newScene(t, owner("a", consent(caps(10), result, abi.Stdout)), owner("b", consent(caps(12), result, model)), own("c", allow()))
	s.pass(result, model, abi.Stdout)
	if got := s.Consented(); !slices.Equal(got, []abi.Channel{result}) {
		t.Fatalf("consented to %v", got)
	}
	s.write("r", strings.Repeat("x", 11))
	if _, err := s.egress(s.file(result, "r")); !errors.Is(err, border.ErrDenied) {
		t.Errorf("11 bytes under a cap of 10: %v", err)
	}
}

func TestAJobThatAsksForNothingIsAdmitted(t *testing.T) {
	s := newScene(t, owner("a", allow()))
	s.pass()
	if c, err := s.egress(); err != nil || len(c.Artifacts()) != 0 {
		t.Errorf("got %v", err)
	}
}

// TestI1_RecipientsAreThoseThatEveryPolicyAccepts: a policy that restricts them consents to an output
// only if it is sealed to some of them and to nobody else. It may consent to logs, which have none.
func TestI1_RecipientsAreThoseThatEveryPolicyAccepts(t *testing.T) {
	nobody := []string{}
	for _, test := range []struct {
		name    string
		sealTo  []string
		accept  [][]string // by each policy; nil leaves it open
		consent bool
	}{
		{"plain, open", nil, [][]string{nil}, true},
		{"sealed, open", []string{"a"}, [][]string{nil}, true},
		{"plain, restricted", nil, [][]string{{"a"}}, false},
		{"sealed to nobody, restricted", nobody, [][]string{{"a"}}, false},
		{"sealed to one of two", []string{"b"}, [][]string{{"a", "b"}}, true},
		{"sealed to both", []string{"a", "b"}, [][]string{{"b", "a"}}, true},
		{"sealed to one more", []string{"a", "b", "c"}, [][]string{{"a", "b"}}, false},
		{"sealed to another", []string{"c"}, [][]string{{"a"}}, false},
		{"sealed, nobody accepted", []string{"a"}, [][]string{nobody}, false},
		{"plain, nobody accepted", nil, [][]string{nobody}, false},
		{"what both accept", []string{"b"}, [][]string{{"a", "b"}, {"b", "c"}}, true},
		{"what one of two accepts", []string{"a", "b"}, [][]string{{"a", "b"}, {"b", "c"}}, false},
		{"restricted by one of two", nil, [][]string{nil, {"a"}}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			var parties []border.Party
			for i, accepted := range test.accept {
				d := abi.Decision{Allow: true, Channels: []abi.Channel{result, abi.Stdout}, Recipients: accepted}
				parties = append(parties, owner(fmt.Sprint(i), says(abi.Admit, d)))
			}
			s := newSealedScene(t, map[abi.Channel][]string{result: test.sealTo}, parties...)
			s.pass(result, abi.Stdout)
			want := []abi.Channel{abi.Stdout}
			if test.consent {
				want = append(want, result)
			}
			if got := s.Consented(); !slices.Equal(got, want) {
				t.Errorf("consented to %v", got)
			}
		})
	}
}

// TestConjunctionKnowsNoOrder: any permutation of the parties gives the same verdict, consent
// and caps.
func TestConjunctionKnowsNoOrder(t *testing.T) {
	channels := []abi.Channel{result, model, abi.Stdout, abi.Exit}
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.IntRange(0, 5).Draw(rt, "policies")
		parties := make([]border.Party, n)
		for i := range parties {
			var d abi.Decision
			if d.Allow = rapid.IntRange(0, 5).Draw(rt, "admits") > 0; d.Allow {
				d.Channels = rapid.SliceOfNDistinct(rapid.SampledFrom(channels), 0, 4, rapid.ID[abi.Channel]).Draw(rt, "channels")
				d.Caps = map[abi.Channel]int64{}
				for _, ch := range d.Channels {
					if rapid.Bool().Draw(rt, "capped") {
						d.Caps[ch] = rapid.Int64Range(0, 20).Draw(rt, "cap")
					}
				}
			}
			parties[i] = owner(fmt.Sprint(i), says(abi.Admit, d))
			if rapid.Bool().Draw(rt, "own") {
				parties[i] = own(fmt.Sprint(i), says(abi.Admit, d))
			}
		}
		size := rapid.IntRange(0, 20).Draw(rt, "size")
		first := outcome(t, parties, channels, size)
		if again := outcome(t, rapid.Permutation(parties).Draw(rt, "order"), channels, size); again != first {
			rt.Fatalf("%s in one order, %s in another", first, again)
		}
	})
}

// outcome tells everything of a job but the order of its policies.
func outcome(t *testing.T, parties []border.Party, channels []abi.Channel, size int) string {
	s := newScene(t, parties...)
	s.write("r", strings.Repeat("x", size))
	told := func(err error) string {
		d, ok := errors.AsType[*border.Denial](err)
		if !ok {
			return fmt.Sprint(err)
		}
		who := ""
		if d.Policy != nil {
			who = s.Policies()[*d.Policy].Module
		}
		return fmt.Sprint(d, d.Code, d.Hint, who)
	}
	err := s.Admit(t.Context(), request(channels...))
	if err == nil {
		err = s.Ingress(t.Context(), request())
	}
	if err != nil {
		return told(err)
	}
	var candidates []border.Candidate
	for _, ch := range channels {
		candidates = append(candidates, s.file(ch, "r"))
	}
	c, err := s.egress(candidates...)
	if err != nil {
		return fmt.Sprint(s.Consented(), told(err))
	}
	return fmt.Sprint(s.Consented(), c.Artifacts())
}
