// Command csv-columns is a policy: outputs leave as CSV files with known columns and enough
// rows, logs and the exit status stay inside unless the configuration says otherwise.
//
//	admit    denies with "channel" a job that asks for an output that is not configured
//	ingress  allows
//	egress   denies with "not-csv", "columns", "values", "small-group" or "many-groups"
//
// At every point it denies with "application", "executor" or "alone" whom "only" does not let.
//
// It trusts the request and its own configuration. It does not judge what allowed values
// mean: an application can hide bits in them, in the order of rows and in how they are
// quoted, which "patterns" makes narrow and nothing makes impossible.
package main

import (
	"fmt"
	"regexp"
	"slices"

	"github.com/cloister-run/cloister/policies/abi"
	"github.com/cloister-run/cloister/policies/sdk"
	"github.com/cloister-run/cloister/policies/sdk/only"
)

func main() { sdk.Main(Decide) }

// config is the policy's configuration; manifest.json has its schema.
type config struct {
	// Only says who may use the asset, at every point.
	Only only.Rule `json:"only"`
	// Columns are the columns that a file may have.
	Columns []string `json:"columns"`
	// Patterns are RE2 expressions that every value of a column must match as a whole.
	Patterns map[string]string `json:"patterns"`
	// Outputs names the outputs that may leave; absent means every output of the job.
	Outputs []string `json:"outputs"`
	// MinGroup is the least number of rows that a file has; with GroupBy, that each value of
	// that column has.
	MinGroup int    `json:"min_group"`
	GroupBy  string `json:"group_by"`
	// Logs and Exit consent to the logs and to the exit status, unjudged.
	Logs bool `json:"logs"`
	Exit bool `json:"exit"`
}

// Decide is the policy.
func Decide(ctx *sdk.Context) (abi.Decision, error) {
	var c config
	if err := ctx.Config(&c); err != nil {
		return abi.Decision{}, err
	}
	rules, err := c.rules()
	if err != nil {
		return abi.Decision{}, err
	}
	if code := c.Only.Deny(ctx.Request); code != "" {
		return sdk.Deny(code), nil
	}
	switch ctx.Request.Point {
	case abi.Admit:
		return c.admit(ctx), nil
	case abi.Ingress:
		return sdk.Allow(), nil
	default:
		return c.egress(ctx, rules)
	}
}

func (c config) admit(ctx *sdk.Context) abi.Decision {
	var consented []abi.Channel
	for _, channel := range ctx.Request.Channels {
		if c.releases(channel) {
			consented = append(consented, channel)
		} else if _, output := channel.OutputName(); output {
			return sdk.Deny("channel")
		}
	}
	return sdk.Consent(consented...)
}

func (c config) egress(ctx *sdk.Context, rules rules) (abi.Decision, error) {
	for _, artifact := range ctx.Artifacts() {
		if !c.releases(artifact.Channel) {
			return sdk.Deny("channel"), nil
		}
	}
	for _, artifact := range ctx.Artifacts() {
		if _, output := artifact.Channel.OutputName(); !output {
			continue
		}
		code, err := rules.judge(artifact)
		if err != nil {
			return abi.Decision{}, err
		}
		if code != "" {
			return sdk.Deny(code), nil
		}
	}
	return sdk.Allow(), nil
}

// releases reports whether the configuration lets a channel leave at all.
func (c config) releases(channel abi.Channel) bool {
	switch channel {
	case abi.Stdout, abi.Stderr:
		return c.Logs
	case abi.Exit:
		return c.Exit
	}
	name, output := channel.OutputName()
	return output && (c.Outputs == nil || slices.Contains(c.Outputs, name))
}

// rules compiles what a file is held against.
func (c config) rules() (rules, error) {
	r := rules{columns: c.Columns, groupBy: c.GroupBy, minGroup: c.MinGroup, patterns: map[string]*regexp.Regexp{}}
	if len(c.Columns) == 0 {
		return rules{}, fmt.Errorf("config.columns: empty")
	}
	if c.GroupBy != "" && !slices.Contains(c.Columns, c.GroupBy) {
		return rules{}, fmt.Errorf("config.group_by: %q is not among the columns", c.GroupBy)
	}
	for column, pattern := range c.Patterns {
		if !slices.Contains(c.Columns, column) {
			return rules{}, fmt.Errorf("config.patterns: %q is not among the columns", column)
		}
		compiled, err := regexp.Compile(`\A(?:` + pattern + `)\z`)
		if err != nil {
			return rules{}, fmt.Errorf("config.patterns[%s]: %w", column, err)
		}
		r.patterns[column] = compiled
	}
	return r, nil
}
