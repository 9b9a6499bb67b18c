package rego

import "time"

// Call calls a built-in function with arguments as opa_value_dump writes them, in an array.
func Call(name, args string) (string, error) {
	parsed, err := parse(args)
	if err != nil {
		return "", err
	}
	result, err := builtins[name](&run{now: time.Unix(1767323045, 0)}, parsed.([]value))
	return string(write(nil, result)), err
}

// Again parses a value and writes it.
func Again(text string) (string, error) {
	v, err := parse(text)
	return string(write(nil, v)), err
}

// ErrBound is what ends a decision.
var ErrBound = errBound
