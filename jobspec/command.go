package jobspec

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"
)

// command checks what stands for itself in a command; arguments and parameters come later.
func (r *rules) command() {
	c := r.job.Command
	r.kebab("command.executor", c.Executor, DefaultExecutor)
	r.place("command.entrypoint", c.Entrypoint)
	if strings.HasSuffix(c.Entrypoint, "/") {
		r.report("command.entrypoint", "is a folder", "name the file to run")
	}
	if strings.HasPrefix(c.Entrypoint, "-") {
		r.report("command.entrypoint", "begins with a hyphen, as an option does", "rename the file")
	}
	r.environments()
	r.env()
	places := map[path]string{}
	for _, name := range sorted(c.Outputs) {
		p := path("command.outputs").key(name)
		r.name(p, name)
		if r.place(p, c.Outputs[name]) {
			places[p] = c.Outputs[name]
		}
	}
	overlap(places, func(later, earlier path, same bool) {
		if same {
			r.report(later, fmt.Sprintf("has the same place as %s", earlier), "give each output a place of its own")
		} else {
			r.report(later, fmt.Sprintf("stands inside the place of %s, or around it", earlier), "put them side by side")
		}
	})
}

// place checks a path inside, and says whether it is one.
func (r *rules) place(p path, s string) bool {
	f := placeFault(s)
	if f != nil {
		r.report(p, f.message, f.hint)
	}
	return f == nil
}

// environments checks the digests that the application accepts, and that a sealed one accepts any.
func (r *rules) environments() {
	seen := map[string]bool{}
	for i, digest := range r.job.Command.Environments {
		p := path("command.environments").index(i)
		if !digestRE.MatchString(digest) {
			r.report(p, quote(digest)+" is no digest", "a digest is sha256: and 64 hexadecimal digits; cloister env build prints it")
		}
		if seen[digest] {
			r.report(p, "stands there twice", "")
		}
		seen[digest] = true
	}
	if r.sealed && r.job.Environment && len(seen) == 0 && r.intact("command") {
		r.report("environment", "the sealed application runs in no environment", "remove it, or ask the owner to name its digest under command.environments in the bundle")
	}
}

func (r *rules) env() {
	env := r.job.Command.Env
	for _, name := range sorted(env) {
		p := path("command.env").key(name)
		switch {
		case len(name) > maxEnvName:
			r.report(p, fmt.Sprintf("the name is %d bytes long; at most %d are allowed", len(name), maxEnvName), "shorten it")
		case !envRE.MatchString(name):
			r.report(p, quote(name)+" is no name of a variable", "letters, digits and _ only, no digit in front")
		case envRefused(name):
			r.report(p, "may not be set: it changes how the runtime or the sandbox works", "pass it as an argument, or choose another name")
		}
		r.text(p, env[name], maxEnvValue, manyLines)
		if hasReference(env[name]) {
			r.report(p, "holds a reference; variables are not expanded", "pass it in args")
		}
	}
}

// arguments checks that every reference leads somewhere.
func (r *rules) arguments() {
	c := r.job.Command
	inputs := map[string]bool{}
	for _, name := range r.job.Inputs {
		inputs[name] = true
	}
	for i, arg := range c.Args {
		p := path("command.args").index(i)
		if message := textFault(arg, maxArg, manyLines); message != "" {
			r.report(p, message, "")
			continue
		}
		parts, f := parseTemplate(arg)
		if f != nil {
			r.report(p, f.message, f.hint)
			continue
		}
		for _, part := range parts {
			switch part.space {
			case inputsSpace:
				if r.open {
					r.name(p, part.name)
					continue
				}
				lookup(r, p, part, "inputs", inputs)
			case outputsSpace:
				lookup(r, p, part, "command.outputs", c.Outputs)
			case parametersSpace:
				lookup(r, p, part, "command.parameters", c.Parameters)
			}
		}
	}
}

func lookup[V any](r *rules, p path, ref part, home path, known map[string]V) {
	if _, ok := known[ref.name]; ok || !r.intact(home) {
		return
	}
	r.report(p, fmt.Sprintf("${%s.%s} leads nowhere", ref.space, shorten(ref.name)),
		suggest(ref.name, known, fmt.Sprintf("declare it under %s", home)))
}

func shorten(s string) string {
	q := quote(s)
	return strings.Trim(q, `"`)
}

// parameters checks declarations, then the value of each.
func (r *rules) parameters() {
	declared := r.job.Command.Parameters
	for _, name := range sorted(declared) {
		r.parameter(name, declared[name])
	}
	if !r.intact("command.parameters") {
		return
	}
	for _, name := range sorted(r.job.Parameters) {
		if _, ok := declared[name]; !ok {
			hint := "remove it, or declare it under command.parameters"
			if r.sealed {
				hint = "remove it"
			}
			r.report(path("parameters").key(name), "the command declares no such parameter", suggest(name, declared, hint))
		}
	}
}

func (r *rules) parameter(name string, declared Parameter) {
	p := path("command.parameters").key(name)
	r.name(p, name)
	re, f := compile(declared.Pattern)
	if f != nil {
		r.report(p.field("pattern"), f.message, f.hint)
	}
	fits := func(p path, value string) {
		if message := textFault(value, maxValue, manyLines); message != "" {
			r.report(p, message, "")
		} else if re != nil && !matchesWhole(re, value) {
			r.report(p, fmt.Sprintf("%s does not match the pattern %s", quote(value), quote(declared.Pattern)),
				"the whole value must match")
		}
	}
	if declared.Default != nil {
		fits(p.field("default"), *declared.Default)
	}
	at := path("parameters").key(name)
	value, ok := r.job.Parameters[name]
	switch {
	case !ok && r.intact("parameters"):
		r.report(at, "the command requires this parameter", fmt.Sprintf("add: parameters: {%s: \"…\"}", name))
	case ok && (declared.Default == nil || value != *declared.Default):
		fits(at, value)
	}
}

// compile compiles a pattern whose cost is known to be bounded.
func compile(pattern string) (*regexp.Regexp, *fault) {
	if message := textFault(pattern, maxPattern, oneLine); message != "" {
		return nil, &fault{message, ""}
	}
	if pattern == "" {
		return nil, &fault{"is empty", `say what the value may be: ".*" takes any line`}
	}
	const hint = "see https://github.com/google/re2/wiki/Syntax"
	tree, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return nil, &fault{"is no RE2 expression: " + strings.TrimPrefix(err.Error(), "error parsing regexp: "), hint}
	}
	if steps(tree) > maxPatternSteps {
		return nil, &fault{fmt.Sprintf("has more than %d steps with its repetitions written out", maxPatternSteps), "repeat less"}
	}
	re, err := regexp.Compile(pattern)
	if err != nil {
		return nil, &fault{"is no RE2 expression: " + err.Error(), hint}
	}
	re.Longest()
	return re, nil
}

// matchesWhole needs a leftmost-longest expression: if the whole value matches, then no match
// begins earlier or is longer. Anchors around the pattern would not do: a pattern can escape them.
func matchesWhole(re *regexp.Regexp, value string) bool {
	found := re.FindStringIndex(value)
	return found != nil && found[0] == 0 && found[1] == len(value)
}

// steps counts a pattern with its repetitions written out, and stops just above the bound.
func steps(re *syntax.Regexp) int {
	n := 1
	if re.Op == syntax.OpLiteral {
		n = len(re.Rune)
	}
	for _, sub := range re.Sub {
		n = min(n+steps(sub), maxPatternSteps+1)
	}
	if re.Op == syntax.OpRepeat {
		n = min(n*max(re.Min, re.Max, 1), maxPatternSteps+1)
	}
	return n
}
