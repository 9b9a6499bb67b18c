package rego

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// maxPatches bounds the operations of one json.patch: each may copy what it edits.
const maxPatches = 500

// jsonPatch applies a JSON patch (RFC 6902). A path is a JSON pointer, or an array of its parts. Sets are
// edited too: there a part is a member.
func jsonPatch(_ *run, args []value) (value, error) {
	operations, ok := args[1].([]value)
	if !ok {
		return nil, errUndefined
	}
	if len(operations) > maxPatches {
		return nil, fmt.Errorf("%w: a patch of %d operations", errBound, len(operations))
	}
	document := args[0]
	for _, operation := range operations {
		o, ok := operation.(object)
		if !ok {
			return nil, errUndefined
		}
		var err error
		if document, err = patch(document, o); err != nil {
			return nil, err
		}
		// A document that is copied into itself doubles.
		if left := maxArgumentBytes; !fits(document, &left) {
			return nil, fmt.Errorf("%w: a patched document of over %d bytes", errBound, maxArgumentBytes)
		}
	}
	return document, nil
}

func patch(document value, operation object) (value, error) {
	path, err := pointer(operation, "path")
	if err != nil {
		return nil, err
	}
	name, _ := operation.get("op")
	v, given := operation.get("value")
	if !given && (name == "add" || name == "replace" || name == "test") {
		return nil, errUndefined
	}
	if name == "move" || name == "copy" {
		from, err := pointer(operation, "from")
		if err != nil {
			return nil, err
		}
		if v, err = lookup(document, from); err != nil {
			return nil, err
		}
		if name == "move" {
			if document, err = edit(document, from, remove); err != nil {
				return nil, err
			}
		}
	}
	put := func(parent, key value) (value, error) { return insert(parent, key, v) }
	switch name {
	case "add", "move", "copy":
		if len(path) == 0 {
			return v, nil
		}
		return edit(document, path, put)
	case "replace":
		if len(path) == 0 {
			return v, nil
		}
		if document, err = edit(document, path, remove); err != nil {
			return nil, err
		}
		return edit(document, path, put)
	case "remove":
		return edit(document, path, remove)
	case "test":
		found, err := lookup(document, path)
		if err != nil || compare(found, v) != 0 {
			return nil, errUndefined
		}
		return document, nil
	}
	return nil, errUndefined
}

// pointer reads a path of an operation.
func pointer(operation object, name string) ([]value, error) {
	switch path, _ := operation.get(name); path := path.(type) {
	case []value:
		return path, nil
	case string:
		if path == "" {
			return nil, nil
		}
		var parts []value
		for part := range strings.SplitSeq(strings.TrimLeft(path, "/"), "/") {
			parts = append(parts, strings.ReplaceAll(strings.ReplaceAll(part, "~1", "/"), "~0", "~"))
		}
		return parts, nil
	}
	return nil, errUndefined
}

// index finds a place in an array of n, by a number or its text.
func index(key value, n int) (int, error) {
	if s, ok := key.(string); ok {
		if len(s) > 1 && s[0] == '0' || s == "" || strings.Trim(s, "0123456789") != "" {
			return 0, errUndefined
		}
		key = json.Number(s)
	}
	i, err := integer(key)
	if err != nil || i < 0 || i >= n {
		return 0, errUndefined
	}
	return i, nil
}

func lookup(document value, path []value) (value, error) {
	for _, key := range path {
		found := false
		switch parent := document.(type) {
		case object:
			document, found = parent.get(key)
		case []value:
			if i, err := index(key, len(parent)); err == nil {
				document, found = parent[i], true
			}
		case set:
			document, found = key, holdsItems(parent, set{key})
		}
		if !found {
			return nil, errUndefined
		}
	}
	return document, nil
}

// edit changes what a path leads to, with a function of the value around it and of the last part.
func edit(document value, path []value, change func(parent, key value) (value, error)) (value, error) {
	switch len(path) {
	case 0:
		return nil, errUndefined
	case 1:
		return change(document, path[0])
	}
	child, err := lookup(document, path[:1])
	if err != nil {
		return nil, err
	}
	if child, err = edit(child, path[1:], change); err != nil {
		return nil, err
	}
	switch parent := document.(type) {
	case []value:
		i, err := index(path[0], len(parent))
		if err != nil {
			return nil, err
		}
		parent = slices.Clone(parent)
		parent[i] = child
		return parent, nil
	case set:
		left, err := remove(parent, path[0])
		if err != nil {
			return nil, err
		}
		return insert(left, child, child)
	}
	return insert(document, path[0], child)
}

func insert(parent, key, v value) (value, error) {
	switch parent := parent.(type) {
	case object:
		return parent.with(key, v), nil
	case []value:
		if key == "-" {
			return append(slices.Clone(parent), v), nil
		}
		i, err := index(key, len(parent)+1)
		if err != nil {
			return nil, err
		}
		return slices.Insert(slices.Clone(parent), i, v), nil
	case set:
		if compare(key, v) == 0 {
			return newSet(append(slices.Clone(parent), v)), nil
		}
	}
	return nil, errUndefined
}

func remove(parent, key value) (value, error) {
	if _, err := lookup(parent, []value{key}); err != nil {
		return nil, err
	}
	switch parent := parent.(type) {
	case object:
		return slices.DeleteFunc(slices.Clone(parent), func(m member) bool { return compare(m.key, key) == 0 }), nil
	case []value:
		i, err := index(key, len(parent))
		return slices.Delete(slices.Clone(parent), i, i+1), err
	case set:
		return slices.DeleteFunc(slices.Clone(parent), func(v value) bool { return compare(v, key) == 0 }), nil
	}
	return nil, errUndefined
}

// fits takes what a value has as text off a number of bytes, and stops when they are used up.
func fits(v value, left *int) bool {
	switch v := v.(type) {
	case string:
		*left -= len(v)
	case []value:
		return all(v, left)
	case set:
		return all(v, left)
	case object:
		for _, m := range v {
			if !fits(m.key, left) || !fits(m.value, left) {
				return false
			}
		}
	}
	*left -= 2
	return *left >= 0
}

func all(values []value, left *int) bool {
	*left -= 2
	for _, v := range values {
		if !fits(v, left) {
			return false
		}
	}
	return *left >= 0
}
