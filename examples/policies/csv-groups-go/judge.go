package main

import (
	"bufio"
	"encoding/csv"
	"errors"
	"io"
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

// judge reads one artifact and returns the code that denies it, or "".
func (c config) judge(artifact sdk.Artifact) (code string, err error) {
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
	code, err = c.table(reader)
	var syntax *csv.ParseError
	if errors.As(err, &syntax) || errors.Is(err, errLongLine) {
		return "not-csv", nil
	}
	return code, err
}

// table judges the header, then every row.
func (c config) table(reader *csv.Reader) (code string, err error) {
	row, err := reader.Read()
	if err == io.EOF {
		return "not-csv", nil
	}
	if err != nil {
		return "", err
	}
	header := slices.Clone(row)
	if code := c.header(header); code != "" {
		return code, nil
	}
	group := slices.Index(header, c.GroupBy)
	rows, groups := 0, map[string]int{}
	for {
		row, err := reader.Read()
		if err == io.EOF {
			return c.sizes(rows, groups), nil
		}
		if err != nil {
			return "", err
		}
		rows++
		if slices.ContainsFunc(row, func(value string) bool { return !utf8.ValidString(value) }) {
			return "not-csv", nil
		}
		if groups[row[group]]++; len(groups) > maxGroups {
			return "many-groups", nil
		}
	}
}

// header denies columns that are unknown or repeated, and a table without the one to group by.
func (c config) header(header []string) (code string) {
	for i, column := range header {
		if !slices.Contains(c.Columns, column) || slices.Contains(header[:i], column) {
			return "columns"
		}
	}
	if !slices.Contains(header, c.GroupBy) {
		return "columns"
	}
	return ""
}

func (c config) sizes(rows int, groups map[string]int) (code string) {
	if rows < c.MinGroup {
		return "small-group"
	}
	for _, size := range groups {
		if size < c.MinGroup {
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
