package jobspec

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"unicode/utf8"

	"gopkg.in/yaml.v3"
)

// load turns the bytes of a file into one bounded tree of nodes, or reports why not.
// Nothing is expanded: an alias stays a pointer, and what it would cost is counted first.
func (c *collector) load(data []byte) *yaml.Node {
	if len(data) > MaxFile {
		c.spoil("", position{}, fmt.Sprintf("the file is %d bytes long; at most %d are allowed", len(data), MaxFile),
			"a "+c.format.noun+" names data and does not hold it")
		return nil
	}
	if !c.plainText(data) {
		return nil
	}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var document, second yaml.Node
	if err := decoder.Decode(&document); errors.Is(err, io.EOF) {
		c.spoil("", position{1, 1}, "the file is empty", c.format.begin)
		return nil
	} else if err != nil {
		c.syntax(err)
		return nil
	}
	if err := decoder.Decode(&second); err == nil {
		c.spoil("", at(&second), "the file holds more than one document", "write each into a file of its own; remove this ---")
		return nil
	} else if !errors.Is(err, io.EOF) {
		c.syntax(err)
		return nil
	}
	root := document.Content[0]
	if !c.bounded(root) {
		return nil
	}
	return root
}

// plainText refuses bytes that are no text, before any parser sees them.
func (c *collector) plainText(data []byte) bool {
	here := position{1, 1}
	for i := 0; i < len(data); {
		r, size := utf8.DecodeRune(data[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			c.spoil("", here, "the file is not UTF-8", "save it as UTF-8")
			return false
		case r == 0:
			c.spoil("", here, "the file holds a NUL byte", "a "+c.format.noun+" is text")
			return false
		case r == 0xfeff && i == 0, r == '\r' && i+1 < len(data) && data[i+1] == '\n':
			// A byte order mark in front and Windows line ends are editors' habits.
		case forbidden(r):
			c.spoil("", here, fmt.Sprintf("the file holds the control character %U", r), "remove it")
			return false
		case r == '\n':
			here = position{line: here.line + 1}
		}
		here.column++
		i += size
	}
	return true
}

// yamlLine finds the line in an error of yaml.v3, which gives it in no other way.
var yamlLine = regexp.MustCompile(`^yaml: (?:line ([0-9]+): )?`)

func (c *collector) syntax(err error) {
	text := err.Error()
	here := position{line: 1}
	found := yamlLine.FindStringSubmatch(text)
	if found != nil {
		text = text[len(found[0]):]
		if n, err := strconv.Atoi(found[1]); err == nil {
			here.line = n
		}
	}
	c.spoil("", here, "this is not YAML: "+text, "look at indentation, brackets and quotes on this line and those around it")
}

func at(n *yaml.Node) position { return position{n.Line, n.Column} }

// extent is what a node costs with every alias written out. All sums stop at their bound.
type extent struct{ nodes, text, depth int }

// meter measures nodes without expanding them.
type meter struct {
	known   map[*yaml.Node]extent
	open    map[*yaml.Node]bool
	aliases int
	// cycle is the first alias that stands inside its own anchor; deepest the first node
	// below maxDepth as the file is written.
	cycle, deepest, alias *yaml.Node
}

// bounded reports every excess of the tree under root; only a tree within all bounds is walked.
func (c *collector) bounded(root *yaml.Node) bool {
	m := &meter{known: map[*yaml.Node]extent{}, open: map[*yaml.Node]bool{}}
	total := m.measure(root, 0)
	where := root
	if m.alias != nil {
		where = m.alias
	}
	const hint = "write the value out where it is used"
	switch {
	case m.cycle != nil:
		c.spoil("", at(m.cycle), "the alias stands inside its own anchor", hint)
	case m.aliases > maxAliases:
		c.spoil("", at(where), fmt.Sprintf("the file uses %d aliases; at most %d are allowed", m.aliases, maxAliases), hint)
	case m.deepest != nil:
		c.spoil("", at(m.deepest), fmt.Sprintf("values are nested more than %d deep", maxDepth), "flatten them")
	case total.depth > maxDepth:
		c.spoil("", at(where), fmt.Sprintf("values are nested more than %d deep once aliases are written out", maxDepth), hint)
	case total.nodes > maxNodes:
		c.spoil("", at(where), fmt.Sprintf("the file holds more than %d values, aliases written out", maxNodes), "a "+c.format.noun+" names data and does not hold it")
	case total.text > maxExpanded:
		c.spoil("", at(where), fmt.Sprintf("the file holds more than %d bytes of text, aliases written out", maxExpanded), hint)
	default:
		return true
	}
	return false
}

func (m *meter) measure(n *yaml.Node, depth int) extent {
	if e, ok := m.known[n]; ok {
		return e
	}
	if depth > maxDepth {
		if m.deepest == nil {
			m.deepest = n
		}
		return extent{nodes: 1, depth: 1}
	}
	e := extent{nodes: 1, text: len(n.Value), depth: 1}
	if n.Kind == yaml.AliasNode {
		m.aliases++
		if m.alias == nil {
			m.alias = n
		}
		if m.open[n.Alias] {
			if m.cycle == nil {
				m.cycle = n
			}
			return e
		}
		return m.measure(n.Alias, depth)
	}
	m.open[n] = true
	for _, child := range n.Content {
		inner := m.measure(child, depth+1)
		e.nodes = min(e.nodes+inner.nodes, maxNodes+1)
		e.text = min(e.text+inner.text, maxExpanded+1)
		e.depth = max(e.depth, inner.depth+1)
	}
	delete(m.open, n)
	m.known[n] = e
	return e
}
