package jobspec_test

import (
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cloister-run/cloister/jobspec"
)

// The enclave's side refuses by the same rules, whatever client wrote the job: each row breaks
// one rule of a job that is otherwise canonical.
func TestParseCanonicalAppliesTheRules(t *testing.T) {
	type job = jobspec.Canonical
	text := func(s string) *string { return &s }
	many := func(n int, each func(name string)) {
		for i := range n {
			each("n" + strconv.Itoa(i))
		}
	}
	for name, row := range map[string]struct {
		path   string
		change func(*job)
	}{
		"version":                    {"version", func(c *job) { c.Version = 2 }},
		"name":                       {"name", func(c *job) { c.Name = "-a" }},
		"name is empty":              {"name", func(c *job) { c.Name = "" }},
		"name with a line end":       {"name", func(c *job) { c.Name = "a\n" }},
		"executor is a path":         {"command.executor", func(c *job) { c.Command.Executor = "../x" }},
		"entrypoint leaves by ..":    {"command.entrypoint", func(c *job) { c.Command.Entrypoint = "a/../../x" }},
		"entrypoint is absolute":     {"command.entrypoint", func(c *job) { c.Command.Entrypoint = "/bin/sh" }},
		"entrypoint has a backslash": {"command.entrypoint", func(c *job) { c.Command.Entrypoint = `a\b` }},
		"entrypoint is empty":        {"command.entrypoint", func(c *job) { c.Command.Entrypoint = "" }},
		"entrypoint is the root":     {"command.entrypoint", func(c *job) { c.Command.Entrypoint = "." }},
		"entrypoint is an option":    {"command.entrypoint", func(c *job) { c.Command.Entrypoint = "-c" }},
		"entrypoint with a NUL":      {"command.entrypoint", func(c *job) { c.Command.Entrypoint = "a\x00b" }},
		"place leaves by ..":         {"command.outputs.a", func(c *job) { c.Command.Outputs["a"] = "../a" }},
		"place is ..":                {"command.outputs.a", func(c *job) { c.Command.Outputs["a"] = "../" }},
		"place is absolute":          {"command.outputs.a", func(c *job) { c.Command.Outputs["a"] = "/a" }},
		"place is the root":          {"command.outputs.a", func(c *job) { c.Command.Outputs["a"] = "./" }},
		"places collide":             {"command.outputs.b", func(c *job) { c.Command.Outputs["b"] = "a.csv" }},
		"places nest":                {"command.outputs.b", func(c *job) { c.Command.Outputs["b"] = "a.csv/b" }},
		"output without a place":     {"outputs.z", func(c *job) { c.Outputs = append(c.Outputs, "z") }},
		"place without an output":    {"command.outputs.b", func(c *job) { c.Outputs = []string{"a"} }},
		"loader variable":            {"command.env.LD_PRELOAD", func(c *job) { c.Command.Env["LD_PRELOAD"] = "x" }},
		"interpreter variable":       {"command.env.PYTHONPATH", func(c *job) { c.Command.Env["PYTHONPATH"] = "x" }},
		"sandbox variable":           {"command.env.HOME", func(c *job) { c.Command.Env["HOME"] = "/" }},
		"variable with =":            {`command.env["A=B"]`, func(c *job) { c.Command.Env["A=B"] = "x" }},
		"variable with a NUL":        {"command.env.A", func(c *job) { c.Command.Env["A"] = "x\x00" }},
		"reference to no input":      {"command.args[0]", func(c *job) { c.Command.Args = []string{"${inputs.z}"} }},
		"reference to no output":     {"command.args[0]", func(c *job) { c.Command.Args = []string{"${outputs.z}"} }},
		"reference to no parameter":  {"command.args[0]", func(c *job) { c.Command.Args = []string{"${parameters.z}"} }},
		"reference is open":          {"command.args[0]", func(c *job) { c.Command.Args = []string{"${inputs.m"} }},
		"argument too long":          {"command.args[0]", func(c *job) { c.Command.Args = []string{strings.Repeat("a", 4097)} }},
		"parameter does not match":   {"parameters.n", func(c *job) { c.Parameters["n"] = "1 " }},
		"parameter matches a part":   {"parameters.n", func(c *job) { c.Parameters["n"] = "11" }},
		"parameter not declared":     {"parameters.z", func(c *job) { c.Parameters["z"] = "1" }},
		"parameter missing":          {"parameters.n", func(c *job) { delete(c.Parameters, "n") }},
		"default does not match":     {"command.parameters.n.default", func(c *job) { c.Command.Parameters["n"] = jobspec.Parameter{Default: text("x"), Pattern: "[0-9]"} }},
		"pattern is broken":          {"command.parameters.n.pattern", func(c *job) { c.Command.Parameters["n"] = jobspec.Parameter{Pattern: "("} }},
		"pattern is empty":           {"command.parameters.n.pattern", func(c *job) { c.Command.Parameters["n"] = jobspec.Parameter{} }},
		"pattern costs too much":     {"command.parameters.n.pattern", func(c *job) { c.Command.Parameters["n"] = jobspec.Parameter{Pattern: "(abcdefghij){201}"} }},
		"module is no digest":        {"policies[0].module", func(c *job) { c.Policies[0].Module = "sha256:" + strings.Repeat("A", 64) }},
		"config too long":            {"policies[0].config", func(c *job) { c.Policies[0].Config = json.RawMessage(`"` + strings.Repeat("x", 64<<10) + `"`) }},
		"config too deep": {"policies[0].config", func(c *job) {
			c.Policies[0].Config = json.RawMessage(strings.Repeat("[", 33) + strings.Repeat("]", 33))
		}},
		"too many inputs":     {"inputs", func(c *job) { many(33, func(n string) { c.Inputs = append(c.Inputs, n) }) }},
		"too many outputs":    {"outputs", func(c *job) { many(33, func(n string) { c.Outputs = append(c.Outputs, n) }) }},
		"too many places":     {"command.outputs", func(c *job) { many(33, func(n string) { c.Command.Outputs[n] = n }) }},
		"too many variables":  {"command.env", func(c *job) { many(65, func(n string) { c.Command.Env[n] = n }) }},
		"too many arguments":  {"command.args", func(c *job) { c.Command.Args = make([]string, 257) }},
		"too many policies":   {"policies", func(c *job) { many(17, func(string) { c.Policies = append(c.Policies, c.Policies[0]) }) }},
		"too many parameters": {"command.parameters", func(c *job) { many(33, func(n string) { c.Command.Parameters[n] = jobspec.Parameter{Pattern: "."} }) }},
		"no cpus":             {"limits.cpus", func(c *job) { c.Limits.CPUs = 0 }},
		"negative memory":     {"limits.memory", func(c *job) { c.Limits.Memory = -1 }},
		"too much disk":       {"limits.disk", func(c *job) { c.Limits.Disk = 1<<40 + 1 }},
		"no processes":        {"limits.processes", func(c *job) { c.Limits.Processes = 0 }},
		"no digest":           {"command.environments[0]", func(c *job) { c.Command.Environments = []string{"sha256:1"} }},
		"a digest twice":      {"command.environments[1]", func(c *job) { c.Command.Environments = []string{module("e"), module("e")} }},
		"less than no queue":  {"limits.queue", func(c *job) { c.Limits.Queue = -1 }},
		"a long queue":        {"limits.queue", func(c *job) { c.Limits.Queue = 169 * time.Hour }},
		"no time":             {"limits.run", func(c *job) { c.Limits.Run = 0 }},
		"too much time":       {"limits.run", func(c *job) { c.Limits.Run = 169 * time.Hour }},
	} {
		t.Run(name, func(t *testing.T) {
			c := canonical(t, parse(t, spelt))
			row.change(c)
			_, err := jobspec.ParseCanonical(c.JSON())
			if err == nil {
				t.Fatal("accepted")
			}
			problems, ok := errors.AsType[*jobspec.Problems](err)
			if !ok {
				// Control characters and depth are refused while reading, before there are paths.
				if strings.Contains(name, "NUL") || strings.Contains(name, "too deep") {
					return
				}
				t.Fatalf("no problems: %v", err)
			}
			for _, p := range *problems {
				if p.Path == row.path {
					return
				}
			}
			t.Errorf("nothing at %s: %v", row.path, err)
		})
	}
}

func TestCountsComeBeforeWorkThatGrowsWithThem(t *testing.T) {
	c := canonical(t, parse(t, spelt))
	for i := range 40_000 {
		c.Command.Outputs["n"+strconv.Itoa(i)] = "n" + strconv.Itoa(i)
		c.Outputs = append(c.Outputs, "m"+strconv.Itoa(i))
	}
	data := c.JSON()
	if len(data) > jobspec.MaxCanonical {
		t.Fatalf("the job is refused for its %d bytes and proves nothing", len(data))
	}
	took := elapsed(func() {
		if _, err := jobspec.ParseCanonical(data); err == nil {
			t.Error("accepted")
		}
	})
	if took > 5*time.Second {
		t.Errorf("refusing took %v", took)
	}
}

func elapsed(f func()) time.Duration {
	start := time.Now()
	f()
	return time.Since(start)
}
