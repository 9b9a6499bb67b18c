package jobspec

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
)

// value is one value of the file, of the kind that its shape asks for. What could not be
// read is the zero value, and its path is among the collector's broken ones.
type value struct {
	set    bool
	text   string
	number int64
	items  []value
	fields map[string]value
	any    any // anyKind: as [canonicalJSON] takes it
}

func (v value) at(name string) value { return v.fields[name] }

func (v value) textOr(otherwise string) string {
	if !v.set {
		return otherwise
	}
	return v.text
}

func (v value) numberOr(otherwise int64) int64 {
	if !v.set {
		return otherwise
	}
	return v.number
}

var wholeRE = regexp.MustCompile(wholePattern)

// walk reads a bounded node along a shape and reports everything that does not fit.
func (c *collector) walk(n *yaml.Node, s *shape, p path) value {
	n = target(n)
	if s.kind == anyKind {
		v := c.free(n, p)
		return value{set: true, any: v}
	}
	if !c.untagged(n, p) {
		return value{}
	}
	if got := kindOf(n); !accepts(s.kind, got) {
		c.spoil(p, c.position(p), fmt.Sprintf("must be %s, not %s", wanted[s.kind], got), typeHint(s.kind, got, n))
		return value{}
	}
	switch s.kind {
	case objectKind:
		return c.object(n, s, p)
	case mapKind:
		return c.mapping(n, s, p)
	case listKind:
		v := value{set: true}
		for i, item := range n.Content {
			here := p.index(i)
			c.positions[here] = at(item)
			v.items = append(v.items, c.walk(item, s.elem, here))
		}
		return v
	case textKind:
		if n.Value == "" && !s.blank {
			c.spoil(p, c.position(p), "is empty", "give it a value or remove it")
		}
		return value{set: true, text: n.Value}
	default:
		return c.numeric(n, s, p)
	}
}

func (c *collector) numeric(n *yaml.Node, s *shape, p path) value {
	var number int64
	var fault, hint string
	switch s.kind {
	case sizeKind:
		number, fault, hint = parseSize(n.Value)
	case durationKind:
		number, fault, hint = parseDuration(n.Value)
	default:
		var err error
		if number, err = strconv.ParseInt(n.Value, 10, 64); err != nil || !wholeRE.MatchString(n.Value) {
			fault, hint = quote(n.Value)+" is no plain decimal number of a sane size", fmt.Sprintf("write a number from %d to %d", s.low, s.high)
		}
	}
	if fault != "" {
		c.spoil(p, c.position(p), fault, hint)
		return value{}
	}
	return value{set: true, number: number}
}

// pairs visits the entries of a mapping whose names are text and stand there once.
func (c *collector) pairs(n *yaml.Node, p path, visit func(name string, key, val *yaml.Node)) {
	first := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, val := n.Content[i], n.Content[i+1]
		switch {
		case key.Kind != yaml.ScalarNode || key.ShortTag() == "!!merge":
			if key.Value == "<<" {
				c.spoil(p, at(key), "merge keys are not supported", "write the fields out")
			} else {
				c.spoil(p, at(key), "a name must be plain text", "write the name out")
			}
			continue
		case key.Style&yaml.TaggedStyle != 0:
			c.spoil(p, at(key), "YAML tags are not supported", "remove "+quote(key.Tag))
			continue
		case kindOf(key) != isText:
			c.spoil(p, at(key), fmt.Sprintf("a name must be text, not %s", kindOf(key)), "write it in quotes: "+strconv.Quote(key.Value))
			continue
		}
		if line, ok := first[key.Value]; ok {
			c.spoil(p.key(key.Value), at(key), fmt.Sprintf("stands here twice; the first is on line %d", line), "remove one of them")
			continue
		}
		first[key.Value] = key.Line
		c.positions[p.key(key.Value)] = at(key)
		visit(key.Value, key, val)
	}
}

func (c *collector) object(n *yaml.Node, s *shape, p path) value {
	v := value{set: true, fields: map[string]value{}}
	var missed []string
	c.pairs(n, p, func(name string, key, val *yaml.Node) {
		if inner := s.find(name); inner != nil {
			v.fields[name] = c.walk(val, inner, p.field(name))
			missed = append(missed, name)
			return
		}
		c.unknown(name, s, p.key(name), p)
	})
	for _, f := range s.fields {
		if f.required && !slices.Contains(missed, f.name) {
			here := p.field(f.name)
			if slices.ContainsFunc(c.broken, here.within) {
				continue
			}
			c.spoil(here, c.position(p), "is missing", f.hint)
		}
	}
	return v
}

// unknown refuses a field. Where it is a misspelt one, that one counts as broken, not missing.
func (c *collector) unknown(name string, s *shape, here, parent path) {
	var hint string
	if near := nearest(name, s.names()); near != "" {
		hint = fmt.Sprintf("did you mean %q?", near)
		if len(c.broken) < maxProblems {
			c.broken = append(c.broken, parent.field(near))
		}
	} else if home, ok := c.format.root.home(name, ""); ok && home != "" {
		hint = fmt.Sprintf("it belongs under %s", home)
	} else if ok {
		hint = "it belongs at the top of the file, not indented"
	} else {
		hint = "known here: " + strings.Join(s.names(), ", ")
	}
	c.spoil(here, c.position(here), "unknown field", hint)
}

func (c *collector) mapping(n *yaml.Node, s *shape, p path) value {
	v := value{set: true, fields: map[string]value{}}
	c.pairs(n, p, func(name string, _, val *yaml.Node) {
		v.fields[name] = c.walk(val, s.elem, p.key(name))
	})
	return v
}

// free reads a value of any kind as JSON would hold it.
func (c *collector) free(n *yaml.Node, p path) any {
	n = target(n)
	if !c.untagged(n, p) {
		return nil
	}
	switch n.Kind {
	case yaml.MappingNode:
		m := map[string]any{}
		c.pairs(n, p, func(name string, _, val *yaml.Node) { m[name] = c.free(val, p.key(name)) })
		return m
	case yaml.SequenceNode:
		list := []any{}
		for i, item := range n.Content {
			c.positions[p.index(i)] = at(item)
			list = append(list, c.free(item, p.index(i)))
		}
		return list
	}
	const quoted = yaml.SingleQuotedStyle | yaml.DoubleQuotedStyle | yaml.LiteralStyle | yaml.FoldedStyle
	got := kindOf(n)
	switch {
	case got == isNothing:
		return nil
	case got == isBool:
		return strings.EqualFold(n.Value, "true")
	case got == isWhole, got == isFraction, n.Style&quoted == 0 && numberRE.MatchString(n.Value):
		// The last case is a number too large for yaml.v3, which calls it text.
		number, fault := canonicalNumber(n.Value)
		if fault != "" {
			c.spoil(p, c.position(p), fault, "write it as JSON does, or in quotes if it is text")
		}
		return number
	}
	return n.Value
}

// untagged refuses explicit tags: they change what a value is without showing it.
func (c *collector) untagged(n *yaml.Node, p path) bool {
	if n.Style&yaml.TaggedStyle == 0 {
		return true
	}
	c.spoil(p, c.position(p), "YAML tags are not supported", "remove "+quote(n.Tag)+"; quote the value if it is text")
	return false
}

// target follows aliases; the tree is known to hold no cycle.
func target(n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}

// What a node can be, in words for a message.
const (
	isText     = "text"
	isWhole    = "a number"
	isFraction = "a fraction"
	isBool     = "true or false"
	isNothing  = "empty"
	isMapping  = "a mapping"
	isList     = "a list"
)

var wanted = map[kind]string{
	textKind: "text", numberKind: "a whole number", sizeKind: "a size", durationKind: "a duration",
	objectKind: "a mapping", mapKind: "a mapping", listKind: "a list",
}

func kindOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return isMapping
	case yaml.SequenceNode:
		return isList
	}
	switch n.ShortTag() {
	case "!!int":
		return isWhole
	case "!!float":
		return isFraction
	case "!!bool":
		return isBool
	case "!!null":
		return isNothing
	}
	// A date is text here: JSON knows none.
	return isText
}

func accepts(k kind, got string) bool {
	switch k {
	case textKind:
		return got == isText
	case numberKind:
		return got == isWhole || got == isFraction
	case sizeKind:
		return got == isText || got == isWhole || got == isFraction
	case durationKind:
		return got == isText || got == isWhole || got == isFraction
	case listKind:
		return got == isList
	default:
		return got == isMapping
	}
}

func typeHint(k kind, got string, n *yaml.Node) string {
	switch {
	case got == isNothing:
		return "give it a value or remove it"
	case k == textKind && n.Kind == yaml.ScalarNode:
		return "write it in quotes: " + quote(n.Value)
	case k == numberKind && got == isText:
		return "write the number without quotes"
	case k == listKind:
		return "write a list: [a, b]"
	case k == objectKind || k == mapKind:
		return "write a mapping: {name: value}"
	}
	return ""
}

// units of a size in bytes.
var units = map[string]int64{
	"": 1, "B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12,
	"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40,
}

var (
	sizeRE     = regexp.MustCompile(sizePattern)
	durationRE = regexp.MustCompile(durationPattern)
)

// ParseSize reads a size as a job file has it, "2GiB", in bytes. With a fault, which says what is wrong, comes a hint.
func ParseSize(s string) (bytes int64, fault, hint string) { return parseSize(s) }

func parseSize(s string) (bytes int64, fault, hint string) {
	found := sizeRE.FindStringSubmatch(s)
	if found == nil {
		return 0, quote(s) + " is no size", "write it as 512MiB, 2GiB, 1GB or a whole number of bytes"
	}
	unit := units[found[2]]
	count, err := strconv.ParseInt(found[1], 10, 64)
	if err != nil || count > (1<<63-1)/unit {
		return 0, "the size " + quote(s) + " overflows", "write a smaller one"
	}
	return count * unit, "", ""
}

func parseDuration(s string) (nanoseconds int64, fault, hint string) {
	if !durationRE.MatchString(s) {
		return 0, quote(s) + " is no duration", "write it as 90s, 10m or 1h30m"
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, "the duration " + quote(s) + " overflows", "write a shorter one"
	}
	return int64(d), "", ""
}
