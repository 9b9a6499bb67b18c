package jobspec_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/cloister-run/cloister/jobspec"
)

func expandable(args ...string) *jobspec.Canonical {
	return &jobspec.Canonical{
		Command:    jobspec.Command{Args: args},
		Parameters: map[string]string{"t": "0.7", "evil": "${inputs.m} $${inputs.m} } --x y", "long": strings.Repeat("x", 1024)},
	}
}

func values() jobspec.Values {
	return jobspec.Values{
		Inputs:  map[string]string{"m": "/job/inputs/m", "ref": "/job/${parameters.t}"},
		Outputs: map[string]string{"m": "/work/outputs/m.csv"},
	}
}

func TestExpand(t *testing.T) {
	for name, row := range map[string]struct{ arg, want string }{
		"no reference":                      {"--model", "--model"},
		"empty argument":                    {"", ""},
		"input":                             {"${inputs.m}", "/job/inputs/m"},
		"output of the same name":           {"${outputs.m}", "/work/outputs/m.csv"},
		"parameter":                         {"${parameters.t}", "0.7"},
		"inside text":                       {"a=${parameters.t},b=${inputs.m};", "a=0.7,b=/job/inputs/m;"},
		"side by side":                      {"${parameters.t}${parameters.t}", "0.70.7"},
		"escaped":                           {"$${inputs.m}", "${inputs.m}"},
		"escaped, then a reference":         {"$${${parameters.t}}", "${0.7}"},
		"lone dollars":                      {"$ $x $$ 5$", "$ $x $$ 5$"},
		"dollar before an escape":           {"$$${inputs.m}", "$${inputs.m}"},
		"a parameter is not expanded again": {"${parameters.evil}", "${inputs.m} $${inputs.m} } --x y"},
		"a path is not expanded again":      {"${inputs.ref}", "/job/${parameters.t}"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := expandable("first", row.arg).Expand(values())
			if err != nil || !slices.Equal(got, []string{"first", row.want}) {
				t.Errorf("%q, %v; want %q", got, err, row.want)
			}
		})
	}
}

func TestExpandRefuses(t *testing.T) {
	for name, args := range map[string][]string{
		"no such input":           {"${inputs.z}"},
		"no such output":          {"${outputs.z}"},
		"no such parameter":       {"${parameters.z}"},
		"unknown namespace":       {"${env.HOME}"},
		"open reference":          {"${inputs.m"},
		"reference to nothing":    {"${}"},
		"argument beyond 64 KiB":  {strings.Repeat("${parameters.long}", 65)},
		"arguments beyond 1 MiB":  slices.Repeat([]string{strings.Repeat("${parameters.long}", 64)}, 17),
		"name with a reference":   {"${inputs.${parameters.t}}"},
		"namespace in capitals":   {"${Inputs.m}"},
		"space around a name":     {"${ inputs.m }"},
		"fallback like a shell's": {"${inputs.z:-/etc/passwd}"},
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := expandable(args...).Expand(values()); err == nil {
				t.Errorf("accepted: %d arguments", len(got))
			}
		})
	}
}
