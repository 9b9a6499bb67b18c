package jobspec

import (
	"fmt"
	"strings"
)

// The namespaces of a reference.
const (
	inputsSpace     = "inputs"
	outputsSpace    = "outputs"
	parametersSpace = "parameters"
)

// part is a piece of an argument: literal text, or a reference ${space.name}.
type part struct{ literal, space, name string }

// fault is a message and a hint that do not know yet where they belong.
type fault struct{ message, hint string }

// at is the fault at its place in a file.
func (f fault) at(file string, positions map[path]position, p path) Problem {
	c := collector{positions: positions}
	here := c.position(p)
	return Problem{File: file, Path: string(p), Line: here.line, Column: here.column, Message: f.message, Hint: f.hint}
}

// parseTemplate splits an argument. "$${" is a literal "${".
func parseTemplate(s string) ([]part, *fault) {
	var parts []part
	var literal strings.Builder
	for s != "" {
		switch {
		case strings.HasPrefix(s, "$${"):
			literal.WriteString("${")
			s = s[3:]
		case strings.HasPrefix(s, "${"):
			inside, rest, closed := strings.Cut(s[2:], "}")
			if !closed {
				return nil, &fault{"has a ${ without its }", "close it, or write $${ for a literal ${"}
			}
			space, name, f := parseReference(inside)
			if f != nil {
				return nil, f
			}
			parts = append(parts, part{literal: literal.String()}, part{space: space, name: name})
			literal.Reset()
			s = rest
		default:
			next := strings.IndexByte(s[1:], '$') + 1
			if next == 0 {
				next = len(s)
			}
			literal.WriteString(s[:next])
			s = s[next:]
		}
	}
	return append(parts, part{literal: literal.String()}), nil
}

func parseReference(inside string) (space, name string, f *fault) {
	spaces := []string{inputsSpace, outputsSpace, parametersSpace}
	const hint = "write ${inputs.NAME}, ${outputs.NAME} or ${parameters.NAME}, or $${ for a literal ${"
	space, name, dotted := strings.Cut(inside, ".")
	if !dotted || name == "" {
		return "", "", &fault{fmt.Sprintf("has a reference to %s, which names nothing", quote(inside)), hint}
	}
	for _, known := range spaces {
		if space == known {
			return space, name, nil
		}
	}
	if near := nearest(space, spaces); near != "" {
		return "", "", &fault{fmt.Sprintf("refers to the unknown namespace %s", quote(space)), fmt.Sprintf("did you mean %q?", near)}
	}
	return "", "", &fault{fmt.Sprintf("refers to the unknown namespace %s", quote(space)), hint}
}

// Values are the absolute paths, inside the sandbox, of a job's inputs and outputs by name.
type Values struct {
	Inputs  map[string]string
	Outputs map[string]string
}

// Expand fills the references of the command's arguments. What a reference stands for is
// taken as it is and never expanded again, and an argument stays one argument. A reference
// without a value, and arguments longer than Linux takes, are errors.
func (c *Canonical) Expand(values Values) ([]string, error) {
	spaces := map[string]map[string]string{
		inputsSpace: values.Inputs, outputsSpace: values.Outputs, parametersSpace: c.Parameters,
	}
	args := make([]string, 0, len(c.Command.Args))
	total := 0
	for i, arg := range c.Command.Args {
		expanded, err := expand(arg, spaces)
		if err != nil {
			return nil, fmt.Errorf("jobspec: command.args[%d]: %w", i, err)
		}
		if total += len(expanded); total > maxExpandedArgs {
			return nil, fmt.Errorf("jobspec: command.args: all arguments are longer than %d bytes", maxExpandedArgs)
		}
		args = append(args, expanded)
	}
	return args, nil
}

func expand(arg string, spaces map[string]map[string]string) (string, error) {
	parts, f := parseTemplate(arg)
	if f != nil {
		return "", fmt.Errorf("%s", f.message)
	}
	var b strings.Builder
	for _, p := range parts {
		text := p.literal
		if p.space != "" {
			value, ok := spaces[p.space][p.name]
			if !ok {
				return "", fmt.Errorf("${%s.%s} has no value", p.space, p.name)
			}
			text = value
		}
		if b.Len()+len(text) > maxExpandedArg {
			return "", fmt.Errorf("the argument is longer than %d bytes", maxExpandedArg)
		}
		b.WriteString(text)
	}
	return b.String(), nil
}
