package rego

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"unicode/utf8"
)

// builtin is a built-in function of Rego. An error means that it is undefined for its arguments; one that
// wraps errBound ends the decision.
type builtin func(r *run, args []value) (value, error)

// errBound: a bound of the host would be broken.
var errBound = errors.New("too much for a built-in function")

// errUndefined: a function has no value for its arguments.
var errUndefined = errors.New("undefined")

// Builtins lists the built-in functions that the host offers, sorted. OPA compiles others into a module.
func Builtins() []string { return slices.Sorted(maps.Keys(builtins)) }

// builtin calls the function with a number. Zero means undefined.
func (r *run) builtin(ctx context.Context, number int32, addresses []uint64) (address uint32, err error) {
	function, ok := r.program.builtins[number]
	if !ok {
		return 0, fmt.Errorf("a built-in function with the unknown number %d", number)
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	args := make([]value, len(addresses))
	for i, at := range addresses {
		text, err := r.take(ctx, "opa_value_dump", uint32(at), maxArgumentBytes)
		if err != nil {
			return 0, err
		}
		if args[i], err = parse(string(text)); err != nil {
			return 0, err
		}
	}
	result, err := function(r, args)
	if errors.Is(err, errBound) {
		return 0, err
	}
	if err != nil {
		return 0, nil
	}
	text := write(nil, result)
	if len(text) > maxArgumentBytes {
		return 0, fmt.Errorf("%w: a result of %d bytes", errBound, len(text))
	}
	if !utf8.Valid(text) {
		return 0, nil // a Rego string is text
	}
	return r.give(ctx, "opa_value_parse", text)
}
