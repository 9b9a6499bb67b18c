package jobspec_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
	"pgregory.net/rapid"

	"github.com/cloister-run/cloister/jobspec"
)

// drawJob makes a valid job file as a tree of maps, lists and scalars.
func drawJob(t *rapid.T) map[string]any {
	names := func(label string, most int) []string {
		return rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z][a-z0-9_]{0,8}`), 0, most, rapid.ID).Draw(t, label)
	}
	text := rapid.StringOf(rapid.RuneFrom([]rune("aZ09 $\"'\\{}#:-,[]&*!|>%@`<>ß漢😀\t\n")))
	inputs, outputs, parameters := map[string]any{}, map[string]any{}, map[string]any{}
	places, declared := map[string]any{}, map[string]any{}
	var references []string
	for i, name := range names("inputs", 4) {
		inputs[name] = map[string]any{"from": fmt.Sprintf("./in/%d", i)}
		references = append(references, "${inputs."+name+"}")
	}
	for i, name := range names("outputs", 4) {
		places[name] = fmt.Sprintf("place%d/x", i) + rapid.SampledFrom([]string{"", "/"}).Draw(t, "slash")
		outputs[name] = map[string]any{"save_to": fmt.Sprintf("out/%d", i)}
		references = append(references, "${outputs."+name+"}")
	}
	for _, name := range names("parameters", 4) {
		parameter := map[string]any{"pattern": `(?s).*`}
		switch rapid.IntRange(0, 2).Draw(t, "default") {
		case 0:
			parameter["default"] = text.Draw(t, "default value")
		case 1:
			parameter["default"] = text.Draw(t, "default value")
			parameters[name] = text.Draw(t, "value")
		default:
			parameters[name] = text.Draw(t, "value")
		}
		declared[name] = parameter
		references = append(references, "${parameters."+name+"}")
	}
	var args []any
	for range rapid.IntRange(0, 5).Draw(t, "args") {
		arg := strings.ReplaceAll(text.Draw(t, "arg"), "${", "$${")
		if len(references) > 0 && rapid.Bool().Draw(t, "refer") {
			arg = strings.TrimRight(arg, "$") + rapid.SampledFrom(references).Draw(t, "reference")
		}
		args = append(args, arg)
	}
	command := map[string]any{"entrypoint": "main.py", "args": args, "outputs": places, "parameters": declared,
		"env": map[string]any{"MODE": strings.ReplaceAll(text.Draw(t, "env"), "${", "")}}
	job := map[string]any{"version": 1, "name": "a-1", "application": map[string]any{"from": "./app", "command": command},
		"inputs": inputs, "outputs": outputs, "parameters": parameters, "limits": drawLimits(t)}
	if rapid.Bool().Draw(t, "log") {
		job["logs"] = map[string]any{"stderr": "./stderr"}
	}
	job["policies"] = []any{map[string]any{"use": "library/x", "config": drawConfig(t, text, 3)}}
	return job
}

func drawLimits(t *rapid.T) map[string]any {
	return map[string]any{
		"cpus":   rapid.IntRange(1, 256).Draw(t, "cpus"),
		"memory": fmt.Sprintf("%d%s", rapid.IntRange(2, 900).Draw(t, "memory"), rapid.SampledFrom([]string{"MB", "MiB", "GB", "GiB"}).Draw(t, "unit")),
		"disk":   rapid.IntRange(1<<20, 1<<40).Draw(t, "disk"),
		"run":    fmt.Sprintf("%dm%ds", rapid.IntRange(0, 100).Draw(t, "m"), rapid.IntRange(1, 100).Draw(t, "s")),
	}
}

func drawConfig(t *rapid.T, text *rapid.Generator[string], depth int) any {
	switch rapid.IntRange(0, 4+min(depth, 2)).Draw(t, "config") {
	case 0:
		return nil
	case 1:
		return rapid.Bool().Draw(t, "bool")
	case 2:
		return rapid.Int64().Draw(t, "int")
	case 3:
		// The spelling matters: JSON's, which YAML shares.
		f, _ := json.Marshal(rapid.Float64Range(-1e300, 1e300).Draw(t, "float"))
		return json.Number(f)
	case 4:
		return text.Draw(t, "text")
	case 5:
		list := []any{}
		for range rapid.IntRange(0, 3).Draw(t, "list") {
			list = append(list, drawConfig(t, text, depth-1))
		}
		return list
	default:
		m := map[string]any{}
		for range rapid.IntRange(0, 3).Draw(t, "map") {
			m[text.Draw(t, "key")] = drawConfig(t, text, depth-1)
		}
		return m
	}
}

// spell writes a tree as YAML nodes with names in any order, any style and with comments.
func spell(t *rapid.T, v any) *yaml.Node {
	flow := rapid.SampledFrom([]yaml.Style{0, yaml.FlowStyle}).Draw(t, "flow")
	switch v := v.(type) {
	case map[string]any:
		n := &yaml.Node{Kind: yaml.MappingNode, Style: flow}
		for _, name := range rapid.Permutation(slices.Sorted(maps.Keys(v))).Draw(t, "order") {
			n.Content = append(n.Content, spell(t, name), spell(t, v[name]))
		}
		return n
	case []any:
		n := &yaml.Node{Kind: yaml.SequenceNode, Style: flow}
		for _, item := range v {
			n.Content = append(n.Content, spell(t, item))
		}
		return n
	case json.Number:
		return &yaml.Node{Kind: yaml.ScalarNode, Value: v.String()}
	case string:
		var n yaml.Node
		n.SetString(v)
		// Double quotes can say everything; other styles only some texts, and yaml.v3 loses some.
		n.Style = yaml.DoubleQuotedStyle
		if strings.Trim(v, "abcdefghijklmnopqrstuvwxyz/.") == "" && !strings.HasPrefix(v, ".") {
			n.Style = rapid.SampledFrom([]yaml.Style{yaml.SingleQuotedStyle, yaml.DoubleQuotedStyle}).Draw(t, "quotes")
		}
		return &n
	default:
		var n yaml.Node
		if err := n.Encode(v); err != nil {
			t.Fatal(err)
		}
		return &n
	}
}

func TestAnyJobSurvivesTheWayToTheEnclave(t *testing.T) {
	schema := compileSchema(t)
	rapid.Check(t, func(t *rapid.T) {
		tree := drawJob(t)
		var digests []string
		for range 2 {
			data, err := yaml.Marshal(spell(t, tree))
			if err != nil {
				t.Fatal(err)
			}
			job, err := jobspec.Parse("job.yaml", data)
			if err != nil {
				t.Fatalf("%v\n%s", err, data)
			}
			v, err := instance(data)
			if err != nil {
				t.Fatal(err)
			}
			if err := schema.Validate(v); err != nil {
				t.Fatalf("the schema refuses what parses: %v\n%s", err, data)
			}
			c, err := job.Canonical([]string{module("a")})
			if err != nil {
				t.Fatal(err)
			}
			back, err := jobspec.ParseCanonical(c.JSON())
			if err != nil {
				t.Fatalf("%v\n%s", err, c.JSON())
			}
			if !bytes.Equal(back.JSON(), c.JSON()) {
				t.Fatalf("another job came back:\n%s\n%s", c.JSON(), back.JSON())
			}
			digests = append(digests, c.Digest(), back.Digest())
		}
		slices.Sort(digests)
		if digests = slices.Compact(digests); len(digests) != 1 {
			t.Fatalf("one job has %d digests", len(digests))
		}
	})
}
