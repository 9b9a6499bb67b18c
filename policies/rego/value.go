package rego

import (
	"cmp"
	"encoding/json"
	"errors"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// value is a Rego value: nil, bool, json.Number, string, []value, set or object.
type value any

// set holds values in Rego's order, each once.
type set []value

// object holds members in the order of their keys.
type object []member

type member struct{ key, value value }

// get finds a member.
func (o object) get(key value) (value, bool) {
	i, found := slices.BinarySearchFunc(o, key, func(m member, k value) int { return compare(m.key, k) })
	if !found {
		return nil, false
	}
	return o[i].value, true
}

// with returns the object with a member set.
func (o object) with(key, v value) object {
	i, found := slices.BinarySearchFunc(o, key, func(m member, k value) int { return compare(m.key, k) })
	out := slices.Clone(o)
	if found {
		out[i].value = v
		return out
	}
	return slices.Insert(out, i, member{key, v})
}

// newSet sorts values and drops those that are there twice.
func newSet(values []value) set {
	sorted := slices.Clone(values)
	slices.SortFunc(sorted, compare)
	return slices.CompactFunc(sorted, func(a, b value) bool { return compare(a, b) == 0 })
}

// newObject sorts members. Of two with one key the later stays.
func newObject(members []member) object {
	out := make(object, 0, len(members))
	slices.SortStableFunc(members, func(a, b member) int { return compare(a.key, b.key) })
	for _, m := range members {
		if n := len(out); n > 0 && compare(out[n-1].key, m.key) == 0 {
			out[n-1] = m
		} else {
			out = append(out, m)
		}
	}
	return out
}

// rank orders values of different kinds (OPA's documentation, "Comparison").
func rank(v value) int {
	switch v.(type) {
	case nil:
		return 0
	case bool:
		return 1
	case json.Number:
		return 2
	case string:
		return 3
	case []value:
		return 4
	case object:
		return 5
	}
	return 6
}

// compare orders values as Rego does.
func compare(a, b value) int {
	if c := cmp.Compare(rank(a), rank(b)); c != 0 {
		return c
	}
	switch a := a.(type) {
	case bool:
		switch b := b.(bool); {
		case a == b:
			return 0
		case a:
			return 1
		}
		return -1
	case json.Number:
		return compareNumbers(a, b.(json.Number))
	case string:
		return cmp.Compare(a, b.(string))
	case []value:
		return slices.CompareFunc(a, b.([]value), compare)
	case set:
		return slices.CompareFunc(a, b.(set), compare)
	case object:
		return slices.CompareFunc(a, b.(object), func(a, b member) int {
			if c := compare(a.key, b.key); c != 0 {
				return c
			}
			return compare(a.value, b.value)
		})
	}
	return 0
}

func compareNumbers(a, b json.Number) int {
	if a == b {
		return 0
	}
	if x, err := a.Int64(); err == nil {
		if y, err := b.Int64(); err == nil {
			return cmp.Compare(x, y)
		}
	}
	return float(a).Cmp(float(b))
}

// float is a number with more digits than a float64. The exponent of a big.Float is bounded.
func float(n json.Number) *big.Float {
	f, _, err := big.ParseFloat(string(n), 10, 256, big.ToNearestEven)
	if err != nil {
		return new(big.Float)
	}
	return f
}

// maxNesting bounds how deep a value may nest that crosses between an instance and its host.
const maxNesting = 64

var errSyntax = errors.New("not a Rego value")

// parse reads a value as opa_value_dump writes it: JSON, sets as {1, 2} or set(), and objects with keys
// of every kind.
func parse(text string) (value, error) {
	if !utf8.ValidString(text) {
		return nil, errSyntax
	}
	p := parser{text: text}
	v, err := p.value(0)
	if err == nil && p.space() != 0 {
		err = errSyntax
	}
	return v, err
}

type parser struct {
	text string
	at   int
}

// space skips white space and returns the byte after it, 0 at the end.
func (p *parser) space() byte {
	for ; p.at < len(p.text); p.at++ {
		if c := p.text[p.at]; c != ' ' && c != '\n' && c != '\t' && c != '\r' {
			return c
		}
	}
	return 0
}

// skip takes a word if it comes next.
func (p *parser) skip(word string) bool {
	if !strings.HasPrefix(p.text[p.at:], word) {
		return false
	}
	p.at += len(word)
	return true
}

func (p *parser) value(depth int) (value, error) {
	if depth > maxNesting {
		return nil, errSyntax
	}
	switch c := p.space(); {
	case c == '"':
		return p.string()
	case c == '[':
		return p.array(depth)
	case c == '{':
		return p.braces(depth)
	case c == '-' || c == '.' || c >= '0' && c <= '9':
		return p.number()
	case p.skip("null"):
		return nil, nil
	case p.skip("true"):
		return true, nil
	case p.skip("false"):
		return false, nil
	case p.skip("set()"):
		return set{}, nil
	}
	return nil, errSyntax
}

func (p *parser) string() (value, error) {
	begin := p.at
	for p.at++; p.at < len(p.text); p.at++ {
		switch p.text[p.at] {
		case '\\':
			p.at++
		case '"':
			p.at++
			inside := p.text[begin+1 : p.at-1]
			if !strings.Contains(inside, `\`) {
				return inside, nil
			}
			var s string
			err := json.Unmarshal([]byte(p.text[begin:p.at]), &s)
			return s, err
		}
	}
	return nil, errSyntax
}

func (p *parser) number() (value, error) {
	begin := p.at
	for p.at < len(p.text) && strings.IndexByte("+-.eE0123456789", p.text[p.at]) >= 0 {
		p.at++
	}
	n := p.text[begin:p.at]
	if whole := strings.TrimPrefix(n, "-"); strings.HasPrefix(whole, ".") { // Rego takes .5 for 0.5
		n = n[:len(n)-len(whole)] + "0" + whole
	}
	if !json.Valid([]byte(n)) {
		return nil, errSyntax
	}
	return json.Number(n), nil
}

func (p *parser) array(depth int) (value, error) {
	p.at++
	values := []value{}
	for p.space() != ']' {
		if len(values) > 0 && !p.skip(",") {
			return nil, errSyntax
		}
		v, err := p.value(depth + 1)
		if err != nil {
			return nil, err
		}
		values = append(values, v)
	}
	p.at++
	return values, nil
}

// braces reads an object, or a set that is not empty.
func (p *parser) braces(depth int) (value, error) {
	p.at++
	var members []member
	var values []value
	for p.space() != '}' {
		if len(members)+len(values) > 0 && !p.skip(",") {
			return nil, errSyntax
		}
		key, err := p.value(depth + 1)
		if err != nil {
			return nil, err
		}
		if p.space() != ':' {
			values = append(values, key)
			continue
		}
		p.at++
		v, err := p.value(depth + 1)
		if err != nil {
			return nil, err
		}
		members = append(members, member{key, v})
	}
	p.at++
	if values != nil && members != nil {
		return nil, errSyntax
	}
	if values != nil {
		return newSet(values), nil
	}
	return newObject(members), nil
}

// write appends a value as opa_value_parse reads it, and as Rego shows it.
func write(out []byte, v value) []byte {
	switch v := v.(type) {
	case nil:
		return append(out, "null"...)
	case bool:
		return strconv.AppendBool(out, v)
	case json.Number:
		return append(out, v...)
	case string:
		return appendString(out, v)
	case []value:
		return append(writeAll(append(out, '['), v), ']')
	case set:
		if len(v) == 0 {
			return append(out, "set()"...)
		}
		return append(writeAll(append(out, '{'), v), '}')
	case object:
		out = append(out, '{')
		for i, m := range v {
			if i > 0 {
				out = append(out, ", "...)
			}
			out = append(write(out, m.key), ": "...)
			out = write(out, m.value)
		}
		return append(out, '}')
	}
	return out
}

func writeAll(out []byte, values []value) []byte {
	for i, v := range values {
		if i > 0 {
			out = append(out, ", "...)
		}
		out = write(out, v)
	}
	return out
}

// appendString appends s, UTF-8, as a string of JSON.
func appendString(out []byte, s string) []byte {
	out = append(out, '"')
	plain := 0
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		out = append(out, s[plain:i]...)
		plain = i + 1
		switch c {
		case '"', '\\':
			out = append(out, '\\', c)
		case '\n':
			out = append(out, '\\', 'n')
		case '\r':
			out = append(out, '\\', 'r')
		case '\t':
			out = append(out, '\\', 't')
		default:
			out = append(out, '\\', 'u', '0', '0', "0123456789abcdef"[c>>4], "0123456789abcdef"[c&15])
		}
	}
	return append(append(out, s[plain:]...), '"')
}
