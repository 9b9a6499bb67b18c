package main

import (
	"context"
	"io/fs"
	"os"
	"strings"

	"github.com/cloister-run/cloister/enclave/client"
	"github.com/cloister-run/cloister/enclave/wire"
	"github.com/cloister-run/cloister/policies/abi"
)

func (a *app) evalPolicy(ctx context.Context, path, requestFile, artifacts string) error {
	raw, err := client.ReadBounded(requestFile, wire.MaxControl)
	if err != nil {
		return usage("name a file that holds a request as docs/policy-abi.md has it", "--request %s: %v", requestFile, err)
	}
	var request abi.Request
	if err := abi.DecodeExact(raw, wire.MaxControl, &request); err != nil {
		return usage("docs/policy-abi.md says what a request holds", "--request %s: %v", requestFile, err)
	}
	if (request.Point == abi.Egress) != (artifacts != "") {
		return usage("at egress name the folder of the artifacts with --artifacts; at any other point there are none",
			"--artifacts: the request is asked at %.40q", request.Point)
	}
	var files fs.FS
	if artifacts != "" {
		root, err := os.OpenRoot(artifacts)
		if err != nil {
			return usage("name the folder that holds one file or folder for each channel", "--artifacts: %v", err)
		}
		defer root.Close()
		files = root.FS()
	}
	return withPolicies(ctx, []string{path}, func(all []tried) error {
		decision, err := all[0].policy.Decide(ctx, request, files)
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		if err != nil {
			return &failure{status: statusDenied, message: "no valid answer, which denies: " + err.Error(), hint: "docs/policy-abi.md says what a decision holds"}
		}
		printJSON(a.stdout, decision)
		if !decision.Allow {
			return &failure{status: statusDenied, message: strings.TrimSpace("denied " + decision.Code)}
		}
		return nil
	})
}
