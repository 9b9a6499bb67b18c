package policies

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"golang.org/x/text/language"
	"golang.org/x/text/message"

	"github.com/cloister-run/cloister/policies/abi"
)

// Bounds of a schema and of a configuration, beside abi.MaxManifestBytes and
// abi.MaxConfigBytes: validating must stay cheap whatever both of them say.
const (
	maxConfigDepth = 32
	// maxNumberBytes bounds a number's spelling; its exponent has at most two digits, for the
	// library computes with all digits of the value.
	maxNumberBytes  = 32
	maxConfigIssues = 32
	// maxPairs bounds the values of a schema times the values of a configuration.
	maxPairs = 250_000
	// maxPatternSize bounds the instructions of all regular expressions of a schema, each
	// counted twice (the library compiles it twice). Matching takes time in proportion.
	maxPatternSize = 10_000
)

// refused are the keywords that let a schema refer to another place. With them a schema of
// a kilobyte can take exponential time, or name a file; without them validation visits each
// pair of subschema and value at most once.
var refused = []string{"$ref", "$dynamicRef", "$recursiveRef", "$id", "$vocabulary"}

// schema is a compiled config_schema; a nil schema accepts no configuration at all.
type schema struct {
	compiled *jsonschema.Schema
	values   int
}

// newSchema compiles a config_schema. It reads no file and opens no connection.
func newSchema(text json.RawMessage) (s *schema, err error) {
	if len(bytes.TrimSpace(text)) == 0 {
		return nil, nil
	}
	defer func() {
		if r := recover(); r != nil {
			s, err = nil, fmt.Errorf("config_schema: %v", r)
		}
	}()
	document, values, err := tree(text, abi.MaxManifestBytes)
	if err != nil {
		return nil, fmt.Errorf("config_schema: %w", err)
	}
	if keyword := refers(document); keyword != "" {
		return nil, fmt.Errorf("config_schema: %s is not accepted; write the subschema out", keyword)
	}
	const url = "cloister:config_schema"
	compiler := jsonschema.NewCompiler()
	compiler.DefaultDraft(jsonschema.Draft2020)
	compiler.UseLoader(noLoader{})
	compiler.UseRegexpEngine(patterns())
	if err := compiler.AddResource(url, document); err != nil {
		return nil, fmt.Errorf("config_schema: %w", err)
	}
	compiled, err := compiler.Compile(url)
	if err != nil {
		return nil, fmt.Errorf("config_schema: not a JSON Schema (2020-12): %w", err)
	}
	return &schema{compiled, values}, nil
}

// check holds a configuration against the schema and reports what is wrong, place by place.
func (s *schema) check(config json.RawMessage) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("config: %v", r)
		}
	}()
	if len(config) == 0 {
		config = json.RawMessage("null")
	}
	value, values, err := tree(config, abi.MaxConfigBytes)
	if err != nil {
		return fmt.Errorf("config: %w", err)
	}
	if s == nil {
		if value != nil {
			return errors.New("config: the policy accepts none")
		}
		return nil
	}
	if value == nil && s.compiled.Validate(nil) != nil { // a schema that takes null can do without one
		return errors.New("config: missing; the policy needs one")
	}
	if values*s.values > maxPairs {
		return fmt.Errorf("config: %d values are too many to hold against a schema of %d", values, s.values)
	}
	err = s.compiled.Validate(value)
	var invalid *jsonschema.ValidationError
	if !errors.As(err, &invalid) {
		return err
	}
	var problems []error
	for _, leaf := range leaves(invalid, nil) {
		if len(problems) == maxConfigIssues {
			problems = append(problems, errors.New("config: and more"))
			break
		}
		text := leaf.ErrorKind.LocalizedString(message.NewPrinter(language.English))
		problems = append(problems, fmt.Errorf("%s: %s", place(leaf.InstanceLocation), text))
	}
	return errors.Join(problems...)
}

// leaves collects the errors at the ends of a tree of errors.
func leaves(e *jsonschema.ValidationError, found []*jsonschema.ValidationError) []*jsonschema.ValidationError {
	if len(e.Causes) == 0 {
		return append(found, e)
	}
	for _, cause := range e.Causes {
		found = leaves(cause, found)
	}
	return found
}

// place spells the location of a value as "config.columns[0]".
func place(location []string) string {
	path := "config"
	for _, key := range location {
		if _, err := strconv.Atoi(key); err == nil {
			path += "[" + key + "]"
		} else {
			path += "." + show(key)
		}
	}
	return path
}

// tree decodes a document, with its numbers as json.Number, counts its values, and bounds
// what could make validation expensive: depth, and the size of numbers.
func tree(text json.RawMessage, limit int) (value any, values int, err error) {
	if string(bytes.TrimSpace(text)) == "null" {
		return nil, 1, nil
	}
	var exact json.RawMessage
	if err := abi.DecodeExact(text, limit, &exact); err != nil {
		return nil, 0, err
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	if err := decoder.Decode(&value); err != nil {
		return nil, 0, err
	}
	values, err = count(value, 0)
	return value, values, err
}

func count(value any, depth int) (values int, err error) {
	if depth > maxConfigDepth {
		return 0, fmt.Errorf("nested deeper than %d levels", maxConfigDepth)
	}
	var items []any
	switch value := value.(type) {
	case json.Number:
		_, exponent, _ := strings.Cut(strings.ToLower(string(value)), "e")
		if len(value) > maxNumberBytes || len(strings.TrimLeft(exponent, "+-0")) > 2 {
			return 0, fmt.Errorf("number %.*s is too long or too large", maxNumberBytes, value)
		}
	case []any:
		items = value
	case map[string]any:
		items = slices.Collect(maps.Values(value))
	}
	values = 1
	for _, item := range items {
		inside, err := count(item, depth+1)
		if err != nil {
			return 0, err
		}
		values += inside
	}
	return values, nil
}

// patterns compiles the regular expressions of one schema and bounds their sum.
func patterns() jsonschema.RegexpEngine {
	size := 0
	return func(text string) (jsonschema.Regexp, error) {
		parsed, err := syntax.Parse(text, syntax.Perl)
		if err != nil {
			return nil, err
		}
		program, err := syntax.Compile(parsed.Simplify())
		if err != nil {
			return nil, err
		}
		if size += len(program.Inst); size > maxPatternSize {
			return nil, errors.New("the regular expressions of the schema are too large")
		}
		return regexp.Compile(text)
	}
}

// refers finds a refused keyword anywhere, even where it would be a property's name.
func refers(value any) string {
	switch value := value.(type) {
	case []any:
		for _, item := range value {
			if keyword := refers(item); keyword != "" {
				return keyword
			}
		}
	case map[string]any:
		for key, item := range value {
			if slices.Contains(refused, key) || strings.HasSuffix(strings.ToLower(key), "anchor") && key[0] == '$' {
				return key
			}
			if keyword := refers(item); keyword != "" {
				return keyword
			}
		}
	}
	return ""
}

// noLoader refuses to load anything that a schema names.
type noLoader struct{}

var _ jsonschema.URLLoader = noLoader{}

func (noLoader) Load(url string) (any, error) {
	return nil, errors.New("a schema may not refer to others")
}

// encodeManifest encodes a manifest as its section holds it.
func encodeManifest(m abi.Manifest) ([]byte, error) {
	content, err := json.Marshal(m)
	if err == nil && len(content) > abi.MaxManifestBytes {
		err = fmt.Errorf("manifest over %d bytes", abi.MaxManifestBytes)
	}
	return content, err
}
