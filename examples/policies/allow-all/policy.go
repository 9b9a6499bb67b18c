// Command allow-all is a policy: everything that the job asks for leaves, logs and exit status included.
//
//	admit    consents to every channel
//	ingress  allows
//	egress   allows
//
// It is for owners who want their asset used by whoever their key policy names, and kept: the asset stays
// inside only as far as the application keeps it. An application that copies it into an output takes it out.
package main

import (
	"github.com/cloister-run/cloister/policies/abi"
	"github.com/cloister-run/cloister/policies/sdk"
)

func main() { sdk.Main(Decide) }

// Decide is the policy. It takes no configuration.
func Decide(ctx *sdk.Context) (abi.Decision, error) {
	if ctx.Request.Point == abi.Admit {
		return sdk.Consent(ctx.Request.Channels...), nil
	}
	return sdk.Allow(), nil
}
