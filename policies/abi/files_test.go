package abi_test

import (
	"math"
	"testing"
	"time"

	"github.com/cloister-run/cloister/policies/abi"
)

// TestReadTime: a policy has time for what it may read, and for nothing else.
func TestReadTime(t *testing.T) {
	const mine, other = "arn:mine", "arn:other"
	r := abi.Request{
		Artifacts: []abi.Artifact{{Bytes: 15 << 20}, {Bytes: 20 << 20}},
		Assets:    []abi.Asset{{Owner: mine, Bytes: 100 << 20}, {Owner: other, Bytes: 1 << 40}, {Bytes: 1 << 40}},
		Policies:  []abi.PolicyRef{{Owner: other}, {Owner: mine}},
		Self:      1,
	}
	for _, row := range []struct {
		rule   string
		change func(*abi.Request)
		want   time.Duration
	}{
		{"egress", func(*abi.Request) {}, 13 * time.Second},
		{"redact", func(r *abi.Request) { r.Point = abi.Redact }, 13 * time.Second},
		{"ingress", func(r *abi.Request) { r.Point = abi.Ingress }, 0},
		{"admit", func(r *abi.Request) { r.Point = abi.Admit }, 0},
		{"nothing to read", func(r *abi.Request) { r.Artifacts, r.Assets = nil, nil }, 0},
		{"sizes that nothing has", func(r *abi.Request) {
			r.Artifacts = []abi.Artifact{{Bytes: math.MaxInt64}, {Bytes: math.MaxInt64}}
		}, 24 * time.Hour},
		{"sizes below nothing", func(r *abi.Request) { r.Artifacts = []abi.Artifact{{Bytes: math.MinInt64}} }, 0},
		{"a request for nobody", func(r *abi.Request) { r.Self = 2 }, 3 * time.Second},
		{"a request for nobody", func(r *abi.Request) { r.Self = -1 }, 3 * time.Second},
	} {
		asked := r
		asked.Point = abi.Egress
		row.change(&asked)
		if got := asked.ReadTime(); got != row.want {
			t.Errorf("%s: %s, want %s", row.rule, got, row.want)
		}
	}
}
