package only_test

import (
	"strings"
	"testing"

	"github.com/cloister-run/cloister/policies/abi"
	"github.com/cloister-run/cloister/policies/sdk/only"
)

const (
	vendor = "arn:aws:kms:eu-west-2:111122223333:key/1"
	thief  = "arn:aws:kms:eu-west-2:999988887777:key/1"
)

var (
	known = "sha256:" + strings.Repeat("a", 64)
	other = "sha256:" + strings.Repeat("b", 64)
)

func TestDeny(t *testing.T) {
	owner, digest := only.Rule{Owners: []string{vendor}}, only.Rule{Applications: []string{known}}
	sealed := abi.Asset{Name: "application", Sealed: true, Owner: vendor, Verified: true, Digest: other}
	plain := abi.Asset{Name: "application", Verified: true, Digest: known}
	claim := func(a abi.Asset) abi.Asset { a.Verified, a.Digest = false, ""; return a }
	with := func(a abi.Asset, change func(*abi.Asset)) abi.Asset { change(&a); return a }
	for _, test := range []struct {
		name  string
		rule  only.Rule
		point abi.Point
		asset abi.Asset
		want  string
	}{
		{"no rule", only.Rule{}, abi.Ingress, plain, ""},
		{"an owner's application", owner, abi.Ingress, sealed, ""},
		{"an owner's application, claimed", owner, abi.Admit, claim(sealed), ""},
		{"an owner's application, claimed where facts are due", owner, abi.Ingress, claim(sealed), only.Application},
		{"somebody else's application", owner, abi.Ingress, with(sealed, func(a *abi.Asset) { a.Owner = thief }), only.Application},
		{"somebody else's application, claimed", owner, abi.Admit, with(claim(sealed), func(a *abi.Asset) { a.Owner = thief }), only.Application},
		{"a plain application that names an owner", owner, abi.Ingress, with(sealed, func(a *abi.Asset) { a.Sealed = false }), only.Application},
		{"a plain application", owner, abi.Ingress, plain, only.Application},
		{"a plain application, claimed", owner, abi.Admit, claim(plain), only.Application},
		{"no owner at all", only.Rule{Owners: []string{""}}, abi.Ingress, with(sealed, func(a *abi.Asset) { a.Owner = "" }), only.Application},
		{"a known digest", digest, abi.Ingress, plain, ""},
		{"a known digest at egress", digest, abi.Egress, plain, ""},
		{"a digest that is to come", digest, abi.Admit, claim(plain), ""},
		{"another digest", digest, abi.Ingress, with(plain, func(a *abi.Asset) { a.Digest = other }), only.Application},
		{"another digest at egress", digest, abi.Egress, with(plain, func(a *abi.Asset) { a.Digest = other }), only.Application},
		{"a known digest that nobody verified", digest, abi.Ingress, with(plain, func(a *abi.Asset) { a.Verified = false }), only.Application},
		{"an input with a known digest", digest, abi.Ingress, with(plain, func(a *abi.Asset) { a.Name = "inputs.application" }), only.Application},
		{"a known executor", only.Rule{Executors: []string{known}}, abi.Admit, plain, ""},
		{"another executor", only.Rule{Executors: []string{other}}, abi.Admit, plain, only.Executor},
		{"in company", only.Rule{Alone: true}, abi.Admit, plain, only.Alone},
	} {
		t.Run(test.name, func(t *testing.T) {
			request := abi.Request{Point: test.point, Executor: abi.Executor{Digest: known}, Assets: []abi.Asset{test.asset}, Sharing: 1}
			if got := test.rule.Deny(request); got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
	if got := (only.Rule{Alone: true}).Deny(abi.Request{Point: abi.Admit}); got != "" {
		t.Errorf("alone: %q", got)
	}
}
