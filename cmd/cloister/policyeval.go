package main

import (
	"context"
	"io/fs"
	"os"
	"strings"

	"github.com/cloister-run/cloister/enclave/client"
	"github.com/cloister-run/cloister/enclave/wire"
	"github.com/cloister-run/cloister/policies/abi"
	"github.com/cloister-run/cloister/policies/sdk"
)

// surroundings are the folders of `policy eval`.
type surroundings struct{ artifacts, own, redacted string }

func (a *app) evalPolicy(ctx context.Context, path, requestFile string, around surroundings) error {
	raw, err := client.ReadBounded(requestFile, wire.MaxControl)
	if err != nil {
		return usage("name a file that holds a request as docs/policy-abi.md has it", "--request %s: %v", requestFile, err)
	}
	var request abi.Request
	if err := abi.DecodeExact(raw, wire.MaxControl, &request); err != nil {
		return usage("docs/policy-abi.md says what a request holds", "--request %s: %v", requestFile, err)
	}
	files, done, err := around.open(request.Point)
	defer done()
	if err != nil {
		return err
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

// open opens the folders that belong to a point. The caller calls done, with an error too.
func (s surroundings) open(point abi.Point) (files abi.Files, done func(), err error) {
	var roots []*os.Root
	done = func() {
		for _, root := range roots {
			_ = root.Close()
		}
	}
	if point.HasFiles() != (s.artifacts != "") {
		return files, done, usage("at redact and egress name the folder of the artifacts with --artifacts; at any other point there are none",
			"--artifacts: the request is asked at %.40q", point)
	}
	if (point == abi.Redact) != (s.redacted != "") {
		return files, done, usage("at redact name a folder for what the policy writes with --redacted; at any other point there is none",
			"--redacted: the request is asked at %.40q", point)
	}
	open := func(dir, flag, hint string) fs.FS {
		root, failed := os.OpenRoot(dir)
		if failed != nil {
			err = usage(hint, "%s: %v", flag, failed)
			return nil
		}
		roots = append(roots, root)
		return root.FS()
	}
	if s.artifacts != "" {
		files.Artifacts = open(s.artifacts, "--artifacts", "name the folder that holds one file or folder for each channel")
	}
	if s.own != "" && err == nil {
		files.Own = open(s.own, "--self", "name the folder that holds one file or folder for each asset of the owner")
	}
	if s.redacted != "" && err == nil {
		if made := os.Mkdir(s.redacted, 0o755); made != nil {
			return files, done, usage("name a folder that is not there yet", "--redacted: %v", made)
		}
		files.Redacted = sdk.Folder(s.redacted)
	}
	return files, done, err
}
