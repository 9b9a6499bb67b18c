package jobspec_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/cloister-run/cloister/jobspec"
)

const sealedJob = `version: 1
name: digits
application: {from: ./app.sealed}
inputs:
  scans: {from: ./scans}
parameters: {threshold: "0.7"}
outputs:
  predictions: {save_to: ./out/predictions.csv}
`

func sealedCommand() jobspec.Command {
	half := "0.5"
	return jobspec.Command{
		Executor: "python", Entrypoint: "infer.py",
		Args:       []string{"${inputs.scans}", "${outputs.predictions}", "${parameters.threshold}"},
		Outputs:    map[string]string{"predictions": "predictions.csv"},
		Parameters: map[string]jobspec.Parameter{"threshold": {Default: &half, Pattern: `0?\.[0-9]+`}},
	}
}

func TestASealedApplicationBringsItsCommand(t *testing.T) {
	job, err := jobspec.Parse("job.yaml", []byte(sealedJob))
	if err != nil {
		t.Fatal(err)
	}
	if err := job.Adopt(sealedCommand()); err != nil {
		t.Fatal(err)
	}
	canonical, err := job.Canonical(nil)
	if err != nil {
		t.Fatal(err)
	}
	if canonical.Command.Entrypoint != "infer.py" || canonical.Parameters["threshold"] != "0.7" {
		t.Errorf("the canonical job has another command or parameter: %s", canonical.JSON())
	}
}

// What a job supplies must fit the command of the bundle, and each misfit has its line.
func TestAdoptFindsEveryMisfit(t *testing.T) {
	for rule, test := range map[string]struct {
		file   func(string) string
		change func(*jobspec.Command)
		want   []string // line: path: part of the message
	}{
		"an output that the command does not write": {
			file: func(s string) string { return s + "  plots: {save_to: ./out/plots}\n" },
			want: []string{"job.yaml:9: outputs.plots: the command declares no such output"},
		},
		"an output without a destination": {
			change: func(c *jobspec.Command) { c.Outputs["more"] = "more.csv" },
			want:   []string{"job.yaml:3: application.command.outputs.more: the job does not say where this output goes"},
		},
		"an environment that nobody names": {
			file: func(s string) string { return s + "environment: ./numpy.env\n" },
			want: []string{"job.yaml:9: environment: the sealed application runs in no environment"},
		},
		"a parameter that is not declared": {
			file: func(s string) string { return strings.Replace(s, "threshold", "treshold", 1) },
			want: []string{"job.yaml:6: parameters.treshold: the command declares no such parameter"},
		},
		"a value against the pattern": {
			file: func(s string) string { return strings.Replace(s, "0.7", "0.7; rm", 1) },
			want: []string{`job.yaml:6: parameters.threshold: "0.7; rm" does not match the pattern`},
		},
		"an input that the command needs": {
			file: func(s string) string { return strings.Replace(s, "scans: {", "scan: {", 1) },
			want: []string{"job.yaml:3: application.command.args[0]: ${inputs.scans} leads nowhere"},
		},
		"a folder where a file lands": {
			file: func(s string) string { return strings.Replace(s, "predictions.csv", "predictions/", 1) },
			want: []string{"job.yaml:8: outputs.predictions.save_to: is a folder, but a file is to land there"},
		},
		"two at once": {
			file:   func(s string) string { return strings.Replace(s, "0.7", "x", 1) },
			change: func(c *jobspec.Command) { c.Outputs["more"] = "more.csv" },
			want:   []string{"application.command.outputs.more", "parameters.threshold"},
		},
	} {
		file, command := sealedJob, sealedCommand()
		if test.file != nil {
			file = test.file(file)
		}
		if test.change != nil {
			test.change(&command)
		}
		job, err := jobspec.Parse("job.yaml", []byte(file))
		if err != nil {
			t.Errorf("%s: Parse: %v", rule, err)
			continue
		}
		err = job.Adopt(command)
		problems, ok := errors.AsType[*jobspec.Problems](err)
		if !ok || len(*problems) != len(test.want) {
			t.Errorf("%s: %v", rule, err)
			continue
		}
		for _, want := range test.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v; want %q", rule, err, want)
			}
		}
		if job.Application.Command.Entrypoint != "" {
			t.Errorf("%s: the job has the command in spite of it", rule)
		}
	}
}
