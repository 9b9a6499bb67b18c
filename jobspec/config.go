package jobspec

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
)

var numberRE = regexp.MustCompile(numberPattern)

// canonicalNumber spells a number in the one way that a canonical job has for it: whole
// numbers keep every digit, fractions are the shortest spelling of their float64.
func canonicalNumber(s string) (json.Number, string) {
	if len(s) > maxNumber {
		return "", fmt.Sprintf("the number is %d digits long; at most %d are allowed", len(s), maxNumber)
	}
	if !numberRE.MatchString(s) {
		return "", quote(s) + " is no number that JSON can hold"
	}
	if wholeRE.MatchString(s) {
		if s == "-0" {
			s = "0"
		}
		return json.Number(s), ""
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return "", "the number " + quote(s) + " overflows"
	}
	if f == 0 {
		return "0", ""
	}
	out, err := json.Marshal(f)
	if err != nil {
		return "", "the number " + quote(s) + " cannot be written"
	}
	return json.Number(out), ""
}

// encode writes a tree as canonical JSON: sorted names, no spaces, nothing escaped for HTML.
func encode(v any) (json.RawMessage, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// canonicalConfig is raw as canonical JSON; absent is null.
func canonicalConfig(raw json.RawMessage) (json.RawMessage, error) {
	if len(raw) == 0 {
		return json.RawMessage("null"), nil
	}
	if len(raw) > MaxCanonical {
		return nil, fmt.Errorf("is %d bytes long; at most %d are allowed", len(raw), maxConfig)
	}
	tree, err := readJSON(raw, maxDepth)
	if err != nil {
		return nil, err
	}
	out, err := encode(tree)
	if err != nil {
		return nil, err
	}
	if len(out) > maxConfig {
		return nil, fmt.Errorf("is %d bytes long as JSON; at most %d are allowed", len(out), maxConfig)
	}
	return out, nil
}

// readJSON reads exactly one JSON value: no name twice, no more than depth levels, numbers
// canonical, text without control characters. It does not recurse into the decoder.
func readJSON(data []byte, depth int) (any, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	v, err := readValue(d, depth)
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("holds more than one JSON value")
	}
	return v, nil
}

func readValue(d *json.Decoder, depth int) (any, error) {
	token, err := d.Token()
	if err != nil {
		return nil, jsonFault(err)
	}
	switch t := token.(type) {
	case json.Delim:
		if depth == 0 {
			return nil, errors.New("is nested too deep")
		}
		if t == '{' {
			return readObject(d, depth-1)
		}
		return readList(d, depth-1)
	case json.Number:
		n, fault := canonicalNumber(t.String())
		if fault != "" {
			return nil, errors.New(fault)
		}
		return n, nil
	case string:
		if fault := textFault(t, MaxCanonical, manyLines); fault != "" {
			return nil, fmt.Errorf("text %s", fault)
		}
		return t, nil
	}
	return token, nil
}

func readObject(d *json.Decoder, depth int) (any, error) {
	m := map[string]any{}
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return nil, jsonFault(err)
		}
		name, ok := token.(string)
		if !ok {
			return nil, errors.New("a name must be text")
		}
		if fault := textFault(name, MaxCanonical, manyLines); fault != "" {
			return nil, fmt.Errorf("the name %s %s", quote(name), fault)
		}
		if _, twice := m[name]; twice {
			return nil, fmt.Errorf("the name %s stands there twice", quote(name))
		}
		if m[name], err = readValue(d, depth); err != nil {
			return nil, err
		}
	}
	_, err := d.Token()
	return m, jsonFault(err)
}

func readList(d *json.Decoder, depth int) (any, error) {
	list := []any{}
	for d.More() {
		v, err := readValue(d, depth)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	_, err := d.Token()
	return list, jsonFault(err)
}

// jsonFault words an error of the decoder for a message that says where it was.
func jsonFault(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, io.EOF) {
		return errors.New("is not JSON: it ends too early")
	}
	return errors.New("is not JSON: " + strings.TrimPrefix(err.Error(), "json: "))
}
