package jobspec

import (
	"fmt"
	"strings"
	"time"
)

// Field is a row of the reference: one field that the parser knows.
type Field struct{ Path, Type, Default, Doc string }

// Fields walks the parser's own table.
func Fields() []Field { return jobFile().rows("", false, nil) }

// BundleFields walks the table of the bundle file.
func BundleFields() []Field { return bundleFile().rows("", false, nil) }

// RecipeFields walks the table of the image recipe.
func RecipeFields() []Field { return recipeFile().rows("", false, nil) }

func (s *shape) rows(here path, needed bool, out []Field) []Field {
	if here != "" {
		out = append(out, Field{string(here), s.words(), s.defaultWords(needed), s.doc})
	}
	for _, f := range s.fields {
		out = f.shape.rows(here.field(f.name), f.required, out)
	}
	switch s.kind {
	case mapKind:
		out = s.elem.rows(here.field("NAME"), false, out)
	case listKind:
		out = s.elem.rows(here+"[]", false, out)
	}
	return out
}

// hours writes a duration without the zero minutes and seconds that Go appends.
func hours(n int64) string { return strings.TrimSuffix(time.Duration(n).String(), "0m0s") }

func (s *shape) defaultWords(needed bool) string {
	switch {
	case needed:
		return "required"
	case s.shown != nil:
		return fmt.Sprintf("`%v`", s.shown)
	}
	return "–"
}

func (s *shape) words() string {
	switch s.kind {
	case textKind:
		words := fmt.Sprintf("text, 1 to %d bytes", s.most)
		if s.blank {
			words = fmt.Sprintf("text, at most %d bytes", s.most)
		}
		if s.pattern != "" {
			words += ", `" + s.pattern + "`"
		}
		return words
	case numberKind:
		return fmt.Sprintf("whole number, %d to %d", s.low, s.high)
	case sizeKind:
		return fmt.Sprintf("size, %s to %s", bytesOf(s.low), bytesOf(s.high))
	case durationKind:
		return fmt.Sprintf("duration, %s to %s", hours(s.low), hours(s.high))
	case anyKind:
		return fmt.Sprintf("any value, at most %s as JSON", bytesOf(int64(s.most)))
	case listKind:
		return fmt.Sprintf("list, at most %d", s.most)
	case mapKind:
		return fmt.Sprintf("mapping, at most %d; names `%s`, at most %d bytes", s.most, s.keys, s.longest)
	default:
		return "fields"
	}
}
