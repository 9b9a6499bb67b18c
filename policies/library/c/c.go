// Package c is the header that policies in C share; `cloister policy new` puts it beside a new one.
package c

import _ "embed"

// JSON is json.h.
//
//go:embed json.h
var JSON string
