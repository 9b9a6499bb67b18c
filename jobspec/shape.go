package jobspec

// kind is what a value of the job file may be.
type kind int

const (
	textKind kind = iota
	numberKind
	sizeKind     // bytes: a whole number, or text with a unit
	durationKind // text with units
	anyKind      // whatever JSON can say
	objectKind   // named fields
	mapKind      // names that the job chooses
	listKind
)

// shape describes one value of the job file. The parser walks a file along it, and the
// schema is printed from it, so that the two cannot differ.
type shape struct {
	kind kind
	// doc says what the value means, in sentences for an operator.
	doc string
	// fields of an object; elem of a map and of a list.
	fields []field
	elem   *shape
	// oneOf lists fields of which exactly one must be present.
	oneOf []string
	// shown is the default as an operator would write it; nil if there is none.
	shown any
	// pattern and most (bytes, entries) bound text and counts; empty text is refused unless blank.
	pattern string
	most    int
	blank   bool
	// keys and longest bound the names of a map; refused is a pattern of names that it never takes.
	keys    string
	longest int
	refused string
	// low and high bound numbers, in the unit that the rules use.
	low, high int64
}

// field is one name of an object.
type field struct {
	name     string
	required bool
	// hint is shown when a required field is missing.
	hint  string
	shape *shape
}

func (s *shape) find(name string) *shape {
	for _, f := range s.fields {
		if f.name == name {
			return f.shape
		}
	}
	return nil
}

func (s *shape) names() []string {
	names := make([]string, len(s.fields))
	for i, f := range s.fields {
		names[i] = f.name
	}
	return names
}

// home finds where else in the file a field of this name lives: "application.command".
func (s *shape) home(name string, here path) (path, bool) {
	for _, f := range s.fields {
		if f.name == name {
			return here, true
		}
	}
	for _, f := range s.fields {
		if p, ok := f.shape.home(name, here.field(f.name)); ok {
			return p, true
		}
	}
	return "", false
}

func required(name, hint string, s *shape) field { return field{name, true, hint, s} }
func optional(name string, s *shape) field       { return field{name, false, "", s} }

func object(doc string, fields ...field) *shape {
	return &shape{kind: objectKind, doc: doc, fields: fields}
}

// named is a map from names that follow the rule for inputs, outputs and parameters.
func named(doc string, most int, elem *shape) *shape {
	return &shape{kind: mapKind, doc: doc, elem: elem, keys: namePattern, longest: maxName, most: most}
}

func list(doc string, most int, elem *shape) *shape {
	return &shape{kind: listKind, doc: doc, elem: elem, most: most}
}

func text(doc, pattern string, most int) *shape {
	return &shape{kind: textKind, doc: doc, pattern: pattern, most: most}
}

func blankText(doc string, most int) *shape {
	return &shape{kind: textKind, doc: doc, most: most, blank: true}
}

func number(doc string, low, high int64, shown any) *shape {
	return &shape{kind: numberKind, doc: doc, low: low, high: high, shown: shown}
}
