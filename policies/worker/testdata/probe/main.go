// Command probe is a policy that does what its configuration says.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/cloister-run/cloister/policies/abi"
	"github.com/cloister-run/cloister/policies/sdk"
)

func main() {
	sdk.Main(func(ctx *sdk.Context) (abi.Decision, error) {
		var do string
		if err := ctx.Config(&do); err != nil {
			return abi.Decision{}, err
		}
		switch do {
		case "look": // so that one can see that it is at work
			_, _ = os.ReadDir("/artifact")
			for {
			}
		case "forever":
			for {
			}
		case "read": // denies with a code unless it found what it should
			return read(ctx)
		case "redact":
			var channels []abi.Channel
			for _, a := range ctx.Artifacts() {
				if err := ctx.Rewrite(a, func(_ sdk.File, in io.Reader, out io.Writer) error {
					content, err := io.ReadAll(in)
					if err == nil {
						_, err = out.Write(bytes.ToUpper(content))
					}
					return err
				}); err != nil {
					return abi.Decision{}, err
				}
				channels = append(channels, a.Channel)
			}
			return sdk.Redacted(channels...), nil
		case "fail":
			return abi.Decision{}, errors.New("fails")
		}
		return sdk.Deny(do), nil
	})
}

func read(ctx *sdk.Context) (abi.Decision, error) {
	var found []string
	for _, a := range ctx.Artifacts() {
		for file, err := range a.All() {
			if err != nil {
				return abi.Decision{}, err
			}
			found = append(found, string(a.Channel)+"/"+file.Path+"="+content(file))
		}
	}
	for file, err := range ctx.Own() {
		if err != nil {
			return abi.Decision{}, err
		}
		found = append(found, file.Path+"="+content(file))
	}
	_, err := os.ReadFile("/artifact/link")
	if got := fmt.Sprint(found, err != nil); got != "[outputs.file/=text outputs.tree/a=1 outputs.tree/deep/b=2 inputs.own=mine] true" {
		return abi.Decision{}, errors.New(got)
	}
	return sdk.Allow(), nil
}

func content(file sdk.File) string {
	in, err := file.Open()
	if err != nil {
		return err.Error()
	}
	defer in.Close()
	raw, err := io.ReadAll(in)
	if err != nil {
		return err.Error()
	}
	return string(raw)
}
