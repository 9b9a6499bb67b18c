package main

import (
	"bufio"
	"encoding/csv"
	"errors"
	"io"
	"regexp"
	"slices"
	"unicode/utf8"

	"github.com/cloister-run/cloister/policies/sdk"
)

const (
	// maxLine bounds one line, and with it what the policy holds of a file.
	maxLine = 1 << 20
	// maxGroups bounds the distinct values of the group_by column.
	maxGroups = 10_000
)

// rules is what a file is held against.
type rules struct {
	columns  []string
	patterns map[string]*regexp.Regexp
	groupBy  string
	minGroup int
}

// judge reads one artifact and returns the code that denies it, or "".
func (r rules) judge(artifact sdk.Artifact) (code string, err error) {
	if artifact.Kind != "file" {
		return "not-csv", nil
	}
	file, err := artifact.Open()
	if err != nil {
		return "", err
	}
	defer file.Close()
	lines := &lineLimit{from: file}
	reader := csv.NewReader(bufio.NewReaderSize(lines, 64<<10))
	reader.ReuseRecord = true
	code, err = r.table(reader)
	var syntax *csv.ParseError
	if errors.As(err, &syntax) || errors.Is(err, errLongLine) {
		return "not-csv", nil
	}
	return code, err
}

// table judges the header, then every row.
func (r rules) table(reader *csv.Reader) (code string, err error) {
	row, err := reader.Read()
	if err == io.EOF {
		return "not-csv", nil
	}
	if err != nil {
		return "", err
	}
	header := slices.Clone(row)
	if code := r.header(header); code != "" {
		return code, nil
	}
	group := slices.Index(header, r.groupBy)
	rows, groups := 0, map[string]int{}
	for {
		row, err := reader.Read()
		if err == io.EOF {
			return r.sizes(rows, groups), nil
		}
		if err != nil {
			return "", err
		}
		rows++
		if code := r.values(header, row); code != "" {
			return code, nil
		}
		if group < 0 {
			continue
		}
		if groups[row[group]]++; len(groups) > maxGroups {
			return "many-groups", nil
		}
	}
}

// header denies columns that are unknown, repeated or, where rows are grouped, missing.
func (r rules) header(header []string) (code string) {
	for i, column := range header {
		if !slices.Contains(r.columns, column) || slices.Contains(header[:i], column) {
			return "columns"
		}
	}
	if r.groupBy != "" && !slices.Contains(header, r.groupBy) {
		return "columns"
	}
	return ""
}

func (r rules) values(header, row []string) (code string) {
	for i, value := range row {
		if !utf8.ValidString(value) {
			return "not-csv"
		}
		if pattern := r.patterns[header[i]]; pattern != nil && !pattern.MatchString(value) {
			return "values"
		}
	}
	return ""
}

func (r rules) sizes(rows int, groups map[string]int) (code string) {
	if rows < r.minGroup {
		return "small-group"
	}
	for _, size := range groups {
		if size < r.minGroup {
			return "small-group"
		}
	}
	return ""
}

var errLongLine = errors.New("line too long")

// lineLimit fails on a line over maxLine, before anything collects it.
type lineLimit struct {
	from io.Reader
	line int
}

func (l *lineLimit) Read(buf []byte) (int, error) {
	n, err := l.from.Read(buf)
	for _, b := range buf[:n] {
		if b == '\n' {
			l.line = 0
		} else if l.line++; l.line > maxLine {
			return 0, errLongLine
		}
	}
	return n, err
}
