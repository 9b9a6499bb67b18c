package jobspec_test

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cloister-run/cloister/jobspec"
)

// minInvalidRecipes keeps the invalid fixtures from melting away unseen.
const minInvalidRecipes = 20

// recipeReference is the builders' page; its table is written by: go test ./jobspec -update
const recipeReference = "../docs/enclave-image.md"

func TestValidRecipesParse(t *testing.T) {
	schema := compile(t, jobspec.RecipeSchema())
	for name, data := range fixtures(t, "testdata/recipe/valid/*.yaml") {
		if _, err := jobspec.ParseRecipe("image.yaml", data); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		v, err := instance(data)
		if err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(v); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestInvalidRecipesAreRefusedForTheirReason(t *testing.T) {
	files := fixtures(t, "testdata/recipe/invalid/*.yaml")
	if len(files) < minInvalidRecipes {
		t.Errorf("%d invalid fixtures; at least %d are wanted", len(files), minInvalidRecipes)
	}
	schema := compile(t, jobspec.RecipeSchema())
	for name, data := range files {
		t.Run(filepath.Base(name), func(t *testing.T) {
			expected, flagged := header(t, data)
			r, err := jobspec.ParseRecipe("image.yaml", data)
			problems, ok := errors.AsType[*jobspec.Problems](err)
			if r != nil || !ok {
				t.Fatalf("ParseRecipe = %v, %v; want no recipe and problems", r, err)
			}
			left := *problems
			for _, want := range expected {
				i := find(left, want)
				if i < 0 {
					t.Errorf("line %d: %s: %s: not among\n%v", want.line, want.path, want.message, err)
					continue
				}
				left = append(left[:i:i], left[i+1:]...)
			}
			for _, p := range left {
				t.Errorf("not expected: %s", p)
			}
			v, err := instance(data)
			if err != nil {
				t.Fatal(err)
			}
			if err := schema.Validate(v); (err != nil) != flagged {
				t.Errorf("the schema says %v; flagged: %v", err, flagged)
			}
		})
	}
}

func TestParseRecipeFillsDefaultsIn(t *testing.T) {
	const name = "testdata/recipe/valid/minimal.yaml"
	implicit, err := jobspec.ParseRecipe("image.yaml", fixtures(t, name)[name])
	if err != nil {
		t.Fatal(err)
	}
	if implicit.Compress != jobspec.Uncompressed || implicit.Memory != 4<<30 || implicit.CPUs != 2 || implicit.Metadata.Name != "cloister" ||
		!strings.Contains(implicit.CommandLine, "console=ttyS0") || implicit.Kernel.Modules != nil {
		t.Errorf("%+v", implicit)
	}
	for path, node := range fieldsOf(t, jobspec.RecipeSchema()) {
		if value, ok := node["default"]; ok {
			want := map[string]any{
				"command_line": implicit.CommandLine, "compress": string(implicit.Compress), "memory": "4GiB", "cpus": float64(implicit.CPUs), "metadata.name": implicit.Metadata.Name,
			}[path]
			if value != want {
				t.Errorf("%s: %v is printed, %v is filled in", path, value, want)
			}
		}
	}
}

func TestSchemaOfTheRecipeHasEveryFieldAndNoOther(t *testing.T) {
	fieldsAgree(t, jobspec.RecipeSchema(), jobspec.RecipeFields())
}

func TestReferenceDescribesTheRecipe(t *testing.T) {
	describes(t, recipeReference, jobspec.RecipeFields())
	examplesParse(t, recipeReference, compile(t, jobspec.RecipeSchema()),
		func(text []byte) error { _, err := jobspec.ParseRecipe("image.yaml", text); return err })
}

func TestEveryFieldIsUsedByAValidRecipe(t *testing.T) {
	var all string
	for _, data := range fixtures(t, "testdata/recipe/valid/*.yaml") {
		all += string(data)
	}
	for _, f := range jobspec.RecipeFields() {
		name := strings.TrimSuffix(f.Path[strings.LastIndex(f.Path, ".")+1:], "[]")
		if !strings.Contains(all, name+":") {
			t.Errorf("no valid fixture uses %s", f.Path)
		}
	}
}

// FuzzParseRecipe: no input makes the parser panic or run long.
func FuzzParseRecipe(f *testing.F) {
	for _, data := range seeds(f, "testdata/recipe/valid/*.yaml", "testdata/recipe/invalid/*.yaml") {
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		start := time.Now()
		r, err := jobspec.ParseRecipe("image.yaml", data)
		if took := time.Since(start); took > mostTime {
			t.Fatalf("parsing took %v", took)
		}
		problems, ok := errors.AsType[*jobspec.Problems](err)
		if (err != nil) != (r == nil) || err != nil && (!ok || len(*problems) == 0) {
			t.Fatalf("%v, %v", r, err)
		}
	})
}
