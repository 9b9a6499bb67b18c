package jobspec_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"gopkg.in/yaml.v3"

	"github.com/cloister-run/cloister/jobspec"
)

// reference is the operators' page; its table is written by: go test ./jobspec -update
const reference = "../docs/job-file.md"

var update = flag.Bool("update", false, "write the generated parts of the documentation")

func compileSchema(t testing.TB) *jsonschema.Schema {
	t.Helper()
	return compile(t, jobspec.Schema())
}

func compile(t testing.TB, text []byte) *jsonschema.Schema {
	t.Helper()
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	compiler.DefaultDraft(jsonschema.Draft2020)
	if err := compiler.AddResource("job.json", document); err != nil {
		t.Fatal(err)
	}
	schema, err := compiler.Compile("job.json")
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

// instance is a YAML file as a schema sees it; not every refused file can be one.
func instance(data []byte) (any, error) {
	var v any
	if err := yaml.Unmarshal(data, &v); err != nil {
		return nil, err
	}
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return jsonschema.UnmarshalJSON(bytes.NewReader(text))
}

func TestSchemaAcceptsWhatParses(t *testing.T) {
	schema := compileSchema(t)
	for name, data := range fixtures(t, "testdata/valid/*.yaml") {
		v, err := instance(data)
		if err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(v); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The flag is exact: the schema catches what is flagged, and nothing else.
func TestSchemaCatchesWhatIsFlagged(t *testing.T) {
	schema := compileSchema(t)
	caught := 0
	for name, data := range fixtures(t, "testdata/invalid/*.yaml") {
		t.Run(filepath.Base(name), func(t *testing.T) {
			_, flagged := header(t, data)
			v, err := instance(data)
			if err != nil {
				if flagged {
					t.Fatalf("flagged for the schema, but no schema can see it: %v", err)
				}
				return
			}
			if err := schema.Validate(v); (err != nil) != flagged {
				t.Errorf("the schema says %v; flagged: %v", err, flagged)
			}
			if flagged {
				caught++
			}
		})
	}
	if caught == 0 {
		t.Error("no fixture is caught by the schema")
	}
}

// schemaFields walks a schema: every field by its path, NAME for names that a job chooses.
func schemaFields(t *testing.T) map[string]map[string]any {
	t.Helper()
	return fieldsOf(t, jobspec.Schema())
}

func fieldsOf(t *testing.T, schema []byte) map[string]map[string]any {
	t.Helper()
	var root map[string]any
	if err := json.Unmarshal(schema, &root); err != nil {
		t.Fatal(err)
	}
	found := map[string]map[string]any{}
	var walk func(node map[string]any, here string)
	walk = func(node map[string]any, here string) {
		if here != "" {
			found[here] = node
		}
		if properties, ok := node["properties"].(map[string]any); ok {
			for name, inner := range properties {
				walk(inner.(map[string]any), strings.TrimPrefix(here+"."+name, "."))
			}
		}
		if inner, ok := node["additionalProperties"].(map[string]any); ok {
			walk(inner, here+".NAME")
		}
		if inner, ok := node["items"].(map[string]any); ok {
			walk(inner, here+"[]")
		}
	}
	walk(root, "")
	return found
}

func TestSchemaHasEveryFieldOfTheParserAndNoOther(t *testing.T) {
	fieldsAgree(t, jobspec.Schema(), jobspec.Fields())
}

func fieldsAgree(t *testing.T, schema []byte, table []jobspec.Field) {
	t.Helper()
	fields := fieldsOf(t, schema)
	var known []string
	for _, f := range table {
		known = append(known, f.Path)
		if f.Doc == "" || fields[f.Path]["description"] != f.Doc {
			t.Errorf("%s is described as %q by the schema and %q by the parser", f.Path, fields[f.Path]["description"], f.Doc)
		}
	}
	slices.Sort(known)
	if got := slices.Sorted(maps.Keys(fields)); !slices.Equal(got, known) {
		t.Errorf("the schema has\n%v\nand the parser knows\n%v", got, known)
	}
}

// TestEveryFieldIsUsedByAValidFixture is the parser's side seen from outside: a field that the
// schema has and the parser does not read would make this fixture fail to parse.
func TestEveryFieldIsUsedByAValidFixture(t *testing.T) {
	var v any
	if err := yaml.Unmarshal(fixtures(t, "testdata/valid/everything.yaml")["testdata/valid/everything.yaml"], &v); err != nil {
		t.Fatal(err)
	}
	fields := schemaFields(t)
	used := map[string]bool{}
	var walk func(v any, here string)
	walk = func(v any, here string) {
		used[here] = true
		switch v := v.(type) {
		case map[string]any:
			for name, inner := range v {
				p := strings.TrimPrefix(here+"."+name, ".")
				if _, ok := fields[p]; !ok {
					p = here + ".NAME"
				}
				walk(inner, p)
			}
		case []any:
			for _, inner := range v {
				walk(inner, here+"[]")
			}
		}
	}
	walk(v, "")
	for name := range fields {
		if !used[name] {
			t.Errorf("testdata/valid/everything.yaml does not use %s", name)
		}
	}
}

const tableBegin, tableEnd = "<!-- fields: begin -->\n", "<!-- fields: end -->"

func fieldTable(table []jobspec.Field) string {
	var b strings.Builder
	b.WriteString("| field | value | default | meaning |\n| --- | --- | --- | --- |\n")
	for _, f := range table {
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", f.Path, strings.ReplaceAll(f.Type, "|", `\|`), f.Default, f.Doc)
	}
	return b.String()
}

func TestReferenceDescribesEveryFieldAndNoOther(t *testing.T) {
	describes(t, reference, jobspec.Fields())
}

func describes(t *testing.T, reference string, fields []jobspec.Field) {
	t.Helper()
	page, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, begins := strings.Cut(string(page), tableBegin)
	table, after, ends := strings.Cut(rest, tableEnd)
	if !begins || !ends {
		t.Fatalf("%s has no table of fields between its marks", reference)
	}
	if table == fieldTable(fields) {
		return
	}
	if !*update {
		t.Fatalf("%s is out of step with the parser; run: go test ./jobspec -update", reference)
	}
	if err := os.WriteFile(reference, []byte(before+tableBegin+fieldTable(fields)+tableEnd+after), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Each default that the reference prints is what a job without the field gets.
func TestPrintedDefaultsAreTheParsersDefaults(t *testing.T) {
	implicit, err := jobspec.Parse("job.yaml", fixtures(t, "testdata/valid/minimal.yaml")["testdata/valid/minimal.yaml"])
	if err != nil {
		t.Fatal(err)
	}
	limits := map[string]any{}
	file := map[string]any{"version": 1, "name": "a", "limits": limits}
	command := map[string]any{"entrypoint": "main.py"}
	checked := 0
	for name, node := range schemaFields(t) {
		value, ok := node["default"]
		if !ok {
			continue
		}
		checked++
		if field, ok := strings.CutPrefix(name, "limits."); ok {
			limits[field] = value
		} else if field, ok := strings.CutPrefix(name, "application.command."); ok {
			command[field] = value
		} else if !strings.Contains(name, ".") {
			file[name] = value
		} else {
			t.Errorf("the default of %s is not checked here", name)
		}
	}
	file["application"] = map[string]any{"from": ".", "command": command}
	spelt, err := yaml.Marshal(file)
	if err != nil {
		t.Fatal(err)
	}
	explicit, err := jobspec.Parse("job.yaml", spelt)
	if err != nil {
		t.Fatal(err)
	}
	if checked == 0 || explicit.Limits != implicit.Limits || explicit.Application.Command.Executor != implicit.Application.Command.Executor {
		t.Errorf("printed: %+v; parsed: %+v", explicit, implicit)
	}
}

func TestExamplesOfTheDocumentationParse(t *testing.T) {
	examplesParse(t, reference, compileSchema(t), func(text []byte) error { _, err := jobspec.Parse("job.yaml", text); return err })
}

// examplesParse reads every YAML example of a page.
func examplesParse(t *testing.T, reference string, schema *jsonschema.Schema, parse func([]byte) error) {
	t.Helper()
	page, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	examples := strings.Split(string(page), "```yaml\n")[1:]
	if len(examples) == 0 {
		t.Fatal("no examples")
	}
	for i, rest := range examples {
		example, _, closed := strings.Cut(rest, "```")
		if !closed {
			t.Fatalf("example %d does not end", i)
		}
		if err := parse([]byte(example)); err != nil {
			t.Errorf("example %d: %v", i, err)
		}
		v, err := instance([]byte(example))
		if err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(v); err != nil {
			t.Errorf("example %d: %v", i, err)
		}
	}
}
