package jobspec

import (
	"fmt"
	"unicode"
	"unicode/utf8"
)

// forbidden reports whether a rune has no place in a job: control characters, and those that
// make text look like other text (bidirectional controls, Unicode's own line ends).
func forbidden(r rune) bool {
	switch {
	case r == '\t', r == '\n':
		return false
	case unicode.IsControl(r):
		return true
	case r >= 0x202a && r <= 0x202e, r >= 0x2066 && r <= 0x2069, r == 0x061c, r == 0x200e, r == 0x200f:
		return true // Unicode standard annex 9, explicit directional formatting
	case r == 0x2028, r == 0x2029, r == 0xfeff:
		return true
	}
	return false
}

// lines says whether text may hold line ends and tabs.
type lines bool

const (
	oneLine   lines = false
	manyLines lines = true
)

// textFault says what is wrong with a piece of text, "" if nothing is.
func textFault(s string, most int, l lines) string {
	if len(s) > most {
		return fmt.Sprintf("is %d bytes long; at most %d are allowed", len(s), most)
	}
	if !utf8.ValidString(s) {
		return "is not UTF-8"
	}
	for _, r := range s {
		if forbidden(r) || !bool(l) && (r == '\n' || r == '\t') {
			return fmt.Sprintf("holds the control character %U", r)
		}
	}
	return ""
}
