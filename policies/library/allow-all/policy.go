// Command allow-all is a policy: everything that the job asks for leaves, logs and exit status included.
//
//	admit    consents to every channel
//	ingress  allows
//	egress   allows
//
// At every point it denies with "application", "executor" or "alone" whom "only" does not let.
//
// It is for owners who want their asset used by whoever their key policy names, and kept: the asset stays
// inside only as far as the application keeps it. An application that copies it into an output takes it out.
package main

import (
	"github.com/cloister-run/cloister/policies/abi"
	"github.com/cloister-run/cloister/policies/sdk"
	"github.com/cloister-run/cloister/policies/sdk/only"
)

func main() { sdk.Main(Decide) }

// config is the policy's configuration; manifest.json has its schema. It may be left out.
type config struct {
	Only only.Rule `json:"only"`
}

// Decide is the policy.
func Decide(ctx *sdk.Context) (abi.Decision, error) {
	var c config
	if string(ctx.Request.Config) != "null" {
		if err := ctx.Config(&c); err != nil {
			return abi.Decision{}, err
		}
	}
	if code := c.Only.Deny(ctx.Request); code != "" {
		return sdk.Deny(code), nil
	}
	if ctx.Request.Point == abi.Admit {
		return sdk.Consent(ctx.Request.Channels...), nil
	}
	return sdk.Allow(), nil
}
