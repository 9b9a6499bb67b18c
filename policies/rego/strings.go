package rego

import (
	"encoding/json"
	"fmt"
	"math/big"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// sprintf formats as Go does: Rego's numbers as integers or floats, everything that is no string or number
// as Rego writes it.
func sprintf(_ *run, args []value) (value, error) {
	format, err := text(args[0])
	if err != nil {
		return nil, err
	}
	values, ok := args[1].([]value)
	if !ok {
		return nil, errUndefined
	}
	all := make([]any, len(values))
	longest := 0
	for i, v := range values {
		all[i] = printed(v)
		longest = max(longest, len(write(nil, v)))
	}
	if err := boundFormat(format, all, longest); err != nil {
		return nil, err
	}
	return fmt.Sprintf(format, all...), nil
}

// printed is what sprintf formats for a value.
func printed(v value) any {
	switch v := v.(type) {
	case string:
		return v
	case json.Number:
		if strings.ContainsAny(string(v), ".eE") {
			if f, err := v.Float64(); err == nil {
				return f
			}
			return string(v)
		}
		if i, err := v.Int64(); err == nil {
			return i
		}
		if i, ok := new(big.Int).SetString(string(v), 10); ok {
			return i
		}
		return string(v)
	}
	return string(write(nil, v))
}

var digits = regexp.MustCompile(`[0-9]+`)

// boundFormat refuses a format that makes more of its arguments than they are: each width and precision
// writes up to a million bytes, and an explicit index writes one argument any number of times.
func boundFormat(format string, args []any, longest int) error {
	total := 0
	for _, run := range digits.FindAllString(format, -1) {
		n, _ := strconv.Atoi(run) // over its range is over the bound
		if total += n; n > maxArgumentBytes || total > maxArgumentBytes {
			return fmt.Errorf("%w: sprintf to over %d bytes", errBound, maxArgumentBytes)
		}
	}
	if strings.Contains(format, "*") {
		width := int64(0)
		for _, arg := range args {
			if n, ok := arg.(int64); ok {
				width = max(width, n, -n)
			}
		}
		total += int(min(width, maxArgumentBytes)) * strings.Count(format, "*")
	}
	if strings.Contains(format, "[") {
		total += longest * strings.Count(format, "%")
	}
	if total > maxArgumentBytes {
		return fmt.Errorf("%w: sprintf to over %d bytes", errBound, maxArgumentBytes)
	}
	return nil
}

// anyMatch asks whether one of the strings has one of the others as its prefix or suffix.
func anyMatch(match func(s, affix string) bool) builtin {
	return func(_ *run, args []value) (value, error) {
		all, err := list(args[0])
		if err != nil {
			return nil, err
		}
		affixes, err := list(args[1])
		if err != nil {
			return nil, err
		}
		if len(all)*len(affixes) > maxComparisons {
			return nil, fmt.Errorf("%w: %d strings with %d others", errBound, len(all), len(affixes))
		}
		return slices.ContainsFunc(all, func(s string) bool {
			return slices.ContainsFunc(affixes, func(affix string) bool { return match(s, affix) })
		}), nil
	}
}

// What grows with the product of two arguments.
const (
	maxComparisons = 20_000_000 // of strings
	maxOverlap     = 1 << 32    // of bytes, which compare faster
)

func stringsCount(s, sub string) (value, error) { return number(strings.Count(s, sub)), nil }

// indexOfN gives every place of a string in another, in characters.
func indexOfN(_ *run, args []value) (value, error) {
	s, sub, err := texts(args)
	if err != nil || sub == "" {
		return nil, errUndefined
	}
	if (len(s)-len(sub))*len(sub) > maxOverlap {
		return nil, fmt.Errorf("%w: indexof_n of %d bytes in %d", errBound, len(sub), len(s))
	}
	found := []value{}
	for characters, at := 0, 0; ; {
		i := strings.Index(s[at:], sub)
		if i < 0 {
			return found, nil
		}
		for from := at; from < at+i; characters++ {
			from += size(s[from:])
		}
		found = append(found, number(characters))
		at += i + size(s[at+i:])
		characters++
	}
}

// splitN gives the first n parts, or with a negative n the last.
func splitN(_ *run, args []value) (value, error) {
	s, by, err := texts(args)
	if err != nil {
		return nil, err
	}
	n, err := integer(args[2])
	if err != nil {
		return nil, err
	}
	if n < 0 {
		parts := strings.Split(s, by)
		return array(parts[max(len(parts)+max(n, -len(parts)), 0):]), nil
	}
	n = min(n, len(s)+1)
	parts := strings.SplitN(s, by, n+1)
	return array(parts[:min(n, len(parts))]), nil
}
