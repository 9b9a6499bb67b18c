package main

import (
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"

	"io"
)

// TestALogSteersNoTerminal, however it is cut into pieces.
func TestALogSteersNoTerminal(t *testing.T) {
	const log = "\x1b[2Jred \x1b]0;title\x07 tab\tline\nß€😀 \xff\xfe bidi\u202e nul\x00 back\b\r"
	for name, from := range map[string]io.Reader{
		"whole":        strings.NewReader(log),
		"byte by byte": iotest.OneByteReader(strings.NewReader(log)),
		"in halves":    iotest.HalfReader(strings.NewReader(log)),
	} {
		var shown strings.Builder
		if _, err := io.Copy(struct{ io.Writer }{&harmlessWriter{to: &shown}}, struct{ io.Reader }{from}); err != nil {
			t.Fatal(err)
		}
		if want := "�[2Jred �]0;title� tab\tline\nß€😀 �� bidi� nul� back��"; shown.String() != want || !utf8.ValidString(shown.String()) {
			t.Errorf("%s: %q, want %q", name, shown.String(), want)
		}
	}
}
