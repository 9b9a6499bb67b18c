package rego

import (
	"encoding/json"
	"math/big"
	"strconv"
	"unicode/utf8"
)

// text is an argument that is a string.
func text(v value) (string, error) {
	s, ok := v.(string)
	if !ok {
		return "", errUndefined
	}
	return s, nil
}

// texts are two arguments that are strings.
func texts(args []value) (first, second string, err error) {
	if first, err = text(args[0]); err == nil {
		second, err = text(args[1])
	}
	return first, second, err
}

// integer is an argument that is a whole number; 1.0 is one.
func integer(v value) (int, error) {
	n, ok := v.(json.Number)
	if !ok {
		return 0, errUndefined
	}
	if i, err := strconv.Atoi(string(n)); err == nil {
		return i, nil
	}
	i, accuracy := float(n).Int64()
	if accuracy != big.Exact {
		return 0, errUndefined
	}
	return int(i), nil
}

// list is an argument that is an array or a set of strings, or one string.
func list(v value) ([]string, error) {
	var values []value
	switch v := v.(type) {
	case string:
		return []string{v}, nil
	case []value:
		values = v
	case set:
		values = v
	default:
		return nil, errUndefined
	}
	all := make([]string, len(values))
	for i, v := range values {
		var err error
		if all[i], err = text(v); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func number(i int) value     { return json.Number(strconv.Itoa(i)) }
func number64(i int64) value { return json.Number(strconv.FormatInt(i, 10)) }

// array makes an array of strings.
func array(all []string) value {
	values := make([]value, len(all))
	for i, s := range all {
		values[i] = s
	}
	return values
}

// text1 makes a built-in function of one that takes a string.
func text1(f func(string) (value, error)) builtin {
	return func(_ *run, args []value) (value, error) {
		s, err := text(args[0])
		if err != nil {
			return nil, err
		}
		return f(s)
	}
}

// text2 makes a built-in function of one that takes two strings.
func text2(f func(string, string) (value, error)) builtin {
	return func(_ *run, args []value) (value, error) {
		first, second, err := texts(args)
		if err != nil {
			return nil, err
		}
		return f(first, second)
	}
}

// size is the length of the first character of a string.
func size(s string) int {
	_, n := utf8.DecodeRuneInString(s)
	return n
}
