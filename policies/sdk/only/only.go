// Package only says who may use an asset: which applications, of which owners, run by which
// executors, and whether other jobs may be in the enclave meanwhile. Ready-made policies share it.
//
// It trusts the request, and claims for nothing: what the application is counts once it is verified.
// It cannot catch an application that is allowed and gives away what it reads.
package only

import (
	"slices"

	"github.com/cloister-run/cloister/policies/abi"
)

// The codes of a [Rule], to be declared by the policy that has one.
const (
	Application = "application"
	Executor    = "executor"
	Alone       = "alone"
)

// Rule is the "only" of a configuration. The zero Rule lets everybody.
type Rule struct {
	// Applications are "sha256:…" digests: of the whole bundle of a sealed application, of the tree of
	// a plain one.
	Applications []string `json:"applications"`
	// Owners are key ARNs: any application that one of them sealed may use the asset.
	Owners []string `json:"owners"`
	// Executors are "sha256:…" digests of executors. Empty lets every executor of the image.
	Executors []string `json:"executors"`
	// Alone lets no other job be in the enclave.
	Alone bool `json:"alone"`
}

// Deny is the code that denies a request, or "". It is asked at every point.
func (r Rule) Deny(request abi.Request) string {
	switch {
	case r.Alone && request.Sharing > 0:
		return Alone
	case len(r.Executors) > 0 && !slices.Contains(r.Executors, request.Executor.Digest):
		return Executor
	case !r.application(request):
		return Application
	}
	return ""
}

// application reports whether the application may use the asset, or, at admit, whether what is claimed of
// it could turn out so.
func (r Rule) application(request abi.Request) bool {
	if len(r.Applications)+len(r.Owners) == 0 {
		return true
	}
	i := slices.IndexFunc(request.Assets, func(a abi.Asset) bool { return a.Name == "application" })
	if i < 0 {
		return false
	}
	a := request.Assets[i]
	if a.Sealed && a.Owner != "" && slices.Contains(r.Owners, a.Owner) {
		return a.Verified || request.Point == abi.Admit
	}
	if request.Point == abi.Admit {
		return len(r.Applications) > 0 // its digest is not known yet
	}
	return a.Verified && slices.Contains(r.Applications, a.Digest)
}
