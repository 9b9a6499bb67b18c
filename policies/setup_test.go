package policies_test

import (
	"context"
	"encoding/json"
	"os"
	"testing"

	"github.com/cloister-run/cloister/policies"
	"github.com/cloister-run/cloister/policies/abi"
)

// newEngine makes an engine that is closed with the test.
func newEngine(t testing.TB, limits policies.Limits) *policies.Engine {
	t.Helper()
	engine, err := policies.New(t.Context(), policies.Config{Limits: limits})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := engine.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return engine
}

// loadFile loads the policy in a file.
func loadFile(t testing.TB, engine *policies.Engine, path string) *policies.Policy {
	t.Helper()
	module, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return load(t, engine, module)
}

func load(t testing.TB, engine *policies.Engine, module []byte) *policies.Policy {
	t.Helper()
	policy, err := engine.Load(t.Context(), module)
	if err != nil {
		t.Fatal(err)
	}
	return policy
}

// request is a plausible request.
func request(point abi.Point, config string, channels ...abi.Channel) abi.Request {
	return abi.Request{
		ABI: abi.Version, Point: point,
		Job: json.RawMessage(`{"version":1,"name":"test"}`), JobDigest: "sha256:00",
		Executor: abi.Executor{Name: "python", Version: "1", Digest: "sha256:00"},
		Assets:   []abi.Asset{{Name: "application", Kind: "application"}},
		Policies: []abi.PolicyRef{{Module: "sha256:00", Config: "sha256:00"}},
		Config:   json.RawMessage(config), Channels: channels,
		Time: "2026-01-02T03:04:05Z", PCRs: map[string]string{},
	}
}
