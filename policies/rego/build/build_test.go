package build_test

import (
	"bytes"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/cloister-run/cloister/policies/abi"
	"github.com/cloister-run/cloister/policies/rego/build"
)

func text(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s), Mode: 0o444} }

// TestCompileIsDeterministic: the same sources give the same bytes.
func TestCompileIsDeterministic(t *testing.T) {
	sources := fstest.MapFS{
		"b.rego":    text("package cloister\n\ndecision := {\"allow\": data.a.b == f(input.x)}\n\nf(x) := sprintf(\"%s%s\", [x, upper(x)])"),
		"a.rego":    text("package helper\n\np contains x if some x in input.y\n\nq[x] := y if some x, y in input.z"),
		"data.json": text(`{"b": 1, "a": {"z": 1, "b": "xX"}}`),
	}
	wasm, data, err := build.Compile(t.Context(), sources, nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		again, other, err := build.Compile(t.Context(), sources, nil)
		if err != nil || !bytes.Equal(again, wasm) || !bytes.Equal(other, data) {
			t.Fatalf("it differs (%v)", err)
		}
	}
	if string(data) != `{"a":{"b":"xX","z":1},"b":1}` {
		t.Errorf("the data is %s", data)
	}
}

func TestCompileRefuses(t *testing.T) {
	for _, row := range []struct {
		rule    string
		sources fs.FS
		m       *abi.Rego
		reason  string
	}{
		{"no source", fstest.MapFS{"data.json": text("{}"), "x_test.rego": text("package x")}, nil, "no *.rego file"},
		{"a mistake", fstest.MapFS{"a.rego": text("package cloister\n\ndecision := x")}, nil, "a.rego:3: rego_unsafe_var_error"},
		{"Rego as it was before 1.0", fstest.MapFS{"a.rego": text("package cloister\n\ndecision = x { x := 1 }")}, nil, "`if` keyword is required"},
		{"an entrypoint that is not there", fstest.MapFS{"a.rego": text("package x\n\np := 1")}, nil, "cloister/decision"},
		{"another entrypoint that is not there", fstest.MapFS{"a.rego": text("package cloister\n\ndecision := 1")}, &abi.Rego{Entrypoint: "x/y"}, "x/y"},
		{"data that is none", fstest.MapFS{"a.rego": text("package cloister\n\ndecision := 1"), "data.json": text("[]")}, nil, "data.json"},
		{"too much", fstest.MapFS{"a.rego": text("package cloister\n#" + strings.Repeat("x", 4<<20))}, nil, "4194304 bytes in all"},
	} {
		t.Run(row.rule, func(t *testing.T) {
			wasm, data, err := build.Compile(t.Context(), row.sources, row.m)
			if wasm != nil || data != nil || err == nil || !strings.Contains(err.Error(), row.reason) {
				t.Errorf("got %d bytes, %v; wanted %q", len(wasm), err, row.reason)
			}
		})
	}
}
