package rego

import (
	"bytes"
	"crypto/hmac"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"net/url"
	"slices"
	"strings"
)

func base64NoPad(s string) (value, error) {
	return base64.RawURLEncoding.EncodeToString([]byte(s)), nil
}

func hexEncode(s string) (value, error) { return hex.EncodeToString([]byte(s)), nil }

func hexDecode(s string) (value, error) {
	decoded, err := hex.DecodeString(s)
	return string(decoded), err
}

func digest(algorithm func() hash.Hash) func(string) (value, error) {
	return func(s string) (value, error) {
		h := algorithm()
		h.Write([]byte(s))
		return hex.EncodeToString(h.Sum(nil)), nil
	}
}

func mac(algorithm func() hash.Hash) func(string, string) (value, error) {
	return func(message, key string) (value, error) {
		h := hmac.New(algorithm, []byte(key))
		h.Write([]byte(message))
		return hex.EncodeToString(h.Sum(nil)), nil
	}
}

func hmacEqual(a, b string) (value, error) { return hmac.Equal([]byte(a), []byte(b)), nil }

func queryEncode(s string) (value, error) { return url.QueryEscape(s), nil }

func queryDecode(s string) (value, error) { return url.QueryUnescape(s) }

func queryEncodeObject(_ *run, args []value) (value, error) {
	members, ok := args[0].(object)
	if !ok {
		return nil, errUndefined
	}
	query := url.Values{}
	for _, m := range members {
		key, err := text(m.key)
		if err != nil {
			return nil, err
		}
		if query[key], err = list(m.value); err != nil {
			return nil, err
		}
	}
	return query.Encode(), nil
}

func queryDecodeObject(s string) (value, error) {
	query, err := url.ParseQuery(s)
	var members []member
	for key, values := range query {
		members = append(members, member{key, array(values)})
	}
	return newObject(members), err
}

// globQuote escapes what means something in a pattern of glob.match.
func globQuote(s string) (value, error) {
	var out strings.Builder
	for _, r := range s {
		if strings.ContainsRune(`*?\[]{}`, r) {
			out.WriteByte('\\')
		}
		out.WriteRune(r)
	}
	return out.String(), nil
}

// marshalWithOptions writes JSON, indented if an option of indenting is given or "pretty" says so.
func marshalWithOptions(_ *run, args []value) (value, error) {
	options, ok := args[1].(object)
	if !ok {
		return nil, errUndefined
	}
	indent, prefix, implied := "\t", "", false
	var stated *bool
	for _, option := range options {
		switch v := option.value.(type) {
		case string:
			implied = true
			switch option.key {
			case "prefix":
				prefix = v
			case "indent":
				indent = v
			default:
				return nil, errUndefined
			}
		case bool:
			if stated = &v; option.key != "pretty" {
				return nil, errUndefined
			}
		default:
			return nil, errUndefined
		}
	}
	plain := toJSON(nil, args[0])
	if stated != nil && !*stated || stated == nil && !implied {
		return string(plain), nil
	}
	// Each line begins with the prefix and as many indents as it is nested.
	lines := bytes.Count(plain, []byte{','}) + 2*bytes.Count(plain, []byte{'['}) + 2*bytes.Count(plain, []byte{'{'}) + 1
	if each := len(prefix) + maxNesting*len(indent); lines*each > 16*maxArgumentBytes {
		return nil, fmt.Errorf("%w: %d lines with %d bytes before each", errBound, lines, each)
	}
	var pretty bytes.Buffer
	err := json.Indent(&pretty, plain, prefix, indent)
	return prefix + pretty.String(), err
}

// toJSON appends a value as JSON: sets are arrays, keys are strings.
func toJSON(out []byte, v value) []byte {
	switch v := v.(type) {
	case []value:
		return append(jsonItems(append(out, '['), v), ']')
	case set:
		return append(jsonItems(append(out, '['), v), ']')
	case object:
		out = append(out, '{')
		for i, m := range v {
			if i > 0 {
				out = append(out, ',')
			}
			key, ok := m.key.(string)
			if !ok {
				key = string(toJSON(nil, m.key))
			}
			out = toJSON(append(appendString(out, key), ':'), m.value)
		}
		return append(out, '}')
	}
	return write(out, v)
}

func jsonItems(out []byte, values []value) []byte {
	for i, v := range values {
		if i > 0 {
			out = append(out, ',')
		}
		out = toJSON(out, v)
	}
	return out
}

// objectSubset asks whether an object, set or array holds another; an array may hold a set.
func objectSubset(_ *run, args []value) (value, error) { return holds(args[0], args[1]) }

func holds(super, sub value) (bool, error) {
	switch super := super.(type) {
	case object:
		if sub, ok := sub.(object); ok {
			return holdsMembers(super, sub)
		}
	case set:
		if sub, ok := sub.(set); ok {
			return holdsItems(super, sub), nil
		}
	case []value:
		switch sub := sub.(type) {
		case []value:
			return holdsRun(super, sub)
		case set:
			return len(super) > 0 && holdsItems(newSet(super), sub), nil
		}
	}
	return false, errUndefined
}

// holdsMembers asks whether an object has each member of another, or one that holds it and is of its kind.
func holdsMembers(super, sub object) (bool, error) {
	for _, m := range sub {
		v, found := super.get(m.key)
		switch {
		case !found:
			return false, nil
		case compare(v, m.value) == 0:
			continue
		case rank(v) != rank(m.value) || rank(v) < rank([]value{}): // no kind that holds anything
			return false, nil
		}
		if in, err := holds(v, m.value); !in || err != nil {
			return false, err
		}
	}
	return true, nil
}

func holdsItems(super, sub set) bool {
	for _, v := range sub {
		if _, found := slices.BinarySearchFunc(super, v, compare); !found {
			return false
		}
	}
	return true
}

// holdsRun asks whether an array has another as a part of it.
func holdsRun(super, sub []value) (bool, error) {
	if (len(super)-len(sub)+1)*len(sub) > maxComparisons {
		return false, fmt.Errorf("%w: an array of %d in one of %d", errBound, len(sub), len(super))
	}
	for i := range max(len(super)-len(sub)+1, 0) {
		if slices.CompareFunc(super[i:i+len(sub)], sub, compare) == 0 {
			return true, nil
		}
	}
	return false, nil
}
