package jobspec

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Problem is one thing that is wrong with a job, and how to cure it.
type Problem struct {
	// File is the name that the job was parsed under.
	File string `json:"file"`
	// Path says where: "outputs.predictions.save_to", "policies[0].config". Empty for the whole file.
	Path string `json:"path"`
	// Line and Column count from 1; 0 where the job came without lines.
	Line    int    `json:"line"`
	Column  int    `json:"column"`
	Message string `json:"message"`
	// Hint says how to cure it; empty where the message says it already.
	Hint string `json:"hint,omitempty"`
}

// String is one line, and a second, indented one for the hint.
func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		b.WriteString(":" + strconv.Itoa(p.Line))
	}
	b.WriteString(": ")
	if p.Path != "" {
		b.WriteString(p.Path + ": ")
	}
	b.WriteString(p.Message)
	if p.Hint != "" {
		b.WriteString("\n    hint: " + p.Hint)
	}
	return b.String()
}

// Problems is every problem of a job at once, sorted by line: the error of [Parse],
// [ParseCanonical] and [Job.Canonical]. It is never empty where it is an error.
type Problems []Problem

// Error prints one problem per line, each hint on an indented line of its own.
func (p *Problems) Error() string {
	lines := make([]string, len(*p))
	for i, problem := range *p {
		lines[i] = problem.String()
	}
	return strings.Join(lines, "\n")
}

// path is where in a job something stands. Steps are ".name", "[i]" and "[\"odd name\"]".
type path string

func (p path) field(name string) path {
	if p == "" {
		return path(name)
	}
	return p + "." + path(name)
}

// key is a step into a mapping whose names the job chooses.
func (p path) key(name string) path {
	for _, r := range name {
		if r != '_' && r != '-' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') {
			return p + "[" + path(quote(name)) + "]"
		}
	}
	if name == "" || len(name) > maxName {
		return p + "[" + path(quote(name)) + "]"
	}
	return p.field(name)
}

func (p path) index(i int) path { return p + "[" + path(strconv.Itoa(i)) + "]" }

// within reports whether p is q or stands below q.
func (p path) within(q path) bool {
	rest, ok := strings.CutPrefix(string(p), string(q))
	return ok && (q == "" || rest == "" || rest[0] == '.' || rest[0] == '[')
}

// position is a place in the file; the zero position is unknown.
type position struct{ line, column int }

// collector gathers problems and knows where each path stands in the file.
type collector struct {
	file      string
	format    format
	problems  Problems
	positions map[path]position
	// broken holds the paths whose value could not be read; rules stay silent on them.
	broken []path
	// more counts the problems beyond maxProblems, which are not kept.
	more int
}

func newCollector(file string, f format) *collector {
	return &collector{file: file, format: f, positions: map[path]position{}}
}

// format is a kind of file that people write.
type format struct {
	// noun is what messages call such a file, begin how one begins.
	noun, begin string
	root        *shape
}

func jobFormat() format {
	return format{noun: "job file", begin: "begin with: version: 1", root: jobFile()}
}

// add reports a problem at a position.
func (c *collector) add(p path, at position, message, hint string) {
	if len(c.problems) >= maxProblems {
		c.more++
		return
	}
	c.problems = append(c.problems, Problem{
		File: c.file, Path: string(p), Line: at.line, Column: at.column, Message: message, Hint: hint,
	})
}

// spoil reports a problem that leaves nothing readable at p.
func (c *collector) spoil(p path, at position, message, hint string) {
	c.add(p, at, message, hint)
	if len(c.broken) < maxProblems {
		c.broken = append(c.broken, p)
	}
}

// report is what rules call: silent where the value could not be read in the first place.
func (c *collector) report(p path, message, hint string) {
	if slices.ContainsFunc(c.broken, p.within) {
		return
	}
	c.add(p, c.position(p), message, hint)
}

// intact reports whether everything at p and below could be read.
func (c *collector) intact(p path) bool {
	return !slices.ContainsFunc(c.broken, func(q path) bool { return q.within(p) || p.within(q) })
}

// position is where p stands, or the nearest thing around it.
func (c *collector) position(p path) position {
	for {
		if at, ok := c.positions[p]; ok {
			return at
		}
		i := strings.LastIndexAny(string(p), ".[")
		if i < 0 {
			return c.positions[""]
		}
		p = p[:i]
	}
}

// err is the sorted problems, or nil.
func (c *collector) err() error {
	if len(c.problems) == 0 {
		return nil
	}
	sorted := slices.Clone(c.problems)
	slices.SortStableFunc(sorted, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column), cmp.Compare(a.Path, b.Path))
	})
	if c.more > 0 {
		last := sorted[len(sorted)-1]
		sorted = append(sorted, Problem{
			File: c.file, Line: last.Line, Column: last.Column,
			Message: fmt.Sprintf("%d more problems are not shown", c.more), Hint: "cure these first",
		})
	}
	return &sorted
}

// quote shows text of the job in a message: printable and short.
func quote(s string) string {
	const most = 64
	if len(s) <= most {
		return strconv.Quote(s)
	}
	cut := most
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return strconv.Quote(s[:cut]) + "…"
}

// nearest is the known name that a misspelt one most likely means; "" if none is near.
func nearest(name string, known []string) string {
	best, least := "", len(name)/3+2
	if len(name) > maxName {
		return ""
	}
	for _, k := range known {
		if len(k) > maxName {
			continue
		}
		if d := distance(name, k); d < least {
			best, least = k, d
		}
	}
	return best
}

// distance is the Levenshtein distance in bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
