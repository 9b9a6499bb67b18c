package aws

import (
	"slices"
	"strings"
)

// verdict is what is known of a condition.
type verdict int

const (
	no verdict = iota
	maybe
	yes
)

// value is what a request carries under a condition key.
type value struct {
	kind kind
	// text is the value of the kind exact.
	text string
}

type kind int

const (
	// unknown may be there or not, with any value.
	unknown kind = iota
	absent
	// wanted is there, with a value that may be the one that is compared with.
	wanted
	// other is there, with a value that is nowhere written.
	other
	// exact is there, with a value that is known.
	exact
)

// holds reports whether all conditions of a statement hold for a request.
func (s *judged) holds(when map[string]value) verdict {
	out := yes
	for _, c := range s.conditions {
		out = min(out, c.holds(when[c.key]))
	}
	return out
}

// holds follows the rules of the IAM user guide, "AWS JSON policy elements: Condition
// operators". What it does not know may hold.
func (c condition) holds(v value) verdict {
	operator, set := c.operator, ""
	if before, rest, ok := strings.Cut(operator, ":"); ok {
		set, operator = before, rest
	}
	operator, optional := strings.CutSuffix(operator, "ifexists")
	if operator == "null" {
		return c.null(v)
	}
	if v.kind == absent && (optional || set == "forallvalues") {
		return yes // no value at all is compared
	}
	switch operator {
	case "stringequals", "arnequals":
		return c.equal(v, false)
	case "stringequalsignorecase":
		return c.equal(v, true)
	case "stringlike", "arnlike":
		if slices.ContainsFunc(c.values, func(s string) bool { return strings.ContainsAny(s, "*?") }) && v.kind != absent {
			return maybe
		}
		return c.equal(v, false)
	case "stringnotequals", "stringnotequalsignorecase", "stringnotlike", "arnnotequals", "arnnotlike":
		if v.kind == absent {
			return yes
		}
	}
	return maybe
}

// null is whether the key is absent ("true") or present ("false").
func (c condition) null(v value) verdict {
	if v.kind == unknown {
		return maybe
	}
	want := "false"
	if v.kind == absent {
		want = "true"
	}
	if slices.ContainsFunc(c.values, func(s string) bool { return strings.EqualFold(s, want) }) {
		return yes
	}
	return no
}

// equal is whether a value is one of those that are listed, none of which is a pattern.
func (c condition) equal(v value, ignoreCase bool) verdict {
	if slices.ContainsFunc(c.values, func(s string) bool { return strings.Contains(s, "${") }) {
		return maybe // a variable of IAM
	}
	switch v.kind {
	case absent, other:
		return no
	case exact:
		if slices.ContainsFunc(c.values, func(s string) bool { return s == v.text || ignoreCase && strings.EqualFold(s, v.text) }) {
			return yes
		}
		return no
	case unknown, wanted:
	}
	return maybe
}
