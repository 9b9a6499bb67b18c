package abi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"
)

// maxDepth bounds how deep a decoded document may nest. No shape of this package nests
// deeper than four levels; a configuration rarely passes ten.
const maxDepth = 64

// DecodeExact decodes one JSON document from outside into the value that into points to.
//
// It refuses what encoding/json lets through: more than limit bytes, invalid UTF-8, a key
// twice in one object, a key that is not exactly a field's name (encoding/json also takes
// other spellings of its case), anything after the document, and "null" as the document.
// On an error *into is unspecified; callers return a zero value instead of it.
func DecodeExact(data []byte, limit int, into any) error {
	if len(data) > limit {
		return fmt.Errorf("longer than %d bytes", limit)
	}
	if !utf8.Valid(data) {
		return fmt.Errorf("not valid UTF-8")
	}
	if !json.Valid(data) { // syntax, and nothing after the document
		return fmt.Errorf("not a JSON document: %w", json.Unmarshal(data, new(json.RawMessage)))
	}
	if string(bytes.TrimSpace(data)) == "null" {
		return fmt.Errorf("null where a value is wanted")
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	w := walker{dec: dec}
	if err := w.value(reflect.TypeOf(into).Elem(), "", 0); err != nil {
		return err
	}
	return json.Unmarshal(data, into)
}

// walker compares the keys of a syntactically valid document with a Go type.
type walker struct{ dec *json.Decoder }

// value reads one value. A nil type is content that is decoded elsewhere: its keys are only
// checked for repetition.
func (w *walker) value(t reflect.Type, path string, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("nested deeper than %d levels", maxDepth)
	}
	token, err := w.dec.Token()
	if err != nil {
		return fmt.Errorf("not a JSON document: %w", err)
	}
	switch token {
	case json.Delim('{'):
		return w.object(transparent(t), path, depth)
	case json.Delim('['):
		return w.array(transparent(t), path, depth)
	}
	return nil
}

func (w *walker) object(t reflect.Type, path string, depth int) error {
	var fields map[string]reflect.Type
	var element reflect.Type
	if t != nil && t.Kind() == reflect.Struct {
		fields = fieldTypes(t)
	} else if t != nil && t.Kind() == reflect.Map {
		element = t.Elem()
	}
	seen := map[string]bool{}
	for w.dec.More() {
		token, err := w.dec.Token()
		if err != nil {
			return fmt.Errorf("not a JSON document: %w", err)
		}
		key, _ := token.(string)
		if seen[key] {
			return fmt.Errorf("%s: appears twice", join(path, key))
		}
		seen[key] = true
		of := element
		if fields != nil {
			known := false
			if of, known = fields[key]; !known {
				return fmt.Errorf("%s: unknown field", join(path, key))
			}
		}
		if err := w.value(of, join(path, key), depth+1); err != nil {
			return err
		}
	}
	_, err := w.dec.Token() // the closing brace
	return err
}

func (w *walker) array(t reflect.Type, path string, depth int) error {
	var element reflect.Type
	if t != nil && (t.Kind() == reflect.Slice || t.Kind() == reflect.Array) {
		element = t.Elem()
	}
	for i := 0; w.dec.More(); i++ {
		if err := w.value(element, fmt.Sprintf("%s[%d]", path, i), depth+1); err != nil {
			return err
		}
	}
	_, err := w.dec.Token() // the closing bracket
	return err
}

// transparent follows pointers, and gives nil for a type whose inside is not ours to check.
func transparent(t reflect.Type) reflect.Type {
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == nil || t.Kind() == reflect.Interface || t == reflect.TypeFor[json.RawMessage]() ||
		reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]()) {
		return nil
	}
	return t
}

// fieldTypes maps the exact JSON names of a struct to the types of its fields.
func fieldTypes(t reflect.Type) map[string]reflect.Type {
	fields := map[string]reflect.Type{}
	for _, field := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if !field.IsExported() || name == "-" || (field.Anonymous && name == "") {
			continue
		}
		if name == "" {
			name = field.Name
		}
		fields[name] = field.Type
	}
	return fields
}

// join extends a path; a key from outside is shortened and quoted, for it ends in an error.
func join(path, key string) string {
	if len(key) > 64 || slices.ContainsFunc([]rune(key), func(r rune) bool { return r < ' ' || r > '~' }) {
		key = fmt.Sprintf("%.64q", key)
	}
	if path == "" {
		return key
	}
	return path + "." + key
}
