package rego

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"
)

const (
	// maxPattern bounds a regular expression, maxMatching the instructions that it compiles to times the
	// bytes that it is held against: matching takes time in proportion to both.
	maxPattern  = 10_000
	maxMatching = 50_000_000
)

// pattern compiles a regular expression that is going to be held against n bytes.
func pattern(expression string, n int) (*regexp.Regexp, error) {
	if len(expression) > maxPattern {
		return nil, fmt.Errorf("%w: a regular expression of %d bytes", errBound, len(expression))
	}
	parsed, err := syntax.Parse(expression, syntax.Perl)
	if err != nil {
		return nil, err
	}
	program, err := syntax.Compile(parsed.Simplify())
	if err != nil {
		return nil, err
	}
	if len(program.Inst)*(n+1) > maxMatching {
		return nil, fmt.Errorf("%w: a regular expression of %d instructions over %d bytes", errBound, len(program.Inst), n)
	}
	return regexp.Compile(expression)
}

func regexSplit(_ *run, args []value) (value, error) {
	expression, s, err := texts(args)
	if err != nil {
		return nil, err
	}
	re, err := pattern(expression, len(s))
	if err != nil {
		return nil, err
	}
	return array(re.Split(s, -1)), nil
}

func regexFindN(_ *run, args []value) (value, error) {
	expression, s, err := texts(args)
	if err != nil {
		return nil, err
	}
	n, err := integer(args[2])
	if err != nil {
		return nil, err
	}
	re, err := pattern(expression, len(s))
	if err != nil {
		return nil, err
	}
	return array(re.FindAllString(s, n)), nil
}

// regexReplace puts a template in place of every match.
func regexReplace(_ *run, args []value) (value, error) {
	s, expression, err := texts(args)
	if err != nil {
		return nil, err
	}
	template, err := text(args[2])
	if err != nil {
		return nil, err
	}
	re, err := pattern(expression, len(s))
	if err != nil {
		return nil, err
	}
	var out []byte
	end := 0
	for _, match := range re.FindAllStringSubmatchIndex(s, -1) {
		// A template may name a group any number of times.
		if match[1]-match[0] > 0 && strings.Count(template, "$")*(match[1]-match[0])+len(template) > maxArgumentBytes {
			return nil, fmt.Errorf("%w: a replacement of over %d bytes", errBound, maxArgumentBytes)
		}
		out = re.ExpandString(append(out, s[end:match[0]]...), template, s, match)
		if end = match[1]; len(out) > maxArgumentBytes {
			return nil, fmt.Errorf("%w: a result of over %d bytes", errBound, maxArgumentBytes)
		}
	}
	return string(append(out, s[end:]...)), nil
}

// regexTemplateMatch holds a string against a template of which the parts between two delimiters, of one
// byte each, are regular expressions.
func regexTemplateMatch(_ *run, args []value) (value, error) {
	template, s, err := texts(args)
	if err != nil {
		return nil, err
	}
	open, end, err := texts(args[2:])
	if err != nil || len(open) != 1 || len(end) != 1 || len(template) > maxPattern {
		return nil, errUndefined
	}
	expression, level, begin := "^", 0, 0
	for i := range len(template) {
		switch template[i] {
		case open[0]:
			if level++; level == 1 {
				expression += regexp.QuoteMeta(template[begin:i])
				begin = i + 1
			}
		case end[0]:
			if level--; level == 0 {
				inside := template[begin:i]
				if _, err := pattern("^"+inside+"$", 0); err != nil {
					return nil, err
				}
				expression += "(" + inside + ")"
				begin = i + 1
			}
		}
		if level < 0 {
			return nil, errUndefined
		}
	}
	if level != 0 {
		return nil, errUndefined
	}
	re, err := pattern(expression+regexp.QuoteMeta(template[begin:])+"$", len(s))
	if err != nil {
		return nil, err
	}
	return re.MatchString(s), nil
}
