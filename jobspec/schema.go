package jobspec

import "encoding/json"

// Schema is the JSON Schema (draft 2020-12) of the job file, for editors. It is printed from
// the table that the parser walks. It accepts whatever [Parse] accepts; rules that compare
// one part of a job with another are beyond a schema, so Parse refuses more.
func Schema() []byte {
	return jobFile().document("Cloister job file")
}

// BundleSchema is the JSON Schema of the bundle file, as [Schema] is that of the job file.
func BundleSchema() []byte { return bundleFile().document("Cloister bundle file") }

// RecipeSchema is the JSON Schema of the image recipe, as [Schema] is that of the job file.
func RecipeSchema() []byte { return recipeFile().document("Cloister image recipe") }

// document is the shape as the schema of a whole file.
func (s *shape) document(title string) []byte {
	schema := s.schema()
	schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	schema["title"] = title
	out, err := json.MarshalIndent(schema, "", "  ")
	if err != nil {
		panic("jobspec: the table of fields is no JSON: " + err.Error()) // the table is constant and tested
	}
	return append(out, '\n')
}

// schema is the shape as a JSON Schema.
func (s *shape) schema() map[string]any {
	out := map[string]any{"description": s.doc}
	if s.shown != nil {
		out["default"] = s.shown
	}
	switch s.kind {
	case textKind:
		out["type"] = "string"
		out["maxLength"] = s.most // characters; never stricter than the bytes that the rules count
		if !s.blank {
			out["minLength"] = 1
		}
		if s.pattern != "" {
			out["pattern"] = s.pattern
		}
	case numberKind:
		out["type"], out["minimum"], out["maximum"] = "integer", s.low, s.high
	case sizeKind:
		out["oneOf"] = []any{
			map[string]any{"type": "integer", "minimum": s.low, "maximum": s.high},
			map[string]any{"type": "string", "pattern": sizePattern},
		}
	case durationKind:
		out["type"], out["pattern"] = "string", durationPattern
	case listKind:
		out["type"], out["maxItems"], out["items"] = "array", s.most, s.elem.schema()
	case mapKind:
		out["type"], out["maxProperties"] = "object", s.most
		out["propertyNames"] = s.nameSchema()
		out["additionalProperties"] = s.elem.schema()
	case objectKind:
		s.objectSchema(out)
	}
	return out
}

func (s *shape) nameSchema() map[string]any {
	names := map[string]any{"pattern": s.keys, "maxLength": s.longest}
	if s.refused != "" {
		names["not"] = map[string]any{"pattern": s.refused}
	}
	return names
}

func (s *shape) objectSchema(out map[string]any) {
	properties := map[string]any{}
	var needed []string
	for _, f := range s.fields {
		properties[f.name] = f.shape.schema()
		if f.required {
			needed = append(needed, f.name)
		}
	}
	out["type"], out["properties"], out["additionalProperties"] = "object", properties, false
	if needed != nil {
		out["required"] = needed
	}
	if s.oneOf != nil {
		var choices []any
		for _, name := range s.oneOf {
			choices = append(choices, map[string]any{"required": []string{name}})
		}
		out["oneOf"] = choices
	}
}
