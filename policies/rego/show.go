package rego

import (
	"encoding/csv"
	"encoding/json"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// appendContent appends the format of a file's text and its content:
//
//	"json"  an object or array that every reader reads alike ([exact]); content is the document
//	"csv"   UTF-8 in lines of equally many values; content has the first as "columns", the others as "rows"
//	"none"  neither; there is no content
//
// A policy sees values. How they are spelt it does not: quotes, white space, empty lines, digits of a number.
func appendContent(out []byte, text string) []byte {
	begin := strings.TrimLeft(text, " \t\r\n")
	document := begin != "" && (begin[0] == '{' || begin[0] == '[') && json.Valid([]byte(text))
	if document && exact(text) {
		return append(append(out, `,"format":"json","content":`...), text...)
	}
	if !document && utf8.ValidString(text) {
		if table, ok := appendTable(append(out, `,"format":"csv","content":`...), text); ok {
			return table
		}
	}
	return append(out, `,"format":"none"`...)
}

// appendTable appends CSV as JSON, unless it is none.
func appendTable(out []byte, text string) ([]byte, bool) {
	reader := csv.NewReader(strings.NewReader(text))
	reader.ReuseRecord = true
	row, err := reader.Read()
	if err != nil {
		return nil, false
	}
	out = appendRow(append(out, `{"columns":`...), row)
	out = append(out, `,"rows":[`...)
	for rows := 0; ; rows++ {
		row, err := reader.Read()
		if err == io.EOF {
			return append(out, "]}"...), true
		}
		if err != nil {
			return nil, false
		}
		if rows > 0 {
			out = append(out, ',')
		}
		out = appendRow(out, row)
	}
}

func appendRow(out []byte, row []string) []byte {
	out = append(out, '[')
	for i, cell := range row {
		if i > 0 {
			out = append(out, ',')
		}
		out = appendString(out, cell)
	}
	return append(out, ']')
}

// exact reports whether text is one JSON document that every reader reads alike: UTF-8, no key twice in
// one object, nothing nested deeper than maxNesting. A policy that judges one of two values with one key
// would let the other pass.
func exact(text string) bool {
	p := parser{text: text}
	return utf8.ValidString(text) && json.Valid([]byte(text)) && p.exact(0) && p.space() == 0
}

// exact reads one value of valid JSON.
func (p *parser) exact(depth int) bool {
	if depth > maxNesting {
		return false
	}
	switch p.space() {
	case '"':
		_, err := p.string()
		return err == nil
	case '[':
		return p.exactArray(depth)
	case '{':
		return p.exactObject(depth)
	}
	for p.at < len(p.text) && strings.IndexByte(",]} \n\t\r", p.text[p.at]) < 0 {
		p.at++
	}
	return true
}

func (p *parser) exactArray(depth int) bool {
	for p.at++; p.space() != ']'; {
		if !p.exact(depth + 1) {
			return false
		}
		if p.space() == ',' {
			p.at++
		}
	}
	p.at++
	return true
}

func (p *parser) exactObject(depth int) bool {
	var few []string
	var many map[string]bool
	for p.at++; p.space() != '}'; {
		read, err := p.string()
		key, ok := read.(string)
		if err != nil || !ok || many[key] || slices.Contains(few, key) {
			return false
		}
		if few = append(few, key); many != nil {
			many[key] = true
			few = few[:0]
		} else if len(few) > 16 {
			many = map[string]bool{}
			for _, key := range few {
				many[key] = true
			}
			few = few[:0]
		}
		p.space() // the colon
		p.at++
		if !p.exact(depth + 1) {
			return false
		}
		if p.space() == ',' {
			p.at++
		}
	}
	p.at++
	return true
}
