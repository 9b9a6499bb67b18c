// Command csv-groups is a policy in Go: outputs leave as CSV files with known columns and enough rows
// of each group, and nothing else leaves. The same policy in other languages is beside it, and all of
// them are held against fixtures/csv-groups.
//
//	admit    consents to every output of the job, never to logs or the exit status
//	ingress  allows
//	egress   denies with "not-csv", "columns", "small-group" or "many-groups"
//
// It trusts the request and its own configuration. It does not judge what allowed values mean, and it
// counts rows, not people. A policy to use is library/csv-columns.
package main

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cloister-run/cloister/policies/abi"
	"github.com/cloister-run/cloister/policies/sdk"
)

func main() { sdk.Main(Decide) }

// config is the policy's configuration; manifest.json has its schema.
type config struct {
	// Columns are the columns that a file may have.
	Columns []string `json:"columns"`
	// GroupBy is the column whose values make groups; MinGroup is the least number of rows of each.
	GroupBy  string `json:"group_by"`
	MinGroup int    `json:"min_group"`
}

// Decide is the policy.
func Decide(ctx *sdk.Context) (abi.Decision, error) {
	var c config
	if err := ctx.Config(&c); err != nil {
		return abi.Decision{}, err
	}
	if !slices.Contains(c.Columns, c.GroupBy) || c.MinGroup < 1 {
		return abi.Decision{}, errors.New("config: group_by is none of the columns, or min_group none to ask for")
	}
	switch ctx.Request.Point {
	case abi.Admit:
		return sdk.Consent(ctx.Outputs()...), nil
	case abi.Ingress:
		return sdk.Allow(), nil
	case abi.Egress:
		return c.egress(ctx)
	}
	return abi.Decision{}, fmt.Errorf("asked at %q", ctx.Request.Point)
}

func (c config) egress(ctx *sdk.Context) (abi.Decision, error) {
	for _, artifact := range ctx.Artifacts() {
		if _, output := artifact.Channel.OutputName(); !output {
			return abi.Decision{}, fmt.Errorf("%s: without consent", artifact.Channel)
		}
		code, err := c.judge(artifact)
		if err != nil {
			return abi.Decision{}, err
		}
		if code != "" {
			return sdk.Deny(code), nil
		}
	}
	return sdk.Allow(), nil
}
