package sdk_test

import (
	"errors"
	"io"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/cloister-run/cloister/policies/abi"
	"github.com/cloister-run/cloister/policies/sdk"
)

func egress() (abi.Request, fstest.MapFS) {
	return abi.Request{
			ABI: abi.Version, Point: abi.Egress, Config: []byte(`{"limit":3}`), Job: []byte("{}"),
			Channels: []abi.Channel{"outputs.a", "outputs.b", abi.Stdout},
			Artifacts: []abi.Artifact{
				{Channel: "outputs.a", Kind: "file", Bytes: 3, Files: 1},
				{Channel: "outputs.b", Kind: "tree", Bytes: 2, Files: 2},
			},
		}, fstest.MapFS{
			"outputs.a":     {Data: []byte("abc")},
			"outputs.b/y":   {Data: []byte("1")},
			"outputs.b/x/z": {Data: []byte("2")},
			"outputs.bb":    {Data: []byte("not asked about")},
		}
}

// TestEvalReads: a policy reads its configuration and every file of every artifact, in order.
func TestEvalReads(t *testing.T) {
	req, files := egress()
	var seen []string
	decision, err := sdk.Eval(func(ctx *sdk.Context) (abi.Decision, error) {
		var config struct {
			Limit int `json:"limit"`
		}
		if err := ctx.Config(&config); err != nil || config.Limit != 3 {
			t.Errorf("config %+v, %v", config, err)
		}
		for _, artifact := range ctx.Artifacts() {
			for file, err := range artifact.All() {
				if err != nil {
					return abi.Decision{}, err
				}
				content, err := file.Open()
				if err != nil {
					return abi.Decision{}, err
				}
				text, err := io.ReadAll(content)
				if err := errors.Join(err, content.Close()); err != nil {
					return abi.Decision{}, err
				}
				seen = append(seen, string(artifact.Channel)+":"+file.Path+"="+string(text))
			}
		}
		return sdk.Allow(), nil
	}, req, abi.Files{Artifacts: files})
	if err != nil || !decision.Allow {
		t.Fatalf("answered %+v, %v", decision, err)
	}
	if got := strings.Join(seen, " "); got != "outputs.a:=abc outputs.b:x/z=2 outputs.b:y=1" {
		t.Error(got)
	}
}

// TestEvalDenies: every way in which a policy fails is an error with the zero Decision.
func TestEvalDenies(t *testing.T) {
	req, files := egress()
	older, unknown := req, req
	older.ABI, unknown.Point = 2, "later"
	allow := func(*sdk.Context) (abi.Decision, error) { return sdk.Allow(), nil }
	for _, row := range []struct {
		rule   string
		policy sdk.Policy
		req    abi.Request
	}{
		{"an error beside an allow", func(*sdk.Context) (abi.Decision, error) { return sdk.Allow(), errors.New("x") }, req},
		{"a panic", func(*sdk.Context) (abi.Decision, error) { panic("x") }, req},
		{"another version of the ABI", allow, older},
		{"an unknown point", allow, unknown},
		{"a configuration with an unknown field", func(ctx *sdk.Context) (abi.Decision, error) {
			return sdk.Allow(), ctx.Config(&struct{}{})
		}, req},
		{"a missing artifact", func(ctx *sdk.Context) (abi.Decision, error) {
			missing := ctx.Artifacts()[0]
			missing.Channel = "outputs.z"
			_, err := missing.Open()
			return sdk.Allow(), err
		}, req},
		{"a folder opened as a file", func(ctx *sdk.Context) (abi.Decision, error) {
			_, err := ctx.Artifacts()[1].Open()
			return sdk.Allow(), err
		}, req},
	} {
		t.Run(row.rule, func(t *testing.T) {
			decision, err := sdk.Eval(row.policy, row.req, abi.Files{Artifacts: files})
			if err == nil || decision.Allow || decision.Code != "" {
				t.Errorf("answered %+v, %v", decision, err)
			}
		})
	}
}

// TestAllYieldsWhatItCannotRead: a link among the files is an error, not a file left out.
func TestAllYieldsWhatItCannotRead(t *testing.T) {
	req, files := egress()
	files["outputs.b/link"] = &fstest.MapFile{Data: []byte("y"), Mode: 0o777 | fs.ModeSymlink}
	_, err := sdk.Eval(func(ctx *sdk.Context) (abi.Decision, error) {
		for _, err := range ctx.Artifacts()[1].All() {
			if err != nil {
				return abi.Decision{}, err
			}
		}
		return sdk.Allow(), nil
	}, req, abi.Files{Artifacts: files})
	if err == nil {
		t.Error("the link was passed over")
	}
}

// TestOutputs: of the channels, those that are outputs.
func TestOutputs(t *testing.T) {
	req, files := egress()
	req.Point, req.Artifacts = abi.Admit, nil
	decision, err := sdk.Eval(func(ctx *sdk.Context) (abi.Decision, error) {
		return sdk.Consent(ctx.Outputs()...), nil
	}, req, abi.Files{Artifacts: files})
	if err != nil || len(decision.Channels) != 2 || decision.Check(req, abi.Manifest{}) != nil {
		t.Errorf("answered %+v, %v", decision, err)
	}
}
